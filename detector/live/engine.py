"""One live source heard by one detector: what arrives becomes records."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from typing import Final, Protocol, runtime_checkable

import numpy as np

from detector.insides import Observer
from detector.live.clock import SampleClock
from detector.live.loudness import Loudness
from detector.live.seldom import Seldom
from detector.live.tally import Tally
from detector.live.teller import Teller
from detector.messages import AudioChunk, Event, Reason, Scores
from detector.microphone.news import Condition, LiveSource, Lost, News, Sound
from detector.pipeline import Detector
from detector.records import Origin

_log = logging.getLogger(__name__)
_NOTHING: Final = np.empty(0, np.float32)


@runtime_checkable
class Hearer(Protocol):
    """Somebody who wants the sound itself."""

    def hear(self, chunk: AudioChunk) -> None:
        """Take a chunk at the model's rate, without waiting."""


class Engine:
    """Takes what a source has, takes it through the detector, and tells what comes of it.

    A stream begins with the engine: positions count from its first sample, and its events have ids
    that no other stream has.
    """

    def __init__(
        self, source: LiveSource, detector: Detector, teller: Teller, tally: Tally, only: Sequence[str] = ()
    ) -> None:
        """Take an open source and a detector with a fresh state; ``only``: labels to report, none is all."""
        self._source, self._teller, self.tally = source, teller, tally
        self.hearers: tuple[Hearer, ...] = ()
        """Given each chunk before the events that it brings about."""
        self._observer: Observer | None = None
        self.rate_hz = detector.sample_rate_hz
        self.clock = SampleClock(self.rate_hz)
        self._loudness = Loudness(self.rate_hz)
        self._scores: Scores = np.empty(0, np.float32)
        self._stream = str(uuid.uuid4())
        self._position = self._next_look = 0
        self.has_heard = False
        """Whether sound has arrived."""
        self._conditions: dict[str, Condition] = {}
        self._trouble = Seldom(_log)
        self._use(detector, only)

    @property
    def source(self) -> LiveSource:
        """Where the sound comes from."""
        return self._source

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """What is the matter with the source now."""
        return tuple(self._conditions.values())

    @property
    def observer(self) -> Observer | None:
        """Who looks into the detector."""
        return self._observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._observer = self._detector.observer = observer

    def use(self, detector: Detector, only: Sequence[str] = ()) -> None:
        """Go on with another detector of the same rate; open events are closed."""
        self.close_events("shutdown")
        self._use(detector, only)
        self._begin_anew()

    def turn(self, timeout_s: float) -> bool:
        """Wait that long for news at most and work them off; False behind the end of the sound.

        Raises SourceError where the sound cannot go on, behind all that arrived.
        """
        news = self._source.take(timeout_s)
        if news is None:
            return False
        for item in news:
            self._take(item)
        return True

    def pause(self) -> None:
        """End the events that are open; the next sound is greeted as the first one was."""
        self.close_events("shutdown")
        self.has_heard = False

    def close_events(self, reason: Reason) -> None:
        """Judge what sound there is, and end the events that are open; the detector begins anew."""
        _, events = self._detector.finish(reason)
        self._tell(events)
        self._begin_anew()

    def look_at_clock(self) -> None:
        """Notice a wall clock that was set, and say so."""
        step_s = self.clock.look()
        if step_s is not None:
            ahead = "forward" if step_s > 0 else "back"
            detail = f"the clock was set {ahead} by {abs(step_s):.1f} s; times are by the new one from here on"
            self._teller.status("clock", detail)

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the last frame, by label."""
        return dict(zip(self._detector.labels, self._scores.tolist(), strict=False))

    def _use(self, detector: Detector, only: Sequence[str]) -> None:
        self._detector, self._only = detector, frozenset(only or detector.labels)
        detector.observer = self._observer
        manifest = detector.manifest
        self._origin = Origin(
            source=self._teller.source,
            stream=self._stream,
            rate_hz=self.rate_hz,
            model=f"{manifest.name}-{manifest.version}",
            model_sha256=detector.sha256,
        )

    def _take(self, item: News) -> None:
        match item:
            case Sound():
                self._hear(item)
            case Lost():
                self._lose(item)
            case Condition():
                self._note(item)

    def _hear(self, sound: Sound) -> None:
        begin = time.perf_counter_ns()
        chunk, tally = sound.chunk, self.tally
        self._position = chunk.first_sample + len(chunk.samples)
        self.clock.hear(self._position, sound.heard_at_s)
        tally.gaps += chunk.gap
        self._loudness.push(chunk)
        for hearer in self.hearers:
            hearer.hear(chunk)
        scores, events = self._detector.process_chunk(chunk)
        if len(scores):
            self._scores = scores[-1]
        if not self._is_sound(scores):
            events += self._repair()
        if not self.has_heard:
            self._greet()
        self._tell(events)
        tally.add(len(chunk.samples), self.rate_hz, len(scores), time.perf_counter_ns() - begin)

    def _lose(self, lost: Lost) -> None:
        """Close the events before the gap by the clock from before it."""
        self._begin_anew()
        self._teller.gap(lost, self.rate_hz, self.clock)
        self.clock.lose()

    def _note(self, condition: Condition) -> None:
        if condition.active:
            self._conditions[condition.name] = condition
        else:
            self._conditions.pop(condition.name, None)
        if condition.name == "waiting" and condition.active:
            self._begin_anew()  # nobody knows for how long: no event may stay open meanwhile
        self._teller.device = self._source.figures.device
        self._teller.condition(condition)

    def _greet(self) -> None:
        self.has_heard = True
        self._teller.device = self._source.figures.device
        sounds = len(self._only)
        detail = f"listening to {self._teller.device} for {sounds} kind{'' if sounds == 1 else 's'} of sound"
        self._teller.status("listening", detail)

    def _is_sound(self, scores: Scores) -> bool:
        """Tell whether the scores and, looked at once a second, the state behind them are numbers."""
        if not np.isfinite(scores).all():
            return False
        if self._position < self._next_look:
            return True
        self._next_look = self._position + self.rate_hz
        return self._detector.is_finite()

    def _repair(self) -> list[Event]:
        """Start the network anew: a state that is no number never mends itself."""
        self.tally.repairs += 1
        self._trouble.say("%s: the network gave what is no number and began anew", self._teller.source)
        return self._detector.push_chunk(AudioChunk(_NOTHING, self._position, gap=True))

    def _begin_anew(self) -> None:
        """End open events with the sound so far; the next sample is the first that the detector knows."""
        self._tell(self._detector.push_chunk(AudioChunk(_NOTHING, self._position, gap=True)))

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.label not in self._only:
                continue
            level = self._loudness.dbfs(event.onset_sample, event.emitted_sample + 1)
            record = self._teller.event(event, self._origin, self.clock, level)
            if event.kind == "onset":
                self.tally.sounds += 1
                self.tally.last_onset = record
