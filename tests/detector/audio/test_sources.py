"""Files and raw samples: what is read, and the errors for what cannot be read."""

from __future__ import annotations

import io
import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.audio.live_source import AudioBlock, Channel, Mixing, SourceEvent, drain
from detector.audio.sources import (
    PCM_FORMATS,
    FileSource,
    PcmSource,
    RawFormat,
    ReadSource,
    in_real_time,
    read_chunks,
    read_sound,
)
from detector.errors import ConfigError, SourceError
from detector.messages import AudioChunk, Samples
from tests.resources import left_open, resources

RATE = 16000
RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000)
FORMATS = {"WAV": RATES, "FLAC": RATES, "OGG": RATES, "MP3": RATES[:-1]}


def tone(rate: int, seconds: float = 1.7, channels: int = 1) -> NDArray[np.float64]:
    """Return a tone with noise, (frames, channels), each channel another."""
    t = np.arange(round(rate * seconds))[:, None] / rate
    noise = np.random.default_rng(5).normal(0, 0.05, (t.size, channels))
    return 0.3 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) * t) + noise


def write(path: Path, rate: int = RATE, seconds: float = 1.7, channels: int = 1, **options: Any) -> Path:
    soundfile.write(path, tone(rate, seconds, channels), rate, **options)
    return path


def gather(source: ReadSource) -> tuple[Samples, SourceError | None]:
    """Return all samples of a source, checking their numbers, and the fault behind them."""
    parts: list[Samples] = []
    fault = None

    def keep(event: SourceEvent) -> None:
        if isinstance(event, AudioBlock):
            chunk = event.chunk
            assert chunk.first_sample == sum(map(len, parts))
            assert chunk.samples.dtype == np.float32
            assert not chunk.gap
            parts.append(chunk.samples)

    try:
        assert drain(source, keep, lambda: True)
    except SourceError as error:
        fault = error
    finally:
        source.close()
    assert "\n" not in str(fault)
    return np.concatenate(parts) if parts else np.empty(0, np.float32), fault


def expected(path: Path) -> Samples:
    """Return the whole file read, mixed and resampled at once."""
    data, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = data.mean(axis=1, dtype=np.float64).astype(np.float32)
    result: Samples = mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")
    return result


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_and_rate_equals_the_file_resampled_at_once(tmp_path: Path, kind: str, channels: int) -> None:
    for rate in FORMATS[kind]:
        path = write(tmp_path / f"{rate}.{kind.lower()}", rate, channels=channels)
        samples, fault = gather(FileSource(path, RATE, 1600))
        assert fault is None
        np.testing.assert_allclose(samples, expected(path), rtol=0, atol=1e-6)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_every_sample_type_of_wav(tmp_path: Path, subtype: str) -> None:
    path = write(tmp_path / "a.wav", subtype=subtype)
    samples, fault = gather(FileSource(path, RATE))
    assert fault is None
    np.testing.assert_array_equal(samples, expected(path))


@pytest.mark.parametrize("channels", [3, 4, 100])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    path = write(tmp_path / "a.wav", channels=channels, seconds=0.5)
    samples, _ = gather(FileSource(path, RATE))
    np.testing.assert_allclose(samples, expected(path), rtol=0, atol=1e-6)


@given(chunk=st.integers(1, 40_000))
def test_chunk_size_changes_nothing_and_is_kept(tmp_path_factory: pytest.TempPathFactory, chunk: int) -> None:
    path = tmp_path_factory.getbasetemp() / "chunked.wav"
    if not path.exists():
        write(path, 44100, seconds=0.9)
    chunks = list(read_chunks(path, RATE, chunk))
    assert {len(c.samples) for c in chunks[:-1]} <= {chunk}
    np.testing.assert_array_equal(np.concatenate([c.samples for c in chunks]), gather(FileSource(path, RATE))[0])


@pytest.mark.parametrize("frames", [1, 2, 3, 100])
def test_very_short_files(tmp_path: Path, frames: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(frames, 0.5), 44100)
    samples, fault = gather(FileSource(tmp_path / "a.wav", RATE))
    assert fault is None
    assert samples.size == round(frames * RATE / 44100)


