"""Start times: from names, from what recorders write into files, and their time zones."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from detector.archive.plan import (
    NamePattern,
    Rules,
    audiomoth_start,
    guano_start,
    parse_zone,
    scan,
    stated_start,
    usual_start,
)
from detector.errors import ConfigError
from tests.detector.archive.wav import bext, chunk, info, write

AUDIOMOTH = "Recorded at 19:17:30 04/12/2025 (UTC) by AudioMoth 24F3190361CB15C5 at medium gain while battery was 4.1V."


def local(*numbers: int) -> datetime:
    """Return a time without a zone."""
    return datetime(*numbers)  # type: ignore[arg-type]  # noqa: DTZ001


def hours(count: float) -> timezone:
    return timezone(timedelta(hours=count))


@pytest.mark.parametrize(
    ("pattern", "name", "start", "source"),
    [
        ("{source}_%Y%m%d_%H%M%S", "a/NORTH_POND_20260131_235959.wav", local(2026, 1, 31, 23, 59, 59), "NORTH_POND"),
        (
            "*%Y-%m-%dT%H%M%S%z*",
            "r 2026-01-31T120000+0530 x.flac",
            datetime(2026, 1, 31, 12, tzinfo=hours(5.5)),
            None,
        ),
        ("{source}/%Y/%j/%H.%M.%S.%f", "x/pond/2026/032/01.02.03.5.wav", local(2026, 2, 1, 1, 2, 3, 500000), "pond"),
        ("%s", "1767225600.wav", datetime(2026, 1, 1, tzinfo=UTC), None),
        ("100%%_%Y%m%d", "100%_20260131.wav", local(2026, 1, 31), None),
    ],
)
def test_a_pattern_gives_the_start_and_the_recorder(
    pattern: str, name: str, start: datetime, source: str | None
) -> None:
    found = NamePattern(pattern).find(Path("/data") / name)
    assert found is not None
    assert (found.start, found.source) == (start, source)


@pytest.mark.parametrize("name", ["20261331_000000.wav", "20260131_250000.wav", "x20260131_000000.wav", "2026.wav"])
def test_a_name_that_is_no_time_or_does_not_match_gives_none(name: str) -> None:
    assert NamePattern("%Y%m%d_%H%M%S").find(Path("/data") / name) is None


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [("%Y%m%d_%Q", "%Q is unknown"), ("%H%M%S", "states no date"), ("%Y%m%d%Y", "occurs twice"), ("rec", "no date")],
)
def test_a_pattern_that_cannot_be_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        NamePattern(pattern)


@pytest.mark.parametrize(
    ("name", "start", "source"),
    [
        ("20260131_235959.WAV", local(2026, 1, 31, 23, 59, 59), ""),  # AudioMoth
        ("5F5E1000.WAV", datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC), ""),  # 1,600,000,000 s
        ("SMA01234_20260131_235959.wav", local(2026, 1, 31, 23, 59, 59), "SMA01234"),  # Song Meter Mini
        ("ARIZONA-1_0+1_20161023$195550.wav", local(2016, 10, 23, 19, 55, 50), "ARIZONA-1_0+1"),  # SM3 with a GPS
        ("turdus_merula_87p_20260131T061500Z.flac", local(2026, 1, 31, 6, 15), None),  # BirdNET-Go: not UTC
        ("2026-01-31T06-15-00Z.ogg", datetime(2026, 1, 31, 6, 15, tzinfo=UTC), ""),
        ("R2026-01-31T06:15:00.250+02:00_x.wav", datetime(2026, 1, 31, 6, 15, 0, 250000, tzinfo=hours(2)), "R"),
    ],
)
def test_usual_names_are_known(name: str, start: datetime, source: str | None) -> None:
    found = usual_start(Path("/data") / name)
    assert found is not None
    assert (found.start, found.source) == (start, source)


@pytest.mark.parametrize("name", ["recording.wav", "track 12345678.wav", "20260131.wav", "120260131_235959.wav"])
def test_other_names_give_none(name: str) -> None:
    assert usual_start(Path("/data") / name) is None


@pytest.mark.parametrize(
    ("zone", "offset"),
    [("(UTC)", 0), ("(UTC+1)", 1), ("(UTC-11)", -11), ("(UTC+5:30)", 5.5), ("(UTC-3:30)", -3.5), ("(UTC-0:30)", -0.5)],
)
def test_the_comment_of_an_audiomoth_has_its_time_zone(zone: str, offset: float) -> None:
    expected = datetime(2025, 12, 4, 19, 17, 30, tzinfo=hours(offset))
    found = audiomoth_start(AUDIOMOTH.replace("(UTC)", zone))
    assert found is not None
    assert (found, found.utcoffset()) == (expected, expected.utcoffset())


def test_the_first_firmware_wrote_no_zone_and_later_ones_milliseconds() -> None:
    assert audiomoth_start("Recorded at 19:17:30 04/12/2025 by AudioMoth 24F3") == datetime(
        2025, 12, 4, 19, 17, 30, tzinfo=UTC
    )
    assert audiomoth_start("Recorded at 19:17:30.125 04/12/2025 (UTC) by AudioMoth 24F3") == datetime(
        2025, 12, 4, 19, 17, 30, 125000, tzinfo=UTC
    )


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("2026-01-31T23:05:00+01:00", datetime(2026, 1, 31, 23, 5, tzinfo=hours(1))),
        ("2026-01-31 23:05:00.1234567-0330", datetime(2026, 1, 31, 23, 5, 0, 123456, tzinfo=hours(-3.5))),
        ("2026-01-31T23:05:00Z", datetime(2026, 1, 31, 23, 5, tzinfo=UTC)),
        ("2026-01-31 23:05:00", local(2026, 1, 31, 23, 5)),
    ],
)
def test_guano_gives_its_timestamp(text: str, start: datetime) -> None:
    assert guano_start(f"GUANO|Version: 1.0\r\nMake: X\r\nTimestamp: {text}\r\nNote: a\\nTimestamp\n") == start


def test_a_wav_file_gives_what_is_written_before_and_behind_its_sound(tmp_path: Path) -> None:
    guano = b"GUANO|Version: 1.0\nTimestamp: 2026-01-31T23:05:00+01:00\n"
    comment = AUDIOMOTH.encode().ljust(384, b"\0")
    cases = {
        "guano": (write(tmp_path / "g.wav", behind=(chunk(b"guan", guano),)), "GUANO", guano.decode()),
        "comment": (write(tmp_path / "c.wav", info(comment)), "AudioMoth", AUDIOMOTH),
        "odd chunk": (write(tmp_path / "o.wav", chunk(b"JUNK", b"odd"), info(comment)), "AudioMoth", AUDIOMOTH),
        "not padded": (
            write(tmp_path / "n.wav", chunk(b"JUNK", b"odd", padded=False), info(comment)),
            "AudioMoth",
            AUDIOMOTH,
        ),
    }
    for name, (path, origin, text) in cases.items():
        found = stated_start(path)
        assert found is not None, name
        assert (found.origin, found.text) == (origin, text), name


def test_guano_comes_before_the_comment_and_bext_last(tmp_path: Path) -> None:
    guano = chunk(b"guan", b"GUANO|Version: 1.0\nTimestamp: 2026-01-31T23:05:00+01:00\n")
    old = bext(b"2020-01-01", b"00:00:00")
    found = stated_start(write(tmp_path / "all.wav", old, info(AUDIOMOTH.encode()), behind=(guano,)))
    assert found is not None
    assert found.start == datetime(2026, 1, 31, 23, 5, tzinfo=hours(1))


@pytest.mark.parametrize(
    ("samples", "start"),
    [
        (0, local(2026, 1, 31, 6, 15)),  # not written, or midnight
        (16000 * (6 * 3600 + 15 * 60) + 4000, local(2026, 1, 31, 6, 15, 0, 250000)),
        (16000 * 3600, local(2026, 1, 31, 6, 15)),  # a time code of its own
    ],
)
def test_bext_is_exact_where_its_samples_agree_with_its_time(tmp_path: Path, samples: int, start: datetime) -> None:
    found = stated_start(write(tmp_path / "b.wav", bext(b"2026-01-31", b"06-15-00", samples)))
    assert found is not None
    assert (found.origin, found.start) == ("bext", start)
    assert "2026-01-3106-15-00" in found.text


def test_flac_files_keep_the_comment_of_the_wav_file(tmp_path: Path) -> None:
    wav = write(tmp_path / "a.wav", info(AUDIOMOTH.encode()))
    subprocess.run(["ffmpeg", "-v", "error", "-i", wav, tmp_path / "a.flac"], check=True)
    found = stated_start(tmp_path / "a.flac")
    assert found is not None
    assert (found.origin, found.start) == ("AudioMoth", datetime(2025, 12, 4, 19, 17, 30, tzinfo=UTC))


@pytest.mark.parametrize("size", [0, 3, 12, 20, 50, 200, 250])
def test_files_that_are_cut_off_anywhere_give_none_or_the_time(tmp_path: Path, size: int) -> None:
    whole = write(tmp_path / "w.wav", info(AUDIOMOTH.encode())).read_bytes()
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole[:size])
    found = stated_start(cut)
    assert found is None or found.start == datetime(2025, 12, 4, 19, 17, 30, tzinfo=UTC)


def test_a_given_pattern_comes_first_and_usual_names_last(tmp_path: Path) -> None:
    path = write(tmp_path / "x_20260101_000000.wav", info(AUDIOMOTH.encode()))
    root = str(tmp_path)
    stated = scan(str(path), root, Rules())
    named = scan(str(path), root, Rules(("*_%Y%m%d_%H%M%S",), "Europe/Berlin"))
    assert (stated.start_from, stated.start) == ("AudioMoth", datetime(2025, 12, 4, 19, 17, 30, tzinfo=UTC))
    assert not stated.lacks_zone
    assert (named.start_from, named.lacks_zone) == ("name", True)
    assert named.start == datetime(2025, 12, 31, 23, tzinfo=UTC)
    assert named.start is not None
    assert named.start.utcoffset() == timedelta(hours=1)
    assert named.seconds == pytest.approx(0.1)


def test_a_zone_is_a_name_or_an_offset() -> None:
    summer = local(2026, 7, 1, 12)
    for text, offset in (("Europe/Berlin", 2), ("+02:00", 2), ("-0330", -3.5), ("Z", 0), ("UTC", 0)):
        assert parse_zone(text).utcoffset(summer) == timedelta(hours=offset), text
    for text in ("Berlin", "+25:00", "", "../../etc/passwd"):
        with pytest.raises(ConfigError, match="--time-zone"):
            parse_zone(text)
