"""Where sound comes from: files and raw samples, as mono chunks at the model's rate."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import numpy as np

from detector.conversion import to_chunks
from detector.errors import ConfigError, SourceError
from detector.messages import AudioChunk, Samples
from detector.sound_file import Block, SoundFileReader

LOWEST_RATE_HZ: Final = 4_000
HIGHEST_RATE_HZ: Final = 384_000
MOST_CHANNELS: Final = 1024

_DTYPES: Final = {"s16le": "<i2", "s24le": "<i4", "s32le": "<i4", "f32le": "<f4"}
_WIDTHS: Final = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
PCM_FORMATS: Final = tuple(_DTYPES)
"""Raw sample formats, in ALSA's and ffmpeg's words."""

_FILE_SIGNATURES: Final = {
    b"RIFF": "WAV",
    b"RF64": "WAV",
    b"riff": "W64",
    b"fLaC": "FLAC",
    b"OggS": "OGG",
    b"ID3": "MP3",
    b"\xff\xfb": "MP3",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
}


class Source(Protocol):
    """Sound that can be iterated once, chunk by chunk."""

    @property
    def source_rate_hz(self) -> int:
        """The rate of the sound before it is resampled."""

    @property
    def frames_total(self) -> int | None:
        """Frames at the source's rate; None where nobody knows."""

    @property
    def frames_read(self) -> int:
        """Frames read so far."""

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield the chunks; raises SourceError behind the last one where something was wrong."""

    def close(self) -> None:
        """Release what the source holds."""


class FileSource:
    """A sound file of any length: channels averaged, resampled, cut into chunks of one size."""

    def __init__(self, path: Path | str, rate_hz: int, chunk_samples: int | None = None) -> None:
        """Open the file; ``chunk_samples`` counts at ``rate_hz`` (default: one second).

        Raises SourceError where the file is missing, no sound file, without sound, or of a rate
        outside 4 to 384 kHz.
        """
        self._reader = SoundFileReader(Path(path))
        self._rate_hz = rate_hz
        self._chunk_samples = chunk_samples or rate_hz
        rate = self._reader.rate_hz
        if not LOWEST_RATE_HZ <= rate <= HIGHEST_RATE_HZ:
            self.close()
            raise SourceError(
                f"{path}: {rate} samples per second is outside {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}; "
                "mend the rate in its header, or resample it"
            )

    @property
    def source_rate_hz(self) -> int:
        """The file's own rate."""
        return self._reader.rate_hz

    @property
    def frames_total(self) -> int | None:
        """Frames that the header promises; None where it leaves that open."""
        return self._reader.frames_total

    @property
    def frames_read(self) -> int:
        """Frames read so far."""
        return self._reader.frames_read

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield chunks of ``chunk_samples`` samples, the last one shorter.

        Raises SourceError, behind all sound that could be used, where the file is damaged or cut
        off, or at a sample that is not a number.
        """
        rate = self._reader.rate_hz
        blocks = self._reader.blocks(-(-self._chunk_samples * rate // self._rate_hz))
        return to_chunks(blocks, rate, self._rate_hz, str(self._reader.path), self._chunk_samples)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def read_sound(path: Path | str, rate_hz: int) -> Samples:
    """Return a whole file as mono samples at a rate, as ``FileSource`` gives it; for short sounds.

    Raises SourceError for what ``FileSource`` refuses or finds damaged.
    """
    with closing(FileSource(path, rate_hz)) as source:
        return np.concatenate([chunk.samples for chunk in source])


class PcmSource:
    """Raw interleaved samples from a stream that may be live: chunks are passed on as they arrive."""

    frames_total: int | None = None

    def __init__(self, stream: BinaryIO, rate_hz: int, sample_format: str, channels: int, model_rate_hz: int) -> None:
        """Read ``stream`` as ``channels`` channels of ``sample_format`` (see PCM_FORMATS) at ``rate_hz``.

        Raises ConfigError for a rate, format or number of channels that cannot be.
        """
        if sample_format not in _DTYPES:
            raise ConfigError(f"raw samples: unknown format {sample_format!r}; use {', '.join(PCM_FORMATS)}")
        if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
            raise ConfigError(f"raw samples: rate {rate_hz} Hz is outside {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
        if not 1 <= channels <= MOST_CHANNELS:
            raise ConfigError(f"raw samples: {channels} channels cannot be; give 1 to {MOST_CHANNELS}")
        self._stream = stream
        self._format = sample_format
        self._channels = channels
        self._model_rate_hz = model_rate_hz
        self.source_rate_hz = rate_hz
        self.frames_read = 0

    def __iter__(self) -> Iterator[AudioChunk]:
        """Yield what has arrived, at most about a second at a time, until the stream ends.

        Raises SourceError at once where the stream begins as a sound file does, and behind the
        last chunk where it was empty, ended within a frame, or held what is not a number.
        """
        return to_chunks(self._blocks(), self.source_rate_hz, self._model_rate_hz, "standard input")

    def close(self) -> None:
        """Leave the stream open: it belongs to whoever opened it."""

    def _blocks(self) -> Iterator[Block]:
        width = _WIDTHS[self._format] * self._channels
        # A buffered stream's read() waits until it has all it was asked for; read1() does not.
        read = getattr(self._stream, "read1", self._stream.read)
        rest = b""
        while data := read(self.source_rate_hz * width):
            if self.frames_read == 0:
                _refuse_sound_file(rest + data)
            rest += data
            count = len(rest) // width
            if count:
                self.frames_read += count
                yield _decode(rest[: count * width], self._format).reshape(count, self._channels)
                rest = rest[count * width :]
        if rest:
            raise SourceError(
                f"standard input: ends within a frame ({len(rest)} of {width} bytes after "
                f"{self.frames_read / self.source_rate_hz:.2f} s); check --format and --channels"
            )
        if self.frames_read == 0:
            raise SourceError("standard input: holds no sound (0 bytes); check the command before the pipe")


def in_real_time(chunks: Iterable[AudioChunk], rate_hz: int, chunk_ms: int = 40) -> Generator[AudioChunk, None, None]:
    """Yield pieces of ``chunk_ms`` when their last sample would have arrived from a microphone.

    The schedule counts samples from the first chunk on, so that it does not drift; a consumer that
    falls behind gets the pieces it missed without delay.
    """
    length = max(1, rate_hz * chunk_ms // 1000)
    origin: float | None = None
    for chunk in chunks:
        if origin is None:
            origin = time.monotonic() - chunk.first_sample / rate_hz
        for at in range(0, len(chunk.samples), length):
            part = AudioChunk(chunk.samples[at : at + length], chunk.first_sample + at, chunk.gap and at == 0)
            due = origin + (part.first_sample + len(part.samples)) / rate_hz
            time.sleep(max(0.0, due - time.monotonic()))
            yield part


def _decode(data: bytes, sample_format: str) -> Samples:
    """Return raw samples as floats in [-1, 1), as libsndfile scales them."""
    if sample_format == "s24le":
        # The three bytes become the upper ones of 32 bits, which keeps the sign and the scale.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data = wide.tobytes()
    values = np.frombuffer(data, _DTYPES[sample_format])
    if values.dtype.kind == "f":
        return values.astype(np.float32)
    scale = np.float32(2.0 ** (1 - 8 * values.itemsize))
    return values.astype(np.float32) * scale


def _refuse_sound_file(head: bytes) -> None:
    for signature, name in _FILE_SIGNATURES.items():
        if head.startswith(signature):
            raise SourceError(f"standard input: this is a {name} file, not raw samples; give its name instead of -")
