"""Delta encoder: the rules by hand, snnTorch's rule by snnTorch, and chunking."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.encoder import DeltaEncoder
from detector.manifest import EncoderParams
from tests.strategies import chunk_lengths, cut


def send_on_delta(*thresholds: tuple[float, ...]) -> DeltaEncoder:
    return DeltaEncoder(EncoderParams("send_on_delta", thresholds, 0.0, ()))


def frame_difference(threshold: float, width: int = 1) -> DeltaEncoder:
    return DeltaEncoder(EncoderParams("frame_difference", ((threshold,) * width,), 0.0, ()))


def leaky(leak: float, rest: float, *thresholds: float) -> DeltaEncoder:
    return DeltaEncoder(EncoderParams("send_on_delta", tuple((d,) for d in thresholds), leak, (rest,)))


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


def test_ramp_by_hand() -> None:
    spikes = send_on_delta((0.5,)).push(column(0.0, 0.25, 0.75, 1.0, 1.25, 0.5))
    # Baseline: 0, 0, 0.5, 0.5, 1.0, 0.5 (a change of exactly the threshold is no spike).
    assert spikes[:, 0, 0].tolist() == [0, 0, 1, 0, 1, 0]
    assert spikes[:, 1, 0].tolist() == [0, 0, 0, 0, 0, 0]


def test_falls_send_down_spikes() -> None:
    spikes = send_on_delta((1.0,)).push(column(5.0, 2.5, 2.5, 2.5))
    assert spikes[:, 1, 0].tolist() == [0, 1, 1, 0]
    assert not spikes[:, 0].any()


def test_slow_change_is_not_lost() -> None:
    """A ramp of less than the threshold a frame: the memoryless rule never sees it."""
    ramp = np.arange(20, dtype=np.float32)[:, None] * np.float32(0.06)
    assert send_on_delta((0.1,)).push(ramp).sum() == 11
    assert frame_difference(0.1).push(ramp).sum() == 0


def test_fine_thresholds_take_what_coarse_ones_leave() -> None:
    spikes = send_on_delta((2.0,), (0.5,)).push(column(0.0, 2.75, 2.75, 2.25))
    # 2.75 = 2 + 0.5 + 0.25; then 0.25 is left, too little; then -0.25.
    assert spikes[:, :, 0].tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_rest_is_where_a_stream_begins() -> None:
    assert leaky(0.0, -3.0, 1.0).push(column(-3.0, -3.0)).sum() == 0
    assert leaky(0.0, -3.0, 1.0).push(column(0.5, 0.5, 0.5, 0.5))[:, 0, 0].tolist() == [1, 1, 1, 0]


def test_leak_encodes_a_steady_sound_again_and_again() -> None:
    steady = np.full((400, 1), 4.0, np.float32)
    assert leaky(0.0, 0.0, 0.5).push(steady)[200:].sum() == 0
    rate = leaky(0.05, 0.0, 0.5).push(steady)[200:, 0].mean()
    # In balance, what the spikes bring is what the leak takes: rate * 0.5 = 0.05 * 4, within a spike's worth.
    assert rate == pytest.approx(0.4, abs=0.05)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.1))
def test_a_synapse_that_decays_alike_rebuilds_the_signal(seed: int, leak: float) -> None:
    frames = np.cumsum(np.random.default_rng(seed).uniform(-0.4, 0.4, 200)).astype(np.float32)[:, None]
    spikes = leaky(leak, 0.0, 2.0, 0.5).push(frames)
    sent = 2.0 * (spikes[:, 0, 0] - spikes[:, 1, 0]) + 0.5 * (spikes[:, 2, 0] - spikes[:, 3, 0])
    level, worst = 0.0, 0.0
    for x, value in zip(frames[:, 0], sent, strict=True):
        level = (1 - leak) * level + value
        worst = max(worst, abs(level - x))
    # More than the coarse threshold never stays behind: a frame brings less than both thresholds together.
    assert worst <= 2.0 + 1e-3


@given(st.integers(0, 2**32 - 1), st.sampled_from(["classic", "leaky", "difference"]), chunk_lengths(most=20))
def test_chunking_cannot_show(seed: int, kind: str, lengths: list[int]) -> None:
    frames = np.random.default_rng(seed).normal(0, 1, (80, 1)).astype(np.float32)
    encoder = {
        "classic": send_on_delta((0.9,), (0.3,)),
        "leaky": leaky(0.03, -1.0, 0.9, 0.3),
        "difference": frame_difference(0.5),
    }[kind]
    at_once = encoder.push(frames)
    encoder.reset()
    assert np.array_equal(np.concatenate([encoder.push(c) for c in cut(frames, lengths)]), at_once)


@given(st.integers(0, 2**32 - 1))
def test_slow_signals_are_known_to_the_threshold(seed: int) -> None:
    """While no step is larger than the threshold, the sum of the spikes is never further away than it."""
    steps = np.random.default_rng(seed).uniform(-0.5, 0.5, 200)
    frames = np.cumsum(steps).astype(np.float32)[:, None]
    spikes = send_on_delta((0.5,)).push(frames)
    rebuilt = frames[0, 0] + 0.5 * np.cumsum(spikes[:, 0, 0] - spikes[:, 1, 0])
    assert np.abs(rebuilt - frames[:, 0]).max() <= 0.5 + 1e-4


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))
def test_frame_difference_is_snntorchs_rule(seed: int, threshold: float) -> None:
    torch = pytest.importorskip("torch")
    from snntorch import spikegen

    frames = np.random.default_rng(seed).normal(0, 1, (30, 4)).astype(np.float32)
    spikes = frame_difference(threshold, 4).push(frames)
    wanted = spikegen.delta(torch.from_numpy(frames), threshold=np.float32(threshold), padding=True, off_spike=True)
    assert np.array_equal(spikes[:, 0] - spikes[:, 1], wanted.numpy())


def test_reset_is_like_new() -> None:
    frames = np.random.default_rng(1).normal(0, 1, (20, 1)).astype(np.float32)
    encoder = send_on_delta((0.2,))
    wanted = encoder.push(frames)
    encoder.reset()
    assert np.array_equal(encoder.push(frames), wanted)


def test_not_a_number_sends_nothing_and_is_forgotten() -> None:
    spikes = send_on_delta((0.5,)).push(column(0.0, np.nan, 1.0))
    assert spikes[1].sum() == 0
    assert spikes[2, 0, 0] == 1


@pytest.mark.parametrize(
    ("thresholds", "leak", "rest", "text"),
    [
        (((0.1,), (0.1, 0.2)), 0.0, (), "one length"),
        (((0.0,),), 0.0, (), "positive"),
        (((-1.0,),), 0.0, (), "positive"),
        (((float("nan"),),), 0.0, (), "finite"),
        (((),), 0.0, (), "one length"),
        (((0.1,), (0.2,)), 0.0, (), "coarse to fine"),
        (((0.1,),), 0.5, (), "needs a rest"),
        (((0.1,),), 1.0, (0.0,), "leak"),
        (((0.1,),), 0.1, (0.0, 0.0), "for each coefficient"),
    ],
)
def test_refuses_what_cannot_be(
    thresholds: tuple[tuple[float, ...], ...], leak: float, rest: tuple[float, ...], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        DeltaEncoder(EncoderParams("send_on_delta", thresholds, leak, rest))


def test_refuses_other_widths() -> None:
    with pytest.raises(ValueError, match=r"\(n, 1\)"):
        send_on_delta((0.5,)).push(np.zeros((4, 2), np.float32))
