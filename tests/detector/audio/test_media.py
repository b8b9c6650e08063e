"""Containers that FFmpeg decodes: the same sound as the original, where it was, and damage that is reported."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import duckdb
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.audio import media
from detector.audio.files import SoundFileReader
from detector.audio.sources import read_sound
from detector.cli.main import cli
from detector.system import install_command
from tests.broker import program
from tests.contracts.live import SCENE
from tests.detector.archive import processes
from tests.detector.audio.test_files import RATE, both_ways, encode, from_pipe, read, wav
from tests.service import Child

LOSSLESS = {
    "a.m4a": ("-c:a", "alac"),
    "a.mov": ("-c:a", "pcm_s16be"),
    "a.mkv": ("-c:a", "pcm_s16le"),
    "a.mka": ("-c:a", "flac"),
    "a.tta": (),
    "a.wv": (),
}
LOSSY = {
    "a.m4a": ("-c:a", "aac"),
    "f.m4a": ("-c:a", "aac", "-movflags", "+faststart"),
    "a.mp4": ("-c:a", "libmp3lame"),
    "o.mp4": ("-c:a", "libopus", "-ar", "48000"),
    "a.webm": ("-c:a", "libopus", "-ar", "48000"),
    "a.mka": ("-c:a", "libvorbis"),
}
"""Containers that state the delay of the encoder."""
OTHERS = {
    "a.aac": "AAC",
    "a.wma": "WMA",
    "a.ts": "MPEG-TS",
    "a.m2ts": "MPEG-TS",
    "a.avi": "AVI",
    "a.ac3": "AC-3",
    "a.flv": "Flash video",
    "a.spx": "Ogg (Speex)",
    "b.wav": "WAV",
    "a.mka": "WebM or Matroska",
    "a.m4a": "MP4 or M4A (AAC or ALAC)",
}
_OPTIONS = {
    "a.spx": ("-c:a", "libspeex", "-ar", "16000"),
    "a.wma": ("-c:a", "wmav2"),
    "b.wav": ("-c:a", "wmav2"),
    "a.ts": ("-c:a", "aac"),
    "a.m2ts": ("-c:a", "ac3"),
    "a.avi": ("-c:a", "ac3"),
    "a.flv": ("-c:a", "aac"),
    "a.mka": ("-c:a", "aac"),
}


def click(path: Path, rate: int, *options: str) -> Path:
    """Write two seconds with a click at 0.5 s, encoded by the ending of the name."""
    samples = np.zeros(2 * rate)
    samples[rate // 2] = 0.9
    source = path.with_suffix(".wav")
    soundfile.write(source, samples, rate, subtype="PCM_16")
    subprocess.run([program("ffmpeg"), "-v", "error", "-y", "-i", source, *options, path], check=True)
    return path


@functools.cache
def noise(suffix: str, *options: str) -> bytes:
    """Return ten seconds of noise at 16 kHz, in which every packet of a codec has its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = Path(folder) / "a.wav", Path(folder) / f"b{suffix}"
        soundfile.write(source, np.random.default_rng(1).normal(0, 0.1, 160_000), 16000, subtype="PCM_16")
        subprocess.run([program("ffmpeg"), "-v", "error", "-i", source, *options, path], check=True)
        return path.read_bytes()


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_containers_give_the_bits_of_the_original(tmp_path: Path, name: str) -> None:
    expected = read(wav(tmp_path / "a.wav"))
    found = read(encode(tmp_path / name, 0, *LOSSLESS[name]))
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, expected.sound)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize("name", LOSSY)
def test_a_click_is_where_it_was_and_the_sound_as_long_as_it_was(tmp_path: Path, name: str, rate: int) -> None:
    path = click(tmp_path / name, rate, *LOSSY[name])
    reader = SoundFileReader(path)
    decoded_hz = reader.rate_hz
    reader.close()
    found = read(path)
    assert found.fault == ""
    assert decoded_hz in {rate, 48000}
    allowed = 2 if rate == decoded_hz else 16
    assert abs(int(np.abs(found.sound).argmax()) - decoded_hz // 2) <= allowed
    is_exact = path.suffix in {".m4a", ".mp4"} and rate == decoded_hz
    assert abs(len(found.sound) - 2 * decoded_hz) <= (0 if is_exact else 0.02 * decoded_hz)


AAC = {
    "a.aac": (),
    "a.ts": (),
    "a.mka": (),
    "a.flv": (),
    "a.avi": ("-c:a", "aac"),
    "no_edit_list.m4a": ("-use_editlist", "0"),
    "fragments.mp4": ("-movflags", "frag_keyframe+empty_moov"),
}
"""Where no container states the delay of the encoder."""
FFMPEG_9 = (63,)
"""Its libavformat."""


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("name", AAC)
def test_the_delay_of_aac_is_left_out_where_its_first_packet_shows_it(tmp_path: Path, name: str, rate: int) -> None:
    options = ("-c:a", "aac", *AAC[name])
    found = read(click(tmp_path / name, rate, *options)).sound
    assert int(np.abs(found).argmax()) == rate // 2
    assert 0 <= len(found) - 2 * rate < 1024
    unmarked = read(click(tmp_path / f"unmarked_{name}", rate, *options, "-flags:a", "+bitexact")).sound
    # PyAV 19, with FFmpeg 9, knows the delay in a Matroska file of Debian 13's FFmpeg.
    is_known = name.endswith(".mka") and av.library_versions["libavformat"] >= FFMPEG_9
    assert int(np.abs(unmarked).argmax()) - rate // 2 == (0 if is_known else 1024)


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".flv", ".aac", ".mov", ".mp4"])
def test_the_delay_of_aac_is_left_out_once_where_packets_were_copied(tmp_path: Path, suffix: str) -> None:
    copied = tmp_path / f"copy{suffix}"
    source = click(tmp_path / "a.m4a", 48000, "-c:a", "aac")
    subprocess.run([program("ffmpeg"), "-v", "error", "-i", source, "-c", "copy", copied], check=True)
    assert int(np.abs(read(copied).sound).argmax()) == 24_000
    cut = tmp_path / f"cut{suffix}"
    subprocess.run([program("ffmpeg"), "-v", "error", "-ss", "0.25", "-i", source, "-c", "copy", cut], check=True)
    assert abs(int(np.abs(read(cut).sound).argmax()) - 12_000) <= 1024


