"""A model's network as a NIR file, written only if it spikes as the model does, and a text on what NIR cannot express.

The text is made of the files ``*.md.template``, filled in from the manifest and the comparison.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

import h5py
import nir
import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from detector.engine import names
from detector.engine.graph import Float32
from detector.errors import ConfigError
from detector.manifest import DecoderParams, Manifest
from detector.messages import Spikes
from detector.network import Model, load_model, trace
from firmware_export.files import atomic_output
from firmware_export.nir.forms import MODULE_MARK, REFUSED, TARGETS, Target
from firmware_export.nir.graph import build_graph, frame_seconds
from firmware_export.nir.interpreter import Interpreter, Spiking
from firmware_export.nir.unrolled import FLAGS, ChainLayer, unroll, windows
from firmware_export.onnx.parity import NOT_WRITTEN, ParityError, comparison_sound, encoded
from firmware_export.onnx.read import Network, read_network
from models import DEMO_SCENE

NEAR: Final = 1e-4
"""Spikes may differ where the membrane is this close to the threshold."""
TOLERANCE: Final = 1e-4
"""Largest difference of a score."""
MARK: Final = "<!-- made by snn-export nir; replaced together with the graph of the same name -->"
"""The first line of a generated text."""
OLD_NIR: Final = "1.0.4"
"""The release of nir that sinabs 3 asks for."""
_OWN_TEXT: Final = b"<!-- made by snn-export nir;"
"""A text that begins with this, whichever version wrote it, may be replaced."""
_COLUMNS: Final = 110


@dataclass(frozen=True, slots=True)
class NirParity:
    """The result of the comparison."""

    frames: int
    neurons: dict[str, int]
    """The number of neurons of each spiking layer."""
    spikes: dict[str, int]
    """The number of spikes of each layer."""
    near: int
    """Spikes that differ, all with the membrane within ``NEAR`` of the threshold."""
    largest_score_difference: float
    value_reset_spikes: dict[str, int] = field(default_factory=dict)
    """The same for the graph with a reset to v_reset, as NIR defines it; empty for a chain."""
    value_reset_score_difference: float = 0.0
    """Mean absolute difference of that graph's scores from the model's."""


def export_nir(path: Path, out: Path, simulator: str | None = None, nir_version: str | None = None) -> NirParity:
    """Write a model's network as the NIR file ``out``, and a text with the suffix ``.md`` beside it.

    ``simulator`` is a key of ``TARGETS``: the graph is made for it, and a module with the suffix ``.py`` runs it there.
    ``nir_version`` is ``OLD_NIR`` for a file that this release of nir reads.

    Raises ManifestError for a file that is no model or cannot be read back, ConfigError for a decay that NIR cannot
    express, a simulator without a form or a path that cannot be written, and ParityError where the graph does not spike
    as the model does over the demo scene. Existing files are replaced only when all new ones are complete.
    """
    form = target_of(simulator)
    text, module = out.with_suffix(".md"), out.with_suffix(".py")
    try:
        _check_names(out, text, *([module] if form else []))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error}); name another file") from error
    network, model = read_network(path), load_model(path)
    graph = form.build(network) if form else build_graph(network)
    rate_hz = model.manifest.features.sample_rate_hz
    with atomic_output(out) as part:
        part.write_bytes(_file_bytes(graph, nir_version))
        if form and form.is_unrolled:
            parity = check_chain(part, form, network, model, encoded(model.manifest, read_sound(DEMO_SCENE, rate_hz)))
        else:
            spikes = encoded(model.manifest, comparison_sound((DEMO_SCENE,), rate_hz))
            parity = check_graph(part, model, spikes)
        packages = _packages(form, nir_version)
        run = form.run_text(out.name, packages) if form else ""
        beside = {text: describe(network, parity, run, is_unrolled=form is not None and form.is_unrolled)}
        if form:
            beside[module] = form.module(network, out.name, packages)
        for place, content in beside.items():
            new = part.with_suffix(place.suffix)
            new.write_text(content, encoding="utf-8")
            new.replace(place)
    return parity


def target_of(simulator: str | None) -> Target | None:
    """Return a simulator's form, None for none; raises ConfigError, with the reason, where there cannot be one."""
    if simulator is None:
        return None
    if simulator in REFUSED:
        raise ConfigError(f"--for {simulator}: there is no form that spikes as the model does: {REFUSED[simulator]}")
    if simulator not in TARGETS:
        raise ConfigError(f"--for {simulator}: unknown; give one of {', '.join((*TARGETS, *REFUSED))}")
    return TARGETS[simulator]


