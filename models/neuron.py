"""One neuron, step by step, under two resets: the project's, and snnTorch's default.

The project's neuron (``models.network``) pays for a spike at once, so that what is left leaks on:

    U[t] = beta * (U[t-1] - threshold * S[t-1]) + I[t]

snnTorch's ``Leaky`` with ``reset_mechanism="subtract"`` pays one step later (``reset_delay=True``)
the whole threshold, from a potential that has leaked meanwhile:

    U[t] = beta * U[t-1] - threshold * S[t-1] + I[t]

Each spike costs the latter (1 - beta) * threshold more, so it fires more rarely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import snntorch
import torch
from numpy.typing import NDArray

from models.scan import lif_scan
from models.surrogates import SurrogateStep

THRESHOLD = 1.0
NEURON_STEPS = 40
Signal = NDArray[np.float32]
"""(steps,): one value per step."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What one neuron did; all (steps,)."""

    current: Signal
    potential: Signal
    """U: the membrane potential that was compared with the threshold."""
    carried: Signal
    """The potential that the neuron takes along into the next step."""
    spikes: Signal


def trace_seed(current: Signal, beta: float, threshold: float = THRESHOLD) -> Trace:
    """Return the trace of the project's neuron for a current (steps,); from ``models.scan``, a step at a time."""
    mem, fired = torch.zeros(1, 1, 1), []
    carried = []
    for value in _steps(current):
        spike, mem = lif_scan(
            value.view(1, 1, 1, 1), torch.tensor([beta]), mem, threshold, SurrogateStep("fast_sigmoid", 10)
        )
        fired.append(spike.item())
        carried.append(mem.item())
    after, spikes = np.array(carried, np.float32), np.array(fired, np.float32)
    # The scan gives V; the spike says what was taken from U.
    return Trace(current, after + np.float32(threshold) * spikes, after, spikes)


def trace_snntorch(current: Signal, beta: float, threshold: float = THRESHOLD) -> Trace:
    """Return the trace of ``snntorch.Leaky`` as it comes, for a current (steps,)."""
    neuron = snntorch.Leaky(beta=beta, threshold=threshold, reset_mechanism="subtract")
    mem, fired, potential = torch.zeros(1), [], []
    for value in _steps(current):
        spike, mem = neuron(value.view(1), mem)
        fired.append(spike.item())
        potential.append(mem.item())
    carried = np.array(potential, np.float32)
    return Trace(current, carried, carried, np.array(fired, np.float32))


def step_current(level: float = 0.6, steps: int = NEURON_STEPS) -> Signal:
    """Return a current (steps,) that is switched on after an eighth of the time and off after seven."""
    current = np.zeros(steps, np.float32)
    current[steps // 8 : steps * 7 // 8] = level
    return current


def train_current(weight: float = 0.9, steps: int = NEURON_STEPS) -> Signal:
    """Return the current (steps,) of a synapse of this weight: spikes far apart, then closer, then in a burst."""
    current = np.zeros(steps, np.float32)
    for share in (0.05, 0.2, 0.35, 0.425, 0.5, 0.55, 0.6, 0.65, 0.75, 0.775, 0.8, 0.825, 0.85):
        current[int(share * steps)] = weight
    return current


def _steps(current: Signal) -> tuple[torch.Tensor, ...]:
    return torch.from_numpy(np.ascontiguousarray(current, np.float32)).unbind()