@pytest.mark.parametrize("name", OTHERS)
def test_other_containers_are_read_without_a_gap(tmp_path: Path, name: str) -> None:
    """As long as the original, but for what they keep of the encoder's own delay."""
    path = encode(tmp_path / name, 0, *_OPTIONS.get(name, ()))
    found = read(path)
    assert found.fault == ""
    with_rate = SoundFileReader(path)
    assert abs(len(found.sound) / with_rate.rate_hz - 3.0) < 0.08
    with_rate.close()


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.ts"])
def test_the_size_of_blocks_changes_nothing(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, 0, *(LOSSY | _OPTIONS)[name])
    whole = read(path, 1 << 20)
    for frames in (1, 777, 4096):
        if frames > 1 or name == "a.m4a":
            np.testing.assert_array_equal(read(path, frames).sound, whole.sound)


def test_channels_stay_apart_and_in_order(tmp_path: Path) -> None:
    t = np.arange(2 * RATE) / RATE
    tones = np.stack([0.5 * np.sin(2 * np.pi * 500 * t), 0.25 * np.sin(2 * np.pi * 2000 * t)], axis=1)
    soundfile.write(tmp_path / "a.wav", tones, RATE, subtype="PCM_16")
    for name, options in {"a.m4a": ("-c:a", "aac", "-b:a", "192k"), "a.mov": ("-c:a", "pcm_s16le")}.items():
        subprocess.run(
            [program("ffmpeg"), "-v", "error", "-i", tmp_path / "a.wav", *options, tmp_path / name], check=True
        )
        reader = SoundFileReader(tmp_path / name)
        found = np.concatenate([block.copy() for block in reader.blocks(4096)])[RATE // 2 : RATE // 2 + RATE]
        reader.close()
        assert reader.channels == 2
        spectrum = np.abs(np.fft.rfft(found, axis=0)) / RATE * 2
        np.testing.assert_allclose(spectrum[[500, 2000]].T, [[0.5, 0], [0, 0.25]], atol=0.01)


def test_of_a_film_the_first_sound_track_is_read(tmp_path: Path) -> None:
    wav(tmp_path / "a.wav")
    wav(tmp_path / "b.wav", seed=1)
    picture = ("-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=3")
    sounds = ("-i", tmp_path / "a.wav", "-i", tmp_path / "b.wav", "-map", "0:v", "-map", "1:a", "-map", "2:a")
    film = tmp_path / "film.mkv"
    codecs = ("-c:v", "mpeg4", "-c:a", "pcm_s16le")
    subprocess.run([program("ffmpeg"), "-v", "error", *picture, *sounds, *codecs, film], check=True)
    found = read(film)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, read(tmp_path / "a.wav").sound)
    silent = tmp_path / "silent.mp4"
    subprocess.run([program("ffmpeg"), "-v", "error", *picture, "-c:v", "mpeg4", silent], check=True)
    refusal = "MP4 or M4A (AAC or ALAC) that cannot be read: it has no sound track, only video"
    assert read(silent).fault == f"{silent}: {refusal}"


