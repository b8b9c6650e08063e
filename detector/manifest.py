"""The manifest: everything about a model that must be the same in training, runtime and firmware.

It travels as JSON in the metadata of the ``.onnx`` file. Every key is required, except for those that say that they
may be left out, and no other is allowed; the parameter classes of the stages check their own values. Recipes and run
folders are read as strictly, by the same ``parse_strictly``.

Annotations are evaluated here while the module is imported: as text they would take longer, when a model is loaded.
"""

import dataclasses
import functools
import json
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from detector.errors import DetectorError, ManifestError

SCHEMA = 1
_HIGHEST_RATE_HZ, _LONGEST_BLOCK = 384_000, 4096
_LONGEST_NAME, _MOST_CLASSES = 64, 10_000
METADATA_KEY = "snn_detect.manifest"
"""Key of the manifest in the ONNX file's metadata."""
BLOCK_KEY = "snn_detect.block"
"""Key of the same network unrolled over ``block_frames`` frames, as base64 of an ONNX file."""
Sensitivity = Literal["low", "balanced", "high"]
"""An operating point of a model: few false events, or few missed sounds."""
SENSITIVITIES: Final[tuple[Sensitivity, ...]] = typing.get_args(Sensitivity)
_MAY_BE_ABSENT: Final = "may be absent"
_OPTIONAL: Final = {_MAY_BE_ABSENT: True}
"""Metadata of a field that may be None: its key is then left out, as in models of earlier versions."""


@dataclass(frozen=True, slots=True)
class MfccParams:
    """Parameters of the incremental MFCC; lengths in samples."""

    sample_rate_hz: int
    frame_length: int
    hop_length: int
    n_fft: int
    n_mels: int
    n_mfcc: int
    f_min_hz: float
    f_max_hz: float
    preemphasis: float
    lifter: int
    """Length L of the sinusoidal cepstral lifter; 0 is none."""
    append_energy: bool
    """Replace the zeroth coefficient by the log of the frame's energy."""
    window: str | tuple[float, ...]
    """A name (rectangular, hann, hamming, blackman, bartlett) or one coefficient per sample."""
    log_floor: float
    """Energies below it count as this much; 0 replaces exact zeros only, by float64's epsilon."""


@dataclass(frozen=True, slots=True)
class EncoderParams:
    """Parameters of the delta encoder."""

    rule: Literal["send_on_delta", "frame_difference"]
    """Baseline that moves with each spike, or the memoryless difference of neighbouring frames."""
    thresholds: tuple[tuple[float, ...], ...]
    """One row per threshold, coarse to fine, one value per coefficient, in the features' own unit."""
    leak: float
    """Share by which a baseline sinks back to its rest in each frame; 0 is none."""
    rest: tuple[float, ...]
    """Baselines after a reset: the coefficients of silence; empty: the first frame sets them."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A float32 tensor of the graph."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of the network, for reports and exports."""

    name: str
    kind: Literal["conv", "dense", "readout"]
    inputs: int
    """Values that one neuron group reads per step, before any is skipped."""
    neurons: int
    macs: int
    """Dense multiply-adds per step."""
    spikes: str
    """Output of the graph that holds its spikes, frame by frame; empty where there are none."""


@dataclass(frozen=True, slots=True)
class NetworkParams:
    """The streaming graph: which equation, which tensors."""

    neuron: Literal["lif"]
    """U = beta * V + I; S = U > threshold; V' = U - threshold * S (models/network/csnn.py)."""
    reset: Literal["subtract"]
    threshold: float
    states: tuple[TensorSpec, ...]
    """Each state is an input ``name`` and an output ``new_name``; all are zero after a reset."""
    block_frames: int
    """Frames that the unrolled graph takes in one call."""
    layers: tuple[LayerSpec, ...]
    parameters: int


@dataclass(frozen=True, slots=True)
class EvidenceParams:
    """A leaky sum of log-odds over time: quick where a sound is clear, patient where it is not."""

    leak: float
    """Share of the evidence that is lost in each frame; 0 is none."""
    weight: float
    """Share of a frame's log-odds that is added: neighbouring frames are not independent."""
    bias: float
    """Log-odds at which a frame speaks neither for the sound nor against it."""


@dataclass(frozen=True, slots=True)
class DecoderParams:
    """How the scores of one class become events; durations in frames."""

    smoothing_frames: int
    """Length of the moving average over the score; 1 is none."""
    on_threshold: float
    off_threshold: float
    min_on_frames: int
    """Frames in a row at or above the on-threshold before an onset is sent."""
    min_off_frames: int
    """Frames in a row below the off-threshold before an offset is sent: shorter gaps are merged."""
    refractory_frames: int
    """Frames after an offset in which no new onset of the class is sent."""
    evidence: EvidenceParams | None = field(default=None, metadata=_OPTIONAL)
    """May be left out; where it is there, evidence takes the place of the average, and the thresholds are its own."""


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """The false events per hour for which decoder values were chosen, at each sensitivity."""

    low: float
    balanced: float
    high: float
    of: Literal["class", "all classes"]
    """Whether those are the false events of each class or of all together."""