def check_graph(path: Path, model: Model, spikes: Spikes) -> NirParity:
    """Compare the NIR file with its model over spikes (frames, planes, n_mfcc), frame by frame.

    Each layer receives the spikes of the runtime, so that a spike that differs by rounding is counted once and not
    in all layers after it; where none differs, the graph computes the same by itself.
    Raises ParityError, naming the first layer and frame that differ by more than rounding.
    """
    graph = nir.read(path)
    soft, hard = Interpreter(graph, "subtract"), Interpreter(graph, "value")
    neurons = soft.spiking
    sent, hard_sent = Counter[str](), Counter[str]()
    near, largest, hard_difference = 0, 0.0, 0.0
    for frame, (x, expected) in enumerate(zip(spikes, trace(model, spikes), strict=True)):
        scores = expected.pop(names.SCORES)
        if expected.keys() != neurons.keys():
            raise ParityError(f"{path.name}: its layers are not those of {model.path.name}; {NOT_WRITTEN}")
        found, hard_found = soft.step(x, expected), hard.step(x)
        for layer, truth in expected.items():
            near += _differing(path, layer, frame, found[layer].ravel() != truth, neurons[layer])
            sent[layer] += int(truth.sum())
            hard_sent[layer] += int(hard_found[layer].sum())
        difference = float(np.abs(_sigmoid(found["output"]) - scores).max())
        if not difference <= TOLERANCE:
            raise ParityError(f"{path.name}: a score differs by {difference:.2g} at frame {frame}; {NOT_WRITTEN}")
        largest = max(largest, difference)
        hard_difference += float(np.abs(_sigmoid(hard_found["output"]) - scores).mean()) / len(spikes)
    sizes = {name: unit.threshold.size for name, unit in neurons.items()}
    return NirParity(len(spikes), sizes, dict(sent), near, largest, dict(hard_sent), hard_difference)


