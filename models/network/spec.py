"""The topology of a network, from which both the spiking network and its non-spiking twin are built; loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SurrogateName = Literal["fast_sigmoid", "sigmoid", "atan"]


@dataclass(frozen=True, slots=True)
class ConvSpec:
    """One spiking convolution with ``channels`` maps; its kernel spans ``frames`` past frames and ``bands`` bands."""

    channels: int
    frames: int
    dilation: int
    """Distance between the kernel's frames: synapses with delays of 0, dilation, 2 dilation, ... frames."""
    bands: int
    stride: int
    synapse: bool
    """Whether a leaky synapse precedes the neurons."""

    @property
    def past(self) -> int:
        """Number of frames before the present one that the kernel covers."""
        return (self.frames - 1) * self.dilation


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Layers, neuron parameters and their initial values."""

    kind: Literal["csnn", "fcsnn", "cnn"]
    """Spiking convolutions, a fully connected spiking network (no convolutions), or ReLU in place of spikes."""
    planes: int
    n_mfcc: int
    n_mels: int
    level_gain: float
    """Gain of the zeroth coefficient in the inverse DCT; below 1, spectral shape outweighs level.

    The level of a sound says little about its class but has the largest variance: at 1, neurons first learn to
    discriminate levels, which slows down training.
    """
    classes: int
    convs: tuple[ConvSpec, ...]
    hidden: int
    """Neurons of the dense layer."""
    frame_rate_hz: float
    """Converts the initial time constants to decays per frame."""
    membrane_tau_s: tuple[float, ...]
    """Shortest and longest initial time constant of the convolutions' membranes, in seconds.

    Long time constants blur the input of the layers behind: with short ones training converges faster, and neurons
    that need a longer memory learn one. A network without spikes has none of these.
    """
    dense_tau_s: tuple[float, ...]
    """The same for the dense layer."""
    readout_tau_s: float
    """Initial time constant of the read-out, in seconds: how long a score remembers."""
    surrogate: SurrogateName
    """The function of ``snntorch.surrogate`` whose derivative replaces that of the step."""
    slope: float
    """Its slope (alpha, for the arctangent)."""
    initial_gain: float
    """Membrane potential, in thresholds, that a constant current of one standard deviation reaches initially.

    A membrane amplifies a constant current by 1 / (1 - beta). With currents of unit variance for all neurons
    (``inf``), those with long time constants start many thresholds away from firing, where the surrogate's
    derivative is close to zero, and learn late or never.
    """
    dropout: float
