#!/usr/bin/env bash
# Expected: NIR's time constants are in seconds, and a reader needs a time step to make decays of them, as norse,
#   spikingjelly and spyx take one (dt). A LIF of 20 ms keeps most of its potential from one step of 1 ms to the next:
#   exp(-1/20) = 0.951.
# Happens: sinabs.nir.from_nir has no time step and takes tau as a number of steps: the decay is exp(-1/0.02) = 2e-22,
#   so that the neuron keeps nothing, with no error or warning. The input counts in full whatever r says, and several
#   spikes are sent in one step (an input of 2.5 thresholds sends 2). With tau = 20 the decay is 0.951. The other way is
#   the same: sinabs.nir.to_nir writes steps where others read seconds. True of 2.0.3 and 3.1.3.
# Source: seen by this script; sinabs/nir.py passes node.tau to LIFSqueeze(tau_mem=...), of which the documentation says
#   alpha = exp(-1/tau_mem). NIR's documentation has tau in the differential equation of its neurons.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
for packages in "sinabs==2.0.3 nirtorch==2.6 nir==1.0.8" "sinabs==3.1.3 nirtorch==2.0.2 nir==1.0.4"; do
    python3 -m venv --clear "$work/venv"
    # shellcheck disable=SC2086
    "$work/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 $packages
    "$work/venv/bin/python" -W ignore - <<'PY' || failed=1
from importlib.metadata import version

import nir
import numpy as np
import sinabs.nir
import torch

print("sinabs", version("sinabs"), "nir", version("nir"))


def run(tau, inputs):
    one = np.ones(1, np.float32)
    lif = nir.LIF(tau=one * tau, r=one, v_leak=0 * one, v_threshold=one)
    nodes = {"input": nir.Input(np.array([1])), "lif": lif, "output": nir.Output(np.array([1]))}
    network = sinabs.nir.from_nir(nir.NIRGraph(nodes, [("input", "lif"), ("lif", "output")]), batch_size=1)
    with torch.no_grad():
        spikes = network(torch.tensor(inputs)[:, None])[0]
    return spikes.ravel().tolist(), network.lif.v_mem.item()


found = {tau: run(tau, [0.9, 0.0]) for tau in (0.02, 20.0)}
for tau, (_, potential) in found.items():
    print(f"  tau = {tau}: an input of 0.9 leaves {potential:.3f} of itself after one more step")
sent, _ = run(20.0, [2.5])
print(f"  an input of 2.5 thresholds sends {sent[0]:g} spikes in one step")
if abs(found[0.02][1]) > 1e-6 or abs(found[20.0][1] - 0.9 * np.exp(-1 / 20)) > 1e-6 or sent != [2.0]:
    raise SystemExit("  changed: expected 0, 0.856 and 2 spikes")
PY
done
exit "$failed"
