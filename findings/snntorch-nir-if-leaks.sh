#!/usr/bin/env bash
# Expected: NIR's IF is a neuron without a leak, dv/dt = r i: ten inputs of 0.15 thresholds, however far apart, make it
#   spike once. A reader that cannot have it says so, as snntorch's does where r is not 1.
# Happens: snntorch 1.0.0 imports every IF as Leaky(beta=0.9), with no error or warning: the potential loses a tenth in
#   each step, and the ten inputs, ten steps apart, never make it spike. Its output is the pair (spikes, potential),
#   where that of an imported LIF is the spikes alone; and its reset is a subtraction, where a LIF's is to zero.
# Source: seen by this script; snntorch/import_nir.py, _nir_to_snntorch_module. NIR's documentation has the equation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 snntorch==1.0.0 nirtorch==2.6 nir==1.0.8
"$work/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import nir
import numpy as np
import torch
from snntorch.import_nir import import_from_nir

print("snntorch", version("snntorch"), "nirtorch", version("nirtorch"), "nir", version("nir"))
one = np.ones(1, np.float32)
neuron = nir.IF(r=one, v_threshold=one)
nodes = {"input": nir.Input(np.array([1])), "neuron": neuron, "output": nir.Output(np.array([1]))}
network = import_from_nir(nir.NIRGraph(nodes, [("input", "neuron"), ("neuron", "output")]))
state, sent = None, 0
with torch.no_grad():
    for step in range(100):
        spike, state = network(torch.tensor([[0.15 if step % 10 == 0 else 0.0]]), state)
        sent += int(spike[0].item())
beta = float(network.neuron.beta)
print(f"an IF becomes {type(network.neuron).__name__} with beta = {beta:g}")
print(f"ten inputs of 0.15 make {sent} spikes (without a leak: 1)")
if abs(beta - 0.9) > 1e-6 or sent != 0:
    raise SystemExit("  changed: expected beta = 0.9 and no spike")
PY