@dataclass(frozen=True, slots=True)
class ClassResults:
    """How well a class was found in long streams that no choice was made on, and whether that is enough."""

    is_ready: bool
    """False: the class is on trial, and reported on request only."""
    found: int
    references: int
    """Sounds that stand out enough to count, and how many of them were found."""
    false_per_hour: float
    hours: float
    """False events per hour of the class meanwhile, and the length of what was evaluated."""
    latency_s: float | None = field(default=None, metadata=_OPTIONAL)
    """Median from a sound's beginning to its report; left out where none was found."""


@dataclass(frozen=True, slots=True)
class ClassSpec:
    """One class: its label, the category it belongs to, its decoder defaults."""

    label: str
    category: str
    decoder: DecoderParams
    """Values at the balanced sensitivity."""
    low: DecoderParams | None = field(default=None, metadata=_OPTIONAL)
    high: DecoderParams | None = field(default=None, metadata=_OPTIONAL)
    """Values at the other sensitivities, where the manifest has operating points; may be left out."""
    results: ClassResults | None = field(default=None, metadata=_OPTIONAL)
    """May be left out: the class is then reported as one that is ready."""

    def at(self, sensitivity: Sensitivity) -> Self:
        """Return the class with the decoder values of a sensitivity; unchanged where it has no others."""
        values = {"low": self.low, "balanced": self.decoder, "high": self.high}[sensitivity]
        return self if values is None else dataclasses.replace(self, decoder=values)


