"""A model file's network as a NIR file, kept only if it spikes as the model does; beside it what NIR cannot say.

Run a NIR file beside the model that it was made of, and compare every spike.

The text that goes with a NIR file: in words and numbers, what the graph cannot say.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import tempfile
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nir
import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from detector.manifest import Manifest
from detector.messages import Spikes
from detector.network import Model, load_model, trace
from firmware_export.nir.graph import build_graph, frame_seconds
from firmware_export.nir.interpreter import Interpreter, Spiking
from firmware_export.onnx.export import ParityError, comparison_sound, encoded
from firmware_export.onnx.read import Network, read_network
from models import DEMO_SCENE

Float32 = NDArray[np.float32]
NEAR: Final = 1e-4
"""A spike may be there in one and not in the other where the membrane is this near to the threshold."""
TOLERANCE: Final = 1e-4
"""Largest difference of a score."""


@dataclass(frozen=True, slots=True)
class NirParity:
    """What the comparison found."""

    frames: int
    neurons: dict[str, int]
    """Spiking layers and their neurons."""
    spikes: dict[str, int]
    """Spikes that each layer sent."""
    near: int
    """Spikes that differ, all of neurons within ``NEAR`` of their threshold."""
    largest_score_difference: float
    value_reset_spikes: dict[str, int]
    """Spikes of the same graph where a spike sets the membrane to v_reset, as NIR's own equation has it."""
    value_reset_score_difference: float
    """Mean difference of its scores from the model's."""


def check_graph(path: Path, model: Model, spikes: Spikes) -> NirParity:
    """Compare the NIR file with its model over spikes (frames, planes, n_mfcc), frame by frame.

    Each layer is given the spikes of the runtime, so that a spike that differs by rounding is counted once
    and not in all that follows; where none differs, the graph by itself does the same.

    Raises ParityError that names the first layer and frame that differ.
    """
    graph = nir.read(path)
    soft, hard = Interpreter(graph, "subtract"), Interpreter(graph, "value")
    neurons = soft.spiking
    sent, hard_sent = Counter[str](), Counter[str]()
    near, largest, hard_difference = 0, 0.0, 0.0
    for frame, (x, wanted) in enumerate(zip(spikes, trace(model, spikes), strict=True)):
        scores = wanted.pop("scores")
        if wanted.keys() != neurons.keys():
            raise ParityError(f"{path.name}: its layers are not those of {model.path.name}; nothing was written")
        found, hard_found = soft.step(x, wanted), hard.step(x)
        for layer, truth in wanted.items():
            near += _differing(path, layer, frame, found[layer].ravel() != truth, neurons[layer])
            sent[layer] += int(truth.sum())
            hard_sent[layer] += int(hard_found[layer].sum())
        difference = float(np.abs(_sigmoid(found["output"]) - scores).max())
        if not difference <= TOLERANCE:
            raise ParityError(f"{path.name}: a score differs by {difference:.2g} at frame {frame}; nothing was written")
        largest = max(largest, difference)
        hard_difference += float(np.abs(_sigmoid(hard_found["output"]) - scores).mean()) / len(spikes)
    sizes = {name: unit.threshold.size for name, unit in neurons.items()}
    return NirParity(len(spikes), sizes, dict(sent), near, largest, dict(hard_sent), hard_difference)


def _differing(path: Path, layer: str, frame: int, differs: NDArray[np.bool_], unit: Spiking) -> int:
    """Count the spikes of a layer that differ, all of them near to the threshold."""
    if not (np.abs(unit.potential - unit.threshold).ravel()[differs] <= NEAR).all():
        raise ParityError(f"{path.name}: {layer} spikes otherwise than the model at frame {frame}; nothing was written")
    return int(differs.sum())


def _sigmoid(logits: Float32) -> Float32:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


MARK: Final = "<!-- made by snn-export nir; made anew with the graph beside it -->\n"
"""A text that begins with this was made here, and may be made anew."""
_COLUMNS: Final = 110