def check_chain(path: Path, form: Target, network: Network, model: Model, spikes: Spikes) -> NirParity:
    """Compare the file of an unrolled form with its model over spikes (frames, planes, n_mfcc).

    As ``check_graph`` does, but the graph is run as the form's simulator reads it, and every copy of a layer is
    compared with what the layer was.
    """
    chain = unroll(network)
    runner = Interpreter(nir.read(path), "subtract", reading=form.reading)
    neurons = runner.spiking
    sent, near, largest = Counter[str](), 0, 0.0
    past: list[dict[str, Float32]] = []
    for frame, (x, expected) in enumerate(zip(windows(spikes, chain.frames), trace(model, spikes), strict=True)):
        scores = expected.pop(names.SCORES)
        past.append(expected)
        wanted = {layer.name: _with_copies(layer, past) for layer in chain.layers}
        found = runner.step(x, wanted)
        for layer, truth in wanted.items():
            near += _differing(path, layer, frame, found[layer] != truth, neurons[layer])
            sent[layer] += int(expected[layer].sum())
        logits = neurons[names.READOUT].potential if names.READOUT in neurons else found["output"]
        difference = float(np.abs(_sigmoid(logits) - scores).max())
        if not difference <= TOLERANCE:
            raise ParityError(f"{path.name}: a score differs by {difference:.2g} at frame {frame}; {NOT_WRITTEN}")
        largest = max(largest, difference)
    sizes = {layer.name: len(layer.beta) // len(layer.ages) - FLAGS for layer in chain.layers}
    return NirParity(len(spikes), sizes, dict(sent), near, largest)


def _with_copies(layer: ChainLayer, past: list[dict[str, Float32]]) -> Float32:
    """Return the spikes that all copies of a layer should send, from those of the layer in the frames so far."""
    now = len(past) - 1
    rows = [past[now - age][layer.name] if age <= now else np.zeros_like(past[now][layer.name]) for age in layer.ages]
    flags = [[float(age <= now), float(age == now)] for age in layer.ages]
    return np.concatenate([np.stack(rows), np.array(flags, np.float32)], axis=1).T.ravel()


def describe(network: Network, parity: NirParity, run: str = "", *, is_unrolled: bool = False) -> str:
    """Return the text beside a NIR file, in Markdown; ``run`` is the part about one simulator."""
    m = network.manifest
    f = m.features
    values = {
        "mark": MARK,
        "name": m.name,
        "version": m.version,
        "sha256": network.sha256,
        "planes": 2 * len(m.encoder.thresholds),
        "n_classes": len(m.classes),
        "labels": textwrap.fill(", ".join(m.labels), _COLUMNS, break_long_words=False, break_on_hyphens=False),
        "dt_s": f"{frame_seconds(m):g}",
        "reset_table": _reset_table(parity) if parity.value_reset_spikes else "",
        "reset_score_difference": f"{parity.value_reset_score_difference:.3f}",
        "sample_rate_hz": f.sample_rate_hz,
        "frame_length": f.frame_length,
        "hop_length": f.hop_length,
        "n_mfcc": f.n_mfcc,
        "n_mels": f.n_mels,
        "f_min_hz": f"{f.f_min_hz:g}",
        "f_max_hz": f"{f.f_max_hz:g}",
        "rule": m.encoder.rule,
        "n_thresholds": len(m.encoder.thresholds),
        "front_end": _front_end(m),
        "decoder_table": _decoder_table(m),
        "frames": parity.frames,
        "seconds": f"{parity.frames * frame_seconds(m):.0f}",
        "spikes": sum(parity.spikes.values()),
        "differing": f"{parity.near} differ, each with the membrane within {NEAR:g} of the threshold"
        if parity.near
        else "none differs",
        "score_difference": f"{parity.largest_score_difference:.1e}",
        "run": run,
    }
    head = "description_chain" if is_unrolled else "description_graph"
    if is_unrolled:
        values["window"] = unroll(network).frames
    return "".join(Template(_template(name)).substitute(values) for name in (head, "description"))


def _packages(form: Target | None, nir_version: str | None) -> str:
    if form is None:
        return ""
    return form.packages_with_old_nir if nir_version == OLD_NIR else form.packages


def _template(name: str) -> str:
    return resources.files("firmware_export").joinpath("nir", f"{name}.md.template").read_text(encoding="utf-8")


def _file_bytes(graph: nir.NIRGraph, nir_version: str | None = None) -> bytes:
    """Return a graph as the bytes of a file: in memory, since HDF5 aborts the process where a disk is full."""
    file = io.BytesIO()
    nir.write(file, graph)
    if nir_version == OLD_NIR:
        _without_v_reset(file)
    return file.getvalue()


def _without_v_reset(file: io.BytesIO) -> None:
    """Make a file that ``OLD_NIR`` reads: its neurons have no v_reset, which is 0 in all of ours."""
    with h5py.File(file, "r+") as content:
        nodes = content["node/nodes"]
        for name in list(nodes):
            if "v_reset" in nodes[name]:
                del nodes[name]["v_reset"]
        del content["version"]
        content.create_dataset("version", data=OLD_NIR, dtype=h5py.string_dtype())


def _check_names(out: Path, text: Path, module: Path | None = None) -> None:
    """Raise ConfigError where the files would replace others."""
    if out.suffix != ".nir":
        raise ConfigError(f"{out}: the name must end in .nir; rename it (a text of the same name goes into .md)")
    for path in (out, text, *([module] if module else [])):
        if path.is_dir():
            raise ConfigError(f"{path}: a folder of that name exists; name another file")
    for own, mark in ((text, _OWN_TEXT), (module, MODULE_MARK.encode())):
        if own is not None and own.exists() and not own.read_bytes().startswith(mark):
            raise ConfigError(f"{own}: exists and was not made by this command; give {out.name} another name")


def _differing(path: Path, layer: str, frame: int, differs: NDArray[np.bool_], unit: Spiking) -> int:
    """Return the number of a layer's spikes that differ; raise ParityError where one is not near the threshold."""
    if not (np.abs(unit.potential - unit.threshold).ravel()[differs] <= NEAR).all():
        raise ParityError(f"{path.name}: spikes of {layer} differ from the model's at frame {frame}; {NOT_WRITTEN}")
    return int(differs.sum())


def _sigmoid(logits: Float32) -> Float32:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def _reset_table(parity: NirParity) -> str:
    rows = [
        (
            layer,
            parity.neurons[layer],
            f"{sent / parity.frames:.2f}",
            f"{parity.value_reset_spikes[layer] / parity.frames:.2f}",
        )
        for layer, sent in parity.spikes.items()
    ]
    return _table(("layer", "neurons", "spikes per frame, threshold subtracted", "spikes per frame, v_reset"), rows)


def _front_end(m: Manifest) -> str:
    parameters = {"features": dataclasses.asdict(m.features), "encoder": dataclasses.asdict(m.encoder)}
    # One line per list of numbers.
    return re.sub(r"\[([^\[\]]*)\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(parameters, indent=1))


def _decoder_table(m: Manifest) -> str:
    keys = ("smoothing_frames", "on_threshold", "off_threshold", "min_on_frames", "min_off_frames", "refractory_frames")
    rows = [
        (c.label, c.category, *(f"{getattr(c.decoder, key):g}" for key in keys), _evidence(c.decoder))
        for c in m.classes
    ]
    return _table(("class", "category", "average", "on", "off", "min on", "min off", "refractory", "evidence"), rows)


def _evidence(p: DecoderParams) -> str:
    e = p.evidence
    return "no" if e is None else f"leak {e.leak:g}, weight {e.weight:g}, bias {e.bias:g}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
