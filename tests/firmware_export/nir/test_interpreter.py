"""The NIR interpreter: neurons computed by hand, delays, errors, and snnTorch as an independent reader."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import snntorch
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from snntorch.import_nir import import_from_nir

from detector.engine.graph import Neurons
from detector.errors import ConfigError
from detector.network import default_model_path, load_model, trace
from firmware_export.nir.graph import affine_node, build_graph, leak_step, neuron_node, time_constants
from firmware_export.nir.interpreter import Interpreter, Reset
from firmware_export.onnx.parity import comparison_sound, encoded
from firmware_export.onnx.read import read_network
from models import DEMO_SCENE

Float32 = NDArray[np.float32]
DT_S = 0.01
SNNTORCH_DT_S = 1e-4
"""The step that snnTorch has built in."""


def single(*values: float) -> Float32:
    return np.array(values, np.float32)


def chain(*nodes: Any, shape: tuple[int, ...], dt_s: float = DT_S) -> Any:
    """Return a graph of nodes in a chain, named n0, n1..."""
    named = {f"n{i}": node for i, node in enumerate(nodes)}
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(nodes[-1].output_type)}
    names = ["input", *named, "output"]
    return nir.NIRGraph({**ends, **named}, list(pairwise(names)), metadata={"dt_s": dt_s, "reset": "subtract"})


def run(graph: Any, inputs: Float32, reset: Reset) -> list[float]:
    """Return the output of a graph of one neuron, step by step."""
    runner = Interpreter(graph, reset)
    return [float(runner.step(x)["output"][0]) for x in inputs[:, None]]


@pytest.mark.parametrize(
    ("reset", "potentials", "spikes"),
    [
        ("subtract", [0.75, 1.125, 0.8125, 0.40625, 2.703125, 1.1015625], [0, 1, 0, 0, 1, 1]),
        ("value", [0.75, 1.125, 0.75, 0.375, 2.6875, 0.25], [0, 1, 0, 0, 1, 0]),
    ],
)
def test_a_neuron_by_hand(reset: Reset, potentials: list[float], spikes: list[int]) -> None:
    """Halved from step to step, threshold 1; the fifth current is worth more than two spikes."""
    graph = chain(neuron_node(Neurons(single(0.5), None, None), (1,), 1.0, DT_S, "n0"), shape=(1,))
    runner = Interpreter(graph, reset)
    seen = []
    for x, sent in zip((0.75, 0.75, 0.75, 0.0, 2.5, 0.25), spikes, strict=True):
        assert runner.step(single(x))["n0"] == sent
        seen.append(float(runner.spiking["n0"].potential[0]))
    assert seen == potentials
    runner.reset()
    runner.step(single(0.0))
    assert runner.spiking["n0"].potential == 0


@pytest.mark.parametrize("is_late", [True, False])
def test_no_subtraction_of_snntorch_is_the_projects(is_late: bool) -> None:
    """As the text beside the file says: where twice the threshold was passed, the second spike is missing."""
    graph = chain(neuron_node(Neurons(single(0.5), None, None), (1,), 1.0, DT_S, "n0"), shape=(1,))
    neuron = snntorch.Leaky(beta=0.5, reset_mechanism="subtract", reset_delay=is_late)
    mem, sent = torch.zeros(1), []
    for x in (2.5, 0.5):
        spike, mem = neuron(torch.tensor([x]), mem)
        sent.append(float(spike))
    assert (sent, run(graph, single(2.5, 0.5), "subtract")) == ([1, 0], [1, 1])


def test_a_neuron_with_a_synapse_and_a_bias_by_hand() -> None:
    graph = chain(neuron_node(Neurons(single(0.5), single(0.5), single(0.25)), (1,), 1.0, DT_S, "n0"), shape=(1,))
    runner, seen = Interpreter(graph, "subtract"), []
    for x in (1.0, 0.0, 0.0, 0.0):
        runner.step(single(x))
        seen.append(float(runner.spiking["n0"].potential[0]))
    # Synapse 1, 0.5, 0.25, 0.125; a spike at the first step leaves 0.25.
    assert seen == [1.25, 0.125 + 0.75, 0.4375 + 0.5, 0.46875 + 0.375]


def test_a_potential_at_the_threshold_sends_no_spike() -> None:
    graph = chain(neuron_node(Neurons(single(0.0), None, None), (1,), 1.0, DT_S, "n0"), shape=(1,))
    assert run(graph, single(1.0, np.nextafter(np.float32(1), np.float32(2))), "subtract") == [0, 1]


def test_a_delay_is_counted_in_steps() -> None:
    graph = chain(nir.Delay(np.full(1, 2 * DT_S)), shape=(1,))
    assert run(graph, single(1, 2, 3, 4), "value") == [0, 0, 1, 2]
    with pytest.raises(ConfigError, match="no whole number of steps"):
        Interpreter(graph, dt_s=0.7 * DT_S)


def test_spikes_may_be_given_instead() -> None:
    """They reset their senders and reach the next nodes, while the output is the node's own."""
    neurons = Neurons(single(0.5), None, None)
    graph = chain(*(neuron_node(neurons, (1,), 1.0, DT_S, "n") for _ in range(2)), shape=(1,))
    runner = Interpreter(graph, "subtract")
    given = runner.step(single(2.0), {"n0": single(0.0)})
    assert [float(given[name][0]) for name in ("n0", "n1")] == [1, 0]
    runner.step(single(0.0))
    assert runner.spiking["n0"].potential == 1.0


