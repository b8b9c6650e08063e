"""The JSON API described in OpenAPI's words; tests hold it against the answers.

What browsers are told of the model, and sounds that are heard again for their picture.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

from detector import __version__
from detector.audio.sources import read_sound
from detector.features import mel_centres_hz
from detector.manifest import MfccParams
from detector.messages import Trace
from detector.pipeline import Detector
from detector.sinks.base import NodeInfo
from detector.web.events import Pictures
from detector.web.stream import MEMBRANE_STEP, RANGE_DB

Schema = dict[str, Any]
_MOST_EVENTS: Final = 5000


def _object(properties: Schema, *, closed: bool = True) -> Schema:
    """Return the schema of an object that has all of these."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        **({"additionalProperties": False} if closed else {}),
    }


def _or_null(*types: str) -> Schema:
    return {"type": [*types, "null"]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "number"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_YES: Final[Schema] = {"type": "boolean"}
_SHARE: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}
_BASE64: Final[Schema] = {"type": "string", "contentEncoding": "base64"}
_TIME: Final[Schema] = {"type": ["string", "null"], "format": "date-time"}

_EVENT: Final = _object(
    {
        "id": {"type": "string", "format": "uuid"},
        "label": _TEXT,
        "category": _or_null("string"),
        "source": _TEXT,
        "device": _or_null("string"),
        "onset_time": _TIME,
        "offset_time": _TIME,
        "duration_s": _or_null("number"),
        "onset_s": _NUMBER,
        "offset_s": _or_null("number"),
        "score": _or_null("number"),
        "threshold": _or_null("number"),
        "peak": _or_null("number"),
        "mean": _or_null("number"),
        "level_dbfs": _or_null("number"),
        "reason": {**_or_null("string"), "description": "Why it is over; null while it goes on."},
        "clock_synced": _or_null("boolean"),
        "model": _or_null("string"),
        "model_sha256": _or_null("string"),
        "clip": {**_or_null("string"), "description": "Where its sound is; null without one."},
        "picture": {**_or_null("string"), "description": "Where its picture is; null without one."},
    }
)
_PART: Final = _object(
    {
        "end_s": {"type": "number", "description": "Where the first frame ends, in seconds since the stream began."},
        "frames": _COUNT,
        "mel": {**_BASE64, "description": "A byte per band: range_db below a full-scale sine, up to it."},
        "encoder": {**_BASE64, "description": "A bit per spike train, rows filled up to bytes."},
        "layers": {"type": "object", "additionalProperties": _BASE64, "description": "As encoder, by layer."},
        "membranes": {**_BASE64, "description": "A signed byte per class, in membrane_step."},
        "scores": {**_BASE64, "description": "A byte per class, 255 is 1."},
        "means": {**_BASE64, "description": "As scores: the averages that the thresholds are held against."},
    }
)
_PICTURE: Final = _object({"origin": {"enum": ["memory", "clip"]}, "parts": _list(_ref("Frames"))})
_HEALTH: Final = _object(
    {
        "time": {"type": "string", "format": "date-time"},
        "clock_synced": _YES,
        "device": _TEXT,
        "device_rate_hz": _COUNT,
        "paused": _YES,
        "up": {"type": "boolean", "description": "Whether the device is open."},
        "silent": _YES,
        "conditions": _list(_object({"name": _TEXT, "detail": _TEXT})),
        "uptime_s": _NUMBER,
        "heard_s": _NUMBER,
        "realtime_factor": {"type": "number", "description": "Computing time per time of sound."},
        "lost_s": _NUMBER,
        "overruns": _COUNT,
        "reopens": _COUNT,
        "resets": _COUNT,
        "frames": _COUNT,
        "rms_dbfs": _NUMBER,
        "peak_dbfs": _NUMBER,
        "dc": _NUMBER,
        "clipped_samples": _COUNT,
        "queue_depth": _SHARE,
        "rss_bytes": _COUNT,
        "temperature_c": _or_null("number"),
        "under_voltage": _or_null("boolean"),
        "inference": {"type": "object"},
        "sinks": {"type": "object", "additionalProperties": {"type": "object"}},
        "model": _TEXT,
        "model_sha256": _TEXT,
        "version": _TEXT,
        "viewers": _COUNT,
        "dropped_messages": _COUNT,
        "operations": {
            "description": "Synaptic operations of the last second; null while nobody looks.",
            "anyOf": [{"type": "null"}, _object({"dense_per_s": _COUNT, "effective_per_s": _COUNT})],
        },
    }
)
_CLASS: Final = _object(
    {"label": _TEXT, "category": _TEXT, "threshold": _SHARE, "off_threshold": _SHARE, "reported": _YES}
)
_LAYER: Final = _object({"name": _TEXT, "kind": _TEXT, "neurons": _COUNT, "macs": _COUNT, "spikes": _YES})
_MODEL: Final = _object(
    {
        **dict.fromkeys(("node", "source", "version", "name", "model_version", "model_sha256", "licence"), _TEXT),
        "parameters": _COUNT,
        "latency_s": _NUMBER,
        "classes": _list(_CLASS),
        "features": _object(
            {
                "sample_rate_hz": _COUNT,
                "hop_s": _NUMBER,
                "frame_s": _NUMBER,
                "mel_hz": _list(_NUMBER),
                "range_db": _NUMBER,
            }
        ),
        "encoder": _object({"rule": _TEXT, "planes": _COUNT, "width": _COUNT}),
        "layers": _list(_LAYER),
        "membrane_step": _NUMBER,
        "training": _object({"epochs": _COUNT, "clips": _COUNT, "sources": _list(_TEXT)}),
        "metrics": {"type": "object", "additionalProperties": _NUMBER},
    }
)


