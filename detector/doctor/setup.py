"""The configuration: where it comes from, and whether it can be.

The model: what it is, whether it is whole, and how onnxruntime runs it here.

Where events go: whether each sink can be made, and who can reach those that listen.

The MQTT brokers: each one tried from its name to a message that comes back.

The calibration: whether device and model are those that the thresholds were measured with.

The demo scene through all that live sound goes through, and whether its sounds are detected.
"""

from __future__ import annotations

import csv
import dataclasses
import errno
import os
import shutil
import socket
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

import numpy as np

from detector.audio.devices import Device
from detector.audio.live_source import AudioBlock, SourceEvent, SourceStats
from detector.audio.sources import FileSource
from detector.config.loading import FILE_NAME, Configuration, environment_layer, load_configuration
from detector.config.paths import configuration_directories
from detector.config.secrets import split_address, token_required
from detector.config.sections import ServerSection
from detector.config.settings import Settings
from detector.doctor.result import (
    SETTINGS,
    UNAVAILABLE,
    WRONG,
    CheckResult,
    Process,
    SystemPaths,
    ok,
    problem,
    skipped,
    warning,
)
from detector.errors import ConfigError, DetectorError, SourceError
from detector.messages import AudioChunk, Samples
from detector.network import Model, load_model, verify
from detector.pipeline import Detector
from detector.records import OnsetRecord, Record
from detector.service.engine import Counters, Engine, RecordPublisher
from detector.service.health import NO_SOURCE
from detector.service.outputs import specs
from detector.service.runtime import make_detector, make_station
from detector.sinks.mqtt import Mqtt, broker_password
from detector.sinks.mqtt_check import test_connection
from detector.sinks.section import SinkContext

CONFIGURATION: Final = "configuration"


def check_configuration(path: Path | None, overrides: Mapping[str, object]) -> tuple[Configuration | None, CheckResult]:
    """Return the configuration that the service would read, and what is to be said of it; None: it is wrong."""
    try:
        found = load_configuration(path, overrides)
    except ConfigError as error:
        return None, problem(
            CONFIGURATION, str(error), f"mend it; snn-detect config check{_name(path)} looks again", SETTINGS
        )
    text = ", ".join([*_places(found), *_run_options(overrides)]) or "there is no file: all is as by default"
    if path is None and (hidden := _hidden(found)):
        advice = f"sudo snn-detect doctor, or sudo -u snn-detect snn-detect doctor, reads {hidden}"
        return found, warning(CONFIGURATION, f"this user may not read {hidden}; in its place: {text}", advice)
    return found, ok(CONFIGURATION, text)


def _places(found: Configuration) -> Iterator[str]:
    yield from map(str, found.files)
    yield from (variable for _, _, variable in environment_layer(os.environ))


def _run_options(overrides: Mapping[str, object]) -> list[str]:
    return ["the command line"] if any(value is not None for value in overrides.values()) else []


def _hidden(found: Configuration) -> Path | None:
    """Return the first file that would be read by a user who may; None where that is the one that was read."""
    for folder in configuration_directories():
        path = folder / FILE_NAME
        if path in found.files:
            return None
        if path.exists() and not os.access(path, os.R_OK):
            return path
    return None


def _name(path: Path | None) -> str:
    return "" if path is None else f" {path}"


MODEL: Final = "model"
THREADS: Final = "threads"
_DIGITS: Final = 12
_REST_S: Final = 0.3
_SPINNING: Final = 0.5
"""Share of a core that a detector without work may not use."""
_SPIN_KEY: Final = "session.intra_op.allow_spinning"


def check_model(settings: Settings) -> tuple[Detector | None, CheckResult]:
    """Return the detector that the settings ask for, and what is to be said of its model; None: it cannot be."""
    try:
        detector = make_detector(settings)
        verify(detector.path)
    except DetectorError as error:
        advice = "snn-detect model verify looks again; without model.path, the model that ships is used"
        return None, problem(MODEL, str(error), advice, SETTINGS)
    manifest = detector.manifest
    latency_ms = 1000 * manifest.latency_samples / detector.sample_rate_hz
    frame_ms = 1000 * manifest.features.hop_length / detector.sample_rate_hz
    mean_ms = frame_ms * max(c.decoder.smoothing_frames for c in manifest.classes)
    high_ms = frame_ms * max(c.decoder.min_on_frames for c in manifest.classes)
    return detector, ok(
        MODEL,
        f"{manifest.name}-{manifest.version}, sha256 {detector.sha256[:_DIGITS]}, {len(detector.labels)} sounds, "
        f"arithmetic verified; scores know of a sound after {latency_ms:g} ms, and it is told once their mean over "
        f"{mean_ms:g} ms has been high for {high_ms:g} ms ({detector.path})",
    )


