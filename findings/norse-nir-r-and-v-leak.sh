#!/usr/bin/env bash
# Expected: norse.torch.from_nir reads NIR's neurons by their equations, tau dv/dt = (v_leak - v) + r i for a LIF and
#   for the membrane of a CubaLIF, whose synapse is tau_syn di/dt = -i + w_in s; and resets as its argument reset_method
#   says.
# Happens in norse 1.1.0: (1) a LIF's r is dropped, with a warning in the log that speaks of r "found to diverge"; with
#   ignore_warnings=True with none. r = 2 and r = 1 give the same potentials. (2) a CubaLIF's v_leak counts twice: it is
#   also given to the synapse, so that a neuron at rest without any input goes to v_leak * (1 + r) instead of v_leak.
#   (3) reset_method reaches CubaLIF alone: a LIF is reset to 0 also with reset_method=reset_subtract.
# Source: seen by this script; norse/torch/utils/import_nir.py. NIR's documentation has the equations.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 norse==1.1.0 nirtorch==2.6 nir==1.0.8
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import nir
import norse.torch
import numpy as np
import torch
from norse.torch.functional.reset import reset_subtract

print("norse", version("norse"), "nirtorch", version("nirtorch"), "nir", version("nir"))
one, dt = np.ones(1, np.float32), 0.001


def potential(node, inputs, index):
    """Return the membrane potential after the inputs, one a step of 1 ms."""
    nodes = {"input": nir.Input(np.array([1])), "neuron": node, "output": nir.Output(np.array([1]))}
    graph = nir.NIRGraph(nodes, [("input", "neuron"), ("neuron", "output")])
    network = norse.torch.from_nir(graph, ignore_warnings=True, reset_method=reset_subtract, dt=dt)
    state = None
    with torch.no_grad():
        for value in inputs:
            _, state = network(torch.tensor([value]), state)
    return round(index(state.state["neuron"][0]).v.item(), 3)


def lif(r, threshold=100):
    return nir.LIF(tau=one * 0.01, r=one * r, v_leak=0 * one, v_threshold=one * threshold)


def cuba(threshold):
    return nir.CubaLIF(
        tau_syn=one * 0.01, tau_mem=one * 0.01, r=one, v_leak=one * 0.5, v_threshold=one * threshold, w_in=one
    )


by_r = [potential(lif(r), [1.0] * 200, lambda s: s) for r in (1, 2)]
print("LIF after 200 ms with an input of 1, r = 1 and r = 2:", *by_r, "(the equation: 1 and 2)")
rest = potential(cuba(100), [0.0] * 400, lambda s: s[1])
print("CubaLIF after 400 ms without input, v_leak = 0.5, r = 1:", rest, "(the equation: 0.5)")
after = potential(lif(1, 1), [30.0], lambda s: s)
print("LIF at 3 thresholds with reset_method=reset_subtract: left with", after, "(by subtraction: 2.0)")
if by_r != [1.0, 1.0] or rest != 1.0 or after != 0.0:
    raise SystemExit("  changed: expected 1.0 and 1.0, 1.0, 0.0")
PY
