"""What the API answers, as dataclasses; its OpenAPI description is generated from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from detector.features import mel_centres_hz
from detector.manifest import ClassResults, MfccParams
from detector.pipeline import Detector
from detector.records import ActiveCondition, HealthState, ServiceState
from detector.sinks.base import NodeInfo

RANGE_DB: Final = 72.0
"""Range of packed levels of mel bands, in dB: byte 0 stands for this far below a sine at full scale."""
MEMBRANE_STEP: Final = 1 / 16
"""One step of a packed membrane potential, in the network's unit."""

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Id = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


def _null_first(schema: dict[str, Any]) -> None:
    """Put null before the type that may stand in its place."""
    schema["anyOf"].sort(key=lambda choice: choice.get("type") != "null")


@dataclass(frozen=True, slots=True)
class Error:
    """Why a request has failed."""

    error: str


@dataclass(frozen=True, slots=True)
class Event:
    """A sound: what its onset, its offset and its clip say; an event without a reason is going on."""

    id: Id
    label: str
    category: str | None
    source: str
    device: str | None
    onset_time: Time | None
    offset_time: Time | None
    duration_s: float | None
    onset_s: float
    offset_s: float | None
    score: float | None
    threshold: float | None
    peak: float | None
    mean: float | None
    level_dbfs: float | None
    reason: Annotated[str | None, Field(description="Why it has ended; null while it goes on.")]
    clock_synced: bool | None
    clip: Annotated[str | None, Field(description="Path of its sound; null without one.")]
    model: str | None
    model_sha256: str | None
    picture: Annotated[str | None, Field(description="Path of its picture; null without one.")]


@dataclass(frozen=True, slots=True)
class EventList:
    """Events, the newest first."""

    events: list[Event]


@dataclass(frozen=True, slots=True)
class Frames:
    """Consecutive frames of the network; the arrays are base64 of rows, one row a frame, the oldest first."""

    end_s: Annotated[float, Field(description="End of the first frame, in seconds since the stream began.")]
    frames: Count
    mel: Annotated[Base64, Field(description="A byte per band, from range_db below a sine at full scale up to it.")]
    encoder: Annotated[Base64, Field(description="A bit per spike train, the first one highest; rows of whole bytes.")]
    layers: Annotated[Mapping[str, Base64], Field(description="As encoder, by layer; empty where none was traced.")]
    membranes: Annotated[Base64, Field(description="A signed byte per class, in membrane_step; empty as layers.")]
    scores: Annotated[Base64, Field(description="A byte per class, 255 is a score of 1.")]
    means: Annotated[Base64, Field(description="As scores: the means that are compared with the thresholds.")]


@dataclass(frozen=True, slots=True)
class Picture:
    """Features, spikes and scores around an event."""

    origin: Literal["memory", "clip"]
    parts: list[Frames]


@dataclass(frozen=True, slots=True)
class Operations:
    """Synaptic operations per second of sound, without and with regard to which neurons spike."""

    dense_per_s: Count
    effective_per_s: Count


@dataclass(frozen=True, slots=True)
class SourceState:
    """How one of the sources is."""

    device: str
    up: Annotated[bool, Field(description="Whether the source is open.")]
    paused: bool
    conditions: tuple[ActiveCondition, ...]
    rms_dbfs: float
    lost_s: float


@dataclass(frozen=True, kw_only=True)
class _Source:
    source: str
    time: Time
    clock_synced: bool
    device: str
    device_rate_hz: Count
    paused: bool
    conditions: tuple[ActiveCondition, ...]


@dataclass(frozen=True, kw_only=True)
class _Server:
    viewers: Count
    dropped_messages: Annotated[Count, Field(description="Messages dropped because viewers were too slow.")]
    operations: Annotated[
        Operations | None,
        Field(description="Of the last second; null without viewers.", json_schema_extra=_null_first),
    ]


@dataclass(frozen=True, kw_only=True)
class Health(_Server, HealthState, _Source):
    """How the service is: its source, what health records hold, and its viewers."""

    # Any: a count stays an integer in JSON, and whether the sink works stays true or false.
    sinks: Annotated[Mapping[str, Mapping[str, Any]], Field(description="State and counts of each sink by its name.")]
    sources: Annotated[Mapping[str, SourceState], Field(description="All sources by their names.")]

    @classmethod
    def of(
        cls,
        state: ServiceState,
        viewers: int,
        dropped: int,
        operations: Operations | None,
        states: Sequence[ServiceState] = (),
    ) -> Health:
        """Return the state of a source and of the service, with the server's own counts and all ``states``."""
        sources = {s.source: _source_state(s) for s in states or (state,)}
        values = {f.name: getattr(state, f.name) for f in fields(state) if f.name not in {"health", "scores"}}
        values |= {f.name: getattr(state.health, f.name) for f in fields(state.health)}
        return cls(**values, sources=sources, viewers=viewers, dropped_messages=dropped, operations=operations)


