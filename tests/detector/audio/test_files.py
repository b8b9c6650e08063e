"""Whole files: chains, joined parts, headers whose length is wrong, what is no sound; from disk and through a pipe."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import struct
import subprocess
import tempfile
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from detector.audio.files import SoundFileReader
from detector.errors import SourceError
from tests.broker import program
from tests.resources import left_open, resources

RATE = 44100
Sound = NDArray[np.float32]


class Reading(NamedTuple):
    """What a reader gives: the first channel, and the text of its error."""

    sound: Sound
    fault: str


def read(path: Path, frames: int = 10_000) -> Reading:
    """Read a file to its end or to its error."""
    blocks: list[Sound] = []
    before = resources()
    try:
        reader = SoundFileReader(path)
    except SourceError as error:
        assert left_open(before) == []
        return Reading(np.empty(0, np.float32), str(error))
    fault = ""
    try:
        blocks += (block[:, 0].copy() for block in reader.blocks(frames))
    except SourceError as error:
        fault = str(error)
    reader.close()
    assert left_open(before) == []
    return Reading(np.concatenate(blocks) if blocks else np.empty(0, np.float32), fault)


def _feed(pipe: IO[bytes], data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError), pipe:
        pipe.write(data)


def from_pipe(path: Path) -> Reading:
    """Read the bytes of a file through a named pipe."""
    read_end, write_end = os.pipe()
    feeding = threading.Thread(target=_feed, args=(os.fdopen(write_end, "wb"), path.read_bytes()))
    blocks: list[Sound] = []
    fault = ""
    feeding.start()
    try:
        reader = SoundFileReader(Path(f"/dev/fd/{read_end}"))
        os.close(read_end)
        read_end = -1
        blocks += (block[:, 0].copy() for block in reader.blocks(10_000))
    except SourceError as error:
        fault = str(error)
    if read_end >= 0:
        os.close(read_end)
    else:
        reader.close()
    feeding.join()
    return Reading(np.concatenate(blocks) if blocks else np.empty(0, np.float32), fault)


def sound(seconds: float = 3.0, seed: int = 0) -> NDArray[np.float64]:
    """Return two channels of tones with noise, of which no two seconds are alike."""
    t = np.arange(round(RATE * seconds))[:, None] / RATE
    noise = np.random.default_rng(seed).normal(0, 0.02, (t.size, 2))
    return np.asarray(0.4 * np.sin(2 * np.pi * (300 + 40 * seed + 90 * t) * t * np.ones((1, 2))) + noise)


def wav(path: Path, seed: int = 0, seconds: float = 3.0) -> Path:
    soundfile.write(path, sound(seconds, seed), RATE, subtype="PCM_16")
    return path


@functools.cache
def encoded(suffix: str, seed: int, *options: str) -> bytes:
    """Return a sound as ffmpeg encodes it."""
    with tempfile.TemporaryDirectory() as folder:
        source, path = wav(Path(folder) / "source.wav", seed), Path(folder) / f"sound{suffix}"
        subprocess.run([program("ffmpeg"), "-v", "error", "-i", source, *options, path], check=True)
        return path.read_bytes()


def encode(path: Path, seed: int = 0, *options: str) -> Path:
    """Encode a sound with ffmpeg, by the ending of the name."""
    path.write_bytes(encoded(path.suffix, seed, *options))
    return path


def both_ways(path: Path) -> Reading:
    """Return what is read from disk, which has to be what comes through a pipe."""
    direct, piped = read(path), from_pipe(path)
    np.testing.assert_array_equal(piped.sound, direct.sound)
    assert bool(piped.fault) == bool(direct.fault)
    return direct


ENCODERS = {
    "ogg": ("-c:a", "libvorbis"),
    "opus": ("-c:a", "libopus"),
    "oga": ("-c:a", "flac"),
    "flac": ("-c:a", "flac"),
    "mp3": ("-c:a", "libmp3lame"),
    "wav": ("-c:a", "pcm_s16le"),
    "aiff": ("-c:a", "pcm_s16be"),
    "au": ("-c:a", "pcm_s16be"),
    "caf": ("-c:a", "pcm_s16be"),
    "w64": ("-c:a", "pcm_s16le"),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_joined_files_are_read_to_the_end_of_the_last_one(tmp_path: Path, kind: str) -> None:
    parts = [encode(tmp_path / f"{seed}.{kind}", seed, *ENCODERS[kind]) for seed in range(3)]
    joined = tmp_path / f"joined.{kind}"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    expected = np.concatenate([read(part).sound for part in parts])
    assert len(expected) >= 3 * 3 * RATE
    found = both_ways(joined)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, expected)


@pytest.mark.parametrize("kind", ["ogg", "oga", "opus", "flac", "mp3"])
def test_one_file_gives_what_libsndfile_gives(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind])
    found = both_ways(path)
    assert found.fault == ""
    if kind == "oga":  # libsndfile refuses FLAC in Ogg pages as ffmpeg writes it
        path = encode(tmp_path / "a.flac", 0, *ENCODERS["flac"])
    expected, _ = soundfile.read(path, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(found.sound, expected[:, 0])


@pytest.mark.parametrize(("first", "second"), [("ogg", "opus"), ("wav", "flac"), ("mp3", "wav")])
def test_parts_of_several_formats(tmp_path: Path, first: str, second: str) -> None:
    parts = [encode(tmp_path / f"{n}.{kind}", n, *ENCODERS[kind]) for n, kind in enumerate((first, second))]
    joined = tmp_path / f"joined.{first}"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = both_ways(joined)
    assert found.fault == ""
    assert len(found.sound) == pytest.approx(6 * RATE, abs=2)


def test_a_part_of_another_rate_is_resampled_to_the_first(tmp_path: Path) -> None:
    parts = [encode(tmp_path / f"{r}.ogg", 0, "-ar", str(r), *ENCODERS["ogg"]) for r in (44100, 32000)]
    joined = tmp_path / "joined.ogg"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = both_ways(joined)
    assert found.fault == ""
    assert len(found.sound) == pytest.approx(6 * RATE, abs=2)
    level = np.sqrt(np.square(found.sound.reshape(6, -1)).mean(1))
    np.testing.assert_allclose(level, level[0], rtol=0.1)


def test_mp3_parts_of_several_encoders_and_rates(tmp_path: Path) -> None:
    lame = program("lame")
    source = wav(tmp_path / "a.wav")
    for name, options in {"v": ("-V2",), "c": (), "t": ("-t",), "m": ("-m", "m", "--resample", "22.05")}.items():
        subprocess.run([lame, "--quiet", *options, source, tmp_path / f"{name}.mp3"], check=True)
    joined = tmp_path / "joined.mp3"
    tag = b"TAG" + b"x" * 125
    joined.write_bytes(tag.join((tmp_path / f"{name}.mp3").read_bytes() for name in "vctm"))
    found = both_ways(joined)
    assert found.fault == ""
    # Without a tag the last frames' padding is not known.
    assert 12 * RATE <= len(found.sound) < 12 * RATE + 4 * 1152


def field(data: bytes, name: bytes, value: bytes) -> bytes:
    """Return the data with other bytes behind a name."""
    at = data.index(name) + len(name)
    return data[:at] + value + data[at + len(value) :]


def stale_flac(data: bytes, frames: int) -> bytes:
    head = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    return data[:18] + head.to_bytes(8, "big") + data[26:]


def info_frames(data: bytes, frames: int) -> bytes:
    at = data.index(b"Info") + 8
    return data[:at] + struct.pack(">I", frames) + data[at + 4 :]


STALE: dict[str, Callable[[bytes], bytes]] = {
    "wav": lambda d: field(d, b"data", struct.pack("<I", 88200)),
    "aiff": lambda d: field(d, b"SSND", struct.pack(">I", 88208)),
    "au": lambda d: field(d, b".snd" + d[4:8], struct.pack(">I", 88200)),
    "caf": lambda d: field(d, b"data", struct.pack(">q", 88204)),
    "w64": lambda d: d[: d.index(b"data\xf3\xac") + 16] + struct.pack("<Q", 88224) + d[d.index(b"data\xf3\xac") + 24 :],
    "flac": lambda d: stale_flac(d, 22050),
    "mp3": lambda d: info_frames(d, 50),
}


@pytest.mark.parametrize("kind", STALE)
def test_a_length_from_before_the_last_minutes_is_not_believed(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind])
    whole = read(path)
    assert whole.fault == ""
    path.write_bytes(STALE[kind](path.read_bytes()))
    found = both_ways(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)


def test_rf64_with_an_old_length(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", 0, "-rf64", "always")
    whole = read(path)
    data = path.read_bytes()
    assert data.startswith(b"RF64")
    path.write_bytes(field(data, b"ds64", data[16:20] + data[20:28] + struct.pack("<Q", 88200)))
    found = both_ways(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)


def test_a_length_that_wrapped_at_4_gib(tmp_path: Path) -> None:
    """A sparse file of a little more than 4 GiB, whose header states what is more: it goes on behind that."""
    width, beyond = 64 * 8, 1000
    size = (1 << 32) + beyond * width
    form = struct.pack("<IHHIIHH", 16, 3, 64, 384_000, 384_000 * width, width, 64)
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(b"RIFF" + bytes(4) + b"WAVEfmt " + form + b"data" + struct.pack("<I", beyond * width))
        file.write(np.full(64 * 2 * beyond, 0.25).tobytes())
        file.truncate(44 + size)
    reader = SoundFileReader(path)
    blocks = reader.blocks(beyond // 2)
    assert all(float(next(blocks).min()) == 0.25 for _ in range(4))
    assert len(next(blocks)) == beyond // 2
    assert reader.frames_total == size // width
    reader.close()


@pytest.mark.parametrize("length", [0, 44, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 0x7FFF_F000])
def test_placeholders_of_wav_through_files_and_pipes(tmp_path: Path, length: int) -> None:
    path = wav(tmp_path / "a.wav")
    whole = read(path)
    path.write_bytes(field(path.read_bytes(), b"data", struct.pack("<I", length)))
    found = both_ways(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)


WRITERS = ("wav", "wavex", "rf64", "w64", "aiff", "au", "caf", "flac", "ogg", "mp3")


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_recorder_leaves_that_was_killed(tmp_path: Path, kind: str) -> None:
    """The header is completed when the file is closed; without that, all that reached the disk is read."""
    path = tmp_path / f"a.{kind}"
    expected = sound(5.0)
    with soundfile.SoundFile(tmp_path / "open", "w", RATE, 2, format=kind.upper()) as file:
        for at in range(0, len(expected), 4410):
            file.write(expected[at : at + 4410])
        path.write_bytes((tmp_path / "open").read_bytes())
    found = both_ways(path)
    assert found.fault == ""
    if kind in {"flac", "ogg", "mp3"}:  # the encoder holds the latest samples back
        assert 4.5 * RATE < len(found.sound) < 5 * RATE
    else:
        np.testing.assert_allclose(found.sound, expected[:, 0], rtol=0, atol=2**-15)


def test_what_python_leaves_that_was_killed(tmp_path: Path) -> None:
    samples = np.arange(20_000, dtype="<i2")
    with (tmp_path / "open").open("wb") as file, wave.open(file) as recording:
        recording.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        recording.writeframesraw(samples.tobytes())
        file.flush()
        (tmp_path / "a.wav").write_bytes((tmp_path / "open").read_bytes())
    found = both_ways(tmp_path / "a.wav")
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, samples / np.float32(32768))


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "caf", "w64"])
def test_what_sox_writes_into_a_pipe(tmp_path: Path, kind: str) -> None:
    source = wav(tmp_path / "a.wav")
    done = subprocess.run([program("sox"), source, "-t", kind, "-"], check=True, capture_output=True)
    path = tmp_path / f"piped.{kind}"
    path.write_bytes(done.stdout)
    found = both_ways(path)
    assert found.fault == ""
    assert len(found.sound) >= 3 * RATE
    np.testing.assert_array_equal(found.sound[: 3 * RATE], read(source).sound)


@pytest.mark.parametrize("kind", ["wav", "rf64", "aiff", "au", "caf", "w64", "flac", "mp3", "ogg", "opus"])
def test_what_ffmpeg_writes_into_a_pipe(tmp_path: Path, kind: str) -> None:
    source = wav(tmp_path / "a.wav")
    form = ["-f", "wav", "-rf64", "always"] if kind == "rf64" else ["-f", kind]
    command = [program("ffmpeg"), "-v", "error", "-i", str(source), *form, "-"]
    path = tmp_path / f"piped.{kind}"
    path.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    found = both_ways(path)
    assert found.fault == ""
    rate = 48000 if kind == "opus" else RATE
    assert 3 * rate <= len(found.sound) < 3 * rate + 2304
    if kind in {"wav", "rf64", "aiff", "au", "caf", "w64", "flac"}:
        np.testing.assert_array_equal(found.sound, read(source).sound)


@pytest.mark.parametrize("options", [("-c:a", "libmp3lame"), ("-c:a", "adpcm_ima_wav"), ("-c:a", "pcm_mulaw")])
def test_compressed_sound_inside_wav(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = encode(tmp_path / "a.wav", 0, *options)
    found = read(path)
    assert found.fault == ""
    assert 3 * RATE <= len(found.sound) < 3 * RATE + 2304


@pytest.mark.parametrize(
    "kind", ["pcm_u8", "pcm_mulaw", "pcm_alaw", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"]
)
def test_samples_of_wav_are_those_of_libsndfile(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / "a.wav", 0, "-c:a", kind)
    np.testing.assert_array_equal(read(path).sound, soundfile.read(path, dtype="float32")[0][:, 0])


@pytest.mark.parametrize(
    "kind", ["pcm_s8", "pcm_s24be", "pcm_s32be", "pcm_f32be", "pcm_f64be", "pcm_mulaw", "pcm_alaw"]
)
@pytest.mark.parametrize("container", ["aiff", "au", "caf"])
def test_samples_of_other_containers_are_those_of_libsndfile(tmp_path: Path, kind: str, container: str) -> None:
    path = encode(tmp_path / f"a.{container}", 0, "-c:a", kind)
    np.testing.assert_array_equal(read(path).sound, soundfile.read(path, dtype="float32")[0][:, 0])


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def ape(flags: int) -> bytes:
    return b"APETAGEX" + struct.pack("<IIII", 2000, 2000, 40, flags) + bytes(8)


TAILS = {
    "LIST": chunk(b"LIST", b"INFOISFT\x04\0\0\0test"),
    "unknown": chunk(b"Xy7 ", b"\x55" * 33) + chunk(b"bext", b"\x11" * 602),
    "ID3 chunk": chunk(b"id3 ", b"ID3\3\0\0\0\0\0\0" + b"picture" * 200_000),
    "ID3v1": b"TAG" + b"name" * 31 + b"\xff",
    "APE": ape(0xA000_0000) + b"Item" * 492 + ape(0x8000_0000),
    "zeros": bytes(5000),
    "half a frame": b"\x77\x66\x55",
}


@pytest.mark.parametrize("tail", TAILS)
def test_what_follows_the_samples_and_is_no_sound(tmp_path: Path, tail: str) -> None:
    path = wav(tmp_path / "a.wav")
    whole = read(path)
    path.write_bytes(path.read_bytes() + TAILS[tail])
    found = both_ways(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)


@pytest.mark.parametrize("kind", ["flac", "mp3", "ogg", "opus"])
@pytest.mark.parametrize("tail", ["ID3v1", "APE", "zeros"])
def test_tags_behind_compressed_sound(tmp_path: Path, kind: str, tail: str) -> None:
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind])
    whole = read(path)
    path.write_bytes(path.read_bytes() + TAILS[tail])
    found = both_ways(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)


@pytest.mark.parametrize("kind", ["flac", "mp3"])
def test_a_tag_before_compressed_sound(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind])
    whole = read(path)
    path.write_bytes(b"ID3\x03\0\0\0\0\x27\x10" + b"picture!" * 626 + path.read_bytes())
    found = both_ways(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)


@pytest.mark.parametrize("kind", ["ogg", "opus", "mp3"])
def test_bytes_behind_that_cannot_be_read_are_counted(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind])
    whole = read(path)
    path.write_bytes(path.read_bytes() + b"\x01" * 70_000)
    found = both_ways(path)
    np.testing.assert_array_equal(found.sound, whole.sound)
    assert "70000 bytes behind it" in found.fault
    assert "not processed" in found.fault


def test_a_later_part_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    first = encode(tmp_path / "a.ogg", 0, *ENCODERS["ogg"])
    second = encode(tmp_path / "b.spx", 0, "-c:a", "libspeex", "-ar", "16000")
    joined = tmp_path / "joined.ogg"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    found = both_ways(joined)
    np.testing.assert_array_equal(found.sound, read(first).sound)
    assert f"{second.stat().st_size} bytes behind it (Ogg (Speex)) were not processed" in found.fault


def test_mp3_inside_wav_with_padding_and_chunks_behind(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", 0, "-c:a", "libmp3lame")
    whole = read(path)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    length = struct.unpack_from("<I", data, at)[0]
    padded = data[: at + 4 + length] + bytes(200) + TAILS["LIST"]
    path.write_bytes(padded[:at] + struct.pack("<I", length + 200) + padded[at + 4 :])
    found = both_ways(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)


def test_headers_of_many_and_of_long_chunks(tmp_path: Path) -> None:
    """A picture of 20 MB before the sound; thousands of chunks are neither slow nor believed."""
    data = wav(tmp_path / "a.wav").read_bytes()
    whole = read(tmp_path / "a.wav")
    stale = field(data, b"data", struct.pack("<I", 88200))
    path = tmp_path / "b.wav"
    path.write_bytes(stale[:36] + chunk(b"id3 ", bytes(20_000_000)) + stale[36:])
    found = read(path)
    assert found.fault == ""
    np.testing.assert_array_equal(found.sound, whole.sound)
    path.write_bytes(stale[:36] + chunk(b"JUNK", b"1234") * 5000 + stale[36:])
    np.testing.assert_array_equal(both_ways(path).sound, whole.sound)
    begin = time.monotonic()
    path.write_bytes(stale[:36] + chunk(b"JUNK", b"1234") * 1_000_000)
    assert "no sound file" in read(path).fault
    assert time.monotonic() - begin < 10


def test_bytes_behind_adpcm_are_counted(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.wav", 0, "-c:a", "adpcm_ima_wav")
    data = path.read_bytes()
    path.write_bytes(data + data)
    found = read(path)
    assert len(found.sound) >= 3 * RATE  # libsndfile refuses it, and FFmpeg takes the first one for the whole
    assert f"{len(data)} bytes behind it (WAV) were not processed" in found.fault
    path.write_bytes(data + chunk(b"LIST", b"INFO") + b"\x01" * 20_000)
    found = read(path)
    assert len(found.sound) >= 3 * RATE
    assert "20000 bytes behind it" in found.fault


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "w64", "flac", "mp3"])
def test_what_is_cut_off_is_still_an_error(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind])
    whole = read(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = both_ways(path)
    assert "promises 3.0" in found.fault
    np.testing.assert_array_equal(found.sound[:-3000], whole.sound[: len(found.sound) - 3000])


@pytest.mark.parametrize("kind", ["ogg", "opus", "oga", "mp3"])
def test_sound_that_is_missing_in_the_middle_is_an_error_behind_the_rest(tmp_path: Path, kind: str) -> None:
    """A page or frames are gone, or overwritten, and all is joined to another file: that is read nevertheless."""
    short_pages = () if kind == "mp3" else ("-page_duration", "200000")
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind], *short_pages)
    whole, data = read(path), path.read_bytes()
    if kind == "mp3":
        starts = [len(data) // 3, len(data) // 2]
    else:
        pages = [found.start() for found in re.finditer(rb"OggS\0", data)]
        starts = pages[len(pages) // 2 : len(pages) // 2 + 2]
    first, last = starts
    damaged = {"overwritten": data[:first] + bytes(last - first) + data[last:]}
    if kind != "mp3":
        damaged["gone"] = data[:first] + data[last:]
    for name, less in damaged.items():
        path.write_bytes(less + data)
        found = both_ways(path)
        assert "damaged" in found.fault, name
        if kind != "oga":  # the decoder of FLAC cannot go on
            assert "missing in 1 place;" in found.fault
            assert len(found.sound) > len(whole.sound)
            np.testing.assert_array_equal(found.sound[-len(whole.sound) :], whole.sound)


@pytest.mark.parametrize("kind", ["wav", "aiff", "au", "caf", "w64", "flac"])
def test_a_part_that_was_cut_off_costs_no_other_part(tmp_path: Path, kind: str) -> None:
    path = encode(tmp_path / f"a.{kind}", 0, *ENCODERS[kind])
    whole, data = read(path), path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data)
    found = both_ways(path)
    assert "damaged" in found.fault
    if kind != "flac":  # its decoder ends within the frame that is cut
        assert "missing in 1 place;" in found.fault
        np.testing.assert_array_equal(found.sound[-len(whole.sound) :], whole.sound)


def test_a_second_file_is_found_wherever_blocks_end(tmp_path: Path) -> None:
    first = field(wav(tmp_path / "a.wav", 0, 0.002).read_bytes(), b"data", b"\xff\xff\xff\xff")
    path = tmp_path / "joined.wav"
    path.write_bytes(first + wav(tmp_path / "b.wav", 1, 0.002).read_bytes())
    whole = np.concatenate([read(tmp_path / "a.wav").sound, read(tmp_path / "b.wav").sound])
    for frames in range(1, 120):
        np.testing.assert_array_equal(read(path, frames).sound, whole)


def test_a_stream_that_was_recorded_from_its_middle_on_has_no_gap(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.ogg", 0, *ENCODERS["ogg"], "-page_duration", "200000").read_bytes()
    pages = [found.start() for found in re.finditer(rb"OggS\0", data)]
    (tmp_path / "b.ogg").write_bytes(data[: pages[2]] + data[pages[5] :])
    found = both_ways(tmp_path / "b.ogg")
    assert found.fault == ""
    assert len(found.sound) > RATE


def test_cut_off_mp3_and_adpcm_inside_wav(tmp_path: Path) -> None:
    for options in (("-c:a", "libmp3lame"), ("-c:a", "adpcm_ima_wav")):
        path = encode(tmp_path / "a.wav", 0, *options)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        found = read(path)
        assert len(found.sound) < 2 * RATE
        assert "more bytes" in found.fault


@pytest.mark.parametrize("tag", [True, False])
@pytest.mark.parametrize("rate", [44100, 32000, 16000])
def test_a_click_in_an_mp3_is_where_it_was(tmp_path: Path, tag: bool, rate: int) -> None:
    samples = np.zeros(2 * rate)
    samples[rate // 2] = 0.9
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="PCM_16")
    options = [] if tag else ["-t"]
    lame = [program("lame"), "--quiet", "-b", "64", "--resample", str(rate / 1000)]
    subprocess.run([*lame, *options, tmp_path / "a.wav", tmp_path / "a.mp3"], check=True)
    found = both_ways(tmp_path / "a.mp3")
    assert found.fault == ""
    assert abs(int(np.abs(found.sound).argmax()) - rate // 2) <= 2


def test_a_pipe_that_never_ends_is_read_at_once(tmp_path: Path) -> None:
    """What arrives is passed on behind the header's length too, without waiting for more."""
    data = field(wav(tmp_path / "a.wav").read_bytes(), b"data", struct.pack("<I", 4 * RATE))
    reading, writing = os.pipe()
    os.write(writing, data[: 44 + 4 * 10_000])
    reader = SoundFileReader(Path(f"/dev/fd/{reading}"))
    blocks = reader.blocks(10_000)
    assert len(next(blocks)) == 10_000
    feeding = threading.Thread(target=os.write, args=(writing, data[44 + 4 * 10_000 : 44 + 4 * 100_000]))
    feeding.start()
    assert [len(next(blocks)) for _ in range(9)] == [10_000] * 3 + [4_100] + [10_000] * 4 + [10_000]
    feeding.join()
    reader.close()
    os.close(writing)
    os.close(reading)


@pytest.mark.parametrize("kind", ENCODERS)
def test_the_beginning_of_a_file_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    whole = encoded(f".{kind}", 0, *ENCODERS[kind])
    for count in range(1, 160):
        path.write_bytes(whole[:count])
        found = read(path)
        assert found.fault or len(found.sound)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_give_one_line_or_sound(tmp_path: Path, seed: int) -> None:
    """Bytes are changed, cut out, repeated: nothing else may come out than sound and a SourceError."""
    rng = np.random.default_rng(seed)
    kinds = sorted(ENCODERS)
    path = encode(tmp_path / f"a.{kinds[seed % len(kinds)]}", 0, "-t", "0.5", *ENCODERS[kinds[seed % len(kinds)]])
    whole = path.read_bytes()
    for _ in range(20):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 12)):
            data[int(rng.integers(0, min(len(data), 300) if rng.random() < 0.7 else len(data)))] = int(
                rng.integers(256)
            )
        at = int(rng.integers(0, len(data)))
        if rng.random() < 0.3:
            del data[at : at + int(rng.integers(1, 5000))]
        elif rng.random() < 0.3:
            data = data[:at] + data
        path.write_bytes(data)
        read(path, 4096)