@pytest.mark.parametrize("name", ["f.m4a", "a.mka", "a.ts", "a.aac", "frag.mp4"])
def test_a_container_comes_through_a_pipe_as_from_disk(tmp_path: Path, name: str) -> None:
    options = {"frag.mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"), "a.aac": ()} | LOSSY | _OPTIONS
    found = both_ways(encode(tmp_path / name, 0, *options[name]))
    assert found.fault == ""
    assert len(found.sound) > 2.9 * RATE


def test_a_recording_that_states_no_length_is_read(tmp_path: Path) -> None:
    """As a browser records it, which cannot go back to the header."""
    to_pipe = ("-c:a", "libopus", "-ar", "48000", "-f", "webm", "-")
    done = subprocess.run(
        [program("ffmpeg"), "-v", "error", "-i", wav(tmp_path / "a.wav"), *to_pipe], capture_output=True, check=True
    )
    path = tmp_path / "a.webm"
    path.write_bytes(done.stdout)
    found = both_ways(path)
    assert found.fault == ""
    assert abs(len(found.sound) - 3 * 48_000) < 1000


def test_an_index_at_the_end_cannot_be_read_from_a_pipe(tmp_path: Path) -> None:
    found = from_pipe(encode(tmp_path / "a.m4a", 0, "-c:a", "aac"))
    assert len(found.sound) == 0
    assert found.fault.endswith("copy or record it again (where its index is at its end, name the file, not a pipe)")


