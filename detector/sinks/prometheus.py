"""Metrics for Prometheus: counted from records, served over HTTP; their names are a contract with users."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal, cast

from pydantic import Field

from detector.config.secrets import read_optional_secret, split_address, token_required
from detector.config.sections import SecretFile, ServerSection
from detector.errors import ConfigError
from detector.records import (
    ClipRecord,
    EventRecord,
    GapRecord,
    HealthRecord,
    HealthState,
    Histogram,
    OffsetRecord,
    OnsetRecord,
    Record,
    ServiceState,
    StatusRecord,
)
from detector.sinks.base import LiveSink, NodeInfo, RetryableError, ServerSinkSection, SinkContext, SinkSpec
from detector.system import install_command

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

    from detector.sinks.metrics_server import MetricsServer

_log = logging.getLogger(__name__)
_LATENCIES_S: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class _Family:
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    text: str


_FAMILIES: Final = {
    "build_info": _Family("gauge", ("version", "model", "model_sha256"), "What runs; always 1."),
    "events_total": _Family("counter", ("source", "class"), "Sounds that began."),
    "event_active": _Family("gauge", ("source", "class"), "Whether the sound is present."),
    "class_score": _Family("gauge", ("source", "class"), "Score of a class, 0 to 1."),
    "audio_frames_total": _Family("counter", ("source",), "Frames that the network has processed."),
    "audio_overruns_total": _Family("counter", ("source",), "Overruns of the sound card's buffer."),
    "audio_lost_seconds_total": _Family("counter", ("source",), "Sound that was lost before it reached the network."),
    "audio_reopens_total": _Family("counter", ("source", "reason"), "Times that the device was reopened."),
    "audio_level_dbfs": _Family("gauge", ("source", "kind"), "Level of the last second."),
    "audio_clipped_samples_total": _Family("counter", (), "Samples at full scale."),
    "audio_silent": _Family("gauge", ("source",), "Whether only digital silence arrives."),
    "audio_last_frame_timestamp_seconds": _Family(
        "gauge", ("source",), "When sound last arrived, in seconds since 1970."
    ),
    "audio_clock_drift_ratio": _Family(
        "gauge", ("source",), "How much faster than the clock the source runs; 0.001 is a sample in a thousand."
    ),
    "source_up": _Family("gauge", ("source",), "Whether the device is open and sound arrives."),
    "realtime_factor_ratio": _Family("gauge", (), "Seconds of computing per second of sound."),
    "state_resets_total": _Family("counter", ("reason",), "Resets of the state of the network."),
    "queue_depth_ratio": _Family("gauge", (), "Share of the sound buffer that is filled."),
    "temperature_celsius": _Family("gauge", (), "Temperature of the machine's hottest zone."),
    "under_voltage": _Family("gauge", (), "Whether a Raspberry Pi gets too little voltage."),
    "mqtt_connected": _Family("gauge", (), "Whether every MQTT broker is connected."),
    "mqtt_reconnects_total": _Family("counter", (), "MQTT connections beyond the first."),
    "mqtt_dropped_messages_total": _Family("counter", (), "MQTT messages and records that were dropped."),
    "sink_working": _Family("gauge", ("sink",), "Whether the last attempt to write succeeded."),
    "sink_waiting_records": _Family("gauge", ("sink",), "Records that wait to be written."),
    "sink_written_records_total": _Family("counter", ("sink",), "Records that were written."),
    "sink_dropped_records_total": _Family("counter", ("sink",), "Records dropped by a full queue or at the end."),
    "sink_failed_records_total": _Family("counter", ("sink",), "Records lost by an error."),
    "clips_bytes": _Family("gauge", (), "Bytes of sound clips."),
    "config_last_reload_successful": _Family("gauge", (), "Whether the last reload of the configuration succeeded."),
}
_OF_SOURCES: Final = frozenset(
    {"build_info", "audio_clipped_samples_total", "realtime_factor_ratio", "state_resets_total", "queue_depth_ratio"}
)
"""Families without the label of a source that are about one: they have it where there are several."""
_FROM_HEALTH: Final = {
    "audio_frames_total": "frames",
    "audio_overruns_total": "overruns",
    "audio_lost_seconds_total": "lost_s",
    "audio_silent": "silent",
    "source_up": "up",
    "audio_clipped_samples_total": "clipped_samples",
    "realtime_factor_ratio": "realtime_factor",
    "queue_depth_ratio": "queue_depth",
}
"""Families whose value is a field of health records, whose counters start with the service as well."""
_FROM_SINKS: Final = {
    "sink_working": "working",
    "sink_waiting_records": "waiting",
    "sink_written_records_total": "written",
    "sink_dropped_records_total": "dropped",
    "sink_failed_records_total": "failed",
}
_STATE_S: Final = 0.5
"""How long a client waits for the state of the service; where none comes, it gets the last one."""


class Metrics(ServerSinkSection):
    """Metrics for Prometheus, at http://ADDRESS/metrics."""

    address: str = Field(
        "127.0.0.1:9464",
        description="Address and port to listen on. One that other machines can reach needs token_file; that of [web] "
        "is served with the page.",
    )
    token_file: SecretFile | None = Field(
        None, description="File with the bearer token to require.", examples=["/etc/snn-detect/metrics.token"]
    )
    scores: bool = Field(False, description="Whether to add the score of each class.")

    def build(self, context: SinkContext, /) -> SinkSpec | None:
        """Return the sink, None where the page serves the metrics; raises ConfigError for an unreadable token."""
        address = split_address(self.address)
        servers = (s for s in context.sections if isinstance(s, ServerSection) and s.serves_metrics)
        if any(split_address(server.address) == address for server in servers):
            return None
        return SinkSpec.of(MetricsSink, self, context.node_infos, read_optional_secret(self.token_file))


