"""Records as the service makes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from detector.messages import GapCause
from detector.records import (
    ClipRecord,
    GapRecord,
    HealthRecord,
    HealthState,
    Histogram,
    OffsetRecord,
    OnsetRecord,
    ServiceState,
    State,
    StatusRecord,
)
from detector.sinks.base import LiveSink, NodeInfo, SinkWorker

STATION = NodeInfo(
    node="pi4",
    source="mic",
    device="usb-id:0d8c:0014",
    classes=(("guitar", "music"), ("speech", "voice")),
    model="household-1.2.0",
    model_sha256="ab" * 32,
    version="1.2.0",
)
_LIVE: Any = {"device": "usb-id:0d8c:0014", "clock_synced": True}
_HEAD: Any = _LIVE | {"seq": 1, "source": "mic", "time": "2026-11-23T18:04:05.120+01:00"}


def onset(label: str = "guitar", number: int = 1, **changed: Any) -> OnsetRecord:
    record = OnsetRecord(
        **_HEAD,
        id=f"id-{number}",
        label=label,
        category="music",
        onset_s=5123.44,
        score=0.91,
        threshold=0.6,
        latency_s=0.24,
        level_dbfs=-31.24,
        model="household-1.2.0",
        model_sha256="abababababab",
    )
    return replace(record, **changed)


def offset(label: str = "guitar", number: int = 1, **changed: Any) -> OffsetRecord:
    record = OffsetRecord(
        **_HEAD | {"time": "2026-11-23T18:04:08.540+01:00"},
        id=f"id-{number}",
        label=label,
        category="music",
        onset_s=5123.44,
        offset_s=5126.86,
        duration_s=3.42,
        peak=0.97,
        mean=0.9,
        reason="ended",
        latency_s=0.4,
        model="household-1.2.0",
    )
    return replace(record, **changed)


def gap(cause: GapCause = "overrun", **changed: Any) -> GapRecord:
    return replace(GapRecord(**_HEAD, at_s=12.3, lost_s=0.5, cause=cause), **changed)


def status(state: State, *, active: bool = True, detail: str = "one line", **changed: Any) -> StatusRecord:
    return replace(StatusRecord(**_HEAD, state=state, active=active, detail=detail), **changed)


def clip(number: int = 1, size: int = 1000, **changed: Any) -> ClipRecord:
    return replace(ClipRecord(**_HEAD, id=f"id-{number}", label="guitar", path="/clips/a.flac", bytes=size), **changed)


def health(uptime_s: float = 60.0, time: str = "2026-11-23T18:05:00.000+01:00", **changed: Any) -> HealthRecord:
    """Return a health record; ``scores`` and ``calibrated`` are fields of the record, all others of its state."""
    own = {name: changed.pop(name) for name in ("scores", "calibrated", "device", "clock_synced") if name in changed}
    state = HealthState(
        uptime_s=uptime_s,
        heard_s=uptime_s - 1,
        realtime_factor=0.11,
        lost_s=0.5,
        overruns=2,
        reopens=1,
        rms_dbfs=-48.23,
        peak_dbfs=-31.0,
        dc=0.001,
        clipped_samples=7,
        silent=False,
        up=True,
        paused=False,
        queue_depth=0.02,
        rss_bytes=80_000_000,
        temperature_c=51.5,
        under_voltage=False,
        resets=1,
        frames=2950,
        drift_ppm=-12.5,
        inference=Histogram((0.01, 0.1), (2900, 2950, 2950), 12.5),
        sinks={},
        model="household-1.2.0",
        model_sha256="ab" * 32,
        version="1.2.0",
        sensitivity="balanced",
    )
    record = HealthRecord(**_HEAD | {"time": time}, health=replace(state, **changed), calibrated=None)
    return replace(record, **own)


def shown(uptime_s: float = 61.0, **changed: Any) -> ServiceState:
    """Return what the service shows when a sink asks for it; what is changed is of its health."""
    return ServiceState(
        source="mic",
        time="2026-11-23T18:05:01.000+01:00",
        clock_synced=True,
        device="mic",
        device_rate_hz=48000,
        paused=False,
        conditions=(),
        health=health(uptime_s, **changed).health,
    )


_SinkT = TypeVar("_SinkT", bound=LiveSink)


@contextmanager
def at_work(sink: _SinkT) -> Iterator[tuple[SinkWorker, _SinkT]]:
    """Run a sink of a broker behind its worker, and end both."""
    worker = SinkWorker("mqtt", sink)
    try:
        yield worker, sink
    finally:
        worker.begin_close(5)
        assert worker.join()
