"""All parts of a running service as the settings in force want them, and their change into what others want."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from detector.errors import ConfigError, DetectorError
from detector.live.clock import local_now, rfc3339
from detector.live.clock_state import clock_is_synced
from detector.live.engine import Engine, Hearer
from detector.live.health import NO_SOURCE, Health
from detector.live.onlooker import Onlooker
from detector.live.outlets import Outlets
from detector.live.parts import STDIN, Wishes, is_current, is_same_pipe, make_detector, make_station, open_source
from detector.live.plans import Wiring
from detector.live.requests import Requests
from detector.live.tally import Tally
from detector.live.tee import Tee
from detector.live.teller import State, Teller
from detector.messages import Reason
from detector.microphone.news import Figures
from detector.pipeline import Detector
from detector.settings import Settings

_SOURCE_S: Final = 0.3
_STATEFUL: Final = ("mqtt", "metrics")
"""Sinks that show states, and so have to be told of those that began before them."""


class Workplace:
    """The source with its engine, the sinks, and what makes records for them."""

    def __init__(self, settings: Settings, wishes: Wishes, requests: Requests, tally: Tally) -> None:
        """Load the model and start the sinks; raises DetectorError for settings that cannot be."""
        self.settings, self._wishes, self._requests, self._tally = settings, wishes, requests, tally
        self.health = Health(tally)
        self.outlets = Outlets()
        self.teller = Teller(settings.audio.source, self.outlets.submit)
        self.teller.device = settings.audio.device
        self.teller.unlogged = frozenset() if wishes.wait else frozenset({"waiting"})
        self.engine: Engine | None = None
        """None while there is no source."""
        self._onlooker: Onlooker | None = None
        self.is_paused = False
        self.is_hung = False
        """Whether a part did not end when it was asked to; the process then has to end without it."""
        self._mismatch: str | None = None
        self._heard_device: str | None = None
        self._detector = make_detector(settings)
        self.station = make_station(settings, self._detector)
        self._tee = Tee(wishes.tee, self._detector.sample_rate_hz) if wishes.tee else None
        self.outlets.prepare(settings, self._wiring(settings, self._detector))()

    @property
    def figures(self) -> Figures:
        """How the source is."""
        return NO_SOURCE if self.engine is None else self.engine.source.figures

    @property
    def rate_hz(self) -> int:
        """The model's rate."""
        return self._detector.sample_rate_hz

    def listen(self) -> None:
        """Open the source; raises DetectorError where it cannot be."""
        self._listen(self.settings, self._detector)

    def turn(self, timeout_s: float) -> bool:
        """Work off what has arrived, waiting for it at most that long; False behind the end of the sound."""
        if self.engine is None or self.is_paused:
            time.sleep(timeout_s)
            return True
        goes_on = self.engine.turn(timeout_s)
        self._compare_calibration()
        return goes_on

    def pause(self) -> None:
        """Listen no more, and leave the device to others."""
        self.is_paused = True
        if self.engine is not None:
            self.engine.pause()
        if self.settings.audio.device != STDIN:  # whoever writes there waits
            self._close_source()
        self.teller.status("listening", "listening is switched off", active=False)

    def resume(self) -> None:
        """Listen again; raises DetectorError where the source cannot be opened."""
        self.is_paused = False
        if self.engine is None:
            self.listen()

    def change(self, settings: Settings) -> None:
        """Take over other settings, building anew only what they change.

        Raises DetectorError, with all as it was before, for settings that cannot be.
        """
        before = self.settings
        detector = self._detector if is_current(self._detector, before, settings) else make_detector(settings)
        take_over = self.outlets.prepare(settings, self._wiring(settings, detector))
        self._change_source(settings, detector)
        self.settings, self._detector = settings, detector
        self.station = make_station(settings, detector)
        self.teller.source = settings.audio.source
        states = self._states()
        for worker in take_over():
            if worker.name.startswith(_STATEFUL):
                self.teller.remind(worker.submit, states)
        self._connect()

    def tell_health(self) -> None:
        """Tell how the service is."""
        fields = self.health.fields(self.figures, self.outlets.figures, self.station)
        fields["calibrated"] = None if self.settings.calibration is None else self._mismatch is None
        metrics = self.settings.metrics
        if metrics is not None and metrics.scores and self.engine is not None:
            fields["scores"] = self.engine.scores
        self.teller.tell("health", local_now(), **fields)

    def show_state(self) -> None:
        """Show how the service is to those who ask for it now."""
        if self._onlooker is not None and self._onlooker.wants_state:
            self._onlooker.show(self._state())

    def tell_clips(self) -> None:
        """Tell of the clips that have been written since the last time."""
        clips = self._requests.clips
        while clips:
            self.teller.tell("clip", local_now(), **clips.popleft())

    def end(self, reason: Reason, fault: str | None, timeout_s: float) -> None:
        """Close open events, tell that this is the end and of what went wrong, and end all parts within a time."""
        until = time.monotonic() + timeout_s
        if self.engine is not None:
            self.engine.close_events(reason)
        self.outlets.finish("clips", timeout_s / 2)
        self.tell_clips()
        detail = f"stopping: {fault}" if fault else "stopping"
        self.teller.status("stopping", detail, level=None if fault else logging.INFO)
        closing = threading.Thread(target=self._close_source, name="source-close", daemon=True)
        closing.start()
        left_s = max(0.1, until - time.monotonic())
        if not self.outlets.close(left_s):
            self.is_hung = True
        closing.join(_SOURCE_S)
        self.is_hung = self.is_hung or closing.is_alive()
        if self._tee is not None:
            self._tee.close()

    def _state(self) -> dict[str, Any]:
        conditions = self.engine.conditions if self.engine is not None else ()
        figures = self.figures
        return {
            "time": rfc3339(local_now()),
            "clock_synced": clock_is_synced(),
            "device": self.teller.device,
            "device_rate_hz": figures.device_rate_hz,
            "paused": self.is_paused,
            "conditions": [{"name": c.name, "detail": c.detail} for c in conditions],
            **self.health.state(figures, self.outlets.figures, self.station),
        }

    def _compare_calibration(self) -> None:
        """Tell, once each time, that the thresholds were measured with another device or model, or no longer so."""
        calibration, found = self.settings.calibration, None
        if self.engine is not None and self.engine.has_heard:
            self._heard_device = self.teller.device
        if calibration is not None:
            found = calibration.mismatch(self._heard_device, self.station.model, self.station.model_sha256)
        if found == self._mismatch:
            return
        self._mismatch = found
        level = logging.WARNING if found else logging.INFO
        detail = found or "the thresholds fit the device and the model again"
        self.teller.status("calibration", detail, active=found is not None, level=level)

    def _wiring(self, settings: Settings, detector: Detector) -> Wiring:
        return Wiring(
            station=make_station(settings, detector),
            rate_hz=detector.sample_rate_hz,
            on_listening=self._requests.set_listening,
            on_clip=self._requests.clips.append,
            detector=detector,
        )

    def _change_source(self, settings: Settings, detector: Detector) -> None:
        """Go over to another source or detector, as far as they are others; on an error, back to those before."""
        is_same = self._is_same_source(settings, detector)
        if self.engine is None:
            return  # whoever listens again will find the new settings
        if is_same:
            if detector is not self._detector:
                self.engine.use(detector, settings.listening.only)
            return
        self.engine.close_events("shutdown")
        self._close_source()
        try:
            self._listen(settings, detector)
        except DetectorError:
            self._listen(self.settings, self._detector)
            raise

    def _is_same_source(self, settings: Settings, detector: Detector) -> bool:
        is_same_rate = detector.sample_rate_hz == self._detector.sample_rate_hz
        if is_same_pipe(self.settings.audio, settings.audio):
            if not is_same_rate:
                raise ConfigError("listening.path: this model hears at another rate; restart to change to it")
            return True
        return is_same_rate and settings.audio == self.settings.audio

    def _listen(self, settings: Settings, detector: Detector) -> None:
        source = open_source(settings.audio, detector.sample_rate_hz, self._wishes)
        detector.reset()
        self.teller.source = settings.audio.source
        self.engine = Engine(source, detector, self.teller, self._tally, settings.listening.only)
        self._connect()

    def _connect(self) -> None:
        """Give the sound to those who want it, and let those look who want to."""
        self._onlooker = next((sink for sink in self.outlets.sinks if isinstance(sink, Onlooker)), None)
        if self.engine is not None:
            hearers: list[Hearer] = [sink for sink in self.outlets.sinks if isinstance(sink, Hearer)]
            self.engine.hearers = (*hearers, *([self._tee] if self._tee else []))
            self.engine.observer = self._onlooker

    def _close_source(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            self.health.retire(engine.source.figures)
            engine.source.close()

    def _states(self) -> list[tuple[State, bool, str]]:
        """Return what holds now, as status records tell it."""
        found: list[tuple[State, bool, str]] = []
        if self.is_paused:
            found.append(("listening", False, "listening is switched off"))
        elif self.engine is not None:
            found += [(c.name, True, c.detail) for c in self.engine.conditions]
            if self.engine.has_heard:
                found.append(("listening", True, "listening"))
        if self._mismatch:
            found.append(("calibration", True, self._mismatch))
        return found
