"""Forms of the NIR graph for single simulators: what each computes of it, as far as its spikes depend on that.

Each form comes with a small module that loads the file in that simulator and runs it. What the module does beyond the
simulator's own import is written in its text. ``tests/firmware_export/nir/simulators.py`` runs these modules with the
releases named here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Final

import nir
import numpy as np
from numpy.typing import NDArray

from detector.engine import names
from detector.engine.graph import Float32
from firmware_export.nir.graph import (
    LeakStep,
    build_graph,
    leak_step,
    time_constants,
)
from firmware_export.nir.interpreter import EULER_READING, Reading
from firmware_export.nir.unrolled import (
    FLAGS,
    RELAY,
    ChainLayer,
    ChainWriter,
    build_chain,
    unroll,
    with_offset_in_weights,
)
from firmware_export.onnx.read import Network

Float64 = NDArray[np.float64]
MODULE_MARK: Final = "# made by snn-export nir; replaced together with the graph of the same name"
"""The first line of a generated module."""
_NEVER: Final = 1e30
"""Threshold of read-outs in simulators that have no integrators without spikes."""
_VANISHING: Final = 1 / 700
"""A time constant in steps of which exp(-1/tau) is 0 in single precision, and not in double."""


@dataclass(frozen=True, slots=True)
class Target:
    """The graph for one simulator."""

    simulator: str
    packages: str
    """Those it was tried with, as pip takes them."""
    packages_with_old_nir: str
    """Those that ask for the older nir; the same where none does."""
    build: Callable[[Network], Any]
    """Gives the ``nir.NIRGraph``."""
    reading: Reading
    templates: tuple[str, ...]
    """Of the module, joined."""
    about: str
    """What differs from the simulator's plain import, one sentence or more."""
    is_unrolled: bool = True
    """Whether the input is a window of frames."""

    def run_text(self, graph_name: str, packages: str) -> str:
        """Return the part of the text about the simulator, in Markdown."""
        module = Path(graph_name).with_suffix(".py").name
        return Template(_text("description_run")).substitute(
            simulator=self.simulator, packages=packages, module=module, about=self.about.replace("\n", " ")
        )

    def module(self, network: Network, graph_name: str, packages: str) -> str:
        """Return the Python module that runs the graph in the file of that name."""
        m = network.manifest
        values = {
            "mark": MODULE_MARK,
            "name": m.name,
            "version": m.version,
            "simulator": self.simulator,
            "packages": packages,
            "module": Path(graph_name).with_suffix(".py").name,
            "graph": graph_name,
            "about": self.about,
            "planes": 2 * len(m.encoder.thresholds),
            "n_mfcc": m.features.n_mfcc,
        }
        if self.is_unrolled:
            chain = unroll(network)
            copies = {layer.name: len(layer.ages) for layer in chain.layers}
            window = {"frames": chain.frames, "frame_size": chain.frame_size, "copies": copies}
            values["window"] = Template(_template("window")).safe_substitute(values, **window)
        return "".join(
            Template(_template(name)).substitute(values) for name in ("module_head", *self.templates, "module_tail")
        )


def _template(name: str) -> str:
    return _text(name, ".py")


def _text(name: str, suffix: str = ".md") -> str:
    return resources.files("firmware_export").joinpath("nir", f"{name}{suffix}.template").read_text(encoding="utf-8")


def _euler_layer(writer: ChainWriter, layer: ChainLayer) -> None:
    """Add neurons that take forward Euler steps; the synapse of those without one keeps nothing."""
    writer.weights(layer.name, with_offset_in_weights(layer))
    alpha = np.zeros_like(layer.beta) if layer.alpha is None else layer.alpha
    writer.add(layer.name, _euler_neurons(alpha, layer.beta, np.ones(len(layer.beta)), writer.dt_s, layer.name))


def _euler_readout(beta: Float32, dt_s: float) -> Any:
    return _euler_neurons(np.zeros_like(beta), beta, np.full(len(beta), _NEVER), dt_s, names.READOUT)


def _euler_neurons(alpha: Float32, beta: Float32, threshold: Float64, dt_s: float, name: str) -> Any:
    zeros = np.zeros(len(beta), np.float32)
    synapse, membrane = time_constants(alpha, zeros, dt_s, name), time_constants(beta, zeros, dt_s, name)
    return nir.CubaLIF(
        tau_syn=synapse.tau,
        w_in=synapse.r,
        tau_mem=membrane.tau,
        r=membrane.r,
        v_leak=membrane.v_leak,
        v_threshold=threshold,
        v_reset=np.zeros(len(beta)),
    )