def describe(network: Network, parity: NirParity) -> str:
    """Return the text, in Markdown."""
    m = network.manifest
    parts = (
        f"# {m.name} {m.version} as a NIR graph, and what it does not say",
        *_graph(network),
        *_time(m),
        *_reset(parity),
        *_before(m),
        *_state(),
        *_behind(m),
        *_check(network, parity),
    )
    return MARK + "\n\n".join(parts) + "\n"


def _graph(network: Network) -> list[str]:
    m = network.manifest
    planes = 2 * len(m.encoder.thresholds)
    return [
        _paragraph(f"""The graph is the network of the model file with sha256 `{network.sha256}`: weights, delays,
            synapses, neurons and read-out. It takes the encoder's spikes of a frame, ({planes}, {m.features.n_mfcc}),
            and gives the logits of {len(m.classes)} classes, in this order: {", ".join(m.labels)}."""),
        _paragraph("""`to_bands` has one matrix for each plane of spikes, all the same. The convolutions go over the
            bands; frames before this one come through `Delay` nodes, and what arrives at a neuron by several edges
            adds up."""),
    ]


def _time(m: Manifest) -> list[str]:
    dt = frame_seconds(m)
    return [
        "## Time",
        _paragraph(f"""NIR has no time step. One step is one frame, dt = {dt:g} s, and the time constants are made for
            forward Euler:"""),
        "    v += dt / tau * ((v_leak - v) + r * i)    with tau = dt / (1 - beta), r = tau / dt",
        _paragraph("""which is v = beta * v + i with the model's decay beta, to the last bit as long as tau is kept in
            double precision, as it is in the file. Synapses likewise, with `tau_syn` and `w_in`; a bias behind one
            is `v_leak` = bias * r. In a `CubaLIF` the synapse comes first, and the membrane takes its new value in
            the same step."""),
        _paragraph("""A simulator with the exact solution, exp(-dt/tau), needs tau = -dt / log(beta), and nothing else
            changes. One whose step is built in (snnTorch: 0.0001 s) needs tau and the delays scaled to it, and again
            nothing else changes."""),
    ]


def _reset(parity: NirParity) -> list[str]:
    head = ("layer", "neurons", "spikes per frame, threshold subtracted", "spikes per frame, set to v_reset")
    rows = [
        (
            layer,
            parity.neurons[layer],
            f"{sent / parity.frames:.2f}",
            f"{parity.value_reset_spikes[layer] / parity.frames:.2f}",
        )
        for layer, sent in parity.spikes.items()
    ]
    return [
        "## Reset",
        _paragraph("""A spike is sent where v > v_threshold, and then the threshold is **subtracted** at once,
            `v -= v_threshold`. NIR's neurons know only `v = v_reset`: the graph says v_reset = 0, and what is meant
            stands in the metadata `reset` of each neuron. A simulator must be told. (In snnTorch: no reset, and the
            subtraction after each step by hand; its own "subtract" comes a step late, and with `reset_delay=False`
            it is another one where twice the threshold was passed.) With a reset to v_reset it is another network:"""),
        _table(head, rows),
        _paragraph(f"""and its scores, which go from 0 to 1, lie {parity.value_reset_score_difference:.3f} from the
            model's in the mean."""),
    ]


def _before(m: Manifest) -> list[str]:
    f, e = m.features, m.encoder
    numbers = json.dumps({"features": dataclasses.asdict(f), "encoder": dataclasses.asdict(e)}, indent=1)
    # Each list in one line: forty numbers below one another are not easier to read.
    numbers = re.sub(r"\[([^\[\]]*)\]", lambda found: f"[{' '.join(found[1].split())}]", numbers)
    return [
        "## Before the graph",
        _paragraph(f"""Sound at {f.sample_rate_hz} Hz is cut into frames of {f.frame_length} samples, one every
            {f.hop_length}. Each becomes {f.n_mfcc} cepstral coefficients over {f.n_mels} mel bands from {f.f_min_hz:g}
            to {f.f_max_hz:g} Hz (`detector/features.py`), and these become spikes by the rule `{e.rule}` with
            {len(e.thresholds)} thresholds (`detector/encoder.py`): plane 2i holds the up spikes of threshold i, plane
            2i+1 the down spikes. NIR has a node for neither."""),
        f"```json\n{numbers}\n```",
    ]


