"""A network with int8 weights: each map's weights as integers on a power-of-two grid of its own.

A finished network lies on such grids already, finer ones, so that its sums are exact (see
``models/network.py``). The int8 form takes the finest grid on which a map's largest weight is at most
127: sums stay exact, in float32 as in integers, and only the weights themselves have changed. Decays
and thresholds are left as they are, biases too, but where rounded weights add up to more than before
and a bias lies on the finest grid there is: it then takes a coarser one, half a step of 2**-24 of the
largest sum away.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from firmware_export.model_reading import Float32, Network

MANTISSA: Final = 24
"""Bits of a float32's fraction, the one that is not stored included."""
LARGEST: Final = 127
"""-128 stays unused: a weight and its negative are both at hand."""


@dataclass(frozen=True, slots=True)
class Int8Weights:
    """Weights of one layer: ``values * 2.0**-exponents``, an exponent for each output channel."""

    values: NDArray[np.int8]
    """(out channels, ...), as in the layer."""
    exponents: NDArray[np.int64]
    """(out channels,)."""

    @property
    def weight(self) -> Float32:
        """What they stand for, exactly."""
        return np.asarray(np.ldexp(self.values.astype(np.float32), -_column(self.exponents, self.values)), np.float32)

    @property
    def scale(self) -> Float32:
        """The size of a step of each output channel's grid, (out channels,)."""
        return np.asarray(np.ldexp(np.float32(1), -self.exponents.astype(np.int32)), np.float32)


def to_int8(weight: Float32, finest: int | None = None) -> Int8Weights:
    """Return weights (out channels, ...) rounded to the finest grid that int8 allows, halves to even.

    ``finest`` is the largest exponent that may be taken.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float64)
    # A map without weights has any grid.
    exponents = np.floor(np.log2(LARGEST / np.where(largest > 0, largest, 1.0))).astype(np.int64)
    exponents += np.round(np.ldexp(largest, exponents + 1)) <= LARGEST  # rounding may leave room for a finer one
    if finest is not None:
        exponents = np.minimum(exponents, finest)
    values = np.round(np.ldexp(weight.astype(np.float64), _column(exponents, weight)))
    return Int8Weights(values.astype(np.int8), exponents)


def rounded(network: Network) -> Network:
    """Return the network with the weights and biases that int8 leaves of it, in float32."""
    layers, largest = [], float(np.abs(network.to_bands).sum(axis=0).max())
    for layer in network.layers:
        weight = to_int8(layer.weight).weight
        bias = None if layer.bias is None else exact_bias(weight, layer.bias, largest)
        layers.append(dataclasses.replace(layer, weight=weight, bias=bias))
        largest = 1.0  # all other layers read spikes
    weight = to_int8(network.readout.weight).weight
    bias = None if network.readout.bias is None else exact_bias(weight, network.readout.bias, 1.0)
    return dataclasses.replace(
        network, layers=tuple(layers), readout=dataclasses.replace(network.readout, weight=weight, bias=bias)
    )


def exact_bias(weight: Float32, bias: Float32, largest_input: float) -> Float32:
    """Return biases (out channels,) whose sums with weights (out channels, ...) float32 does not have to round.

    A bias moves only where it must, to the nearest multiple of what the largest sum leaves of 24 bits.
    """
    most = np.abs(weight.reshape(len(weight), -1)).sum(axis=1, dtype=np.float64) * largest_input + np.abs(bias)
    step = np.exp2(np.ceil(np.log2(np.maximum(most, 2.0**-40))) - MANTISSA)
    return np.asarray(np.round(bias / step) * step, np.float32)


def _column(per_channel: NDArray[Any], like: NDArray[Any]) -> NDArray[np.int32]:
    """Shape a value for each output channel so that it meets all of that channel's weights."""
    return per_channel.astype(np.int32).reshape(-1, *[1] * (like.ndim - 1))
