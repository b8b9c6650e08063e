"""The names of tensors in the streaming ONNX graph: one table for the writer, the readers and the other exports.

Layers are called ``conv1``, ``conv2``, ..., ``dense`` and ``readout``, in the graph, in the manifest and in a NIR
file; each of a layer's tensors has the layer's name in front. States have the names of
``models.network.csnn.state_shapes``; the output that holds a state after the step has ``new_`` in front of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SPIKES: Final = "spikes"
"""Input, (1, planes, frames, n_mfcc)."""
SCORES: Final = "scores"
"""Output, (frames, classes)."""
TO_BANDS: Final = "to_bands"
"""Constant, (n_mfcc, n_mels): the layer that maps cepstral spikes to mel bands."""
DENSE: Final = "dense"
READOUT: Final = "readout"
_CONV: Final = "conv"
_PAST: Final = "_past"


def conv(number: int) -> str:
    """Return the name of a convolution; the first has the number 1."""
    return f"{_CONV}{number}"


def spiking_layers(convs: int) -> tuple[str, ...]:
    """Return the names of the spiking layers of a network with so many convolutions, in order."""
    return (*map(conv, range(1, convs + 1)), DENSE)


def is_of_conv(tensor: str) -> bool:
    """Return whether a tensor belongs to a convolution."""
    return tensor.startswith(_CONV)


def is_past(state: str) -> bool:
    """Return whether a state holds the earlier frames of input that a convolution reads."""
    return state.endswith(_PAST)


def after_step(state: str) -> str:
    """Return the output that holds a state after the step."""
    return f"new_{state}"


@dataclass(frozen=True, slots=True)
class LayerNames:
    """The names of one layer's tensors."""

    layer: str

    @property
    def weight(self) -> str:
        """Constant, (out channels, ...)."""
        return f"{self.layer}_weight"

    @property
    def bias(self) -> str:
        """Constant: (out channels,) as part of the sum, (1, channels, ...) per neuron after a synapse."""
        return f"{self.layer}_bias"

    @property
    def beta(self) -> str:
        """Constant, decay of the membrane per frame; (1, channels, ...), of the read-out (classes,)."""
        return f"{self.layer}_beta"

    @property
    def alpha(self) -> str:
        """Constant, decay of the synapse per frame, (1, channels, ...)."""
        return f"{self.layer}_alpha"

    @property
    def current(self) -> str:
        """The synaptic sums of all frames."""
        return f"{self.layer}_current"

    @property
    def spikes(self) -> str:
        """The spikes of all frames."""
        return f"{self.layer}_spikes"

    @property
    def past(self) -> str:
        """State: the earlier frames of input that a convolution reads."""
        return f"{self.layer}{_PAST}"

    @property
    def synapse(self) -> str:
        """State: synaptic currents."""
        return f"{self.layer}_syn"

    @property
    def membrane(self) -> str:
        """State: membrane potentials after the reset."""
        return f"{self.layer}_mem"


@dataclass(frozen=True, slots=True)
class Int8Names:
    """The names of the tensors that stand in for a float32 weight in an int8 model."""

    weight: str

    @property
    def values(self) -> str:
        """Constant, int8."""
        return f"{self.weight}_int8"

    @property
    def scale(self) -> str:
        """Constant, float32 powers of two, (out channels, 1, ...)."""
        return f"{self.weight}_scale"

    @property
    def cast(self) -> str:
        """The values as float32, before they are multiplied by the scale."""
        return f"{self.weight}_whole"