def check_threads(detector: Detector) -> CheckResult:
    """Look whether onnxruntime computes in one thread, and rests when there is nothing to compute."""
    model = load_model(detector.path)
    options = model.session.get_session_options()
    threads = (options.intra_op_num_threads, options.inter_op_num_threads)
    spins = options.get_session_config_entry(_SPIN_KEY) != "0"
    share = _idle_share(model)
    if threads != (1, 1) or spins or share > _SPINNING:
        found = f"onnxruntime has {threads[0]} and {threads[1]} threads, and uses {share:.0%} of a core without work"
        return warning(THREADS, found, "install onnxruntime again, in a version that pyproject.toml allows")
    return ok(THREADS, f"onnxruntime computes in one thread and rests without work ({share:.0%} of a core)")


def _idle_share(model: Model) -> float:
    """Return the share of a core that this process uses behind a computation."""
    verify(model.path, frames=2)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    time.sleep(_REST_S)
    return (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)


SINKS: Final = "sinks"
ADDRESSES: Final = "addresses"
_NOT_MADE: Final = frozenset({"stdout", "mqtt"})
"""The first needs nothing, the second is tried for itself."""


def check_sinks(settings: Settings, detector: Detector) -> CheckResult:
    """Look whether each sink has what it needs: its secrets, its libraries, its program."""
    wiring = SinkContext(make_station(settings, detector), detector.sample_rate_hz, None, lambda _: None, detector)
    kinds: Counter[str] = Counter()
    try:
        for kind, spec in specs(settings, wiring):
            kinds[kind] += 1
            if kind not in _NOT_MADE:
                spec.make()
    except ConfigError as error:
        advice = "mend it, or look again as root or as the service's user, who may be able to read what you cannot"
        return problem(SINKS, str(error), advice, SETTINGS)
    absent = [c.argv[0] for c in settings.command if shutil.which(c.argv[0]) is None]
    if absent:
        return problem(SINKS, f"command: there is no program {absent[0]}", "mend argv, or install it", SETTINGS)
    open_ones = [str(path) for _, path in settings.secret_files() if _is_open(path)]
    if open_ones:
        return warning(SINKS, f"everybody can read the secret {open_ones[0]}", f"chmod o= {' '.join(open_ones)}")
    if not kinds:
        return warning(SINKS, "there is none: events go nowhere", "add a section such as [database] or [stdout]")
    return ok(SINKS, ", ".join(kind if n == 1 else f"{n} times {kind}" for kind, n in kinds.items()))


def check_addresses(settings: Settings, services: tuple[Process, ...]) -> CheckResult:
    """Look who can reach what listens, and whether its port is free; ``services`` run now and may hold it."""
    listening = {"metrics": settings.metrics, "web": settings.web}
    findings = [_address(name, section, services) for name, section in listening.items() if section is not None]
    if not findings:
        return ok(ADDRESSES, "nothing listens for connections")
    bad = next((f for f in findings if f.state != "ok"), None)
    return bad or ok(ADDRESSES, "; ".join(f.found for f in findings))


def _address(name: str, section: ServerSection, services: tuple[Process, ...]) -> CheckResult:
    try:
        host, port = split_address(section.address)
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (ConfigError, OSError) as error:
        advice = f"mend {name}.address: an address of this machine and a port"
        return problem(ADDRESSES, f"{name} on {section.address}: {error}", advice, SETTINGS)
    reached = [str(a[4][0]) for a in addresses if token_required(f"[{a[4][0]}]:{port}")]
    if reached and section.token_file is None:
        found = f"{name} on {section.address} can be reached from other machines without a token"
        return problem(ADDRESSES, found, f"set {name}.token_file, or {name}.address to 127.0.0.1", SETTINGS)
    family, _, _, _, address = addresses[0]
    where = f"{name} on {section.address}"
    return _port(where, _bind(family, address), services, is_open=bool(reached))


