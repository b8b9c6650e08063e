"""Checks of the setup: configuration, model, sinks, addresses, brokers, calibration, and the demo scene."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import socket
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector.audio.devices import Device
from detector.audio.live_source import drain
from detector.audio.sources import FileSource, read_sound
from detector.config.loading import FILE_NAME, Configuration, environment_layer, load_configuration
from detector.config.paths import configuration_directories
from detector.config.secrets import split_address, token_required
from detector.config.sections import ServerSection
from detector.config.settings import Settings
from detector.doctor.result import (
    MALFUNCTION,
    SETTINGS,
    UNAVAILABLE,
    CheckResult,
    Process,
    SystemPaths,
    counted,
    ok,
    problem,
    skipped,
    warning,
)
from detector.engine.core import instructions
from detector.errors import ConfigError, DetectorError, SourceError
from detector.network import load_model, shipped_file, verify
from detector.pipeline import Detector
from detector.records import OnsetRecord, Record
from detector.service.engine import Counters, Engine, RecordPublisher
from detector.service.outputs import specs
from detector.service.source import make_detector, node_info_of, source_context
from detector.sinks.base import SinkContext
from detector.sinks.mqtt import Mqtt, broker_password
from detector.sinks.mqtt_visits import test_connection

CONFIGURATION: Final = "configuration"
MODEL: Final = "model"
THREADS: Final = "threads"
SINKS: Final = "sinks"
ADDRESSES: Final = "addresses"
BROKER: Final = "broker"
CALIBRATION: Final = "calibration"
SELFTEST: Final = "selftest"

_DIGITS: Final = 12
_IDLE_S: Final = 0.3
_MAX_IDLE_SHARE: Final = 0.5
"""Highest acceptable share of a core while there is nothing to compute."""
_SPIN_KEY: Final = "session.intra_op.allow_spinning"
_NOT_BUILT: Final = frozenset({"stdout", "mqtt"})
"""The first needs nothing, the second has a check of its own."""
_UNIT_PASSWORD: Final = "snn-detect/mqtt.password"  # noqa: S105 - the name of a file
_BROKER_ADVICE: Final = {
    "DNS": "correct mqtt.host, or the machine's name server; an IP address works without one",
    "TCP": "check that the broker is running, that mqtt.port is right, and that no firewall blocks it",
    "TLS": "correct mqtt.tls, mqtt.ca_file or the certificates; the machine's clock matters too",
    "auth": "correct mqtt.username and the password; the broker's log has details",
    "publish": "allow this user to read and write the topics below mqtt.prefix",
}
_CHUNK_S: Final = 0.04
_EARLY_S: Final = 0.25
"""An onset may come this much before the annotated one, which a person has set."""
_MIN_RECALL: Final = 0.5
"""A working detector finds more than this share of the sounds: some of the scene's are difficult."""
_REINSTALL: Final = (
    "install snn-detect and its model again; if that does not help, snn-detect model verify and "
    "snn-detect bench show whether onnxruntime is at fault"
)


def check_configuration(path: Path | None, overrides: Mapping[str, object]) -> tuple[Configuration | None, CheckResult]:
    """Return the configuration that the service would read, and the result; None if it is invalid."""
    try:
        found = load_configuration(path, overrides)
    except ConfigError as error:
        command = "snn-detect config check" if path is None else f"snn-detect config check {path}"
        return None, problem(CONFIGURATION, str(error), f"correct it; {command} checks it again", SETTINGS)
    places = [*map(str, found.files), *(variable for _, _, variable in environment_layer(os.environ))]
    if any(value is not None for value in overrides.values()):
        places.append("the command line")
    text = ", ".join(places) or "there is no file: every setting has its default"
    if path is None and (unreadable := _unreadable_file(found)):
        advice = f"sudo snn-detect doctor, or sudo -u snn-detect snn-detect doctor, reads {unreadable}"
        return found, warning(CONFIGURATION, f"this user may not read {unreadable}; used instead: {text}", advice)
    if former := found.layers.warnings:
        return found, warning(CONFIGURATION, former[0], "use the present names of keys; the next release refuses these")
    return found, ok(CONFIGURATION, text)