class MetricsSink(LiveSink):
    """Counts records, and serves the counts on ``/metrics``."""

    shows_states = True
    types = frozenset({"onset", "offset", "gap", "status", "health", "clip"})

    def __init__(self, settings: Metrics, node_infos: Sequence[NodeInfo], token: str | None) -> None:
        """Prepare; raises ConfigError for an address beyond loopback without a token, or without prometheus-client."""
        self._host, self._port = split_address(settings.address)
        self._address, self._token = settings.address, token
        if token is None and token_required(settings.address):
            raise ConfigError(f"metrics address {settings.address} is open to others: set token_file, or use 127.0.0.1")
        from detector.sinks.metrics_server import weakness

        if token is not None and (found := weakness(token)) is not None:
            _log.warning("metrics: %s", found)
        self._metrics = EventMetrics(node_infos, scores=settings.scores)
        self._server: MetricsServer | None = None

    @property
    def port(self) -> int:
        """The port in use; 0 while there is none."""
        return self._server.server_port if self._server else 0

    def open(self) -> None:
        """Start to listen; raises RetryableError while the address is in use or does not exist yet."""
        from detector.sinks.metrics_server import MetricsServer

        try:
            server = MetricsServer(self._host, self._port, self._token, self._metrics.exposition)
        except OSError as error:
            raise RetryableError(f"metrics cannot listen on {self._address}: {error.strerror}") from error
        # What a name stands for is up to the resolver.
        if self._token is None and not ipaddress.ip_address(str(server.server_address[0])).is_loopback:
            server.stop()
            raise ConfigError(f"metrics address {self._address} is not loopback here: use 127.0.0.1, or set token_file")
        self._server = server

    @property
    def wants_state(self) -> bool:
        """Whether a client waits for the state of the service."""
        return self._metrics.wants_state

    def show(self, states: Sequence[ServiceState]) -> None:
        """Take the state of the service, with each of its sources."""
        self._metrics.show(states)

    def write(self, record: Record) -> None:
        """Count a record."""
        self._metrics.on_record(record)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.stop()
            self._server = None


