"""Where sound comes from: files and raw samples, as mono chunks at the model's rate.

Reading ahead: a source decodes in a thread of its own while the chunks before are being heard.

A live source that a thread reads ahead a little, from a pipe or from a file.

Raw samples from a pipe as a live source: whoever writes them waits where the detector is slower.

A sound file as a live source: heard at its own pace, once or again and again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Generic, Literal, Protocol, TypeVar, cast

import numpy as np

from detector.audio.files import Block, SoundFileReader
from detector.audio.levels import Levels
from detector.audio.live_source import AudioBlock, SourceEvent, SourceStats
from detector.audio.resampling import to_chunks
from detector.errors import ConfigError, SourceError
from detector.messages import AudioChunk, Samples

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


_T = TypeVar("_T")
_LOOK_S: Final = 0.1
"""How long what ``look`` would raise may have to wait while no chunk comes."""


def read_ahead(
    chunks: Iterable[AudioChunk], check: Callable[[], None], depth: int = 2
) -> Generator[AudioChunk, None, None]:
    """Yield chunks that a thread of their own reads ahead, at most ``depth`` of them: decoding costs no waiting.

    What the source raises is raised here, behind the chunks before it. ``look`` is called before each
    chunk, and every so often while none comes; what it raises is the end. Close the iterator before the source.
    """
    reader = Reader(chunks, depth)
    reader.start()
    try:
        while True:
            check()
            try:
                item = reader.take(_LOOK_S)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        reader.stopped.set()
        # Not for ever: a read from a pipe may never come back. The thread ends with the process.
        reader.join(timeout=1.0)


class Reader(threading.Thread, Generic[_T]):
    """Reads items, at most ``depth`` of them ahead of whoever takes them."""

    def __init__(self, items: Iterable[_T], depth: int) -> None:
        """Wait for ``start``; set ``stopped`` to have it end."""
        super().__init__(name="read-ahead", daemon=True)
        self._ready: queue.Queue[_T | BaseException | None] = queue.Queue(depth)
        self.stopped = threading.Event()
        self._items, self._depth = items, depth

    @property
    def filled(self) -> float:
        """Share of the places that is taken, 0 to 1."""
        return self._ready.qsize() / self._depth

    def take(self, timeout_s: float) -> _T | BaseException | None:
        """Return the next item; behind the last one None, or what the source raised.

        Waits for it that long at most; raises queue.Empty where none has come.
        """
        return self._ready.get(block=timeout_s > 0, timeout=timeout_s)

    def run(self) -> None:
        """Read until the end, an error, or until nobody takes the items any more."""
        try:
            for item in self._items:
                self._hand_over(item)
                if self.stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the items are taken
            self._hand_over(error)
        else:
            self._hand_over(None)

    def _hand_over(self, item: _T | BaseException | None) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return


_DEPTH: Final = 4
_JOIN_S: Final = 0.5
_NOTHING_YET: Final[Literal["nothing yet"]] = "nothing yet"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is read."""

    name: str
    rate_hz: int
    channels: int


