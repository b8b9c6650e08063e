#!/usr/bin/env bash
# Expected: nirtorch.nir_to_torch maps the standard layers of a NIR graph by itself ("a common set of mappings are
#   provided by default (e. g. Linear, Conv, etc.)"); an Affine node becomes a torch.nn.Linear with the node's weight
#   and the node's bias.
# Happens: nirtorch 2.6 takes the weight and leaves the bias that torch.nn.Linear made at random: the node's bias is set
#   as an attribute of the weight (`module.weight.bias = ...`), which torch accepts. A graph with the bias 5 gives other
#   numbers in every process, all below 1. With a map of one's own for nir.Affine the bias is right.
# Source: seen by this script; nirtorch/nir_interpreter.py, _default_map_affine; the docstring of nir_to_torch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 nirtorch==2.6 nir==1.0.8
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import nir
import nirtorch
import numpy as np
import torch

print("nirtorch", version("nirtorch"), "nir", version("nir"), "torch", version("torch"))
node = nir.Affine(weight=np.ones((1, 2), np.float32), bias=np.array([5], np.float32))
nodes = {"input": nir.Input(np.array([2])), "affine": node, "output": nir.Output(np.array([1]))}
graph = nir.NIRGraph(nodes, [("input", "affine"), ("affine", "output")])
x = torch.zeros(2)
default = [float(nirtorch.nir_to_torch(graph, {})(x)[0]) for _ in range(3)]


def affine(node):
    module = torch.nn.Linear(2, 1)
    module.weight.data, module.bias.data = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    return module


own = float(nirtorch.nir_to_torch(graph, {nir.Affine: affine})(x)[0])
print("the bias is 5; three imports by the default map:", *(f"{value:.3f}" for value in default))
print("by a map of one's own:", own)
if own != 5 or len(set(default)) == 1 or max(map(abs, default)) > 1:
    raise SystemExit("  changed: expected three other numbers by the default map, and 5 by an own map")
PY
