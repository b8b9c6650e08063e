"""What programs call for a whole file or a device: seconds in place of samples, and no loop of their own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detector.audio.live_source import AudioBlock, AudioGap, AudioSource, Channel, Mixing, SourceCondition, drain
from detector.audio.sources import read_chunks
from detector.errors import ConfigError, DeviceError, SourceError
from detector.pipeline import Detector, reported_labels

if TYPE_CHECKING:
    from detector.audio.live_source import SourceEvent
    from detector.config.sections import Audio
    from detector.messages import Event

_WAITING: Final = "waiting for the microphone: "
_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Detection:
    """A sound that was found in a file, in seconds since its beginning."""

    label: str
    category: str
    onset_s: float
    offset_s: float
    """Where the sound ended, at the latest the end of the file."""
    score: float
    """Highest smoothed score between onset and offset, 0 to 1."""
    mean: float
    """Mean smoothed score between onset and offset."""
    threshold: float
    """The on-threshold in force."""


def detect_file(
    path: Path | str,
    detector: Detector | None = None,
    *,
    only: Sequence[str] = (),
    channel: Channel = "mean",
    on_fault: Callable[[SourceError], object] | None = None,
) -> list[Detection]:
    """Return the sounds in a file, in the order of their onsets; those of ``snn-detect replay``.

    Takes what libsndfile reads, 4 to 384 kHz. ``detector``: None loads the shipped model; of another one only model
    and thresholds are used, so that many files can share it. ``only``: labels to return, by default
    those of all classes that are not on trial.
    ``on_fault`` is called with the error of a file that is damaged behind sound that can be used, whose sounds are
    returned; None: it is raised. Raises SourceError for a file that is missing, no sound file or without sound,
    ConfigError for an unknown label.
    """
    own = Detector.load() if detector is None else detector.fresh()
    wanted = frozenset(reported_labels(own.manifest, only, option="only"))
    events: list[Event] = []
    fault: SourceError | None = None
    chunks = read_chunks(path, own.sample_rate_hz, own.chunk_samples, mixing=Mixing(channel))
    has_sound = False
    try:
        for chunk in chunks:
            has_sound = True
            events += own.push_chunk(chunk)
    except SourceError as error:
        if on_fault is None or not has_sound:
            raise
        fault = error
    events += own.flush()
    if fault is not None and on_fault is not None:
        on_fault(fault)
    found = [_detection(event) for event in events if event.kind == "offset" and event.label in wanted]
    return sorted(found, key=lambda d: (d.onset_s, d.offset_s, d.label))


def _detection(offset: Event) -> Detection:
    """Return the sound that an offset ends."""
    return Detection(
        label=offset.label,
        category=offset.category,
        onset_s=offset.onset_s,
        offset_s=offset.offset_s or 0.0,
        score=offset.peak or 0.0,
        mean=offset.mean or 0.0,
        threshold=offset.threshold,
    )


async def listen(  # noqa: PLR0913 - one option each
    device: str = "mic",
    detector: Detector | None = None,
    *,
    only: Sequence[str] = (),
    channel: Channel = "mean",
    rate_hz: int | None = None,
    wait: bool = True,
    max_waiting: int = 1000,
    on_condition: Callable[[SourceCondition], object] | None = None,
) -> AsyncGenerator[Event, None]:
    """Yield the events of a microphone, or of a sound file played in real time, while they happen.

    ``device`` is what ``snn-detect --device`` takes; ``rate_hz`` opens it at that rate. A device that is absent or
    unplugged is waited for; ``wait=False`` raises DeviceError. Lost sound ends open events with the reason "gap".
    The detector runs in a thread of its own. Of more than ``max_waiting`` events that wait for the program the
    oldest are dropped, with a warning in the log. ``on_condition`` is called in the loop where the source is absent,
    silent, clipping or well again; None: it is logged. The device is closed when the iteration ends, is cancelled or
    the generator is closed (``contextlib.aclosing`` does that at the end of a block). Raises ConfigError for impossible
    arguments and SourceError where the sound cannot go on.
    """
    from detector.config.loading import settings_of

    settings = settings_of({"audio.device": device, "audio.channel": channel, "audio.rate_hz": rate_hz})
    if max_waiting < 1:
        raise ConfigError(f"max_waiting must be at least 1, not {max_waiting}")
    listener = _Listener(asyncio.get_running_loop(), max_waiting)
    thread = threading.Thread(
        target=listener.run, args=(settings.audio, detector, only), kwargs={"wait": wait}, name="listen", daemon=True
    )
    thread.start()
    try:
        while (item := await listener.take()) is not None:
            if not isinstance(item, SourceCondition):
                yield item
            elif on_condition is not None:
                on_condition(item)
            else:
                _log.log(logging.WARNING if item.active else logging.INFO, "%s: %s", device, item.detail)
    finally:
        listener.stop()
        await asyncio.to_thread(thread.join)


class _Listener:
    """The thread that listens, and the bounded queue from it to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_waiting: int) -> None:
        self._loop = loop
        self._waiting: deque[Event | SourceCondition] = deque(maxlen=max_waiting)
        self._arrived = asyncio.Event()
        self._stopped = self._over = self._is_dropping = False
        self._error: BaseException | None = None

    async def take(self) -> Event | SourceCondition | None:
        """Return the next item, None at the end of the sound; raises behind all items what ended the thread."""
        while True:
            over = self._over  # read before the queue: nothing is appended behind it
            if self._waiting:
                return self._waiting.popleft()
            if over:
                if self._error is not None:
                    raise self._error
                return None
            self._arrived.clear()
            if not self._waiting and not self._over:
                await self._arrived.wait()

    def stop(self) -> None:
        """Let the thread end, which closes the device."""
        self._stopped = True

    def run(self, audio: Audio, detector: Detector | None, only: Sequence[str], *, wait: bool) -> None:
        """Open the device and process its sound until its end, an error or ``stop``."""
        try:
            own = Detector.load() if detector is None else detector.fresh()
            wanted = frozenset(reported_labels(own.manifest, only, option="only"))
            with closing(_open(audio, own)) as source:
                drain(source, lambda event: self._handle(event, own, wanted, wait=wait), self._goes_on)
            self._put([event for event in own.flush() if event.label in wanted])
        except BaseException as error:  # noqa: BLE001 - raised again in the loop
            self._error = error
        self._over = True
        self._wake()

    def _goes_on(self) -> bool:
        return not self._stopped and not self._loop.is_closed()

    def _handle(self, event: SourceEvent, detector: Detector, wanted: frozenset[str], *, wait: bool) -> None:
        match event:
            case SourceCondition():
                if event.name == "waiting" and event.active and not wait:
                    raise DeviceError(event.detail.removeprefix(_WAITING))
                self._put([event])
            case AudioBlock():
                self._put([found for found in detector.push_chunk(event.chunk) if found.label in wanted])
            case AudioGap():
                self._put([found for found in detector.push_chunk(event.chunk()) if found.label in wanted])

    def _put(self, items: Sequence[Event | SourceCondition]) -> None:
        for item in items:
            is_full = len(self._waiting) == self._waiting.maxlen
            if is_full and not self._is_dropping:
                _log.warning("the program takes events too slowly: the oldest of %d are dropped", len(self._waiting))
            self._is_dropping = is_full
            self._waiting.append(item)
        if items:
            self._wake()

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the loop is closed: nothing waits any more
            self._stopped = True


def _open(audio: Audio, detector: Detector) -> AudioSource:
    """Open the source; raises DetectorError where it cannot be."""
    from detector.audio.files import is_sound_name
    from detector.service.source import RunOptions, open_source

    path = Path(audio.device)
    plays_file = path.is_file() or ("://" not in audio.device and is_sound_name(path))
    files = frozenset({audio.device} if plays_file else ())
    return open_source(audio, detector.sample_rate_hz, RunOptions(files=files))