def _port(where: str, failure: int, services: tuple[Process, ...], *, is_open: bool) -> CheckResult:
    reach = "can be reached from other machines, with the token" if is_open else "can be reached from this machine only"
    found = f"{where} {reach}"
    if failure == 0:
        return ok(ADDRESSES, found)
    if failure == errno.EADDRINUSE and services:
        return ok(ADDRESSES, f"{found}; the port is taken, as it is while the service runs")
    if failure == errno.EADDRINUSE:
        found = f"{where}: another program has the port"
        return problem(ADDRESSES, found, "take another port; ss -ltnp names the program", UNAVAILABLE)
    found = f"{where}: {os.strerror(failure).lower()}"
    return problem(ADDRESSES, found, "take an address that this machine has, or 127.0.0.1", UNAVAILABLE)


def _bind(family: int, address: tuple[object, ...]) -> int:
    """Try to take an address, and return the number of the error; 0 without one."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # the sink that needs it has said so


BROKER: Final = "broker"
_OF_UNIT: Final = "snn-detect/mqtt.password"
_BROKER_ADVICE: Final = {
    "DNS": "mend mqtt.host, or the machine's name server; an address works without one",
    "TCP": "is the broker running, is mqtt.port right, and does no firewall stand between",
    "TLS": "mend mqtt.tls, mqtt.ca_file or the certificates; the machine's clock counts too",
    "auth": "mend mqtt.username and the password; the broker's log says more",
    "publish": "allow this user to read and write the topics below mqtt.prefix",
}


def check_brokers(settings: Settings, paths: SystemPaths) -> list[CheckResult]:
    """Try each broker; the service may run meanwhile."""
    found = [_try(broker, settings.node, paths) for broker in settings.mqtt]
    return found or [skipped(BROKER, "the settings name none")]


def _try(broker: Mqtt, node: str, paths: SystemPaths) -> CheckResult:
    name = f"{BROKER} {broker.host}:{broker.port}"
    try:
        password = broker_password(broker, Path(paths.etc, _OF_UNIT))
        stages = test_connection(broker, node, password)
    except ConfigError as error:
        return problem(name, str(error), "mend the section [[mqtt]]", SETTINGS)
    last = stages[-1]
    if not last.ok:
        advice = _BROKER_ADVICE.get(last.name, "snn-detect mqtt test tries again")
        if last.name == "auth" and broker.username and password is None:
            advice = f"no password was found here; the service gets it from /etc/{_OF_UNIT}, which root may read"
        return problem(name, f"{last.name}: {last.text}", advice, UNAVAILABLE)
    found = "; ".join(f"{stage.name}: {stage.text}" for stage in stages)
    if broker.username and not broker.tls and token_required(f"{_host(broker)}:{broker.port}"):
        return warning(name, found, "set mqtt.tls = true, with the port that the broker has for it (8883)")
    return ok(name, found)


def _host(broker: Mqtt) -> str:
    return f"[{broker.host}]" if ":" in broker.host else broker.host


CALIBRATION: Final = "calibration"


def check_calibration(settings: Settings, detector: Detector | None, found: Device | None) -> Iterator[CheckResult]:
    """Yield what is to be said of the calibration; nothing where there is none, or no model to compare it with."""
    calibration = settings.calibration
    if calibration is None or detector is None:
        return
    node_info = make_station(settings, detector)
    device = None if found is None else found.id
    if trouble := calibration.mismatch(device, node_info.model, node_info.model_sha256):
        advice = "calibrate again, or remove the old fragment from config.d; snn-detect config show names it"
        yield warning(CALIBRATION, trouble, advice)
        return
    text = (
        f"thresholds of {calibration.date[:10]}, from {calibration.hours:g} h: of each class at most "
        f"{calibration.promise_per_hour:g} false alarms an hour (95 %)"
    )
    if calibration.device is not None and device is None:
        text = f"{text}; for {calibration.device}, which could not be compared with the device"
    yield ok(CALIBRATION, text)


SELFTEST: Final = "selftest"
_CHUNK_S: Final = 0.04
_EARLY_S: Final = 0.25
"""An onset may be told this much before its place in the annotation, which is a person's."""
_ENOUGH: Final = 0.5
"""Share of the sounds that a detector in order finds: the scene is not made of easy ones alone."""
_ADVICE: Final = (
    "install snn-detect and its model again; if that does not help, snn-detect model verify and "
    "snn-detect bench show whether onnxruntime is at fault"
)


