"""Metrics for Prometheus: counted from records, served over HTTP; their names are a contract with users."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
        return SinkSpec.of(MetricsSink, self, context.node_info, read_optional_secret(self.token_file))


class MetricsSink(LiveSink):
    """Counts records, and serves the counts on ``/metrics``."""

    shows_states = True
    types = frozenset({"onset", "offset", "gap", "status", "health", "clip"})

    def __init__(self, settings: Metrics, node_info: NodeInfo, token: str | None) -> None:
        """Prepare; raises ConfigError for an address beyond loopback without a token, or without prometheus-client."""
        self._host, self._port = split_address(settings.address)
        self._address, self._token = settings.address, token
        if token is None and token_required(settings.address):
            raise ConfigError(f"metrics address {settings.address} is open to others: set token_file, or use 127.0.0.1")
        from detector.sinks.metrics_server import weakness

        if token is not None and (found := weakness(token)) is not None:
            _log.warning("metrics: %s", found)
        self._metrics = EventMetrics(node_info, scores=settings.scores)
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

    def show(self, state: ServiceState) -> None:
        """Take the state of the service."""
        self._metrics.show(state)

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

    def __init__(self, node_info: NodeInfo, *, scores: bool) -> None:
        """Start with zeros; ``scores``: expose the score of each class, too.

        Raises ConfigError without prometheus-client.
        """
        try:
            from prometheus_client import CollectorRegistry, ProcessCollector
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("prometheus_client"):
                raise
            raise ConfigError(f"metrics need prometheus-client: {install_command('metrics')}") from error
        self._source = node_info.source
        self._scores = scores
        self._lock = threading.Lock()
        self.wants_state = True
        self._shown = threading.Event()
        self._has_state = False
        self._values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        self._latencies = [0] * (len(_LATENCIES_S) + 1)
        self._latency_sum_s = 0.0
        self._inference: Histogram | None = None
        self._processed_s = 0.0
        self._set("build_info", 1, node_info.version, node_info.model, node_info.model_sha256)
        self._set("config_last_reload_successful", 1)
        self._set("source_up", 0, self._source)
        for label, _ in node_info.classes:
            self._set("events_total", 0, self._source, label)
            self._set("event_active", 0, self._source, label)
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

    def show(self, state: ServiceState) -> None:
        """Take the state of the service."""
        self.wants_state = False
        with self._lock:
            self._health(state.health, state.time, state.scores)
        self._has_state = True
        self._shown.set()

    def on_record(self, record: Record) -> None:
        """Count a record."""
        with self._lock:
            match record:
                case OnsetRecord() | OffsetRecord():
                    self._event(record)
                case GapRecord():
                    self._add("state_resets_total", 1, record.cause)
                case StatusRecord():
                    self._status(record.state, active=record.active)
                case HealthRecord():
                    self._health(record.health, record.time, record.scores)
                    self._resets(record.health.resets)  # not in ``show``: gaps that wait would count as others
                case ClipRecord():
                    self._add("clips_bytes", record.bytes)

    def collect(self) -> Iterator[Metric]:
        """Yield all families with their present values."""
        with self._lock:
            families = [_family(name, self._values[name]) for name in _FAMILIES]
            families += [
                _histogram("detection_latency_seconds", "Time from a sound's onset to its detection.", self._latency()),
                _histogram("inference_duration_seconds", "Time to compute one chunk of sound.", self._inference),
            ]
        yield from families

    def _event(self, record: EventRecord) -> None:
        key = (self._source, record.label)
        self._set("event_active", isinstance(record, OnsetRecord), *key)
        if isinstance(record, OffsetRecord):
            return
        self._add("events_total", 1, *key)
        latency_s = record.latency_s
        self._latency_sum_s += latency_s
        self._latencies[sum(latency_s > bound for bound in _LATENCIES_S)] += 1

    def _status(self, state: str, *, active: bool) -> None:
        if state == "waiting":
            self._set("source_up", not active, self._source)
        elif state == "stopping":
            self._set("source_up", 0, self._source)
        elif state == "silent":
            self._set("audio_silent", active, self._source)
        elif state == "reloaded":
            self._set("config_last_reload_successful", active)

    def _health(self, health: HealthState, time: str | None, scores: Mapping[str, float] | None) -> None:
        for name, key in _FROM_HEALTH.items():
            self._set(name, getattr(health, key), *([self._source] if _FAMILIES[name].labels else []))
        self._set("audio_reopens_total", health.reopens, self._source, "device")
        if health.drift_ppm is not None:
            self._set("audio_clock_drift_ratio", round(health.drift_ppm / 1e6, 9), self._source)
        self._set("audio_level_dbfs", health.rms_dbfs, self._source, "rms")
        self._set("audio_level_dbfs", health.peak_dbfs, self._source, "peak")
        if health.heard_s != self._processed_s and time:
            self._processed_s = health.heard_s
            self._set("audio_last_frame_timestamp_seconds", datetime.fromisoformat(time).timestamp(), self._source)
        self._sinks(health.sinks)
        if health.temperature_c is not None:
            self._set("temperature_celsius", health.temperature_c)
        if health.under_voltage is not None:
            self._set("under_voltage", health.under_voltage)
        self._inference = health.inference
        if self._scores:
            for label, score in (scores or {}).items():
                self._set("class_score", score, self._source, label)

    def _resets(self, resets: int) -> None:
        """Count resets that were not caused by a gap under a reason of their own."""
        known = self._values["state_resets_total"]
        other = resets - sum(n for (reason,), n in known.items() if reason != "other")
        if other > known.get(("other",), 0):
            self._set("state_resets_total", other, "other")

    def _sinks(self, sinks: Mapping[str, Mapping[str, float]]) -> None:
        brokers = [counts for name, counts in sinks.items() if name.startswith("mqtt")]
        if brokers:
            lost = (c["dropped"] + c["failed"] + c.get("messages_dropped", 0) for c in brokers)
            self._set("mqtt_connected", all(c.get("connected", c["working"]) for c in brokers))
            self._set("mqtt_reconnects_total", sum(c.get("reconnects", 0) for c in brokers))
            self._set("mqtt_dropped_messages_total", sum(lost))
        for family, key in _FROM_SINKS.items():
            self._values[family] = {(name,): float(counts[key]) for name, counts in sinks.items()}
        for name, counts in sinks.items():
            if name.startswith("clips") and "bytes" in counts:
                self._set("clips_bytes", counts["bytes"])

    def _latency(self) -> Histogram:
        return Histogram(_LATENCIES_S, tuple(itertools.accumulate(self._latencies)), self._latency_sum_s)

    def _set(self, name: str, value: float, *labels: str) -> None:
        self._values[name][labels] = float(value)

    def _add(self, name: str, value: float, *labels: str) -> None:
        self._values[name][labels] = self._values[name].get(labels, 0.0) + value


def _family(name: str, values: dict[tuple[str, ...], float]) -> Metric:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

    spec = _FAMILIES[name]
    make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = make(f"snn_detect_{name}", spec.text, labels=spec.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


def _histogram(name: str, text: str, found: Histogram | None) -> Metric:
    from prometheus_client.metrics_core import HistogramMetricFamily

    if found is None:
        return HistogramMetricFamily(f"snn_detect_{name}", text)
    bounds = [*map(str, found.le_s), "+Inf"]
    buckets = [(bound, float(n)) for bound, n in zip(bounds, found.counts, strict=True)]
    return HistogramMetricFamily(f"snn_detect_{name}", text, buckets, found.sum_s)