def _unreadable_file(found: Configuration) -> Path | None:
    """Return the file that the service would read but this user cannot; None if it is the one that was read."""
    for folder in configuration_directories():
        path = folder / FILE_NAME
        if path in found.files:
            return None
        if path.exists() and not os.access(path, os.R_OK):
            return path
    return None


def check_model(settings: Settings) -> tuple[Detector | None, CheckResult]:
    """Return the configured detector, and the result for its model; None if it cannot be loaded."""
    try:
        detector = make_detector(settings)
        verify(detector.path)
    except DetectorError as error:
        advice = "snn-detect model verify checks it again; without model.path, the model that ships is used"
        return None, problem(MODEL, str(error), advice, SETTINGS)
    manifest = detector.manifest
    latency_ms = 1000 * manifest.latency_samples / detector.sample_rate_hz
    frame_ms = 1000 * manifest.features.hop_length / detector.sample_rate_hz
    mean_ms = frame_ms * max(c.decoder.smoothing_frames for c in manifest.classes)
    high_ms = frame_ms * max(c.decoder.min_on_frames for c in manifest.classes)
    return detector, ok(
        MODEL,
        f"{manifest.name}-{manifest.version}, sha256 {detector.sha256[:_DIGITS]}, {len(detector.labels)} sounds, "
        f"arithmetic verified; latency {latency_ms:g} ms, and an onset is reported once the mean score over "
        f"{mean_ms:g} ms has been high for {high_ms:g} ms ({detector.path})",
    )


def check_threads(detector: Detector) -> CheckResult:
    """Check which engine runs the model, that it computes in one thread, and that it takes no CPU time without work."""
    model = load_model(detector.path)
    if model.core is not None:
        return ok(THREADS, f"the C core ({instructions()}) runs the model, in the detector's own thread")
    options = model.session.get_session_options()
    threads = (options.intra_op_num_threads, options.inter_op_num_threads)
    spins = options.get_session_config_entry(_SPIN_KEY) != "0"
    verify(model.path, frames=2)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    time.sleep(_IDLE_S)
    share = (time.process_time() - cpu_s) / (time.perf_counter() - wall_s)
    if threads != (1, 1) or spins or share > _MAX_IDLE_SHARE:
        found = f"onnxruntime has {threads[0]} and {threads[1]} threads, and uses {share:.0%} of a core without work"
        return warning(THREADS, found, "install onnxruntime again, in a version that pyproject.toml allows")
    found = f"onnxruntime computes in one thread and is idle without work ({share:.0%} of a core)"
    if model.core_is_damaged:
        return warning(THREADS, f"{found}; {model.engine_reason}", _REINSTALL)
    return ok(THREADS, f"{found}; {model.engine_reason}")


def check_sinks(settings: Settings, detectors: Mapping[str, Detector]) -> CheckResult:
    """Check that each sink has what it needs: its secrets, its libraries, its program.

    ``detectors``: those of the sources, by their names.
    """
    sources = tuple(source_context(alone, detectors[alone.audio.source]) for alone in settings.each())
    context = SinkContext(sources, None, lambda _: None)
    kinds: Counter[str] = Counter()
    try:
        for kind, spec in specs(settings, context):
            kinds[kind] += 1
            if kind not in _NOT_BUILT:
                spec.make()
    except ConfigError as error:
        advice = "correct it, or run the doctor as root or as the service's user, who may read more"
        return problem(SINKS, str(error), advice, SETTINGS)
    missing = [c.argv[0] for c in settings.command if shutil.which(c.argv[0]) is None]
    if missing:
        return problem(SINKS, f"command: there is no program {missing[0]}", "correct argv, or install it", SETTINGS)
    exposed = [str(file) for _, file in settings.secret_files() if _is_readable_by_all(file)]
    if exposed:
        return warning(SINKS, f"every user can read the secret {exposed[0]}", f"chmod o= {' '.join(exposed)}")
    if not kinds:
        return warning(SINKS, "there is none: events are lost", "add a section such as [database] or [stdout]")
    return ok(SINKS, ", ".join(kind if n == 1 else f"{n} times {kind}" for kind, n in kinds.items()))