def test_progress_counts_the_files_own_frames(tmp_path: Path) -> None:
    source = FileSource(write(tmp_path / "a.wav", 44100, seconds=3), RATE)
    assert source.take(5)
    assert (source.source_rate_hz, source.frames_total) == (44100, 132300)
    assert 40_000 < source.frames_read <= 132300
    while source.take(5) is not None:
        pass
    assert source.frames_read == 132300
    assert source.seconds_read == 3


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 44100, 2) as file:
        for _ in range(60):
            file.write(np.zeros((44100, 2), np.float32))
    tracemalloc.start()
    drain(FileSource(path, RATE), lambda _: None, lambda: True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6  # the whole file would be 21 MB


def refused(path: Path, *words: str) -> None:
    """Check that opening raises one line with the file's name and these words, and leaves nothing open."""
    before = resources()
    samples, fault = gather(FileSource(path, RATE))
    assert samples.size == 0
    assert fault is not None
    for word in (str(path), *words):
        assert word in str(fault)
    assert fault.exit_code == 66
    assert left_open(before) == []


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.wav", "no such file", "check the name")


def test_directory(tmp_path: Path) -> None:
    refused(tmp_path, "directory", "name the sound files")


def test_name_below_a_file(tmp_path: Path) -> None:
    refused(write(tmp_path / "a.wav") / "b.wav", "not a directory")
    refused(tmp_path / ("a" * 300), "too long")


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    refused(tmp_path / name, "empty", "0 bytes")


@pytest.mark.parametrize("name", ["a.wav", "a.raw", "a.mp3", "a.txt"])
def test_text_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is not sound.\n" * 50)
    refused(tmp_path / name, "no sound file", "text; name a sound file")


def test_header_alone(tmp_path: Path) -> None:
    data = write(tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[:44])
    refused(tmp_path / "cut.wav", "no sound", "0 frames")
    (tmp_path / "shorter.wav").write_bytes(data[:20])
    refused(tmp_path / "shorter.wav", "no sound file")


def test_no_frames(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.empty(0), RATE)
    refused(tmp_path / "a.wav", "no sound", "0 frames")


@pytest.mark.parametrize("rate", [1, 3999, 384_001, 1_000_000])
def test_absurd_rate(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(100), rate)
    refused(tmp_path / "a.wav", str(rate), "4000 to 384000")


@pytest.mark.parametrize("rate", [4000, 384_000])
def test_extreme_rates_are_taken(tmp_path: Path, rate: int) -> None:
    samples, fault = gather(FileSource(write(tmp_path / "a.wav", rate), RATE))
    assert fault is None
    assert abs(samples.size - 1.7 * RATE) <= 1


def test_name_that_is_not_text(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write(tmp_path / "a.wav").rename(path)
    assert gather(FileSource(path, RATE))[1] is None


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "rf64", "flac", "mp3"])
def test_a_truncated_file_is_reported_behind_its_sound(tmp_path: Path, kind: str) -> None:
    whole = write(tmp_path / f"a.{kind}", 44100, seconds=4, format=kind.upper())
    full, fault = gather(FileSource(whole, RATE))
    assert fault is None
    cut = tmp_path / f"cut.{kind}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    samples, fault = gather(FileSource(cut, RATE))
    assert fault is not None
    assert str(cut) in str(fault)
    assert "the sound up to there is used" in str(fault)
    assert 1.5 < samples.size / RATE < 2.1
    # The resampler's tail rings where the sound breaks off; before it the samples are those of the whole file.
    np.testing.assert_allclose(samples[:-400], full[: samples.size - 400], rtol=0, atol=1e-6)