@given(
    st.lists(st.floats(0, 1, exclude_max=True, width=32), min_size=1, max_size=8),
    st.floats(-4, 4, width=32),
    st.sampled_from([1e-4, 0.01, 0.025, 1.0]),
)
def test_decays_come_back_to_the_bit_by_euler_and_nearly_by_the_exact_solution(
    decays: list[float], offset: float, dt_s: float
) -> None:
    beta = np.array(decays, np.float32)
    found = time_constants(beta, np.full_like(beta, offset), dt_s, "layer")
    back = leak_step(found.tau, found.r, found.v_leak, dt_s)
    known = beta > 1e-7
    np.testing.assert_array_equal(back.decay[known], beta[known])
    np.testing.assert_allclose(back.decay[~known], beta[~known], rtol=0, atol=1e-15)
    assert (back.offset == np.float32(offset)).all()
    exact = np.exp(-dt_s / (-dt_s / np.log(beta[known].astype(np.float64))))
    np.testing.assert_allclose(exact, beta[known], rtol=1e-9)
    np.testing.assert_allclose((1 - exact) * found.r[known], 1, rtol=1e-6)


@pytest.mark.parametrize("beta", [1.0, -0.5, np.nan])
def test_a_decay_that_does_not_leak_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match="conv7: a decay of"):
        neuron_node(Neurons(single(beta), None, None), (1, 3), 1.0, DT_S, "conv7")


def test_graphs_that_it_cannot_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="'n0' is a Scale"):
        Interpreter(chain(nir.Scale(np.ones(1)), shape=(1,)))
    without_step = nir.NIRGraph(
        {"input": nir.Input(np.array([1])), "output": nir.Output(np.array([1]))}, [("input", "output")]
    )
    with pytest.raises(ConfigError, match="time step"):
        Interpreter(without_step)
    loop = chain(nir.Linear(np.ones((1, 1), np.float32)), nir.Linear(np.ones((1, 1), np.float32)), shape=(1,))
    loop.edges.append(("n1", "n0"))
    with pytest.raises(ConfigError, match="loop"):
        Interpreter(loop)


def test_snntorch_reads_a_file_and_spikes_the_same(tmp_path: Path) -> None:
    """Reset to v_reset, which is what snnTorch makes of every NIR file."""
    rng = np.random.default_rng(0)
    decays = [rng.uniform(0.1, 0.95, n).astype(np.float32) for n in (6, 4, 4)]
    graph = chain(
        affine_node(rng.normal(0, 1, (6, 5)).astype(np.float32), rng.normal(0, 0.1, 6).astype(np.float32)),
        neuron_node(Neurons(decays[0], None, None), (6,), 1.0, SNNTORCH_DT_S, "n1"),
        affine_node(rng.normal(0, 1, (4, 6)).astype(np.float32), None),
        neuron_node(Neurons(decays[1], decays[2], None), (4,), 1.0, SNNTORCH_DT_S, "n3"),
        shape=(5,),
        dt_s=SNNTORCH_DT_S,
    )
    nir.write(tmp_path / "small.nir", graph)
    witness, runner = import_from_nir(nir.read(tmp_path / "small.nir")), Interpreter(graph, "value")
    state, total = None, 0
    for x in (rng.random((300, 5)) < 0.3).astype(np.float32):
        spikes, state = witness(torch.from_numpy(x)[None], state)
        expected = runner.step(x)["output"]
        np.testing.assert_array_equal(spikes.detach().numpy()[0], expected)
        total += int(expected.sum())
    assert total > 200


def test_snntorch_runs_the_shipped_models_neurons_as_the_runtime_does() -> None:
    """With its reading of tau and its equation; the threshold is subtracted by hand, since none of its resets is ours.

    It does not read ``v_leak``, which a bias after a synapse becomes: those layers are left out.
    """
    model = load_model()
    graph = build_graph(read_network(default_model_path()), SNNTORCH_DT_S)
    spikes = encoded(model.manifest, comparison_sound((DEMO_SCENE,), model.manifest.features.sample_rate_hz))[:400]
    runner = Interpreter(graph, "subtract")
    layers = {
        name: import_from_nir(chain(graph.nodes[name], shape=unit.threshold.shape))
        for name, unit in runner.spiking.items()
        if not np.any(graph.nodes[name].v_leak)
    }
    assert {"conv2", "conv3", "dense"} <= layers.keys()
    neurons = {name: _without_reset(layer.n0) for name, layer in layers.items()}
    state: dict[str, Any] = dict.fromkeys(neurons)
    total = 0
    for x, expected in zip(spikes, trace(model, spikes), strict=True):
        given = runner.step(x)
        for name, neuron in neurons.items():
            inputs = torch.from_numpy(np.sum([given[a] for a, b in graph.edges if b == name], axis=0))[None]
            fired, *kept = neuron(inputs, *(state[name] or ()))
            state[name] = (*kept[:-1], kept[-1] - fired * neuron.threshold)
            np.testing.assert_array_equal(fired.detach().numpy().ravel(), expected[name])
            total += int(expected[name].sum())
    assert total > 10_000


def _without_reset(read: Any) -> Any:
    """Return what snnTorch has read as a neuron of the same decays whose state is given and returned."""
    decays = {name: getattr(read, name).float() for name in ("alpha", "beta") if hasattr(read, name)}
    kind = snntorch.Synaptic if "alpha" in decays else snntorch.Leaky
    return kind(**decays, threshold=read.threshold, reset_mechanism="none")
