"""Run a NIR file beside the model that it was made of, and compare every spike."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nir
import numpy as np
from numpy.typing import NDArray

from detector.messages import Spikes
from detector.network import Model, trace
from firmware_export.nir_interpreter import Interpreter
from firmware_export.nir_units import Spiking
from firmware_export.parity import ParityError

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
