#!/usr/bin/env bash
# Expected: nir computes the output shape of a Conv2d per dimension, as PyTorch does: (8, 8) by a kernel of 1 x 5 gives
#   (8, 4). A graph whose shapes agree with that is taken.
# Happens: nir 1.0.8 takes the height of the kernel for its width as well. With square kernels it is the same; a kernel
#   of 1 x 5 gives (8, 8), and NIRGraph refuses a right graph with "type mismatch". With type_check=False it is taken.
# Source: seen by this script; torch.nn.functional.conv2d for the shape; nir/ir/conv.py, Conv2d.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check nir==1.0.8 torch==2.13.0
"$work/venv/bin/python" - <<'PY'
from importlib.metadata import version

import nir
import numpy as np
import torch


def graph(kernel: tuple[int, int], *, type_check: bool) -> str:
    weight = np.ones((2, 1, *kernel), np.float32)
    right = tuple(torch.nn.functional.conv2d(torch.zeros(1, 1, 8, 8), torch.from_numpy(weight)).shape[1:])
    conv = nir.Conv2d((8, 8), weight, (1, 1), (0, 0), (1, 1), 1, np.zeros(2, np.float32))
    neurons = nir.LIF(*(np.ones(right, np.float32) for _ in range(4)))
    nodes = {"in": nir.Input(np.array([1, 8, 8])), "conv": conv, "lif": neurons, "out": nir.Output(np.array(right))}
    edges = [("in", "conv"), ("conv", "lif"), ("lif", "out")]
    try:
        nir.NIRGraph(nodes, edges, type_check=type_check)
        found = "taken"
    except ValueError as error:
        found = str(error)
    print(f"kernel {kernel}, torch gives {right}, type_check={type_check}: {found}")
    return found


print("nir", version("nir"), "torch", version("torch"))
square, flat, unchecked = graph((5, 5), type_check=True), graph((1, 5), type_check=True), graph((1, 5), type_check=False)
if square != "taken" or "conv.output: [[2 8 8]]" not in flat or unchecked != "taken":
    raise SystemExit("  changed: expected (1, 5) alone to be refused, for an output of (8, 8), and only where types are checked")
PY
