"""The whole examination: one look after another, each with its finding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from detector.audio import portaudio
from detector.audio.devices import Device, read_cards
from detector.config.settings import Settings
from detector.doctor.audio import (
    ACCESS,
    DEVICE,
    HOLDERS,
    MICROPHONE,
    MIXER,
    Heard,
    card_of,
    check_access,
    check_device,
    check_holders,
    check_levels,
    check_microphone,
    check_mixer,
    check_system,
    find_holders,
    is_pipe,
    is_with_us,
    listen,
)
from detector.doctor.machine import (
    CLOCK,
    DISK,
    POWER,
    SERVICE,
    SPEED,
    TEMPERATURE,
    check_clock,
    check_disks,
    check_power,
    check_service,
    check_speed,
    check_temperature,
    install_time,
    writer,
)
from detector.doctor.result import UNAVAILABLE, WRONG, CheckResult, Process, SystemPaths, problem, processes, skipped
from detector.doctor.setup import (
    BROKER,
    CALIBRATION,
    MODEL,
    SELFTEST,
    SINKS,
    THREADS,
    check_addresses,
    check_brokers,
    check_calibration,
    check_configuration,
    check_model,
    check_scene,
    check_sinks,
    check_threads,
)
from detector.errors import DetectorError
from detector.pipeline import Detector
from detector.service.clock import clock_is_synced, local_now

_MODEL_RATE_HZ: Final = 16000
"""To listen at where there is no model."""
_OURS: Final = "the detector itself is listening to it; to look closer, end that first (systemctl stop snn-detect)"
_Look = Callable[[], CheckResult | Iterable[CheckResult]]


@dataclass(slots=True)
class Examination:
    """Looks at everything that the detector needs, in the order in which one thing needs another."""

    path: Path | None = None
    """Configuration file; None: the one that the service would read."""
    overrides: Mapping[str, object] = field(default_factory=dict)
    """Wishes of the command line by dotted key."""
    selftest: bool = False
    """Whether to play the demo scene, too."""
    paths: SystemPaths = field(default_factory=SystemPaths)
    _settings: Settings = field(default_factory=Settings, init=False)
    _detector: Detector | None = field(default=None, init=False)
    _device: Device | None = field(default=None, init=False)
    _services: tuple[Process, ...] = field(default=(), init=False)

    def findings(self) -> Iterator[CheckResult]:
        """Yield what is found, as it is found; whatever fails, the rest is looked at all the same."""
        configuration, found = check_configuration(self.path, self.overrides)
        yield found
        self._settings = configuration.settings if configuration else Settings()
        self._services = tuple(p for p in processes(self.paths.proc) if p.is_ours)
        yield from _guarded(MODEL, self._model)
        if configuration is not None:
            yield from _guarded(SINKS, self._sinks)
        yield from _guarded(MICROPHONE, self._hearing)
        yield from _guarded(CALIBRATION, lambda: check_calibration(self._settings, self._detector, self._device))
        yield from self._computing()
        yield from self._machine()
        if configuration is not None:
            yield from _guarded(DISK, lambda: check_disks(self._settings, writer()))
            yield from _guarded(BROKER, lambda: check_brokers(self._settings, self.paths))
        yield from _guarded(SERVICE, lambda: check_service(self.paths))
        if self.selftest:
            yield from _guarded(SELFTEST, self._scene)

    def _model(self) -> CheckResult:
        self._detector, found = check_model(self._settings)
        return found

    def _sinks(self) -> Iterator[CheckResult]:
        if self._detector is None:
            yield skipped(SINKS, "there is no model to listen with")
        else:
            yield check_sinks(self._settings, self._detector)
        yield check_addresses(self._settings, self._services)

    def _hearing(self) -> Iterator[CheckResult]:
        audio = self._settings.audio
        if is_pipe(audio):
            yield skipped(DEVICE, "raw samples on standard input: nothing to look at before they come")
            return
        held = find_holders(self.paths)
        cards = read_cards(self.paths.proc / "asound", self.paths.sound)
        with portaudio.quiet():
            system = check_system()
        yield system
        if system.state == "problem":
            yield from _guarded(ACCESS, lambda: check_access(self.paths, is_needed=True))
            return
        with portaudio.quiet():
            found, finding = check_device(audio)
        self._device = found
        is_ours = is_with_us(held, cards, audio.device)
        yield skipped(DEVICE, _OURS) if found is None and is_ours else finding
        heard = None if found is None else self._listen()
        if heard is not None and found is not None:
            yield from _sounding(heard, found, is_ours=is_ours)
        card = card_of(found, cards)
        is_measured = heard is not None and heard.trouble is None
        needed = not (is_measured or is_ours) and (found is None or found.is_hardware)
        number = card.number if card else None
        yield from _guarded(ACCESS, lambda: check_access(self.paths, is_needed=needed))
        yield from _guarded(HOLDERS, lambda: check_holders(held, cards, number, is_measured=is_measured))
        yield from _guarded(MIXER, lambda: check_mixer(self.paths, card))

    def _listen(self) -> Heard:
        from detector.audio.microphone import Microphone

        rate_hz = self._detector.sample_rate_hz if self._detector else _MODEL_RATE_HZ
        with portaudio.quiet(), closing(Microphone(self._settings.audio, rate_hz)) as source:
            return listen(source, rate_hz)

    def _computing(self) -> Iterator[CheckResult]:
        detector = self._detector
        if detector is None:
            yield skipped(SPEED, "there is no model to compute with")
            return
        yield from _guarded(SPEED, lambda: check_speed(detector))
        yield from _guarded(THREADS, lambda: check_threads(detector))

    def _machine(self) -> Iterator[CheckResult]:
        yield from _guarded(TEMPERATURE, lambda: check_temperature(self.paths))
        yield from _guarded(POWER, lambda: check_power(self.paths))
        now: datetime = local_now()
        yield from _guarded(CLOCK, lambda: check_clock(now, install_time(), is_synced=clock_is_synced()))

    def _scene(self) -> CheckResult:
        if self._detector is None:
            return problem(SELFTEST, "there is no model to test", "mend the model first", WRONG)
        return check_scene(Detector.load(self._detector.path))


def _sounding(heard: Heard, found: Device, *, is_ours: bool) -> Iterator[CheckResult]:
    """Yield how a device was opened, and how it sounds."""
    if heard.trouble is not None and is_ours:
        yield skipped(MICROPHONE, _OURS)
        return
    yield check_microphone(heard, found)
    if heard.trouble is None:
        yield check_levels(heard)


def _guarded(name: str, check: _Look) -> Iterator[CheckResult]:
    """Yield what a look finds, or that it could not be had."""
    try:
        found = check()
        yield from [found] if isinstance(found, CheckResult) else found
    except DetectorError as error:
        yield problem(name, str(error), "mend it, and look again", error.exit_code)
    except OSError as error:
        advice = "look again as root, who may see more"
        yield problem(name, f"cannot be looked at: {error}", advice, UNAVAILABLE)
    except Exception as error:  # noqa: BLE001 - a mistake in one look must not hide what the others find
        yield problem(name, f"internal error: {type(error).__name__}: {error}", "report it", WRONG)
