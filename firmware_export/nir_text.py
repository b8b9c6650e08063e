"""The text that goes with a NIR file: in words and numbers, what the graph cannot say."""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Sequence
from typing import Final

from detector.manifest import Manifest
from firmware_export.model_reading import Network
from firmware_export.nir_check import NEAR, NirParity
from firmware_export.nir_graph import frame_seconds

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
