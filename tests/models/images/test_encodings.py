"""Each encoding by hand, there and back, and the bounds that its docstring states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from snntorch import spikegen

from detector.encoder import DeltaEncoder
from detector.manifest import EncoderParams
from models.images.encodings import (
    LINEAR_THRESHOLD,
    Scale,
    decode_frame_difference,
    decode_latency,
    decode_rate,
    decode_send_on_delta,
    encode_all,
    encode_frame_difference,
    encode_latency,
    encode_rate,
    encode_send_on_delta,
    relative_error,
    rms_error,
)

Array = NDArray[np.float32]
HALVES = (0.5, 0.25, 0.125, 0.0625)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def column(*values: float) -> Array:
    return floats(*values)[:, None]


def delta(thresholds: tuple[float, ...], width: int, *, leak: float = 0.0, rest: float | None = 0.0) -> EncoderParams:
    rows = tuple((d,) * width for d in thresholds)
    return EncoderParams("send_on_delta", rows, leak, () if rest is None else (rest,) * width)


unit_arrays = hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=8), elements=st.floats(0, 1, width=32))
unit_frames = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 30), st.integers(1, 3)), elements=st.floats(0, 1, width=32)
)


# Rate


def test_rate_by_hand() -> None:
    spikes = encode_rate(floats(0, 1), steps=7)
    assert spikes.shape == (7, 2)
    assert spikes.sum(axis=0).tolist() == [0, 7]
    assert decode_rate(column(1, 0, 0, 1)).tolist() == [0.5]


def test_rate_is_snntorchs_and_leaves_the_generator_alone() -> None:
    values = floats(0.1, 0.5, 0.9)
    torch.manual_seed(3)
    wanted = spikegen.rate(torch.from_numpy(values), num_steps=20).numpy()
    after = torch.rand(1)
    torch.manual_seed(3)
    spikegen.rate(torch.from_numpy(values), num_steps=20)
    np.testing.assert_array_equal(encode_rate(values, steps=20, seed=3), wanted)
    assert torch.rand(1) == after
    assert (encode_rate(values, steps=20, seed=4) != wanted).any()


@given(unit_arrays, st.integers(0, 2**31))
def test_rate_converges(values: Array, seed: int) -> None:
    """Hoeffding: the chance to be off by more is 2 * exp(-2 * steps * bound**2), 1e-9 for one value."""
    steps = 500
    bound = math.sqrt(math.log(2e9) / (2 * steps))
    found = decode_rate(encode_rate(values, steps=steps, seed=seed))
    assert np.abs(found - values).max(initial=0) <= bound


# Latency


def times(spikes: Array) -> list[int | None]:
    """Return the step of the one spike of each value."""
    assert set(spikes.sum(axis=0).tolist()) <= {0.0, 1.0}
    return [int(row.argmax()) if row.any() else None for row in spikes.T]


def test_linear_latency_by_hand() -> None:
    """Five steps: 4 * (1 - x), and silence below 0.01."""
    spikes = encode_latency(floats(1, 0.75, 0.5, 0.02, 0.005, 0), linear=True, steps=5)
    assert times(spikes) == [0, 1, 2, 4, None, None]
    assert decode_latency(spikes, linear=True).tolist() == [1, 0.75, 0.5, 0, 0, 0]


def test_logarithmic_latency_by_hand() -> None:
    """20 * ln(x / (x - 0.2)) is 4.46, 10.2, 32.2; for 0.21 it is 60.9, behind the last of 50 steps."""
    spikes = encode_latency(floats(1, 0.5, 0.25, 0.21, 0.2, 0), linear=False)
    assert times(spikes) == [4, 10, 32, None, None, None]
    # 0.2 / (1 - exp(-t / 20)); 1.103 for step 4 is more than can be.
    assert decode_latency(spikes, linear=False) == pytest.approx([1, 0.50830, 0.25059, 0, 0, 0], abs=1e-5)


@given(unit_arrays, st.integers(2, 80))
def test_linear_latency_is_within_half_a_step(values: Array, steps: int) -> None:
    found = decode_latency(encode_latency(values, linear=True, steps=steps), linear=True)
    encoded = values >= LINEAR_THRESHOLD
    assert np.abs(found - values)[encoded].max(initial=0) <= 0.5 / (steps - 1) + 1e-6
    assert not found[~encoded].any()


@given(st.floats(0.25, 1, width=32))
def test_logarithmic_latency_is_within_half_a_step(value: float) -> None:
    spikes = encode_latency(floats(value), linear=False)
    found, (time,) = decode_latency(spikes, linear=False).item(), times(spikes)
    assert time is not None
    low, high = (0.2 / (1 - math.exp(-(time + half) / 20)) for half in (0.5, -0.5))
    assert low - 1e-5 <= value <= high + 1e-5
    assert low <= found <= high


@pytest.mark.parametrize("values", [floats(0.5, 1.1), floats(-0.1), floats(np.nan)])
def test_values_outside_the_unit_interval_are_refused(values: Array) -> None:
    with pytest.raises(ValueError, match="scale them first"):
        encode_rate(values)
    with pytest.raises(ValueError, match="scale them first"):
        encode_latency(values, linear=True)


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        encode_rate(floats(0.5), steps=0)
    with pytest.raises(ValueError, match="at least 2, not 1"):
        encode_latency(floats(0.5), linear=True, steps=1)


# Frame difference


def test_frame_difference_by_hand() -> None:
    """A jump of 1 is encoded as one threshold, the fall by half as one, too: 0.5 is decoded as 0."""
    spikes = encode_frame_difference(column(0, 1, 1, 0.5), floats(0.25))
    assert spikes.ravel().tolist() == [0, 1, 0, -1]
    assert decode_frame_difference(spikes, floats(0.25), floats(0)).ravel().tolist() == [0, 0.25, 0.25, 0]


def test_a_slow_ramp_is_lost_on_the_difference_and_kept_by_send_on_delta() -> None:
    ramp = column(*(0.06 * t for t in range(20)))
    assert not encode_frame_difference(ramp, floats(0.1)).any()
    params = delta((0.1,), 1)
    found = decode_send_on_delta(encode_send_on_delta(ramp, params), params)
    assert np.abs(found - ramp).max() <= 0.1 + 1e-6


@given(unit_frames)
def test_frame_difference_is_the_runtimes_rule(frames: Array) -> None:
    d = np.full(frames.shape[1], 0.125, np.float32)
    params = EncoderParams("frame_difference", (tuple(d.tolist()),), 0.0, ())
    planes = DeltaEncoder(params).push(frames)
    np.testing.assert_array_equal(encode_frame_difference(frames, d), planes[:, 0] - planes[:, 1])


# Send-on-delta


@pytest.mark.parametrize(
    ("leak", "wanted"),
    [
        # 1: 0.5 + 0.25. 1 again: 0.25 is left, not more than 0.25. 0.3: 0.45 too high, so 0.25 down.
        (0.0, [0.75, 0.75, 0.5]),
        # Halved to 0.375, 0.625 is left: 0.5 up. Halved to 0.4375, 0.1375 too high: nothing.
        (0.5, [0.75, 0.875, 0.4375]),
    ],
)
def test_send_on_delta_by_hand(leak: float, wanted: list[float]) -> None:
    params = delta((0.5, 0.25), 1, leak=leak)
    spikes = encode_send_on_delta(column(1, 1, 0.3), params)
    assert decode_send_on_delta(spikes, params).ravel().tolist() == wanted


@given(unit_frames)
def test_send_on_delta_is_within_the_finest_threshold(frames: Array) -> None:
    """Halves from a half on can follow any change in [0, 1]: what is left halves from threshold to threshold."""
    params = delta(HALVES, frames.shape[1])
    found = decode_send_on_delta(encode_send_on_delta(frames, params), params)
    assert np.abs(found - frames).max() <= HALVES[-1] + 1e-6


@given(unit_frames, st.floats(0, 0.9), st.floats(-2, 2))
def test_send_on_delta_reads_the_encoders_baseline(frames: Array, leak: float, rest: float) -> None:
    params = delta((0.4, 0.1), frames.shape[1], leak=leak, rest=rest)
    encoder = DeltaEncoder(params)
    found = decode_send_on_delta(encoder.push(frames), params)
    assert encoder._baseline is not None
    np.testing.assert_allclose(found[-1] - np.float32(rest), encoder._baseline, atol=1e-5)


def test_without_a_rest_the_beginning_is_unknown() -> None:
    params = delta((0.5,), 1, rest=None)
    with pytest.raises(ValueError, match="without a rest"):
        decode_send_on_delta(encode_send_on_delta(column(1, 2), params), params)


# All of them


def test_scale_maps_each_coefficient_onto_the_unit_interval_and_back() -> None:
    frames = np.stack((floats(-4, 0, 4), floats(7, 7, 7)), axis=1)
    scale = Scale.of(frames)
    values = scale.to_unit(frames)
    assert values.tolist() == [[0, 0], [0.5, 0], [1, 0]]
    np.testing.assert_array_equal(scale.from_unit(values), frames)


def test_errors_by_hand() -> None:
    frames = np.stack((floats(0, 0, 0, 0), floats(0, 20, 0, 20)), axis=1)
    decoded = np.stack((floats(1, 1, 1, 1), floats(0, 20, 0, 20)), axis=1)
    assert rms_error(decoded, frames) == pytest.approx(math.sqrt(0.5))
    assert relative_error(decoded, frames, floats(2, 10)) == pytest.approx(math.sqrt(0.25 / 2))
    # The first coefficient never changes: it has no deviation to be measured in.
    assert relative_error(decoded, frames, floats(0, 10)) == 0
    assert math.isnan(relative_error(decoded, frames, floats(0, 0)))
    mean = np.broadcast_to(frames.mean(axis=0), frames.shape)
    assert relative_error(mean, frames, frames.std(axis=0)) == pytest.approx(1)


def test_all_encodings_of_one_signal() -> None:
    # 21 frames up and down again in each of two coefficients.
    frames = np.stack((np.sin(np.linspace(0, 6, 21)), np.cos(np.linspace(0, 6, 21))), axis=1).astype(np.float32)
    params = delta(HALVES, 2)
    found = {x.name: x for x in encode_all(frames, Scale.of(frames), params)}
    shapes = {name: x.spikes.shape for name, x in found.items()}
    held = (50, 21, 2)
    assert shapes == {
        "rate": held,
        "latency, log": held,
        "latency, linear": held,
        "frame difference": (21, 2),
        "send-on-delta": (21, 8, 2),
    }
    errors = {name: rms_error(x.decoded, frames) for name, x in found.items()}
    assert errors["latency, linear"] <= 0.5 / 49 * 2
    assert errors["send-on-delta"] < errors["frame difference"]
    assert found["rate"].spikes_per_value == found["rate"].spikes.sum() / 42
    # No other of the encoder's thresholds would have served the frame difference better.
    for d in HALVES:
        spikes = encode_frame_difference(frames, floats(d, d))
        decoded = decode_frame_difference(spikes, floats(d, d), frames[0])
        assert errors["frame difference"] <= rms_error(decoded, frames)