@pytest.mark.parametrize("name", ["f.m4a", "a.mka", "a.webm", "a.ts", "a.aac", "a.tta", "frag.mp4"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_container_is_reported_behind_its_sound(tmp_path: Path, name: str, share: float) -> None:
    options = {"frag.mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"), "a.aac": (), "a.tta": ()}
    whole = noise(Path(name).suffix, *(options | LOSSY | _OPTIONS)[name])
    path = tmp_path / name
    path.write_bytes(whole)
    complete = read(path)
    assert complete.fault == ""
    path.write_bytes(whole[: int(share * len(whole))])
    found = read(path)
    assert len(found.fault.splitlines()) == 1
    assert re.search(r"header promises \d+\.\d\d s|sound is missing in \d places?|damaged at", found.fault)
    count = min(len(found.sound), int((share - 0.15) * len(complete.sound)))
    assert count > 0.1 * len(complete.sound)
    np.testing.assert_array_equal(found.sound[:count], complete.sound[:count])


def test_an_index_that_is_cut_off_is_one_line(tmp_path: Path) -> None:
    whole = noise(".m4a", "-c:a", "aac")
    path = tmp_path / "a.m4a"
    path.write_bytes(whole[: len(whole) // 2])
    found = read(path)
    assert found.fault == (
        f"{path}: MP4 or M4A (AAC or ALAC) that cannot be read: it is damaged or cut off; copy or record it again"
    )


@pytest.mark.parametrize("name", ["a.m4a", "a.ts", "a.wma"])
def test_behind_damage_everything_is_at_its_time(tmp_path: Path, name: str) -> None:
    """Silence takes the place of the packets that cannot be decoded."""
    whole = noise(Path(name).suffix, *(LOSSY | _OPTIONS)[name])
    path = tmp_path / name
    path.write_bytes(whole)
    complete = read(path).sound
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(2000) + whole[middle + 2000 :])
    found = read(path)
    assert "damaged: sound is missing in " in found.fault
    assert len(found.sound) == len(complete)
    quarter = len(complete) // 4
    np.testing.assert_array_equal(found.sound[:quarter], complete[:quarter])
    # The decoder of WMA fills bands with noise, whose state goes on where packets are missing.
    np.testing.assert_allclose(found.sound[-quarter:], complete[-quarter:], atol=0.01 if name == "a.wma" else 0)


def test_a_second_mp4_behind_the_first_is_reported(tmp_path: Path) -> None:
    whole = noise(".m4a", "-c:a", "aac")
    path = tmp_path / "joined.m4a"
    path.write_bytes(whole + whole)
    found = read(path)
    assert len(found.sound) == 160_000
    assert found.fault == (
        f"{path}: the sound ends after 10.00 s, and {len(whole)} bytes behind it (MP4 or M4A (AAC or ALAC)) were not "
        "processed; the sound up to there is used; cut the file there"
    )


def test_joined_matroska_files_are_read_to_the_end(tmp_path: Path) -> None:
    one = encode(tmp_path / "a.mka", 0, "-c:a", "pcm_s16le")
    two = encode(tmp_path / "b.mka", 1, "-c:a", "pcm_s16le")
    joined = tmp_path / "joined.mka"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    expected = np.concatenate([read(one).sound, read(two).sound])
    np.testing.assert_array_equal(read(joined).sound, expected)


@pytest.mark.parametrize("seed", range(10))
def test_damaged_bytes_anywhere_give_one_line_or_sound(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    name = ["f.m4a", "a.mka", "a.ts", "a.wma", "a.flv"][seed % 5]
    data = bytearray(noise(Path(name).suffix, *(LOSSY | _OPTIONS)[name]))
    for at in rng.integers(0, len(data), 30):
        data[at] = rng.integers(0, 256)
    path = tmp_path / name
    path.write_bytes(data)
    found = read(path)
    assert found.fault or len(found.sound)
    assert len(found.fault.splitlines()) <= 1


def test_what_is_of_no_known_format_is_not_shown_to_ffmpeg(tmp_path: Path) -> None:
    """It would take some of these for sound."""
    for data, words in (
        (b"#EXTM3U\n/etc/passwd\n" * 100, "text; name a sound file"),
        (np.random.default_rng(0).bytes(100_000), "no sound file that can be read"),
        (b"PK\x03\x04" + bytes(1000), "a ZIP archive"),
        (bytes(10_000), "no sound file that can be read"),
    ):
        (tmp_path / "a.m4a").write_bytes(data)
        found = read(tmp_path / "a.m4a")
        assert words in found.fault
        assert len(found.sound) == 0


def test_without_pyav_the_line_names_the_format_and_two_ways(tmp_path: Path) -> None:
    for name, word in OTHERS.items():
        encode(tmp_path / name, 0, *_OPTIONS.get(name, ()))
        code = "import sys; sys.modules['av'] = None; from detector.cli.main import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "replay", "--quiet", tmp_path / name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 66
        needed = f"files of this kind need PyAV: {install_command('streams')}; or convert it: ffmpeg -i FILE sound.wav"
        assert done.stderr == f"snn-detect: error: {tmp_path / name}: {word}; {needed}\n"
        if name == "a.ts":
            break


def stored(folder: Path, columns: str, names: str = "**/*.parquet") -> list[tuple[Any, ...]]:
    """Return some columns of a data set, sorted."""
    return sorted(duckdb.execute(f"select {columns} from '{folder}/{names}'").fetchall())  # noqa: S608


def events(lines: str) -> list[tuple[str, float]]:
    """Return what was detected, and when."""
    return re.findall(r'"type":"onset".*?"label":"(\w+)".*?"onset_s":([\d.]+)', lines)


def test_replay_archive_and_device_give_the_events_of_the_same_sound_as_wav(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    scene, plain = folder / "scene_20261123_180405.m4a", tmp_path / "scene.wav"
    wave, rate = soundfile.read(SCENE, dtype="int16", frames=15 * 16000)
    soundfile.write(plain, wave, rate)
    subprocess.run([program("ffmpeg"), "-v", "error", "-i", plain, "-c:a", "alac", scene], check=True)
    np.testing.assert_array_equal(read_sound(scene, 16000), read_sound(plain, 16000))
    expected = CliRunner().invoke(cli, ["replay", "--json", "--quiet", str(plain)])
    found = CliRunner().invoke(cli, ["replay", "--json", "--quiet", str(scene)])
    assert (found.exit_code, events(found.stdout)) == (0, events(expected.stdout))
    assert events(found.stdout)
    done = processes.run(folder, "--out", tmp_path / "out", "--jobs", "1")
    assert done.returncode == 0
    rows = stored(tmp_path / "out/events", "label, onset_s")
    assert sorted((label, float(onset_s)) for label, onset_s in events(expected.stdout)) == rows
    with Child("--device", scene) as child:
        assert child.wait() == 0
    assert events("\n".join(child.lines)) == events(expected.stdout)


def test_an_archive_has_a_row_for_a_container_that_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    whole = noise(".mka", "-c:a", "aac")
    (folder / "cut.mka").write_bytes(whole[: len(whole) // 2])
    (folder / "good.mka").write_bytes(whole)
    assert processes.run(folder, "--out", tmp_path / "out", "--jobs", "1").returncode == 66
    ((path, error),) = stored(tmp_path / "out", "path, error", "errors.parquet")
    assert path.endswith("cut.mka")
    assert "its header promises 10." in error


def with_jumps(path: Path, jumps_s: dict[int, float], packets: int) -> Path:
    """Write packets of a tenth of a second of noise at 16 kHz, before some of which the timestamps jump."""
    noise_s = np.random.default_rng(2).normal(0, 0.1, (packets, 1600)).clip(-1, 1)
    jumped_s = 0.0
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for number, samples in enumerate(noise_s):
            jumped_s += jumps_s.get(number, 0.0)
            frame = av.AudioFrame.from_ndarray((32767 * samples).astype("<i2")[None], layout="mono")
            frame.sample_rate, frame.pts = 16000, number * 1600 + round(16000 * jumped_s)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_jump_of_the_timestamps_is_silence_of_that_length_and_reported(tmp_path: Path) -> None:
    path = with_jumps(tmp_path / "a.mkv", {10: 2.5}, 20)
    found = read(path)
    assert found.fault == f"{path}: damaged: sound is missing in 1 place; the rest was processed; copy it again"
    plain = read(with_jumps(tmp_path / "b.mkv", {}, 20)).sound
    silence = np.zeros(40_000, np.float32)
    np.testing.assert_array_equal(found.sound, np.concatenate([plain[:16_000], silence, plain[16_000:]]))


def test_silence_is_bounded_whatever_the_timestamps_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jump of more than a minute is another time scale; all jumps together give an hour at most, here 100 s."""
    assert len(read(with_jumps(tmp_path / "a.mkv", {10: 3600.0}, 20)).sound) == 32_000
    monkeypatch.setattr(media, "_MAX_SILENCE_S", 100.0)
    found = read(with_jumps(tmp_path / "b.mkv", dict.fromkeys(range(1, 100), 49.0), 100))
    assert len(found.sound) == 160_000 + 2 * 49 * 16_000
    assert "sound is missing in 99 places" in found.fault