class EventMetrics:
    """Counts records in one thread and exposes the counts in any other; a collector of prometheus_client.

    What is exposed is the present state, which is asked for by ``wants_state`` and taken by ``show``.
    """

    def __init__(self, node_infos: Sequence[NodeInfo], *, scores: bool) -> None:
        """Start with zeros; ``scores``: expose the score of each class, too.

        Where there are several sources, all that is known of each has its name. Raises ConfigError without
        prometheus-client.
        """
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("prometheus_client"):
                raise
            raise ConfigError(f"metrics need prometheus-client: {install_command('metrics')}") from error
        self._sources = {info.source: _OfSource() for info in node_infos}
        self._own = _OF_SOURCES if len(node_infos) > 1 else frozenset[str]()
        """Families that have the label of the source only where there are several."""
        self._scores = scores
        self._lock = threading.Lock()
        self.wants_state = True
        self._shown = threading.Event()
        self._has_state = False
        self._values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        self._set("", "config_last_reload_successful", 1)
        for info in node_infos:
            self._set(info.source, "build_info", 1, info.version, info.model, info.model_sha256)
            self._set(info.source, "source_up", 0)
            for label, _ in info.classes:
                self._set(info.source, "events_total", 0, label)
                self._set(info.source, "event_active", 0, label)
        self._registry = CollectorRegistry()
        self._registry.register(cast("Collector", self))
        ProcessCollector(registry=self._registry)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics, and their content type, in the format that an Accept header asks for."""
        from prometheus_client.exposition import choose_encoder

        self._shown.clear()
        self.wants_state = True
        if self._has_state:
            self._shown.wait(_STATE_S)
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def show(self, states: Sequence[ServiceState]) -> None:
        """Take the state of the service, with each of its sources."""
        self.wants_state = False
        with self._lock:
            for state in states:
                self._health(state.source, state.health, state.time, state.scores)
        self._has_state = True
        self._shown.set()

    def on_record(self, record: Record) -> None:
        """Count a record."""
        with self._lock:
            match record:
                case OnsetRecord() | OffsetRecord():
                    self._event(record)
                case GapRecord():
                    self._add(record.source, "state_resets_total", 1, record.cause)
                case StatusRecord():
                    self._status(record.source, record.state, active=record.active)
                case HealthRecord():
                    self._health(record.source, record.health, record.time, record.scores)
                    # Not in ``show``: gaps that wait would count as others.
                    self._resets(record.source, record.health.resets)
                case ClipRecord():
                    self._add("", "clips_bytes", record.bytes)

    def collect(self) -> Iterator[Metric]:
        """Yield all families with their present values."""
        with self._lock:
            families = [_family(name, self._labels(name), self._values[name]) for name in _FAMILIES]
            latencies = {name: known.latency() for name, known in self._sources.items()}
            inference = {name: known.inference for name, known in self._sources.items()}
            families += [
                _histogram("detection_latency_seconds", "Time from a sound's onset to its detection.", latencies),
                _histogram("inference_duration_seconds", "Time to compute one chunk of sound.", inference),
            ]
        yield from families

    def _event(self, record: EventRecord) -> None:
        self._set(record.source, "event_active", isinstance(record, OnsetRecord), record.label)
        if isinstance(record, OffsetRecord):
            return
        self._add(record.source, "events_total", 1, record.label)
        if (known := self._sources.get(record.source)) is not None:
            known.add(record.latency_s)

    def _status(self, source: str, state: str, *, active: bool) -> None:
        if state == "waiting":
            self._set(source, "source_up", not active)
        elif state == "stopping":
            self._set(source, "source_up", 0)
        elif state == "silent":
            self._set(source, "audio_silent", active)
        elif state == "reloaded":
            self._set("", "config_last_reload_successful", active)

    def _health(self, source: str, health: HealthState, time: str | None, scores: Mapping[str, float] | None) -> None:
        known = self._sources.get(source)
        if known is None:
            return  # the source was removed meanwhile
        for name, key in _FROM_HEALTH.items():
            self._set(source, name, getattr(health, key))
        self._set(source, "audio_reopens_total", health.reopens, "device")
        if health.drift_ppm is not None:
            self._set(source, "audio_clock_drift_ratio", round(health.drift_ppm / 1e6, 9))
        self._set(source, "audio_level_dbfs", health.rms_dbfs, "rms")
        self._set(source, "audio_level_dbfs", health.peak_dbfs, "peak")
        if health.heard_s != known.processed_s and time:
            known.processed_s = health.heard_s
            self._set(source, "audio_last_frame_timestamp_seconds", datetime.fromisoformat(time).timestamp())
        self._machine(health)
        known.inference = health.inference
        if self._scores:
            for label, score in (scores or {}).items():
                self._set(source, "class_score", score, label)

    def _resets(self, source: str, resets: int) -> None:
        """Count resets that were not caused by a gap under a reason of their own."""
        prefix = (source,) if "state_resets_total" in self._own else ()
        known = {key[-1]: n for key, n in self._values["state_resets_total"].items() if key[:-1] == prefix}
        other = resets - sum(n for reason, n in known.items() if reason != "other")
        if other > known.get("other", 0):
            self._set(source, "state_resets_total", other, "other")

    def _machine(self, health: HealthState) -> None:
        """Set what is the same for all sources."""
        self._sinks(health.sinks)
        if health.temperature_c is not None:
            self._set("", "temperature_celsius", health.temperature_c)
        if health.under_voltage is not None:
            self._set("", "under_voltage", health.under_voltage)

    def _sinks(self, sinks: Mapping[str, Mapping[str, float]]) -> None:
        brokers = [counts for name, counts in sinks.items() if name.startswith("mqtt")]
        if brokers:
            lost = (c["dropped"] + c["failed"] + c.get("messages_dropped", 0) for c in brokers)
            self._set("", "mqtt_connected", all(c.get("connected", c["working"]) for c in brokers))
            self._set("", "mqtt_reconnects_total", sum(c.get("reconnects", 0) for c in brokers))
            self._set("", "mqtt_dropped_messages_total", sum(lost))
        for family, key in _FROM_SINKS.items():
            self._values[family] = {(name,): float(counts[key]) for name, counts in sinks.items()}
        for name, counts in sinks.items():
            if name.startswith("clips") and "bytes" in counts:
                self._set("", "clips_bytes", counts["bytes"])

    def _labels(self, name: str) -> tuple[str, ...]:
        """Return the labels of a family here."""
        return ("source", *_FAMILIES[name].labels) if name in self._own else _FAMILIES[name].labels

    def _set(self, source: str, name: str, value: float, *labels: str) -> None:
        """Set a value of a source, whose name is left out where the family has no such label."""
        self._values[name][self._key(source, name, labels)] = float(value)

    def _add(self, source: str, name: str, value: float, *labels: str) -> None:
        key = self._key(source, name, labels)
        self._values[name][key] = self._values[name].get(key, 0.0) + value

    def _key(self, source: str, name: str, labels: tuple[str, ...]) -> tuple[str, ...]:
        return (source, *labels) if "source" in self._labels(name) else labels


@dataclass(slots=True)
class _OfSource:
    """What is counted of one source beside single numbers."""

    inference: Histogram | None = None
    processed_s: float = 0.0
    _latencies: list[int] = field(default_factory=lambda: [0] * (len(_LATENCIES_S) + 1))
    _latency_sum_s: float = 0.0

    def add(self, latency_s: float) -> None:
        """Count the latency of an onset."""
        self._latency_sum_s += latency_s
        self._latencies[sum(latency_s > bound for bound in _LATENCIES_S)] += 1

    def latency(self) -> Histogram:
        """Return the histogram of latencies."""
        return Histogram(_LATENCIES_S, tuple(itertools.accumulate(self._latencies)), self._latency_sum_s)


def _family(name: str, label_names: tuple[str, ...], values: dict[tuple[str, ...], float]) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    spec = _FAMILIES[name]
    make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = make(f"snn_detect_{name}", spec.text, labels=label_names)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _histogram(name: str, text: str, found: Mapping[str, Histogram | None]) -> Metric:
    """Return a histogram of each source, without its name where there is only one."""
    from prometheus_client.metrics_core import HistogramMetricFamily

    labels = ["source"] if len(found) > 1 else []
    family = HistogramMetricFamily(f"snn_detect_{name}", text, labels=labels)
    for source, histogram in found.items():
        if histogram is not None:
            bounds = [*map(str, histogram.le_s), "+Inf"]
            buckets = [(bound, float(n)) for bound, n in zip(bounds, histogram.counts, strict=True)]
            family.add_metric([source] if labels else [], buckets, histogram.sum_s)
    return family