def _steps_layer(writer: ChainWriter, layer: ChainLayer) -> None:
    """Add neurons whose time constants are in steps, a synapse as an integrator in front of them.

    The flags pass the integrator as they are; the matrix behind it adds the offset and makes their neurons spike.
    """
    size = len(layer.beta)
    weight, flags = layer.weight, slice(size - FLAGS * len(layer.ages), size)
    if layer.alpha is not None:
        weight = weight.copy()
        weight[flags] /= np.float32(RELAY)
        writer.weights(f"{layer.name}_synapse", weight)
        writer.add(f"{layer.name}_synapse", _steps_integrator(layer.alpha, writer.dt_s))
        weight = np.eye(size, dtype=np.float32)
        if layer.offset is not None:
            on = np.tile(np.arange(flags.start, flags.start + len(layer.ages)), size // len(layer.ages))
            weight[np.arange(size), on] += layer.offset
        weight[flags] *= np.float32(RELAY)
    writer.weights(layer.name, weight)
    ones = np.ones(size)
    lif = nir.LIF(tau=_steps(layer.beta), r=ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)
    writer.add(layer.name, lif)


def _steps_integrator(beta: Float32, _dt_s: float) -> Any:
    return nir.LI(tau=_steps(beta), r=np.ones(len(beta)), v_leak=np.zeros(len(beta)))


def _steps(decay: Float32) -> Float64:
    """Return the time constants tau in steps with exp(-1/tau) = decay."""
    known = np.maximum(decay.astype(np.float64), np.exp(-1 / _VANISHING))
    return np.asarray(-1 / np.log(known))


def _step_factors(tau: Any, r: Any, v_leak: Any, _dt_s: float) -> LeakStep:
    """Read time constants in steps; r and v_leak do not count."""
    return LeakStep(np.exp(-1 / tau).astype(np.float32), np.ones_like(r, np.float32), np.zeros_like(v_leak, np.float32))


_NIRTORCH: Final = "nirtorch==2.6 nir==1.0.8 torch==2.13.0"
TARGETS: Final[dict[str, Target]] = {
    "nirtorch": Target(
        "nirtorch",
        _NIRTORCH,
        _NIRTORCH,
        build_graph,
        EULER_READING,
        ("nirtorch_neurons", "graph_module"),
        "nirtorch itself maps no neurons, and puts random\nnumbers in place of the bias of an Affine; this is the map.",
        is_unrolled=False,
    ),
    "snntorch": Target(
        "snnTorch",
        f"snntorch==1.0.0 {_NIRTORCH}",
        f"snntorch==1.0.0 {_NIRTORCH}",
        build_graph,
        EULER_READING,
        ("snntorch_neurons", "graph_module"),
        "snnTorch's own import resets to zero and has neither\n"
        "Conv1d, Delay, LI nor v_leak; so nirtorch reads the graph, and the neurons are snnTorch's.",
        is_unrolled=False,
    ),
    "sinabs": Target(
        "sinabs",
        f"sinabs==2.0.3 {_NIRTORCH}",
        "sinabs==3.1.3 nirtorch==2.0.2 nir==1.0.4 torch==2.13.0",
        lambda network: build_chain(network, _steps_layer, _steps_integrator),
        Reading(_step_factors),
        ("sinabs_module",),
        "sinabs imports it; the module then sets one spike a\n"
        "step, above the threshold, and the decays, which sinabs computes in single precision.",
    ),
    "norse": Target(
        "norse",
        f"norse==1.1.0 {_NIRTORCH}",
        "norse==1.1.0 nirtorch==2.0.2 nir==1.0.4 torch==2.13.0",
        lambda network: build_chain(network, _euler_layer, _euler_readout),
        Reading(leak_step, by_difference=True),
        ("norse_module",),
        "norse imports it, with reset_method=reset_subtract and the\n"
        "step in seconds. It adds in another order, so that neurons which stay at their threshold may spike otherwise.",
    ),
}
REFUSED: Final[dict[str, str]] = {
    "rockpool": "its neurons decay each input by exp(-dt/tau_syn) before it counts, which leaves nothing of it where "
    "the model has no synapse",
    "spyx": "its neurons take no input behind the synapse, where the model has a bias, and its NIR import has no LI",
    "spikingjelly": "its NIR import takes one time constant for a whole layer, and the model has one for each channel",
}
