"""The network: stepping, sequences and folding give the same spikes, because the sums are exact."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given

from detector.manifest import EncoderParams
from models.network.csnn import BAND_BITS, SpikingConvNet, band_matrix, finished, state_shapes
from models.network.spec import ConvSpec, NetworkSpec
from tests.strategies import chunk_lengths, cut

ENCODER = EncoderParams("send_on_delta", ((1.5,) * 12, (0.5,) * 12), 0.02, (0.0,) * 12)
SPEC = NetworkSpec(
    kind="csnn",
    planes=4,
    n_mfcc=12,
    n_mels=16,
    level_gain=1.0,
    classes=3,
    convs=(ConvSpec(8, 3, 2, 5, 2, synapse=True), ConvSpec(12, 2, 1, 3, 2, synapse=False)),
    hidden=20,
    frame_rate_hz=40.0,
    membrane_tau_s=(0.02, 0.4),
    dense_tau_s=(0.05, 0.8),
    readout_tau_s=0.3,
    surrogate="fast_sigmoid",
    slope=10.0,
    initial_gain=math.inf,
    dropout=0.2,
)


@pytest.fixture(scope="module")
def net() -> SpikingConvNet:
    """Give a finished network whose batch norms have seen some spikes."""
    torch.manual_seed(0)
    trained = SpikingConvNet(SPEC, ENCODER).train()
    for seed in range(40):
        trained(spikes(60, seed)[None])
    return finished(trained)


def spikes(frames: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    up = rng.random((frames, 2, 1, SPEC.n_mfcc)) < 0.15
    down = ~up & (rng.random(up.shape) < 0.15)
    return torch.from_numpy(np.concatenate([up, down], 2).reshape(frames, 4, SPEC.n_mfcc).astype(np.float32))


def stepped(net: SpikingConvNet, x: torch.Tensor) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    state, scores, fired = net.initial_state(), [], []
    for frame in x:
        probe: dict[str, torch.Tensor] = {}
        score, state = net.step(frame[None], state, probe)
        scores.append(score[0])
        fired.append(probe)
    return torch.stack(scores), state, {k: torch.stack([f[k][0] for f in fired], 1) for k in fired[0]}


@torch.no_grad()
def test_sequence_equals_stepping_spike_for_spike(net: SpikingConvNet) -> None:
    x = spikes(300, 100)
    probe: dict[str, torch.Tensor] = {}
    logits, state = net(x[None], None, probe)
    scores, last, fired = stepped(net, x)
    for name, wanted in fired.items():
        assert wanted.sum() > 0, name
        assert torch.equal(probe[name][0], wanted), name
    for name, value in last.items():
        assert torch.equal(state[name], value), name
    torch.testing.assert_close(torch.sigmoid(logits[0]), scores, rtol=0, atol=1e-6)


@given(chunk_lengths(most=40))
@torch.no_grad()
def test_chunks_of_a_sequence_carry_the_state(net: SpikingConvNet, lengths: list[int]) -> None:
    x = spikes(120, 7)
    whole, _ = net(x[None])
    state, parts = None, []
    for chunk in cut(x.numpy(), lengths):
        if len(chunk):
            logits, state = net(torch.from_numpy(chunk)[None], state)
            parts.append(logits)
    assert torch.equal(torch.cat(parts, 1), whole)


@torch.no_grad()
def test_it_is_causal(net: SpikingConvNet) -> None:
    x, y = spikes(80, 1), spikes(80, 1)
    y[50:] = spikes(30, 2)
    assert torch.equal(net(x[None])[0][:, :50], net(y[None])[0][:, :50])
    assert not torch.equal(net(x[None])[0], net(y[None])[0])


@torch.no_grad()
def test_folding_keeps_the_network() -> None:
    """Before rounding to the grid, folded and unfolded currents agree; after it, scores stay near."""
    torch.manual_seed(1)
    trained = SpikingConvNet(SPEC, ENCODER).train()
    for seed in range(40):
        trained(spikes(60, seed)[None])
    trained.eval()
    x = spikes(40, 3)[None]
    plain, folded = torch.sigmoid(trained(x)[0]), torch.sigmoid(finished(trained)(x)[0])
    assert (plain - folded).abs().mean() < 0.02


def test_finished_weights_lie_on_a_grid_of_exact_sums(net: SpikingConvNet) -> None:
    convs = [conv for conv, _ in net.conv_layers]
    layers: list[torch.nn.Conv2d | torch.nn.Linear] = [*convs, net.dense, net.readout]
    for layer in layers:
        largest = float(net.to_bands.abs().sum(0).max()) * 2**BAND_BITS if layer is convs[0] else 1
        for row in layer.weight.flatten(1).abs().double():
            bits = next(b for b in range(-8, 60) if torch.equal(torch.round(row * 2.0**b), row * 2.0**b))
            assert row.sum() * 2.0**bits * largest < 2**24


@torch.no_grad()
def test_small_weights_beside_large_ones_keep_their_precision() -> None:
    """Behind slow synapses weights are small; the grid of a loud neighbour must not round them away."""
    torch.manual_seed(2)
    trained = SpikingConvNet(SPEC, ENCODER).train()
    first, unit = trained.conv_layers[0]
    first.weight[0] *= 1e-4
    for seed in range(40):
        trained(spikes(60, seed)[None])
    norm = unit.norm
    assert isinstance(norm, torch.nn.BatchNorm1d)
    norm.weight[0] *= 1e-3
    assert norm.running_var is not None
    wanted = first.weight[0] * norm.weight[0] / torch.sqrt(norm.running_var[0] + norm.eps)
    torch.testing.assert_close(
        finished(trained).conv_layers[0][0].weight[0], wanted, rtol=0.03, atol=float(wanted.abs().max()) / 64
    )


def test_band_matrix_inverts_the_dct() -> None:
    exact = band_matrix((1.0,) * 16, 16)
    np.testing.assert_allclose(exact @ exact.T, np.eye(16), atol=0.05)
    assert np.array_equal(np.round(exact * 2**BAND_BITS), exact * 2**BAND_BITS)


def test_initial_gain_is_what_a_steady_current_does_to_a_membrane_at_the_start() -> None:
    torch.manual_seed(0)
    for initial_gain in (0.5, 2.0):
        for _, unit in SpikingConvNet(dataclasses.replace(SPEC, initial_gain=initial_gain), ENCODER).conv_layers:
            gain, beta = unit.norm.weight, unit.beta
            assert isinstance(gain, torch.Tensor)
            torch.testing.assert_close(gain, (initial_gain * (1 - beta)).clamp(max=1.0))
            assert (gain <= 1).all()


def test_level_gain_weighs_the_mean_of_the_bands_alone() -> None:
    plain, weighed = (band_matrix((1.0,) * 16, 16, gain) for gain in (1.0, 0.25))
    assert np.array_equal(weighed[1:], plain[1:])
    np.testing.assert_allclose(weighed[0], plain[0] / 4, atol=2**-BAND_BITS)


def test_state_is_named_and_shaped(net: SpikingConvNet) -> None:
    _, state = net(spikes(5, 0)[None])
    assert {k: tuple(v.shape[1:]) for k, v in state.items()} == state_shapes(SPEC)


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    trained = SpikingConvNet(SPEC, ENCODER).train()
    logits, _ = trained(torch.stack([spikes(60, s) for s in range(4)]))
    logits.square().mean().backward()
    for name, parameter in trained.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        if not name.startswith("convs") or "bias" not in name:  # a bias before batch norm has none
            assert parameter.grad.abs().sum() > 0 or "dense.bias" in name, name


def test_decays_at_the_start_cover_short_and_long_times() -> None:
    torch.manual_seed(0)
    beta = SpikingConvNet(SPEC, ENCODER).dense_unit.beta
    assert beta.min().item() == pytest.approx(math.exp(-1 / (0.05 * 40)), abs=1e-4)
    assert beta.max().item() == pytest.approx(math.exp(-1 / (0.8 * 40)), abs=1e-4)