@dataclass(frozen=True, slots=True)
class DataSource:
    """Where training sounds came from."""

    name: str
    licence: str
    use: str


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """How the weights came to be."""

    command: str
    seed: int
    epochs: int
    clips: int
    folds_left_out: tuple[int, ...]
    """Folds of every source of recordings that the weights have not seen."""
    sources: tuple[DataSource, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is bound to the weights."""

    schema: int
    name: str
    version: str
    licence: str
    classes: tuple[ClassSpec, ...]
    features: MfccParams
    encoder: EncoderParams
    network: NetworkParams
    latency_samples: int
    """Algorithmic latency: from a sound's first sample to the first score that can depend on it."""
    training: TrainingRecord
    metrics: dict[str, float] = field(default_factory=dict)
    operating_points: OperatingPoints | None = field(default=None, metadata=_OPTIONAL)
    """May be left out: the classes then have one set of decoder values, that of the balanced sensitivity."""

    @property
    def sensitivities(self) -> tuple[Sensitivity, ...]:
        """The sensitivities to choose from."""
        return SENSITIVITIES if self.operating_points is not None else ("balanced",)

    @property
    def ready_labels(self) -> tuple[str, ...]:
        """The labels of the classes that are reported unless others are asked for: all but those on trial."""
        return tuple(c.label for c in self.classes if c.results is None or c.results.is_ready)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' labels, in the order of the scores."""
        return tuple(c.label for c in self.classes)

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Parse and check a manifest; ``where`` names the file in errors.

        Raises ManifestError for text that is not JSON, another schema, a missing or unknown key,
        or a value of the wrong type.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: the manifest is not JSON ({error}); export the model again") from error
        if not isinstance(data, dict):
            raise ManifestError(f"{where}: the manifest is not a JSON object; export the model again")
        if data.get("schema", SCHEMA) != SCHEMA:
            raise ManifestError(
                f"{where}: manifest schema {data['schema']!r} is unknown, this version reads schema {SCHEMA}; "
                "use a matching snn-detect or export the model again"
            )
        manifest: Self = parse_strictly(cls, data, where, "manifest", ManifestError)
        _check_consistency(manifest, where)
        return manifest

    def to_json(self) -> str:
        """Return the text that ``from_json`` reads back."""
        return json.dumps(self.as_dict(), separators=(",", ":"))

    def as_dict(self) -> dict[str, Any]:
        """Return the object of JSON, without the keys that are left out."""
        result: dict[str, Any] = _as_json(self)
        return result


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        parts = [(f, getattr(value, f.name)) for f in dataclasses.fields(value)]
        return {f.name: _as_json(part) for f, part in parts if part is not None or _MAY_BE_ABSENT not in f.metadata}
    return [_as_json(part) for part in value] if isinstance(value, tuple) else value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _check_consistency(manifest: Manifest, where: str) -> None:
    """Refuse what types cannot: stages whose parameters contradict each other."""
    width = manifest.features.n_mfcc
    for row in manifest.encoder.thresholds:
        if len(row) != width:
            raise ManifestError(
                f"{where}: manifest key 'encoder.thresholds' has rows of {len(row)} values but "
                f"'features.n_mfcc' is {width}; export the model again"
            )
    rate, block = manifest.features.sample_rate_hz, manifest.network.block_frames
    if not (0 < rate <= _HIGHEST_RATE_HZ and 0 < block <= _LONGEST_BLOCK):
        raise ManifestError(
            f"{where}: manifest keys 'features.sample_rate_hz' ({rate}) and 'network.block_frames' ({block}) "
            f"must lie in 1..{_HIGHEST_RATE_HZ} and 1..{_LONGEST_BLOCK}; export the model again"
        )
    names = [manifest.name, manifest.version, *(text for c in manifest.classes for text in (c.label, c.category))]
    wrong = [text for text in names if not (0 < len(text) <= _LONGEST_NAME and text.isprintable())]
    if wrong or len(manifest.classes) > _MOST_CLASSES:
        what = f"the name {wrong[0][:_LONGEST_NAME]!r}" if wrong else f"{len(manifest.classes)} classes"
        raise ManifestError(
            f"{where}: the manifest has {what}; names have 1 to {_LONGEST_NAME} printable characters, and there are at "
            f"most {_MOST_CLASSES} classes; export the model again"
        )
    if not manifest.classes or len(set(manifest.labels)) != len(manifest.classes):
        raise ManifestError(f"{where}: manifest key 'classes' must hold distinct labels; export the model again")
    has_points = manifest.operating_points is not None
    for spec in manifest.classes:
        if {spec.low is not None, spec.high is not None} != {has_points}:
            raise ManifestError(
                f"{where}: the class {spec.label!r} must have decoder values at low and high sensitivity where the "
                "manifest has 'operating_points', and only there; export the model again"
            )


def parse_strictly(kind: Any, data: Any, where: str, what: str, error: type[DetectorError]) -> Any:
    """Turn parsed JSON or TOML into the dataclass ``kind``, refusing missing, unknown and wrongly typed keys.

    ``where`` is the file and ``what`` the kind of document, for the one line of ``error`` that is raised.
    """
    return _Parser(where, what, error).parse(kind, data, "")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of a dataclass's fields; those that are text, as in other modules, are evaluated."""
    found = {f.name: f.type for f in dataclasses.fields(kind)}
    return typing.get_type_hints(kind) if any(isinstance(t, str) for t in found.values()) else found


@dataclass(frozen=True, slots=True)
class _Parser:
    where: str
    what: str
    error: type[DetectorError]

    def parse(self, kind: Any, value: Any, path: str) -> Any:
        """Check ``value`` against the type ``kind``; ``path`` names the key in errors."""
        if dataclasses.is_dataclass(kind):
            return self._dataclass(kind, value, path)
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin in (tuple, dict):
            return self._collection(origin, args, value, path)
        if origin is Literal:
            if value not in args:
                raise self._wrong(path, " or ".join(repr(a) for a in args), value)
            return value
        if origin is types.UnionType:
            members = tuple(a for a in args if a is not types.NoneType)  # None stands for a key that is left out
            kind = members[0] if len(members) == 1 else self._member(members, value, path)
            return self.parse(kind, value, path)
        return self._scalar(kind, value, path)

    def _member(self, args: tuple[Any, ...], value: Any, path: str) -> Any:
        """Choose a union's member: "a text or a list", or dataclasses distinguished by their key ``kind``."""
        if not dataclasses.is_dataclass(args[0]):
            return next(a for a in args if isinstance(value, list) == (a is not str))
        names = {typing.get_args(_hints(a)["kind"])[0]: a for a in args}
        kind = value.get("kind") if isinstance(value, dict) else value
        if kind not in names:
            raise self._wrong(f"{path}.kind", " or ".join(repr(name) for name in names), kind)
        return names[kind]

    def _collection(self, origin: Any, args: tuple[Any, ...], value: Any, path: str) -> Any:
        if origin is tuple:
            if not isinstance(value, list):
                raise self._wrong(path, "a list", value)
            return tuple(self.parse(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        if not isinstance(value, dict):
            raise self._wrong(path, "an object", value)
        return {k: self.parse(args[1], v, f"{path}.{k}") for k, v in value.items()}

    def _dataclass(self, kind: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise self._wrong(path, "an object", value)
        hints = _hints(kind)
        prefix = f"{path}." if path else ""
        optional = {f.name for f in dataclasses.fields(kind) if _MAY_BE_ABSENT in f.metadata}
        for key in hints:
            if key not in value and key not in optional:
                raise self.error(f"{self.where}: the {self.what} lacks the key {prefix + key!r}")
        for key in value:
            if key not in hints:
                raise self.error(f"{self.where}: the {self.what} has the unknown key {prefix + key!r}")
        parsed = {key: self.parse(hint, value[key], prefix + key) for key, hint in hints.items() if key in value}
        return kind(**parsed)

    def _scalar(self, kind: Any, value: Any, path: str) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            wanted = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}[kind]
            raise self._wrong(path, wanted, value)
        return value

    def _wrong(self, path: str, wanted: str, value: Any) -> DetectorError:
        return self.error(f"{self.where}: {self.what} key {path!r} must be {wanted}, not {str(value)[:40]!r}")
