"""Spike encodings of values, each with its decoder, and reconstruction errors.

===================  =========================================  ==================================
encoding             a value is                                 decoded by
===================  =========================================  ==================================
rate                 the probability of a spike in each step    the share of steps with a spike
latency              the time of one spike                      the time of the spike
frame difference     (its change) a spike where it is large     summing the spikes
send-on-delta        (its change) spikes until it is encoded    summing the spikes, with the leak
===================  =========================================  ==================================

Rate and latency hold a value for ``ENCODING_STEPS`` steps and need values in [0, 1] (``Scale``); the other two take
one step per frame, in the features' own unit. Time is always the first axis.

Encoders are snnTorch's where it has them (J. Eshraghian et al., "Training spiking neural networks
using lessons from deep learning", Proceedings of the IEEE 111(9), 2023) and ``detector.encoder``'s
send-on-delta otherwise. snnTorch decodes none of them: the decoders are here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from snntorch import spikegen

from detector.encoder import DeltaEncoder
from detector.manifest import EncoderParams
from detector.messages import Frames, Spikes
from models.network.scan import leak_scan

ENCODING_STEPS = 50
"""Steps for which rate and latency hold a value."""
LOG_THRESHOLD = 0.2
"""Threshold of the charging neuron of the logarithmic latency; smaller values never reach it."""
LOG_TAU = 20.0
"""Time constant of that neuron, in steps: the largest value fires after 4 of them, half of it after 10."""
LINEAR_THRESHOLD = 0.01
"""Values below it send no spike in the linear latency."""
Values: TypeAlias = NDArray[np.float32]
"""Of any shape, values in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The range that is mapped to [0, 1], in the features' unit: low and high end of each coefficient, (n,)."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, frames: Frames) -> Scale:
        """Return the smallest and largest value of each coefficient over the frames (frames, n)."""
        return cls(frames.min(axis=0), frames.max(axis=0))

    def to_unit(self, frames: Frames) -> Values:
        """Return frames (frames, n) as values in [0, 1]; a coefficient that never changes is 0."""
        span = self.high - self.low
        values = (frames - self.low) / np.where(span > 0, span, 1)
        return np.clip(values, 0, 1).astype(np.float32)

    def from_unit(self, values: Values) -> Frames:
        """Return values in [0, 1] converted back to the features' unit."""
        return (self.low + values * (self.high - self.low)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Encoding:
    """The spikes of one encoding of frames (frames, n), and the decoded frames."""

    name: str
    spikes: NDArray[np.float32]
    """(steps, frames, n) where each value is held still, (frames, n) of -1, 0, 1 or (frames, planes, n) else."""
    decoded: Frames
    steps_per_frame: int

    @property
    def spikes_per_value(self) -> float:
        """Return the mean number of spikes per value of a frame."""
        return float(np.count_nonzero(self.spikes) / self.decoded.size)


def encode_rate(values: Values, *, steps: int = ENCODING_STEPS, seed: int = 0) -> NDArray[np.float32]:
    """Return spikes (steps, ...) drawn in each step with the value as probability, by ``spikegen.rate``.

    The same seed gives the same spikes; torch's global RNG state is not changed. Raises ValueError
    for values outside [0, 1] and fewer than one step.
    """
    _check(values, steps, fewest=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _array(spikegen.rate(_tensor(values), num_steps=steps))


def decode_rate(spikes: NDArray[np.float32]) -> Values:
    """Return values (...) of spikes (steps, ...): the share of steps with a spike.

    The estimate of a value p has a standard deviation of sqrt(p * (1 - p) / steps).
    """
    share: Values = spikes.mean(axis=0, dtype=np.float64).astype(np.float32)
    return share


def encode_latency(values: Values, *, linear: bool, steps: int = ENCODING_STEPS) -> NDArray[np.float32]:
    """Return spikes (steps, ...), at most one for each value x: the larger, the earlier; ``spikegen.latency``.

    Logarithmic: a capacitor charges through a resistor towards x with ``LOG_TAU`` and fires when it
    reaches ``LOG_THRESHOLD``, that is in step tau * ln(x / (x - threshold)). Linear: in step (steps - 1) *
    (1 - x). Both are rounded to whole steps. Values below the threshold, and those that would fire
    after the last step, send nothing. (snnTorch's ``normalize`` would stretch the logarithmic time
    by the data's own smallest value, which makes it undecodable.)

    Raises ValueError for values outside [0, 1] and fewer than two steps.
    """
    _check(values, steps, fewest=2)
    how: dict[str, Any] = (
        {"linear": True, "normalize": True, "threshold": LINEAR_THRESHOLD}
        if linear
        else {"tau": LOG_TAU, "threshold": LOG_THRESHOLD}
    )
    return _array(spikegen.latency(_tensor(values), num_steps=steps, clip=True, bypass=True, **how))


def decode_latency(spikes: NDArray[np.float32], *, linear: bool) -> Values:
    """Return values (...) of spikes (steps, ...): the value whose spike comes exactly then; 0 without a spike.

    Rounding to steps moves a spike by half a step at most. Linear, that is 0.5 / (steps - 1) of the
    value; logarithmic, little for small values and much for large ones, whose spikes lie close together.
    """
    steps = spikes.shape[0]
    time = spikes.argmax(axis=0).astype(np.float64)
    if linear:
        values = 1 - time / (steps - 1)
    else:
        # In step 0 the inverse is infinite; no value up to 1 fires there.
        values = np.minimum(1, LOG_THRESHOLD / -np.expm1(-np.maximum(time, 1) / LOG_TAU))
    return np.where(spikes.any(axis=0), values, 0).astype(np.float32)


def encode_frame_difference(frames: Frames, threshold: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return spikes (frames, n) of 1, 0, -1 where a frame rose, kept, fell by the threshold (n,) since the last.

    It is ``spikegen.delta`` with off-spikes; the first frame sends nothing.
    """
    return _array(spikegen.delta(_tensor(frames), threshold=_tensor(threshold), padding=True, off_spike=True))


def decode_frame_difference(
    spikes: NDArray[np.float32], threshold: NDArray[np.float32], first: NDArray[np.float32]
) -> Frames:
    """Return frames (frames, n): from the known first frame (n,) on, a threshold for each spike.

    The error is unbounded: the encoder stores only the last frame, so the part of a large change above the
    threshold, and every change below it, is lost, and the sum drifts.
    """
    return (first + np.cumsum(spikes * threshold, axis=0, dtype=np.float64)).astype(np.float32)


def encode_send_on_delta(frames: Frames, params: EncoderParams) -> Spikes:
    """Return spikes (frames, planes, n) of frames (frames, n), as the runtime's ``DeltaEncoder`` sends them."""
    return DeltaEncoder(params).push(frames)


def decode_send_on_delta(spikes: Spikes, params: EncoderParams) -> Frames:
    """Return the baseline (frames, n) of ``DeltaEncoder`` from its spikes alone: their leaky sum, starting at the rest.

    Its error is documented there; with thresholds that halve from one to the next, and no leak, it is
    within the finest while no change is larger than twice the coarsest. A synapse with the encoder's
    leak, as in the network's first layer, computes the same sum.
    Raises ValueError where the parameters have no rest, so that the initial baseline is unknown.
    """
    if not params.rest:
        raise ValueError("encoder: without a rest the initial baseline is unknown")
    d = np.array(params.thresholds, np.float32)
    moves = ((spikes[:, 0::2] - spikes[:, 1::2]) * d).sum(axis=1)
    keep = torch.tensor([1 - params.leak], dtype=torch.float32)
    level, _ = leak_scan(_tensor(moves)[None, None], keep, torch.zeros(1, 1, moves.shape[1]))
    baseline: Frames = _array(level)[0, 0] + np.array(params.rest, np.float32)
    return baseline


def encode_all(frames: Frames, scale: Scale, params: EncoderParams, *, seed: int = 0) -> tuple[Encoding, ...]:
    """Encode frames (frames, n) in all encodings, and decode them.

    The frame difference uses the one of the encoder's thresholds with the smallest error.
    """
    values = scale.to_unit(frames)

    def held(name: str, spikes: NDArray[np.float32], decode: Callable[[NDArray[np.float32]], Values]) -> Encoding:
        return Encoding(name, spikes, scale.from_unit(decode(spikes)), len(spikes))

    sent = encode_send_on_delta(frames, params)
    return (
        held("rate", encode_rate(values, seed=seed), decode_rate),
        held("latency, log", encode_latency(values, linear=False), lambda s: decode_latency(s, linear=False)),
        held("latency, linear", encode_latency(values, linear=True), lambda s: decode_latency(s, linear=True)),
        _best_difference(frames, params),
        Encoding("send-on-delta", sent, decode_send_on_delta(sent, params), 1),
    )


def rms_error(decoded: Frames, frames: Frames) -> float:
    """Return the root of the mean squared error over all frames and coefficients, in the features' unit."""
    return float(np.sqrt(np.mean((decoded.astype(np.float64) - frames) ** 2)))


def relative_error(decoded: Frames, frames: Frames, deviation: NDArray[np.float32]) -> float:
    """Return the RMS error with each coefficient in its standard deviation (n,).

    0 is perfect; 1 is the error of always predicting the mean. Coefficients that never change
    are left out; NaN where there is no other.
    """
    varies = deviation > 0
    if not varies.any():
        return float("nan")
    return rms_error(decoded[:, varies] / deviation[varies], frames[:, varies] / deviation[varies])


def _best_difference(frames: Frames, params: EncoderParams) -> Encoding:
    levels = np.array(params.thresholds, np.float32)
    found = []
    for level in levels:
        spikes = encode_frame_difference(frames, level)
        found.append(Encoding("frame difference", spikes, decode_frame_difference(spikes, level, frames[0]), 1))
    # In units of the coarsest threshold all coefficients have equal weight.
    return min(found, key=lambda e: rms_error(e.decoded / levels[0], frames / levels[0]))


def _check(values: Values, steps: int, *, fewest: int) -> None:
    if steps < fewest:
        raise ValueError(f"steps must be at least {fewest}, not {steps}")
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"values must lie in [0, 1], not in [{values.min()}, {values.max()}]; scale them first")


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = tensor.numpy()
    return found
