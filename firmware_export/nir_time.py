"""Decays per frame as the time constants of NIR's differential equations, and back.

NIR (J. E. Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 15, 2024)
has neurons in continuous time, tau dv/dt = (v_leak - v) + r i, and knows no time step. A step dt of the
forward Euler method, which most of its readers take, is

    v += dt / tau * ((v_leak - v) + r * i)

or, sorted by what it adds, v = (1 - dt / tau) * v + dt / tau * r * i + dt / tau * v_leak. With

    tau = dt / (1 - beta),   r = tau / dt,   v_leak = offset * tau / dt

this is the project's v = beta * v + i + offset. The time constants are kept in double precision, so that
beta and offset come back to the last bit of their single precision; this is checked for every one. (A beta
below 1e-7, of which nothing is left after a frame, comes back to 1e-15.)

A reader that takes the exact solution instead, v = exp(-dt / tau) * v + (1 - exp(-dt / tau)) * (v_leak + r * i),
needs tau = -dt / log(beta); r and v_leak stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from firmware_export.model_reading import Float32

Float64 = NDArray[np.float64]
_LOST: Final = 1e-15
"""What a decay may lose on its way: below the last bit of any single-precision number above 1e-7."""


@dataclass(frozen=True, slots=True)
class TimeConstants:
    """A leaky integrator as NIR has it; all of one shape."""

    tau: Float64
    """Seconds."""
    r: Float64
    v_leak: Float64


@dataclass(frozen=True, slots=True)
class LeakStep:
    """The same for steps of a stated length: v = decay * v + (gain * i + offset)."""

    decay: Float32
    gain: Float32
    offset: Float32


def time_constants(beta: Float32, offset: Float32, dt_s: float, name: str) -> TimeConstants:
    """Return the time constants of decays and offsets of one shape, for steps of ``dt_s`` seconds.

    Raises ConfigError, naming the layer, where a decay is outside [0, 1) or cannot be recovered.
    """
    if not ((beta >= 0) & (beta < 1)).all():
        raise ConfigError(f"{name}: a decay of {float(beta.max()):g}; NIR's neurons must leak, with less than 1")
    tau = dt_s / (1 - beta.astype(np.float64))
    r = tau / dt_s
    found = TimeConstants(tau, r, offset * r)
    back = leak_step(found.tau, found.r, found.v_leak, dt_s)
    is_near = (np.abs(back.decay.astype(np.float64) - beta) <= _LOST).all()
    if not (is_near and np.array_equal(back.offset, offset) and (back.gain == 1).all()):
        raise ConfigError(f"{name}: a decay or an offset does not survive the way to a time constant and back")
    return found


def leak_step(tau: Float64, r: Float64, v_leak: Float64, dt_s: float) -> LeakStep:
    """Return what a forward Euler step of ``dt_s`` seconds does."""
    share = dt_s / np.asarray(tau, np.float64)
    return LeakStep((1 - share).astype(np.float32), (share * r).astype(np.float32), (share * v_leak).astype(np.float32))
