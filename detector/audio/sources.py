"""Audio sources that are read, not recorded: sound files and raw samples, as mono chunks at the rate of the model.

Each step from blocks of frames to chunks (mixing, resampling, numbering) passes a SourceError on only behind the sound
that came before it, so that a fault loses no sound that can be used.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Generic, TypeVar

import numpy as np

from detector.audio.files import HIGHEST_RATE_HZ, LOWEST_RATE_HZ, USED, SoundFileReader, decode
from detector.audio.levels import CancellationCheck, Levels
from detector.audio.live_source import (
    MEAN,
    AudioBlock,
    Block,
    Mixing,
    Resampler,
    SourceEvent,
    SourceStats,
    mean_of_channels,
)
from detector.errors import ConfigError, SourceError
from detector.messages import AudioChunk, Samples, find_fault

_log: Final = logging.getLogger(__name__)
_MAX_CHANNELS: Final = 1024
_CODES: Final = {"s16le": "<i2", "s24le": "<i3", "s32le": "<i4", "f32le": "<f4"}
PCM_FORMATS: Final = tuple(_CODES)
"""Raw sample formats, by the names of ALSA and ffmpeg."""
_FILE_SIGNATURES: Final = {
    b"RIFF": "WAV",
    b"RF64": "WAV",
    b"BW64": "WAV",
    b"riff": "W64",
    b"fLaC": "FLAC",
    b"OggS": "OGG",
    b"ID3": "MP3",
    b"\xff\xfb": "MP3",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
}
_DEPTH: Final = 4
"""Chunks that are read ahead."""
_JOIN_S: Final = 0.5
"""How long ``close`` waits for the reading thread: a read from a named pipe may never return."""
_POLL_S: Final = 0.2
_PIECE_MS: Final = 40

_T = TypeVar("_T")


def read_chunks(
    path: Path | str, rate_hz: int, chunk_samples: int | None = None, *, mixing: Mixing = MEAN
) -> Generator[AudioChunk, None, None]:
    """Yield a sound file as mono chunks at a rate, in the caller's thread; ``FileSource`` emits the same chunks.

    Chunks have ``chunk_samples`` samples (default: one second), the last one fewer. Raises SourceError where the
    file is missing, not a sound file, without sound or of a rate outside 4 to 384 kHz; and, behind all sound that
    can be used, where it is damaged or cut off, or at a sample that is not a number.
    """
    with closing(_opened(Path(path), mixing)) as file:
        yield from _file_chunks(file, rate_hz, chunk_samples or rate_hz, mixing)


def read_sound(path: Path | str, rate_hz: int, *, mixing: Mixing = MEAN) -> Samples:
    """Return a whole file as mono samples (n,) at a rate; for short sounds. Raises SourceError as ``read_chunks``."""
    return np.concatenate([chunk.samples for chunk in read_chunks(path, rate_hz, mixing=mixing)])


class Reader(threading.Thread, Generic[_T]):
    """Read items in a thread of its own, at most ``depth`` of them ahead of the consumer."""

    def __init__(self, items: Iterator[_T], depth: int) -> None:
        """Start reading. ``items`` is advanced, and closed where it can be, in the thread."""
        super().__init__(name="read-ahead", daemon=True)
        self._ready: queue.Queue[_T | _End] = queue.Queue(depth)
        self._items, self._depth = items, depth
        self._stopped = threading.Event()
        self.is_over = False
        """Whether the consumer has taken everything, or has closed the reader."""
        self.start()

    @property
    def filled(self) -> float:
        """Share of the queue that is filled, 0 to 1."""
        return self._ready.qsize() / self._depth

    def take(self, timeout_s: float) -> list[_T] | None:
        """Return the next item in a list; an empty list where none has come in time, None behind the last one.

        Raises, behind all items, what reading raised.
        """
        if self.is_over:
            return None
        try:
            item = self._ready.get(block=timeout_s > 0, timeout=timeout_s)
        except queue.Empty:
            return []
        if not isinstance(item, _End):
            return [item]
        self.is_over = True
        if item.error is not None:
            raise item.error
        return None

    def close(self) -> None:
        """Stop reading; waits a moment for the thread, which ends with the process at the latest."""
        self.is_over = True
        self._stopped.set()
        self.join(_JOIN_S)

    def run(self) -> None:
        """Read until the end, an error, or ``close``."""
        try:
            for item in self._items:
                self._put(item)
                if self._stopped.is_set():
                    break
            self._put(_End())
        except BaseException as error:  # noqa: BLE001 - raised again where the items are taken
            self._put(_End(error))
        finally:
            if isinstance(self._items, Generator):
                self._items.close()

    def _put(self, item: _T | _End) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


class ReadSource:
    """An audio source over chunks that are read in a thread of its own, a few of them ahead.

    Samples are never lost: where the consumer is slower, reading waits. The file or pipe is opened in the thread
    too, so that one that blocks does not block the consumer.
    """

    def __init__(self, device: str, model_rate_hz: int) -> None:
        """Start reading the chunks that ``_chunks`` yields; ``device`` is the name in ``stats``."""
        self._device, self._model_rate_hz = device, model_rate_hz
        self._levels = Levels(model_rate_hz)
        self.source_rate_hz = self.channels = 0
        """Rate and channels of the sound before it is resampled; 0 until it is open."""
        self.frames_total: int | None = None
        """Frames at the source's rate; None where they are not known."""
        self.frames_read = 0
        self._reader = Reader(self._events(), _DEPTH)

    @property
    def seconds_read(self) -> float:
        """Length of the sound that has been read."""
        return self.frames_read / self.source_rate_hz if self.source_rate_hz else 0.0

    @property
    def stats(self) -> SourceStats:
        """Levels, conditions and how far the thread has read ahead."""
        level = self._levels.level
        return SourceStats(
            device=self._device,
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=level.peak_dbfs,
            dc=level.dc,
            device_rate_hz=self.source_rate_hz,
            device_channels=self.channels,
            is_open=not self._reader.is_over,
            conditions=self._levels.active,
            clipped_samples=self._levels.clipped_samples,
            queue_depth=self._reader.filled,
        )

    def take(self, timeout_s: float) -> list[SourceEvent] | None:
        """Return the next event; see ``AudioSource.take``. Raises SourceError behind all usable sound."""
        return self._reader.take(timeout_s)

    def close(self) -> None:
        """Stop reading."""
        self._reader.close()

    def _chunks(self) -> Generator[AudioChunk, None, None]:
        """Open the sound and yield its chunks; called in the thread."""
        raise NotImplementedError

    def _counted(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for block in blocks:
            self.frames_read += len(block)
            yield block

    def _events(self) -> Generator[SourceEvent, None, None]:
        with closing(self._chunks()) as chunks:
            for chunk in chunks:
                conditions = self._levels.push(chunk.samples[:, None])
                yield AudioBlock(chunk, time.monotonic())
                yield from conditions


class FileSource(ReadSource):
    """A sound file of any length: channels averaged, resampled, cut into chunks."""

    def __init__(  # noqa: PLR0913 - one option each
        self,
        path: Path | str,
        model_rate_hz: int,
        chunk_samples: int | None = None,
        *,
        real_time: bool = False,
        loop: bool = False,
        mixing: Mixing = MEAN,
    ) -> None:
        """Start reading. ``chunk_samples``: length of the chunks at the model's rate (default: one second).

        ``real_time``: emit shorter chunks, each when a microphone would have. ``loop``: begin again at the end of
        the file; positions count on. Errors are those of ``read_chunks``, raised by ``take``.
        """
        self._path, self._chunk_samples = Path(path), chunk_samples or model_rate_hz
        self._real_time, self._loop, self._mixing = real_time, loop, mixing
        super().__init__(str(path), model_rate_hz)

    def _chunks(self) -> Generator[AudioChunk, None, None]:
        chunks = self._read()
        return in_real_time(chunks, self._model_rate_hz) if self._real_time else chunks

    def _read(self) -> Generator[AudioChunk, None, None]:
        first = 0
        while True:
            end = first
            with closing(_opened(self._path, self._mixing, notes=not first)) as file:
                self.channels, self.frames_total = file.channels, file.frames_total
                self.source_rate_hz = file.rate_hz
                for chunk in _file_chunks(file, self._model_rate_hz, self._chunk_samples, self._mixing, self._counted):
                    end = first + chunk.first_sample + len(chunk.samples)
                    yield AudioChunk(chunk.samples, first + chunk.first_sample)
            if not self._loop:
                return
            first = end


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How raw samples are written."""

    rate_hz: int = 16000
    sample_format: str = "s16le"
    """One of PCM_FORMATS."""
    channels: int = 1
    """Interleaved."""


class PcmSource(ReadSource):
    """Raw interleaved samples from a pipe or file: chunks are passed on as they arrive, about a second at most."""

    def __init__(self, stream: int | BinaryIO, raw: RawFormat, model_rate_hz: int, mixing: Mixing = MEAN) -> None:
        """Start reading a descriptor or binary stream, which stays open.

        Raises ConfigError for an impossible rate, format, channel or number of channels. ``take`` raises SourceError
        where the stream begins as a sound file does; and, behind the last chunk, where it was empty, ended within a
        frame, or held a sample that cannot be sound.
        """
        if raw.sample_format not in _CODES:
            raise ConfigError(f"raw samples: unknown format {raw.sample_format!r}; use {', '.join(PCM_FORMATS)}")
        if not LOWEST_RATE_HZ <= raw.rate_hz <= HIGHEST_RATE_HZ:
            raise ConfigError(f"raw samples: rate {raw.rate_hz} Hz is outside {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
        if not 1 <= raw.channels <= _MAX_CHANNELS:
            raise ConfigError(f"raw samples: {raw.channels} channels are not possible; use 1 to {_MAX_CHANNELS}")
        if (mixing.column or 0) >= raw.channels:
            raise ConfigError(
                f"raw samples: channel {mixing.channel} is not there, they have {raw.channels}; check --channels"
            )
        self._raw, self._mixing = raw, mixing
        self._closed = threading.Event()
        self._read = self._read_function(stream)
        super().__init__("stdin", model_rate_hz)

    def close(self) -> None:
        """Stop reading; the stream stays open."""
        self._closed.set()
        super().close()

    def _chunks(self) -> Generator[AudioChunk, None, None]:
        self.source_rate_hz, self.channels = self._raw.rate_hz, self._raw.channels
        blocks = self._counted(self._blocks())
        yield from to_chunks(blocks, self._raw.rate_hz, self._model_rate_hz, "standard input", mixing=self._mixing)

    def _blocks(self) -> Iterator[Block]:
        raw = self._raw
        code = _CODES[raw.sample_format]
        width = int(code[2:]) * raw.channels
        rest = b""
        while data := self._read(raw.rate_hz * width):
            if self.frames_read == 0:
                _refuse_sound_file(rest + data)
            rest += data
            count = len(rest) // width
            if count:
                yield decode(rest[: count * width], code).reshape(count, raw.channels)
                rest = rest[count * width :]
        if self._closed.is_set():
            return
        if rest:
            raise SourceError(
                f"standard input: ends within a frame ({len(rest)} of {width} bytes after "
                f"{self.seconds_read:.2f} s); check --format and --channels"
            )
        if self.frames_read == 0:
            raise SourceError("standard input: holds no sound (0 bytes); check the command before the pipe")

    def _read_function(self, stream: int | BinaryIO) -> Callable[[int], bytes]:
        """Return what reads at most so many bytes as soon as there are any."""
        try:
            descriptor = stream if isinstance(stream, int) else stream.fileno()
        except OSError:  # a stream in memory
            # A buffered stream's read() waits for all the bytes that are asked for; read1() does not.
            return getattr(stream, "read1", None) or stream.read  # type: ignore[union-attr]  # it is not an int here
        return lambda size: self._poll(descriptor, size)

    def _poll(self, descriptor: int, size: int) -> bytes:
        """Read a descriptor without ever blocking in the read: such a thread could not be ended."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not self._closed.is_set():
            if poll.poll(1000 * _POLL_S):
                with contextlib.suppress(BlockingIOError):  # another process has read it
                    return os.read(descriptor, size)
        return b""


def in_real_time(
    chunks: Iterable[AudioChunk], rate_hz: int, piece_ms: int = _PIECE_MS
) -> Generator[AudioChunk, None, None]:
    """Yield pieces of ``piece_ms`` at the time when their last sample would have come from a microphone.

    The schedule counts samples from the first chunk on, so that it does not drift; a consumer that falls behind
    gets the pieces that it missed without delay.
    """
    length = max(1, rate_hz * piece_ms // 1000)
    origin: float | None = None
    for chunk in chunks:
        if origin is None:
            origin = time.monotonic() - chunk.first_sample / rate_hz
        for at in range(0, len(chunk.samples), length):
            part = AudioChunk(chunk.samples[at : at + length], chunk.first_sample + at)
            due = origin + (part.first_sample + len(part.samples)) / rate_hz
            time.sleep(max(0.0, due - time.monotonic()))
            yield part


def _opened(path: Path, mixing: Mixing, *, notes: bool = True) -> SoundFileReader:
    """Return an open file; raises SourceError. ``notes``: warn of a track that was not chosen."""
    file = SoundFileReader(path, mixing.track)
    if file.track_note and notes:
        mixing.warn(file.track_note)
    return file


def _file_chunks(
    file: SoundFileReader,
    rate_hz: int,
    chunk_samples: int,
    mixing: Mixing,
    counted: Callable[[Iterable[Block]], Iterator[Block]] = iter,
) -> Iterator[AudioChunk]:
    """Yield the chunks of an open file; ``counted`` sees its blocks on their way."""
    blocks = file.blocks(-(-chunk_samples * file.rate_hz // rate_hz))
    return to_chunks(counted(blocks), file.rate_hz, rate_hz, str(file.path), chunk_samples, mixing=mixing)


def _refuse_sound_file(head: bytes) -> None:
    for signature, name in _FILE_SIGNATURES.items():
        if head.startswith(signature):
            raise SourceError(
                f"standard input: this is a {name} file, not raw samples; give its name, or /dev/stdin, instead of -"
            )


def to_chunks(  # noqa: PLR0913 - both rates, what to do, and a name for errors
    blocks: Iterable[Block],
    rate_hz: int,
    model_rate_hz: int,
    where: str,
    length: int | None = None,
    *,
    mixing: Mixing = MEAN,
) -> Iterator[AudioChunk]:
    """Mix the channels of blocks (frames, channels), resample, and number the samples.

    Chunks have ``length`` samples, the last one fewer; None leaves them as they are. A block may be
    overwritten after the next one is requested. Raises SourceError, naming ``where``, at a sample that is not a
    number or far beyond full scale, and where the wanted channel is missing.
    """
    return join_parts(mix_blocks(blocks, rate_hz, where, mixing), rate_hz, model_rate_hz, length)


def join_parts(
    parts: Iterable[Samples], rate_hz: int, model_rate_hz: int, length: int | None = None
) -> Iterator[AudioChunk]:
    """Resample mono parts that follow one another, and number the samples: as ``to_chunks`` does, of one file or many.

    A SourceError is raised behind the last chunk.
    """
    return _numbered(_resampled(parts, rate_hz, model_rate_hz), length)


def mix_blocks(blocks: Iterable[Block], rate_hz: int, where: str, mixing: Mixing = MEAN) -> Iterator[Samples]:
    """Mix blocks (frames, channels) to one channel; errors are those of ``to_chunks``."""
    position, channels = 0, 0
    check = CancellationCheck(rate_hz)
    for block in blocks:
        channels = block.shape[1]
        used = mixing.used(block, where)
        if fault := find_fault(used):
            at, reason = fault
            yield mean_of_channels(used[:at])
            raise SourceError(
                f"{where}: the sample at {(position + at) / rate_hz:.4f} s {reason}; "
                f"{USED}; repair or cut the recording"
            )
        position += len(block)
        mono = mean_of_channels(used)
        if used.shape[1] > 1 and (lost_db := check.push(used, mono)) is not None:
            mixing.warn(_cancellation(where, lost_db))
        yield mono
    if (lost_db := check.end(channels)) is not None:
        mixing.warn(_cancellation(where, lost_db))


def _cancellation(where: str, lost_db: float) -> str:
    return (
        f"{where}: the channels cancel each other, their mean is {lost_db:.0f} dB below them: one may have its wires "
        "swapped; use a single one (--channel left, or audio.channel in the configuration)"
    )


def _resampled(parts: Iterable[Samples], rate_hz: int, model_rate_hz: int) -> Iterator[Samples]:
    """Resample parts; a SourceError is raised behind the resampler's tail."""
    if rate_hz == model_rate_hz:
        yield from parts
        return
    resampler = Resampler(rate_hz, model_rate_hz)
    fault: SourceError | None = None
    try:
        for part in parts:
            yield resampler.push(part)
    except SourceError as error:
        fault = error
    yield resampler.flush()
    if fault is not None:
        raise fault


def _numbered(parts: Iterable[Samples], length: int | None = None) -> Iterator[AudioChunk]:
    """Cut parts into numbered chunks of ``length`` samples; None leaves the parts as they are.

    Chunks of one length that fits the network's blocks of frames make replay fast. A SourceError is raised behind
    the last chunk.
    """
    first = 0
    pending = np.empty(0, np.float32)
    fault: SourceError | None = None
    try:
        for part in parts:
            pending = np.concatenate((pending, part)) if pending.size else part
            size = length or max(1, pending.size)
            while pending.size >= size:
                yield AudioChunk(pending[:size], first)
                first, pending = first + size, pending[size:]
    except SourceError as error:
        fault = error
    if pending.size:
        yield AudioChunk(pending, first)
    if fault is not None:
        raise fault