def _source_state(state: ServiceState) -> SourceState:
    h = state.health
    return SourceState(state.device, h.up, state.paused, state.conditions, h.rms_dbfs, h.lost_s)


@dataclass(frozen=True, slots=True)
class Results:
    """How well a class was found in long streams that no choice was made on."""

    ready: Annotated[bool, Field(description="Whether that is enough; else the class is on trial.")]
    found: Count
    references: Annotated[Count, Field(description="Sounds that stand out enough to count.")]
    false_per_hour: float
    latency_s: Annotated[float | None, Field(description="Median; null where none was found.")]


@dataclass(frozen=True, slots=True)
class Class:
    """A class of the model, with the thresholds in force."""

    label: str
    category: str
    threshold: Share
    off_threshold: Share
    reported: bool
    results: Annotated[
        Results | None,
        Field(description="How well the class was found; null where that is unknown.", json_schema_extra=_null_first),
    ]


@dataclass(frozen=True, slots=True)
class Features:
    """The front end: its time base and its mel bands."""

    sample_rate_hz: Count
    hop_s: float
    frame_s: float
    mel_hz: list[float]
    range_db: float


@dataclass(frozen=True, slots=True)
class Encoder:
    """The spike encoder: planes of as many spike trains as there are coefficients."""

    rule: str
    planes: Count
    width: Count


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of the network; macs are multiply-accumulate operations per frame."""

    name: str
    kind: str
    neurons: Count
    macs: Count
    spikes: bool


@dataclass(frozen=True, slots=True)
class Training:
    """What the model was trained with."""

    epochs: Count
    clips: Count
    sources: list[str]


@dataclass(frozen=True, slots=True)
class Model:
    """The model, and the node that runs it."""

    node: str
    source: str
    sources: Annotated[list[str], Field(description="All sources; this description is that of one of them.")]
    version: Annotated[str, Field(description="Version of snn-detect.")]
    name: str
    model_version: str
    model_sha256: str
    licence: str
    parameters: Count
    latency_s: float
    classes: list[Class]
    features: Features
    encoder: Encoder
    layers: list[Layer]
    membrane_step: float
    training: Training
    metrics: Mapping[str, float]
    sensitivity: Annotated[str, Field(description="The operating point in force: low, balanced or high.")]
    sensitivities: Annotated[list[str], Field(description="The operating points that the model has.")]


def describe_model(detector: Detector, node_info: NodeInfo, sources: Sequence[str] = ()) -> Model:
    """Return what ``/api/model`` answers for one of the ``sources``; by default it is the only one."""
    m = detector.manifest
    reported = {label for label, _ in node_info.classes}
    return Model(
        node=node_info.node,
        source=node_info.source,
        sources=list(sources) or [node_info.source],
        version=node_info.version,
        name=m.name,
        model_version=m.version,
        model_sha256=detector.sha256,
        licence=m.licence,
        parameters=m.network.parameters,
        latency_s=m.latency_samples / m.features.sample_rate_hz,
        classes=[
            Class(
                c.label,
                c.category,
                c.decoder.on_threshold,
                c.decoder.off_threshold,
                c.label in reported,
                _results(c.results),
            )
            for c in detector.classes
        ],
        features=_features(m.features),
        encoder=Encoder(m.encoder.rule, 2 * len(m.encoder.thresholds), m.features.n_mfcc),
        layers=[Layer(x.name, x.kind, x.neurons, x.macs, bool(x.spikes)) for x in m.network.layers],
        membrane_step=MEMBRANE_STEP,
        training=Training(m.training.epochs, m.training.clips, [s.name for s in m.training.sources]),
        metrics=dict(m.metrics),
        sensitivity=detector.sensitivity,
        sensitivities=list(m.sensitivities),
    )


def _results(r: ClassResults | None) -> Results | None:
    return None if r is None else Results(r.is_ready, r.found, r.references, r.false_per_hour, r.latency_s)


def _features(p: MfccParams) -> Features:
    return Features(
        sample_rate_hz=p.sample_rate_hz,
        hop_s=p.hop_length / p.sample_rate_hz,
        frame_s=p.frame_length / p.sample_rate_hz,
        mel_hz=[round(float(hz), 1) for hz in mel_centres_hz(p)],
        range_db=RANGE_DB,
    )