def _state() -> list[str]:
    return [
        "## State",
        _paragraph("""All potentials, synaptic currents and delays begin at zero and are kept from frame to frame while
            the stream goes on. A gap in the sound sets them back, and the encoder's baselines with them. NIR has no
            word for either."""),
    ]


def _behind(m: Manifest) -> list[str]:
    head = ("class", "category", "average", "on", "off", "shortest on", "shortest off", "refractory")
    rows = [(c.label, c.category, *(f"{v:g}" for v in dataclasses.astuple(c.decoder))) for c in m.classes]
    return [
        "## Behind the graph",
        _paragraph("""score = `1/(1+exp(-output))`. Scores become onsets and offsets by a moving average, two
            thresholds, shortest durations and a refractory time, lengths in frames (`detector/decoder.py`):"""),
        _table(head, rows),
    ]


def _check(network: Network, parity: NirParity) -> list[str]:
    seconds = parity.frames * frame_seconds(network.manifest)
    total = sum(parity.spikes.values())
    differing = (
        f"{parity.near} differ, each of a neuron within {NEAR:g} of its threshold" if parity.near else "none differs"
    )
    return [
        "## Check",
        _paragraph(f"""This file was read back and run over {parity.frames} frames ({seconds:.0f} s) of the demo scene
            with the threshold subtracted, beside the model in onnxruntime. Of {total} spikes {differing}; scores
            differ by at most {parity.largest_score_difference:.1e}."""),
    ]


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), _COLUMNS, break_long_words=False, break_on_hyphens=False)


def _table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def export_nir(path: Path, out: Path) -> NirParity:
    """Write a model's network as the NIR file ``out``, and a text of the same name that ends in ``.md``.

    Raises ManifestError for what is no model or has no such form, ConfigError for what NIR cannot say or
    a place that cannot be written, and ParityError where the file does not spike as the model does over
    the demo scene. Nothing half-written stays; files that are there are replaced only by both new ones.
    """
    text = out.with_suffix(".md")
    try:
        _check_names(out, text)
        network, model = read_network(path), load_model(path)
        graph = build_graph(network)
        spikes = encoded(model.manifest, comparison_sound((DEMO_SCENE,), model.manifest.features.sample_rate_hz))
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            new_graph, new_text = Path(beside) / out.name, Path(beside) / text.name
            new_graph.write_bytes(_file_of(graph))
            parity = check_graph(new_graph, model, spikes)
            new_text.write_text(describe(network, parity), encoding="utf-8")
            new_text.replace(text)
            new_graph.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error})") from error
    return parity


def _file_of(graph: nir.NIRGraph) -> bytes:
    """Return a graph as a file; made in memory, since HDF5 ends the whole process where a disk is full."""
    file = io.BytesIO()
    nir.write(file, graph)
    return file.getvalue()


def _check_names(out: Path, text: Path) -> None:
    """Raise ConfigError where the files would take others' places."""
    if out.suffix != ".nir":
        raise ConfigError(f"{out}: the file's name must end in .nir; what NIR cannot say goes beside it, in .md")
    for path in (out, text):
        if path.is_dir():
            raise ConfigError(f"{path}: there is a folder of that name; name another file")
    if text.exists() and not text.read_bytes().startswith(MARK.encode()):
        raise ConfigError(f"{text} is there and was not made by this command; give {out.name} another name")
