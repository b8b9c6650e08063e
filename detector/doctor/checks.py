"""All checks in one run: one after another, each with its results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from detector.audio import portaudio
from detector.audio.devices import Device, read_cards
from detector.config.loading import Configuration
from detector.config.paths import is_stream
from detector.config.sections import Audio
from detector.config.settings import Settings
from detector.doctor import audio, machine, setup
from detector.doctor.result import MALFUNCTION, UNAVAILABLE, CheckResult, SystemPaths, problem, processes, skipped
from detector.errors import DetectorError
from detector.pipeline import Detector
from detector.service.clock import clock_is_synced, local_now

_DEFAULT_RATE_HZ: Final = 16000
"""Sample rate of the recording if there is no model."""
_IN_USE: Final = "the detector itself is listening to it; for a closer check stop it (systemctl stop snn-detect)"
_Check = Callable[[], CheckResult | Iterable[CheckResult]]


class CheckRunner:
    """Checks everything that the detector needs, in the order in which one thing depends on another."""

    def __init__(
        self,
        path: Path | None = None,
        overrides: Mapping[str, object] | None = None,
        *,
        selftest: bool = False,
        paths: SystemPaths | None = None,
    ) -> None:
        """Take the configuration file (None: that of the service) and options of the command line by dotted key.

        ``selftest`` also plays the demo scene.
        """
        self._path, self._overrides, self._selftest = path, overrides or {}, selftest
        self._paths = paths or SystemPaths()
        self._configuration: Configuration | None = None
        self._settings = Settings()
        self._detectors: dict[str, Detector] = {}
        """Of each source whose model can be loaded, by its name."""
        self._detector: Detector | None = None
        """That of the first source."""
        self._device: Device | None = None

    def results(self) -> Iterator[CheckResult]:
        """Yield results as they are found; a check that fails does not prevent the others."""
        self._configuration, result = setup.check_configuration(self._path, self._overrides)
        yield result
        self._settings = self._configuration.settings if self._configuration else Settings()
        for name, check in self._checks():
            yield from _guarded(name, check)

    def _checks(self) -> Iterator[tuple[str, _Check]]:
        """Yield names and checks; which ones follow depends on what those before have found."""
        paths, is_configured = self._paths, self._configuration is not None
        yield setup.MODEL, self._check_model
        if is_configured:
            yield setup.SINKS, self._check_sinks
        for alone in self._settings.each():
            yield from self._source_checks(alone)
        if (detector := self._detector) is None:
            yield machine.SPEED, lambda: skipped(machine.SPEED, "there is no model")
        else:
            yield machine.SPEED, lambda: machine.check_speed(detector)
            yield setup.THREADS, lambda: setup.check_threads(detector)
        yield machine.TEMPERATURE, lambda: machine.check_temperature(paths)
        yield machine.POWER, lambda: machine.check_power(paths)
        yield (
            machine.CLOCK,
            lambda: machine.check_clock(local_now(), machine.install_time(), is_synced=clock_is_synced()),
        )
        if is_configured:
            yield machine.DISK, lambda: machine.check_disks(self._settings, machine.writer())
            yield setup.BROKER, lambda: setup.check_brokers(self._settings, paths)
        yield machine.SWITCH, machine.check_switch
        yield machine.SERVICE, lambda: machine.check_service(paths)
        if self._selftest:
            yield setup.SELFTEST, self._check_scene

    def _source_checks(self, alone: Settings) -> Iterator[tuple[str, _Check]]:
        """Yield the checks of one source; the results of several name theirs."""

        def named(check: _Check) -> _Check:
            return partial(_of_source, alone.audio.source, check) if self._settings.sources else check

        if audio.is_pipe(alone.audio):
            pipe = "standard input: samples are checked as they arrive"
            yield audio.DEVICE, named(lambda: skipped(audio.DEVICE, pipe))
        elif is_stream(alone.audio.device):
            yield audio.STREAM, named(partial(self._check_stream, alone.audio))
        else:
            yield audio.MICROPHONE, named(partial(self._check_input, alone.audio))
        detector = self._detectors.get(alone.audio.source)
        yield setup.CALIBRATION, named(lambda: setup.check_calibration(alone, detector, self._device))

    def _check_model(self) -> Iterator[CheckResult]:
        """Check the model of each source; one that several share is checked once."""
        results: dict[CheckResult, None] = {}
        for alone in self._settings.each():
            detector, result = setup.check_model(alone)
            results[result] = None
            if detector is not None:
                self._detectors[alone.audio.source] = detector
        self._detector = next(iter(self._detectors.values()), None)
        yield from results

    def _check_sinks(self) -> Iterator[CheckResult]:
        if len(self._detectors) < len(self._settings.each()):
            yield skipped(setup.SINKS, "there is no model")
        else:
            yield setup.check_sinks(self._settings, self._detectors)
        running = tuple(p for p in processes(self._paths.proc) if p.is_detector)
        yield setup.check_addresses(self._settings, running)

    def _check_input(self, settings: Audio) -> Iterator[CheckResult]:
        """Check PortAudio and the device, record from it, and check what may have prevented that."""
        paths, selector = self._paths, settings.device
        users = audio.find_device_users(paths)
        cards = read_cards(paths.proc / "asound", paths.sound)
        with portaudio.quiet():
            system = audio.check_system()
        yield system
        if system.state == "problem":
            yield from _guarded(audio.ACCESS, lambda: audio.check_access(paths, is_needed=True))
            return
        with portaudio.quiet():
            device, result = audio.check_device(settings)
        self._device = device
        in_use = audio.is_used_by_detector(users, cards, selector)
        yield skipped(audio.DEVICE, _IN_USE) if device is None and in_use else result
        is_measured = False
        if device is not None:
            recording = self._record(settings)
            is_measured = recording.trouble is None
            yield from _check_sound(recording, device, in_use=in_use)
        is_needed = not (is_measured or in_use) and (device is None or device.is_hardware)
        card = audio.card_of(device, cards)
        number = card.number if card else None
        yield from _guarded(audio.ACCESS, lambda: audio.check_access(paths, is_needed=is_needed))
        yield from _guarded(
            audio.DEVICE_USERS, lambda: audio.check_device_users(users, cards, number, is_measured=is_measured)
        )
        yield from _guarded(audio.MIXER, lambda: audio.check_mixer(paths, card))

    def _check_stream(self, settings: Audio) -> Iterator[CheckResult]:
        """Receive from the stream, and check its sound."""
        recording = self._record(settings)
        yield audio.check_stream(recording)
        if recording.trouble is None:
            yield audio.check_levels(recording)

    def _record(self, settings: Audio) -> audio.Recording:
        from detector.service.source import RunOptions, open_source

        rate_hz = self._detector.sample_rate_hz if self._detector else _DEFAULT_RATE_HZ
        with portaudio.quiet(), closing(open_source(settings, rate_hz, RunOptions())) as source:
            return audio.listen(source, rate_hz)

    def _check_scene(self) -> CheckResult:
        if self._detector is None:
            return problem(setup.SELFTEST, "there is no model to test", "correct the model first", MALFUNCTION)
        return setup.check_scene(Detector.load(self._detector.path))


def _check_sound(recording: audio.Recording, device: Device, *, in_use: bool) -> Iterator[CheckResult]:
    if recording.trouble is not None and in_use:
        yield skipped(audio.MICROPHONE, _IN_USE)
        return
    yield audio.check_microphone(recording, device)
    if recording.trouble is None:
        yield audio.check_levels(recording)


def _of_source(source: str, check: _Check) -> Iterator[CheckResult]:
    """Yield the results of a check with the name of its source."""
    found = check()
    for result in [found] if isinstance(found, CheckResult) else found:
        yield replace(result, found=f"{source}: {result.found}")


def _guarded(name: str, check: _Check) -> Iterator[CheckResult]:
    """Yield the results of a check, or that it failed."""
    try:
        found = check()
        yield from [found] if isinstance(found, CheckResult) else found
    except DetectorError as error:
        yield problem(name, str(error), "correct it, and run the doctor again", error.exit_code)
    except OSError as error:
        yield problem(name, f"cannot be checked: {error}", "run the doctor as root, who may read more", UNAVAILABLE)
    except Exception as error:  # noqa: BLE001 - an error in one check must not hide the results of others
        yield problem(name, f"internal error: {type(error).__name__}: {error}", "report it", MALFUNCTION)