def _is_readable_by_all(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # reported by the sink that needs it


def check_addresses(settings: Settings, services: tuple[Process, ...]) -> CheckResult:
    """Check who can reach the HTTP servers, and that their ports are free; ``services`` run now and may use them."""
    servers = [(key[0], section) for key, section in settings.sections() if isinstance(section, ServerSection)]
    results = [_check_address(name, section, services) for name, section in servers]
    if not results:
        return ok(ADDRESSES, "nothing accepts connections")
    bad = next((r for r in results if r.state != "ok"), None)
    return bad or ok(ADDRESSES, "; ".join(r.found for r in results))


def _check_address(name: str, section: ServerSection, services: tuple[Process, ...]) -> CheckResult:
    server = f"{name} on {section.address}"
    try:
        host, port = split_address(section.address)
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (ConfigError, OSError) as error:
        advice = f"correct {name}.address: an address of this machine and a port"
        return problem(ADDRESSES, f"{server}: {error}", advice, SETTINGS)
    is_reachable = any(token_required(f"[{a[4][0]}]:{port}") for a in addresses)
    if is_reachable and section.token_file is None:
        found = f"{server} can be reached from other machines without a token"
        return problem(ADDRESSES, found, f"set {name}.token_file, or {name}.address to 127.0.0.1", SETTINGS)
    reach = "from other machines, with the token" if is_reachable else "from this machine only"
    family, _, _, _, address = addresses[0]
    failure = _try_to_bind(family, address)
    if failure == 0:
        return ok(ADDRESSES, f"{server} can be reached {reach}")
    if failure == errno.EADDRINUSE and services:
        return ok(ADDRESSES, f"{server} can be reached {reach}; the port is in use, as always while the service runs")
    if failure == errno.EADDRINUSE:
        advice = "choose another port; ss -ltnp names the program"
        return problem(ADDRESSES, f"{server}: another program uses the port", advice, UNAVAILABLE)
    advice = "choose an address of this machine, or 127.0.0.1"
    return problem(ADDRESSES, f"{server}: {os.strerror(failure).lower()}", advice, UNAVAILABLE)


def _try_to_bind(family: int, address: tuple[object, ...]) -> int:
    """Bind a socket to an address, close it, and return the error number; 0 without an error."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def check_brokers(settings: Settings, paths: SystemPaths) -> list[CheckResult]:
    """Test the connection to each broker; the service may run meanwhile."""
    results = [_check_broker(broker, settings.node, paths) for broker in settings.mqtt]
    return results or [skipped(BROKER, "there is none in the configuration")]


def _check_broker(broker: Mqtt, node: str, paths: SystemPaths) -> CheckResult:
    name = f"{BROKER} {broker.host}:{broker.port}"
    try:
        password = broker_password(broker, Path(paths.etc, _UNIT_PASSWORD))
        stages = test_connection(broker, node, password)
    except ConfigError as error:
        return problem(name, str(error), "correct the section [[mqtt]]", SETTINGS)
    last = stages[-1]
    if not last.ok:
        advice = _BROKER_ADVICE.get(last.name, "snn-detect mqtt test tries again")
        if last.name == "auth" and broker.username and password is None:
            advice = f"no password was found here; the service gets it from /etc/{_UNIT_PASSWORD}, which root may read"
        return problem(name, f"{last.name}: {last.text}", advice, UNAVAILABLE)
    found = "; ".join(f"{stage.name}: {stage.text}" for stage in stages)
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    if broker.username and not broker.tls and token_required(f"{host}:{broker.port}"):
        return warning(name, found, "set mqtt.tls = true, with the port that the broker has for it (8883)")
    return ok(name, found)


def check_calibration(settings: Settings, detector: Detector | None, device: Device | None) -> Iterator[CheckResult]:
    """Compare device and model with those of the calibration; nothing without a calibration or without a model."""
    calibration = settings.calibration
    if calibration is None or detector is None:
        return
    node_info = node_info_of(settings, detector)
    device_id = None if device is None else device.id
    if mismatch := calibration.mismatch(device_id, node_info.model, node_info.model_sha256):
        advice = "calibrate again, or remove the old fragment from config.d; snn-detect config show names it"
        yield warning(CALIBRATION, mismatch, advice)
        return
    text = (
        f"thresholds of {calibration.date[:10]}, from {calibration.hours:g} h: of each class at most "
        f"{calibration.promise_per_hour:g} false alarms an hour (95 %)"
    )
    if calibration.device is not None and device_id is None:
        text = f"{text}; for {calibration.device}, which could not be compared with the device"
    yield ok(CALIBRATION, text)


@dataclass(frozen=True, slots=True)
class Expected:
    """A sound in the annotation of a scene."""

    label: str
    onset_s: float
    offset_s: float

    def matches(self, label: str, onset_s: float) -> bool:
        """Return whether a detected onset is that of this sound."""
        return label == self.label and self.onset_s - _EARLY_S <= onset_s <= self.offset_s


def check_scene(detector: Detector, scene: Path | None = None) -> CheckResult:
    """Play a scene (None: the demo scene) as live sound, and compare the onsets with its annotation.

    They must also be those of the same sound in one piece. The thresholds are those of the detector.
    """
    scene = scene or shipped_file("demo/scene.flac")
    try:
        expected = [e for e in annotated(scene) if e.label in detector.labels]
        if not expected:
            return skipped(SELFTEST, f"this model knows none of the sounds in {scene.name}")
        records, at_once = _play(detector, scene)
    except (OSError, ValueError, SourceError) as error:
        return problem(SELFTEST, f"the scene cannot be played: {error}", "install snn-detect again", MALFUNCTION)
    onsets = [(r.label, r.onset_s) for r in records if isinstance(r, OnsetRecord)]
    if onsets != at_once:
        found = f"in chunks it detects {_listed(onsets)}, in one piece {_listed(at_once)}"
        return problem(SELFTEST, f"live sound and files give different events: {found}", _REINSTALL, MALFUNCTION)
    return scene_result(expected, onsets)


def scene_result(expected: Sequence[Expected], onsets: Sequence[tuple[str, float]]) -> CheckResult:
    """Return the result for onsets (label and seconds) by the annotation."""
    missed = [e for e in expected if not any(e.matches(*onset) for onset in onsets)]
    extra = [onset for onset in onsets if not any(e.matches(*onset) for e in expected)]
    detected = len(expected) - len(missed)
    found = f"{detected} of {counted(len(expected), 'sound')} detected"
    if missed:
        found = f"{found}, not {_listed([(e.label, e.onset_s) for e in missed])}"
    if extra:
        found = f"{found}; also {_listed(extra)}"
    if detected <= _MIN_RECALL * len(expected):
        return problem(SELFTEST, found, _REINSTALL, MALFUNCTION)
    return ok(SELFTEST, found)


def annotated(scene: Path) -> Iterator[Expected]:
    """Yield the sounds of a scene from the table beside it; raises OSError and ValueError if it cannot be read."""
    with scene.with_suffix(".tsv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            try:
                yield Expected(row["event_label"], float(row["onset"]), float(row["offset"]))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{scene.with_suffix('.tsv')}: a row lacks {error}") from error


def _play(detector: Detector, scene: Path) -> tuple[list[Record], list[tuple[str, float]]]:
    """Return the records of the scene as live sound, and the onsets of the same sound in one piece."""
    records: list[Record] = []
    rate_hz = detector.sample_rate_hz
    detector.reset()
    with closing(FileSource(scene, rate_hz, round(_CHUNK_S * rate_hz))) as source:
        engine = Engine(source, detector, RecordPublisher(SELFTEST, records.append), Counters())
        drain(source, engine.handle, lambda: True)
        engine.close_events("end_of_stream")
    detector.reset()
    events = detector.push(read_sound(scene, rate_hz)) + detector.flush()
    return records, [(e.label, round(e.onset_sample / rate_hz, 6)) for e in events if e.kind == "onset"]


def _listed(onsets: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{label} at {onset_s:.1f} s" for label, onset_s in onsets) or "nothing"