def _answer(description: str, media_type: str, schema: Schema) -> Schema:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _get(summary: str, answer: Schema, *codes: int, parameters: tuple[Schema, ...] = ()) -> Schema:
    why = {
        400: "A parameter that cannot be.",
        401: "The token is missing or wrong.",
        404: "There is no such thing.",
        503: "Not now.",
    }
    failures = {str(c): _answer(why[c], "application/json", _ref("Error")) for c in (400, 401, *codes)}
    return {"get": {"summary": summary, "parameters": list(parameters), "responses": {"200": answer, **failures}}}


def _query(name: str, description: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": schema}


_WORDS: Final = _list({"type": "string", "minLength": 1, "maxLength": 64})
_MOMENT: Final[Schema] = {"type": "string", "format": "date-time"}
_ID: Final[Schema] = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
_CHOICE: Final = (
    _query("label", "Only these sounds; may be repeated.", _WORDS),
    _query("category", "Only sounds of these categories; may be repeated.", _WORDS),
    _query("since", "Only events that began then or later.", _MOMENT),
    _query("until", "Only events that began before.", _MOMENT),
    _query(
        "limit",
        "At most so many, the newest.",
        {"type": "integer", "minimum": 1, "maximum": _MOST_EVENTS, "default": 500},
    ),
)
_STREAM: Final = (
    "`frames`: a Frames object with `rms_dbfs`, `peak_dbfs` and `clipped`; `record`: a record as on standard output; "
    "`state`: a Health object, once a second. Messages that a client is too slow for are dropped, the oldest first."
)

DESCRIPTION: Final[Schema] = {
    "openapi": "3.1.0",
    "info": {
        "title": "snn-detect",
        "version": __version__,
        "description": "What the detector hears, as it hears it.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "security": [{}, {"token": []}, {"cookie": []}],
    "paths": {
        "/api/health": _get("How the service is.", _answer("Now.", "application/json", _ref("Health")), 503),
        "/api/model": _get("What the model is.", _answer("The model.", "application/json", _ref("Model"))),
        "/api/events": _get(
            "Events, the newest first.",
            _answer("Events.", "application/json", _object({"events": _list(_ref("Event"))})),
            503,
            parameters=_CHOICE,
        ),
        "/api/events/{id}": _get(
            "One event.", _answer("The event.", "application/json", _ref("Event")), 404, 503, parameters=(_ID,)
        ),
        "/api/events/{id}/picture": _get(
            "What was going on around it.",
            _answer("Features, spikes and scores.", "application/json", _ref("Picture")),
            404,
            503,
            parameters=(_ID,),
        ),
        "/api/events/{id}/clip": _get(
            "Its sound, where clips are kept.",
            _answer("A FLAC file; ranges work.", "audio/flac", {"type": "string", "format": "binary"}),
            404,
            503,
            parameters=(_ID,),
        ),
        "/api/stream": _get(
            "All that happens, as server-sent events.", _answer(_STREAM, "text/event-stream", _TEXT), 503
        ),
        "/api/openapi.json": _get("This.", _answer("OpenAPI 3.1.", "application/json", {"type": "object"})),
    },
    "components": {
        "securitySchemes": {
            "token": {"type": "http", "scheme": "bearer"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": "snn_detect"},
        },
        "schemas": {
            "Error": _object({"error": _TEXT}),
            "Event": _EVENT,
            "Frames": _PART,
            "Picture": _PICTURE,
            "Health": _HEALTH,
            "Model": _MODEL,
        },
    },
}


_BLOCK_S: Final = 1


class ModelInfo:
    """Describes the model, and looks into it with sounds that were kept."""

    def __init__(self, detector: Detector, node_info: NodeInfo, pictures: Pictures) -> None:
        """Take the detector, whose stream is left alone."""
        self.card: Final = card(detector, node_info)
        self._detector, self._pictures = detector, pictures
        self._one_at_a_time = threading.Lock()

    def again(self, path: Path) -> dict[str, Any]:
        """Return the picture of a sound file; raises SourceError where it cannot be read."""
        with self._one_at_a_time:
            detector = self._detector.fresh()
            detector.observer = album = _Album()
            rate_hz = detector.sample_rate_hz
            sound = read_sound(path, rate_hz)
            for at in range(0, len(sound), _BLOCK_S * rate_hz):
                detector.push(sound[at : at + _BLOCK_S * rate_hz])
            detector.flush()
        return self._pictures.picture(album.seen, "clip")


class _Album:
    wants_layers = True

    def __init__(self) -> None:
        self.seen: list[Trace] = []

    def on_trace(self, trace: Trace) -> None:
        self.seen.append(trace)


def card(detector: Detector, node_info: NodeInfo) -> dict[str, Any]:
    """Return what ``/api/model`` tells."""
    m = detector.manifest
    p, reported = m.features, {label for label, _ in node_info.classes}
    return {
        "node": node_info.node,
        "source": node_info.source,
        "version": node_info.version,
        "name": m.name,
        "model_version": m.version,
        "model_sha256": detector.sha256,
        "licence": m.licence,
        "parameters": m.network.parameters,
        "latency_s": m.latency_samples / p.sample_rate_hz,
        "classes": [
            {
                "label": c.label,
                "category": c.category,
                "threshold": c.decoder.on_threshold,
                "off_threshold": c.decoder.off_threshold,
                "reported": c.label in reported,
            }
            for c in detector.classes
        ],
        "features": _features(p),
        "encoder": {"rule": m.encoder.rule, "planes": 2 * len(m.encoder.thresholds), "width": p.n_mfcc},
        "layers": [
            {"name": x.name, "kind": x.kind, "neurons": x.neurons, "macs": x.macs, "spikes": bool(x.spikes)}
            for x in m.network.layers
        ],
        "membrane_step": MEMBRANE_STEP,
        "training": {
            "epochs": m.training.epochs,
            "clips": m.training.clips,
            "sources": [s.name for s in m.training.sources],
        },
        "metrics": dict(m.metrics),
    }


def _features(p: MfccParams) -> dict[str, Any]:
    return {
        "sample_rate_hz": p.sample_rate_hz,
        "hop_s": p.hop_length / p.sample_rate_hz,
        "frame_s": p.frame_length / p.sample_rate_hz,
        "mel_hz": [round(float(hz), 1) for hz in mel_centres_hz(p)],
        "range_db": RANGE_DB,
    }