@dataclass(frozen=True, slots=True)
class Expected:
    """A sound that is in the scene."""

    label: str
    onset_s: float
    offset_s: float


class Playback:
    """A sound file as a live source: in chunks as a microphone gives them, as fast as they are taken."""

    def __init__(self, path: Path, rate_hz: int) -> None:
        """Open the file; raises SourceError where it cannot be heard."""
        self._file = FileSource(path, rate_hz, round(_CHUNK_S * rate_hz))
        self._chunks = iter(self._file)
        self._rate_hz, self._begin_s = rate_hz, time.monotonic()
        self.heard: list[Samples] = []
        """All that was taken."""
        self.stats: SourceStats = dataclasses.replace(NO_SOURCE, device=path.name, is_open=True)

    def take(self, timeout_s: float) -> list[SourceEvent] | None:  # noqa: ARG002 - a file never has to be waited for
        """Return the next chunk; None behind the last one."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return None
        self.heard.append(chunk.samples)
        return [AudioBlock(chunk, self._begin_s + _end(chunk) / self._rate_hz)]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_scene(detector: Detector, scene: Path | None = None) -> CheckResult:
    """Play a scene (None: the demo scene) and compare the events with its annotation and with those in one piece.

    The thresholds are those of the detector.
    """
    scene = scene or Path(str(resources.files("models") / "demo" / "scene.flac"))
    try:
        expected = [e for e in annotated(scene) if e.label in detector.labels]
        if not expected:
            return skipped(SELFTEST, f"this model knows none of the sounds in {scene.name}")
        records, at_once = _play(detector, scene)
    except (OSError, ValueError, SourceError) as error:
        return problem(SELFTEST, f"the scene cannot be played: {error}", "install snn-detect again", WRONG)
    onsets = [(r.label, r.onset_s) for r in records if isinstance(r, OnsetRecord)]
    if onsets != at_once:
        found = f"in chunks it hears {_listed(onsets)}, in one piece {_listed(at_once)}"
        return problem(SELFTEST, f"live sound and files give different events: {found}", _ADVICE, WRONG)
    return evaluate(expected, onsets)


def evaluate(expected: Sequence[Expected], onsets: Sequence[tuple[str, float]]) -> CheckResult:
    """Compare onsets (label and seconds) with the sounds that are in the scene."""
    heard = [e for e in expected if any(_fits(e, *onset) for onset in onsets)]
    others = [onset for onset in onsets if not any(_fits(e, *onset) for e in expected)]
    found = f"{len(heard)} of {len(expected)} sounds heard"
    if missed := [(e.label, e.onset_s) for e in expected if e not in heard]:
        found = f"{found}, not {_listed(missed)}"
    if others:
        found = f"{found}; besides {_listed(others)}"
    if len(heard) <= _ENOUGH * len(expected):
        return problem(SELFTEST, found, _ADVICE, WRONG)
    return ok(SELFTEST, found)


def annotated(scene: Path) -> Iterator[Expected]:
    """Yield the sounds of a scene by the table beside it; raises OSError and ValueError where it cannot be read."""
    with scene.with_suffix(".tsv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            try:
                yield Expected(row["event_label"], float(row["onset"]), float(row["offset"]))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{scene.with_suffix('.tsv')}: a row lacks {error}") from error


def _play(detector: Detector, scene: Path) -> tuple[list[Record], list[tuple[str, float]]]:
    """Return the records of the scene as live sound, and the onsets of the same sound in one piece."""
    records: list[Record] = []
    playback = Playback(scene, detector.sample_rate_hz)
    detector.reset()
    try:
        engine = Engine(playback, detector, RecordPublisher(SELFTEST, records.append), Counters())
        while engine.turn(0.0):
            pass
        engine.close_events("end_of_stream")
    finally:
        playback.close()
    detector.reset()
    events = detector.push(np.concatenate(playback.heard)) + detector.flush()
    rate_hz = detector.sample_rate_hz
    return records, [(e.label, round(e.onset_sample / rate_hz, 6)) for e in events if e.kind == "onset"]


def _fits(expected: Expected, label: str, onset_s: float) -> bool:
    return label == expected.label and expected.onset_s - _EARLY_S <= onset_s <= expected.offset_s


def _listed(onsets: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{label} at {onset_s:.1f} s" for label, onset_s in onsets) or "nothing"


def _end(chunk: AudioChunk) -> int:
    return chunk.first_sample + len(chunk.samples)
