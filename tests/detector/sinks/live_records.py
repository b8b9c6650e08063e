"""Records as the service makes them."""

from __future__ import annotations

from typing import Any

from detector.sinks.base import NodeInfo

STATION = NodeInfo(
    node="pi4",
    source="mic",
    device="usb-id:0d8c:0014",
    classes=(("guitar", "music"), ("speech", "voice")),
    model="household-1.2.0",
    model_sha256="ab" * 32,
    version="1.2.0",
)
_HEAD = {"v": 1, "seq": 1, "source": "mic", "device": "usb-id:0d8c:0014", "clock_synced": True}


def onset(label: str = "guitar", number: int = 1) -> dict[str, Any]:
    return _HEAD | {
        "type": "onset",
        "id": f"id-{number}",
        "label": label,
        "category": "music",
        "onset_s": 5123.44,
        "time": "2026-11-23T18:04:05.120+01:00",
        "score": 0.91,
        "threshold": 0.6,
        "latency_s": 0.24,
        "level_dbfs": -31.24,
        "model": "household-1.2.0",
        "model_sha256": "abababababab",
    }


def offset(label: str = "guitar", number: int = 1) -> dict[str, Any]:
    return _HEAD | {
        "type": "offset",
        "id": f"id-{number}",
        "label": label,
        "category": "music",
        "onset_s": 5123.44,
        "offset_s": 5126.86,
        "duration_s": 3.42,
        "peak": 0.97,
        "mean": 0.9,
        "reason": "ended",
        "time": "2026-11-23T18:04:08.540+01:00",
        "latency_s": 0.4,
        "model": "household-1.2.0",
    }


def gap(cause: str = "overrun") -> dict[str, Any]:
    time = "2026-11-23T18:04:05.120+01:00"
    return _HEAD | {"type": "gap", "time": time, "at_s": 12.3, "lost_s": 0.5, "cause": cause}


def status(state: str, *, active: bool = True, detail: str = "one line") -> dict[str, Any]:
    time = "2026-11-23T18:04:05.120+01:00"
    return _HEAD | {"type": "status", "time": time, "state": state, "active": active, "detail": detail}


def clip(number: int = 1, size: int = 1000) -> dict[str, Any]:
    time = "2026-11-23T18:04:05.120+01:00"
    written = {"id": f"id-{number}", "label": "guitar", "path": "/clips/a.flac", "bytes": size}
    return _HEAD | {"type": "clip", "time": time} | written


def health(uptime_s: float = 60.0, **changed: Any) -> dict[str, Any]:
    figures = {
        "type": "health",
        "time": "2026-11-23T18:05:00.000+01:00",
        "uptime_s": uptime_s,
        "heard_s": uptime_s - 1,
        "realtime_factor": 0.11,
        "lost_s": 0.5,
        "overruns": 2,
        "reopens": 1,
        "rms_dbfs": -48.23,
        "peak_dbfs": -31.0,
        "dc": 0.001,
        "clipped_samples": 7,
        "silent": False,
        "up": True,
        "queue_depth": 0.02,
        "rss_bytes": 80_000_000,
        "temperature_c": 51.5,
        "under_voltage": False,
        "resets": 1,
        "sinks": {},
        "model": "household-1.2.0",
        "model_sha256": "ab" * 32,
        "version": "1.2.0",
    }
    return _HEAD | figures | changed
