"""EventMetrics for Prometheus, gathered from records; their names are a contract."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from detector.records import (
    ClipRecord,
    EventRecord,
    GapRecord,
    HealthRecord,
    Histogram,
    OffsetRecord,
    OnsetRecord,
    Record,
    StatusRecord,
)
from detector.sinks.base import NodeInfo

_LATENCIES_S: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)


@dataclass(frozen=True, slots=True)
class _Family:
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    text: str


_FAMILIES: Final = {
    "build_info": _Family("gauge", ("version", "model", "model_sha256"), "What runs; always 1."),
    "events_total": _Family("counter", ("source", "class"), "Sounds that began."),
    "event_active": _Family("gauge", ("source", "class"), "Whether a sound is heard now."),
    "class_score": _Family("gauge", ("source", "class"), "Score of a class, 0 to 1."),
    "audio_frames_total": _Family("counter", ("source",), "Frames that the network has taken."),
    "audio_overruns_total": _Family("counter", ("source",), "Times that the sound card's buffer ran over."),
    "audio_lost_seconds_total": _Family("counter", ("source",), "Sound that never reached the network."),
    "audio_reopens_total": _Family("counter", ("source", "reason"), "Times that the device was opened again."),
    "audio_level_dbfs": _Family("gauge", ("source", "kind"), "Level of the last second."),
    "audio_clipped_samples_total": _Family("counter", (), "Samples at full scale."),
    "audio_silent": _Family("gauge", ("source",), "Whether nothing but silence arrives."),
    "audio_last_frame_timestamp_seconds": _Family("gauge", ("source",), "When sound last arrived, since 1970."),
    "source_up": _Family("gauge", ("source",), "Whether the device is open and sound arrives."),
    "realtime_factor_ratio": _Family("gauge", (), "Computing time per time of sound."),
    "state_resets_total": _Family("counter", ("reason",), "Times that the network began anew."),
    "queue_depth_ratio": _Family("gauge", (), "Share of the sound buffer that is filled."),
    "temperature_celsius": _Family("gauge", (), "Of the machine's hottest zone."),
    "under_voltage": _Family("gauge", (), "Whether a Raspberry Pi gets too little voltage."),
    "mqtt_connected": _Family("gauge", (), "Whether every MQTT broker is connected."),
    "mqtt_reconnects_total": _Family("counter", (), "MQTT connections beyond the first."),
    "mqtt_dropped_messages_total": _Family("counter", (), "MQTT messages and records that were given up."),
    "clips_bytes": _Family("gauge", (), "Bytes of sound clips."),
    "config_last_reload_successful": _Family("gauge", (), "Whether the configuration in force is the file's."),
}
_FROM_HEALTH: Final = {
    "audio_overruns_total": "overruns",
    "audio_lost_seconds_total": "lost_s",
    "audio_silent": "silent",
    "source_up": "up",
    "audio_clipped_samples_total": "clipped_samples",
    "realtime_factor_ratio": "realtime_factor",
    "queue_depth_ratio": "queue_depth",
}
"""Families whose value stands in health records as it is; counters there count from the start as well."""


class EventMetrics(Collector):
    """Takes records in one thread and gives figures to any other."""

    def __init__(self, node_info: NodeInfo, *, scores: bool) -> None:
        """Begin with nothing heard; ``scores``: show each class's score, too."""
        self._source = node_info.source
        self._scores = scores
        self._lock = threading.Lock()
        self._values: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        self._latencies = [0] * (len(_LATENCIES_S) + 1)
        self._latency_sum_s = 0.0
        self._inference: Histogram | None = None
        self._heard_s = 0.0
        self._set("build_info", 1, node_info.version, node_info.model, node_info.model_sha256)
        self._set("config_last_reload_successful", 1)
        self._set("source_up", 0, self._source)
        for label, _ in node_info.classes:
            self._set("events_total", 0, self._source, label)
            self._set("event_active", 0, self._source, label)

    def take(self, record: Record) -> None:
        """Count what a record says."""
        with self._lock:
            match record:
                case OnsetRecord() | OffsetRecord():
                    self._event(record)
                case GapRecord():
                    self._add("state_resets_total", 1, record.cause)
                case StatusRecord():
                    self._status(record.state, active=record.active)
                case HealthRecord():
                    self._health(record)
                case ClipRecord():
                    self._add("clips_bytes", record.bytes)

    def collect(self) -> Iterator[Metric]:
        """Yield all families as they stand."""
        with self._lock:
            families = [_family(name, self._values[name]) for name in _FAMILIES]
            families += [self._latency(), self._duration()]
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

    def _health(self, record: HealthRecord) -> None:
        health = record.health
        for name, key in _FROM_HEALTH.items():
            self._set(name, getattr(health, key), *([self._source] if _FAMILIES[name].labels else []))
        self._set("audio_reopens_total", health.reopens, self._source, "device")
        self._set("audio_level_dbfs", health.rms_dbfs, self._source, "rms")
        self._set("audio_level_dbfs", health.peak_dbfs, self._source, "peak")
        if health.heard_s != self._heard_s:
            self._heard_s = health.heard_s
            self._set("audio_last_frame_timestamp_seconds", _moment(record.time), self._source)
        self._resets(health.resets)
        self._sinks(health.sinks)
        self._set("audio_frames_total", health.frames, self._source)
        if health.temperature_c is not None:
            self._set("temperature_celsius", health.temperature_c)
        if health.under_voltage is not None:
            self._set("under_voltage", health.under_voltage)
        self._inference = health.inference
        if self._scores:
            for label, score in (record.scores or {}).items():
                self._set("class_score", score, self._source, label)

    def _resets(self, resets: int) -> None:
        """Count resets that no gap explains under a reason of their own."""
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
        for name, counts in sinks.items():
            if name.startswith("clips") and "bytes" in counts:
                self._set("clips_bytes", counts["bytes"])

    def _latency(self) -> Metric:
        counts = itertools.accumulate(self._latencies)
        buckets = [(str(bound), float(n)) for bound, n in zip((*_LATENCIES_S, "+Inf"), counts, strict=True)]
        text = "Time from a sound's onset to the moment it became known."
        return HistogramMetricFamily("snn_detect_detection_latency_seconds", text, buckets, self._latency_sum_s)

    def _duration(self) -> Metric:
        name, text = "snn_detect_inference_duration_seconds", "Time to compute one chunk of sound."
        if self._inference is None:
            return HistogramMetricFamily(name, text)
        bounds = [*map(str, self._inference.le_s), "+Inf"]
        buckets = [(bound, float(n)) for bound, n in zip(bounds, self._inference.counts, strict=True)]
        return HistogramMetricFamily(name, text, buckets, self._inference.sum_s)

    def _set(self, name: str, value: float, *labels: str) -> None:
        self._values[name][labels] = float(value)

    def _add(self, name: str, value: float, *labels: str) -> None:
        self._values[name][labels] = self._values[name].get(labels, 0.0) + value


def _family(name: str, values: dict[tuple[str, ...], float]) -> Metric:
    spec = _FAMILIES[name]
    make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = make(f"snn_detect_{name}", spec.text, labels=spec.labels)
    for labels, value in _in_order(values.items()):
        family.add_metric(labels, value)
    return family


def _in_order(items: Iterable[tuple[tuple[str, ...], float]]) -> list[tuple[tuple[str, ...], float]]:
    return sorted(items)


def _moment(text: str | None) -> float:
    return time.time() if text is None else datetime.fromisoformat(text).timestamp()
