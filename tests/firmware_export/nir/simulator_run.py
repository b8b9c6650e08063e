"""Run by the Python of a simulator's environment: a module of ``snn-export nir --for``, or a plain import of a graph.

python simulator_run.py run MODULE.py REFERENCE.npz      # the spikes that differ, as a line of JSON
python simulator_run.py import SIMULATOR GRAPH.nir       # what the simulator's own import makes of a graph
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

IMPORTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "norse": ("norse.torch", "from_nir", {}),
    "snntorch": ("snntorch.import_nir", "import_from_nir", {}),
    "sinabs": ("sinabs.nir", "from_nir", {"batch_size": 1}),
    "rockpool": ("rockpool.nn.modules.torch.nir", "from_nir", {}),
    "spikingjelly": ("spikingjelly.activation_based.nir_exchange", "import_from_nir", {"dt": 0.025}),
    "spyx": ("spyx.nir", "from_nir", {"input_data": np.zeros((1, 1, 6, 40), np.float32), "dt": 0.025}),
    "nirtorch": ("nirtorch", "nir_to_torch", {"node_map": {}}),
}


def main() -> None:
    """Run one of the two commands."""
    warnings.simplefilter("ignore")
    command, first, second = sys.argv[1:]
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        found = run(Path(first), Path(second)) if command == "run" else plain_import(first, Path(second))
    sys.stdout.write(json.dumps(found) + "\n")


def run(module: Path, reference: Path) -> dict[str, Any]:
    """Return how many spikes differ from those of the reference, where the first do, and how far scores differ."""
    spec = importlib.util.spec_from_file_location("form", module)
    assert spec is not None
    assert spec.loader is not None
    form = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(form)
    network, known = form.Network(module.with_suffix(".nir")), np.load(reference)
    layers = [name for name in known.files if name not in {"spikes", "scores"}]
    differ, sent, first, largest = 0, 0, None, 0.0
    for frame, x in enumerate(known["spikes"]):
        scores = network.step(x)
        largest = max(largest, float(np.abs(scores - known["scores"][frame]).max()))
        assert sorted(network.layers) == sorted(layers)
        count = sum(int((network.layers[name] != known[name][frame]).sum()) for name in layers)
        first = frame if count and first is None else first
        differ, sent = differ + count, sent + sum(int(known[name][frame].sum()) for name in layers)
    return {"differ": differ, "sent": sent, "first": first, "score": largest, "frames": len(known["spikes"])}


def plain_import(simulator: str, graph: Path) -> str:
    """Return the error of a simulator's own import of a graph, in one line; an empty text where it takes it."""
    import nir

    module, function, options = IMPORTS[simulator]
    try:
        importlib.import_module(module)
        getattr(sys.modules[module], function)(nir.read(graph), **options)
    except Exception as error:  # noqa: BLE001 - whatever a simulator raises
        return " ".join(f"{type(error).__name__}: {error}".split())[:140]
    return ""


if __name__ == "__main__":
    main()