class ReadSource:
    """A live source over sound that is read, not recorded.

    Nothing is ever lost here: where the detector has not taken what was read, nothing more is read.
    """

    def __init__(self, sound: Iterable[AudioBlock], kind: Kind, model_rate_hz: int) -> None:
        """Begin to read."""
        self._kind = kind
        self._reader = Reader(sound, _DEPTH)
        self._levels = Levels(model_rate_hz)
        self._is_over = False
        self._fault: BaseException | None = None
        self._reader.start()

    @property
    def stats(self) -> SourceStats:
        """How the source is; nothing is ever lost or opened anew."""
        levels, level = self._levels, self._levels.level
        return SourceStats(
            device=self._kind.name,
            device_rate_hz=self._kind.rate_hz,
            device_channels=self._kind.channels,
            is_open=not self._is_over,
            conditions=levels.active,
            lost_s=0.0,
            overruns=0,
            reopens=0,
            clipped_samples=levels.clipped_samples,
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=level.peak_dbfs,
            dc=level.dc,
            queue_depth=self._reader.filled,
        )

    def take(self, timeout_s: float) -> list[SourceEvent] | None:
        """Return what has been read, waiting for it at most that long; None behind the end.

        Raises SourceError, behind all that could be heard, for what the source refuses.
        """
        found: list[SourceEvent] = []
        # No more than fits into the queue at once: what is read meanwhile would make this endless.
        for _ in range(_DEPTH):
            if self._is_over:
                break
            item = self._next(0.0 if found else timeout_s)
            if isinstance(item, AudioBlock):
                found += [item, *self._levels.push(item.chunk.samples[:, None])]
            elif item == _NOTHING_YET:
                return found
            else:
                self._is_over, self._fault = True, item
        if found:
            return found
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        return None

    def close(self) -> None:
        """Read no more."""
        self._is_over = True
        self._reader.stopped.set()
        self._reader.join(_JOIN_S)

    def _next(self, timeout_s: float) -> AudioBlock | BaseException | Literal["nothing yet"] | None:
        try:
            return self._reader.take(timeout_s)
        except queue.Empty:
            return _NOTHING_YET


_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How raw samples are written."""

    rate_hz: int = 16000
    sample_format: str = "s16le"
    channels: int = 1


class PcmStream(ReadSource):
    """A live source over raw samples on a descriptor."""

    def __init__(self, descriptor: int, raw: RawFormat, model_rate_hz: int) -> None:
        """Begin to read; the descriptor stays open. Raises ConfigError for a rate, format or number of channels."""
        self._pipe = _Pipe(descriptor)
        source = PcmSource(cast("BinaryIO", self._pipe), raw.rate_hz, raw.sample_format, raw.channels, model_rate_hz)
        super().__init__(_timed(source), Kind("stdin", raw.rate_hz, raw.channels), model_rate_hz)

    def close(self) -> None:
        """Read no more."""
        self._pipe.closed.set()
        super().close()


class _Pipe:
    """Reads a descriptor without ever waiting in a read: such a thread could not be ended."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.closed = threading.Event()

    def read1(self, size: int) -> bytes:
        """Return what there is, at most ``size`` bytes, when there is something; nothing at the end."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while not self.closed.is_set():
            if poll.poll(1000 * _POLL_S):
                with contextlib.suppress(BlockingIOError):  # somebody else has taken it
                    return os.read(self._descriptor, size)
        return b""

    read = read1


def _timed(chunks: Iterable[AudioChunk]) -> Iterator[AudioBlock]:
    for chunk in chunks:
        yield AudioBlock(chunk, time.monotonic())


class PlayedFile(ReadSource):
    """A live source over a sound file; the stream goes on where the file begins anew."""

    def __init__(self, path: Path | str, model_rate_hz: int, *, loop: bool) -> None:
        """Begin to play; raises SourceError for a file that is missing or no sound, or for a pipe."""
        if Path(path).is_fifo():  # opening it would wait for whoever writes, and there is no second reading of it
            raise SourceError(f"{path}: is a pipe, not a file; hear it with snn-detect replay")
        with closing(FileSource(path, model_rate_hz)) as source:  # to have it refused here, not in the thread
            rate_hz = source.source_rate_hz
        chunks = in_real_time(_chunks(path, model_rate_hz, loop=loop), model_rate_hz)
        sound = (AudioBlock(chunk, time.monotonic()) for chunk in chunks)
        super().__init__(sound, Kind(str(path), rate_hz, 1), model_rate_hz)


def _chunks(path: Path | str, rate_hz: int, *, loop: bool) -> Iterator[AudioChunk]:
    first = 0
    while True:
        end = 0
        with closing(FileSource(path, rate_hz)) as source:
            for chunk in source:
                end = chunk.first_sample + len(chunk.samples)
                yield AudioChunk(chunk.samples, first + chunk.first_sample, chunk.gap)
        if not loop:
            return
        first += end