def test_one_frame_missing_is_enough(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", seconds=2)
    path.write_bytes(path.read_bytes()[:-2])
    samples, fault = gather(FileSource(path, RATE))
    assert samples.size == 2 * RATE - 1
    assert fault is not None
    assert "promises" in str(fault)


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000])
def test_header_of_a_recorder_that_could_not_rewind(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[40:44] = struct.pack("<I", length)
    path.write_bytes(data)
    samples, fault = gather(FileSource(path, RATE))
    assert fault is None
    assert samples.size == round(1.7 * RATE)


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", 44100)
    known, _ = gather(FileSource(path, RATE))
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the low half of this byte and the next four count the samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    source = FileSource(path, RATE)
    samples, fault = gather(source)
    assert fault is None
    assert source.frames_total is None
    np.testing.assert_array_equal(samples, known)


def strip_tag(path: Path) -> Path:
    """Remove the first frame of an MP3 file, in which the encoder states the length."""
    data = path.read_bytes()
    path.write_bytes(data[data.index(data[:2], 4) :])
    return path


def write_mp3(path: Path, mode: str) -> Path:
    """Write an MP3 file that is quiet at first and loud after, so that its beginning suggests a wrong length."""
    sound = tone(44100, 12)
    sound[: 44100 * 3] *= 1e-4
    with soundfile.SoundFile(path, "w", 44100, 1, bitrate_mode=mode, compression_level=0.5) as file:
        for start in range(0, len(sound), 44100):
            file.write(sound[start : start + 44100])
    return path


def test_mp3_without_a_tag_is_read_whole_at_constant_rate(tmp_path: Path) -> None:
    samples, fault = gather(FileSource(strip_tag(write_mp3(tmp_path / "a.mp3", "CONSTANT")), RATE))
    assert fault is None
    assert abs(samples.size / RATE - 12) < 0.1


def test_mp3_without_a_tag_is_read_whole_at_variable_rate(tmp_path: Path) -> None:
    path = write_mp3(tmp_path / "a.mp3", "VARIABLE")
    whole, _ = gather(FileSource(path, RATE))
    assert abs(whole.size / RATE - 12) < 0.01
    samples, fault = gather(FileSource(strip_tag(path), RATE))
    assert fault is None
    # Behind the sound it may have what the encoder filled its last frames with.
    assert whole.size <= samples.size < whole.size + 0.1 * RATE
    np.testing.assert_allclose(samples[: 11 * RATE], whole[: 11 * RATE], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("channel", [0, 1])
def test_sample_that_is_not_a_number(tmp_path: Path, bad: float, channel: int) -> None:
    sound = tone(RATE, 3, 2).astype(np.float32)
    soundfile.write(tmp_path / "good.wav", sound[:20_000], RATE, subtype="FLOAT")
    sound[20_000, channel] = bad
    sound[21_000] = (np.inf, -np.inf)
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    samples, fault = gather(FileSource(tmp_path / "a.wav", RATE))
    np.testing.assert_array_equal(samples, gather(FileSource(tmp_path / "good.wav", RATE))[0])
    assert fault is not None
    assert "1.2500 s" in str(fault)


@pytest.mark.parametrize("over_db", [0, 6, 20, 29])
def test_floats_that_a_mix_drove_over_full_scale_are_sound(tmp_path: Path, over_db: float) -> None:
    sound = tone(44100)
    soundfile.write(tmp_path / "a.wav", sound / np.abs(sound).max() * 10 ** (over_db / 20), 44100, subtype="FLOAT")
    samples, fault = gather(FileSource(tmp_path / "a.wav", RATE))
    assert fault is None
    assert samples.size == round(1.7 * RATE)


SCALES = [(16, 32768), (24, 8388608), (32, 2147483648)]


@pytest.mark.parametrize(("bits", "divisor"), SCALES)
@pytest.mark.parametrize("channels", [1, 2])
def test_floats_in_integer_scale_are_an_error_that_names_peak_and_divisor(
    tmp_path: Path, bits: int, divisor: int, channels: int
) -> None:
    sound = 0.9 * tone(RATE, 0.9, channels) / np.abs(tone(RATE, 0.9, channels)).max()
    soundfile.write(tmp_path / "a.wav", sound * divisor, RATE, subtype="FLOAT")
    samples, fault = gather(FileSource(tmp_path / "a.wav", RATE))
    assert samples.size < 10
    assert "dB over full scale" in str(fault)
    assert f"{bits}-bit" in str(fault)
    assert str(divisor) in str(fault)
    assert f"peak {0.9 * divisor:g}" in str(fault)


def test_integers_that_were_written_into_a_float_file_unscaled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", (tone(RATE) * 30000).astype(np.int16), RATE, subtype="FLOAT")
    assert "by 32768" in str(gather(FileSource(tmp_path / "a.wav", RATE))[1])


@pytest.mark.parametrize(("bits", "divisor"), SCALES)
def test_raw_floats_in_integer_scale(bits: int, divisor: int) -> None:
    samples, fault = gather(pcm((tone(RATE, 0.5) * divisor).astype("<f4").tobytes(), "f32le"))
    assert samples.size < 10
    assert f"samples of {bits}-bit scale by {divisor}" in str(fault)


def warnings_of(path: Path, channel: Channel = "mean") -> list[str]:
    found: list[str] = []
    assert gather(FileSource(path, RATE, mixing=Mixing(channel, found.append)))[1] is None
    return found


@pytest.mark.parametrize("seconds", [0.4, 3.0, 10.0])
@pytest.mark.parametrize("imbalance_db", [0, 0.5])
def test_channels_that_cancel_are_reported_once(tmp_path: Path, seconds: float, imbalance_db: float) -> None:
    left = tone(44100, seconds)
    soundfile.write(tmp_path / "a.wav", np.hstack((left, -left * 10 ** (-imbalance_db / 20))), 44100, subtype="FLOAT")
    (warning,) = warnings_of(tmp_path / "a.wav")
    assert str(tmp_path / "a.wav") in warning
    assert "dB below them" in warning
    assert "--channel left" in warning
    assert warnings_of(tmp_path / "a.wav", "left") == []


def test_channels_that_cancel_from_the_middle_on_are_reported(tmp_path: Path) -> None:
    sound = np.hstack((tone(RATE, 20), tone(RATE, 20)))
    sound[10 * RATE :, 1] *= -1
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    assert len(warnings_of(tmp_path / "a.wav")) == 1


@pytest.mark.parametrize("channels", [1, 2, 4, 16])
def test_channels_that_do_not_cancel_are_not_reported(tmp_path: Path, channels: int) -> None:
    """Independent noise, one silent channel, two seconds of opposite phase, silence: none of these is swapped wires."""
    noise = np.random.default_rng(1).normal(0, 0.1, (8 * RATE, channels))
    for name, sound in {
        "noise": noise,
        "silent": noise * (np.arange(channels) == 0),
        "moment": noise[:, :1] * np.where(np.arange(8 * RATE)[:, None] // RATE % 4 < 2, 1, (-1) ** np.arange(channels)),
        "nothing": noise * 1e-6,
    }.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
        assert warnings_of(tmp_path / f"{name}.wav") == [], name


@pytest.mark.parametrize(("channel", "column"), [("left", 0), ("right", 1), (1, 0), (3, 2)])
def test_one_channel_of_a_file_and_of_raw_samples(tmp_path: Path, channel: Channel, column: int) -> None:
    sound = tone(RATE, 1.0, 3).astype("<f4")
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    mixing = Mixing(channel)
    for source in (
        FileSource(tmp_path / "a.wav", RATE, mixing=mixing),
        PcmSource(io.BytesIO(sound.tobytes()), RawFormat(RATE, "f32le", 3), RATE, mixing),
    ):
        samples, fault = gather(source)
        assert fault is None
        np.testing.assert_array_equal(samples, sound[:, column])
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav", RATE, mixing=mixing), sound[:, column])


def test_a_channel_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", channels=2)
    samples, fault = gather(FileSource(path, RATE, mixing=Mixing(5)))
    assert samples.size == 0
    assert f"{path}: has 2 channels; --channel 5 is not there" in str(fault)
    with pytest.raises(ConfigError, match="channel 5 is not there, they have 2"):
        PcmSource(io.BytesIO(b""), RawFormat(RATE, "s16le", 2), RATE, Mixing(5))


def test_a_fault_in_a_channel_that_is_not_used_does_not_matter(tmp_path: Path) -> None:
    sound = tone(RATE, 1.0, 2).astype(np.float32)
    sound[100, 1] = np.nan
    soundfile.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    assert gather(FileSource(tmp_path / "a.wav", RATE, mixing=Mixing("left")))[1] is None
    assert gather(FileSource(tmp_path / "a.wav", RATE))[1] is not None


class Dribble(io.RawIOBase):
    """A pipe that returns its bytes in pieces of given sizes, as a live one may."""

    def __init__(self, data: bytes, sizes: Iterable[int]) -> None:
        self._rest = data
        self._sizes = iter(sizes)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), next(self._sizes, len(buffer)), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def pcm(data: bytes, sample_format: str = "s16le", channels: int = 1, rate: int = RATE) -> PcmSource:
    return PcmSource(io.BytesIO(data), RawFormat(rate, sample_format, channels), RATE)


RAW_SUBTYPES = {"s16le": "PCM_16", "s24le": "PCM_24", "s32le": "PCM_32", "f32le": "FLOAT"}


@pytest.mark.parametrize("sample_format", PCM_FORMATS)
@pytest.mark.parametrize(("channels", "rate"), [(1, 16000), (2, 44100), (3, 8000)])
def test_raw_samples_are_those_of_the_file(tmp_path: Path, sample_format: str, channels: int, rate: int) -> None:
    path = write(tmp_path / "a.wav", rate, channels=channels, subtype=RAW_SUBTYPES[sample_format])
    with soundfile.SoundFile(path) as file:
        soundfile.write(tmp_path / "a.pcm", file.read(), rate, format="RAW", subtype=RAW_SUBTYPES[sample_format])
    samples, fault = gather(pcm((tmp_path / "a.pcm").read_bytes(), sample_format, channels, rate))
    assert fault is None
    np.testing.assert_array_equal(samples, gather(FileSource(path, RATE))[0])


@given(sizes=st.lists(st.integers(1, 5000), max_size=30), sample_format=st.sampled_from(PCM_FORMATS))
def test_raw_samples_arrive_in_any_pieces(sizes: list[int], sample_format: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.bytes(12 * 2000) if sample_format != "f32le" else rng.random(6000, np.float32).tobytes()
    dribble = io.BufferedReader(Dribble(values, sizes), 1)
    samples, fault = gather(PcmSource(dribble, RawFormat(RATE, sample_format, 2), RATE))
    assert fault is None
    np.testing.assert_array_equal(samples, gather(pcm(values, sample_format, 2))[0])


def lengths(events: list[SourceEvent] | None) -> list[int]:
    return [len(event.chunk.samples) for event in events or [] if isinstance(event, AudioBlock)]


def test_raw_samples_are_passed_on_as_they_arrive() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - descriptors
        pipe.write(bytes(3200))
        with closing(PcmSource(stream, RawFormat(), RATE)) as source:
            assert lengths(source.take(5)) == [1600]
            assert source.take(0.05) == []
            pipe.write(bytes(100))
            assert lengths(source.take(5)) == [50]


@pytest.mark.parametrize("rest", [1, 3])
def test_raw_samples_that_end_within_a_frame(rest: int) -> None:
    samples, fault = gather(pcm(bytes(4 * 800 + rest), channels=2))
    assert samples.size == 800
    assert fault is not None
    assert f"{rest} of 4 bytes after 0.05 s" in str(fault)


def test_no_raw_samples() -> None:
    samples, fault = gather(pcm(b""))
    assert samples.size == 0
    assert fault is not None
    assert "0 bytes" in str(fault)


@pytest.mark.parametrize("kind", FORMATS)
def test_sound_file_instead_of_raw_samples(tmp_path: Path, kind: str) -> None:
    data = write(tmp_path / f"a.{kind.lower()}").read_bytes()
    samples, fault = gather(pcm(b"ID3" + data if kind == "MP3" else data))
    assert samples.size == 0
    assert fault is not None
    assert kind in str(fault)


def test_raw_sample_that_is_not_a_number() -> None:
    values = np.zeros(1000, "<f4")
    values[400] = np.nan
    samples, fault = gather(pcm(values.tobytes(), "f32le"))
    assert samples.size == 400
    assert fault is not None
    assert "0.0250 s" in str(fault)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: pcm(b"", "s8"), "s16le, s24le, s32le, f32le"),
        (lambda: pcm(b"", rate=100), "4000 to 384000"),
        (lambda: pcm(b"", channels=0), "0 channels"),
    ],
)
def test_impossible_raw_parameters_are_errors(make: Callable[[], PcmSource], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make()


def test_real_time_follows_the_clock_and_does_not_drift() -> None:
    sound = np.arange(RATE * 6 // 10, dtype=np.float32)
    chunks = [AudioChunk(sound[:5000], 0), AudioChunk(sound[5000:], 5000)]
    begin = time.monotonic()
    pieces, late = [], []
    for piece in in_real_time(chunks, RATE):
        pieces.append(piece)
        end = piece.first_sample + len(piece.samples)
        late.append(time.monotonic() - begin - end / RATE)
        if len(pieces) == 3:
            time.sleep(0.1)  # a consumer that falls behind catches up
    np.testing.assert_array_equal(np.concatenate([p.samples for p in pieces]), sound)
    assert max(len(p.samples) for p in pieces) == 640
    assert min(late) >= -1e-3
    assert np.median(late[8:]) < 0.02
