"""Delta encoding of frames into binary spikes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.manifest import EncoderParams
from detector.messages import Frames, Spikes


class DeltaEncoder:
    """Encode frames as binary up and down spikes, per coefficient and threshold.

    Rule ``send_on_delta`` (M. Miskowicz, "Send-on-delta concept", Sensors 6(1), 2006; also called
    step-forward modulation), with a baseline b of its own for each threshold d:

        up[t]   = x[t] - b[t-1] >  d
        down[t] = x[t] - b[t-1] < -d
        b[t]    = b[t-1] + d * (up[t] - down[t])

    The first frame after a reset sets b and sends nothing. The baseline follows slow change and
    loses nothing but what is smaller than d, so several thresholds share the work: a coarse one is
    quick, a fine one exact.

    Rule ``frame_difference`` is that of ``snntorch.spikegen.delta(off_spike=True, padding=True)``
    and keeps only the last frame:

        up[t]   = x[t] - x[t-1] >=  d
        down[t] = x[t] - x[t-1] <= -d
    """

    def __init__(self, params: EncoderParams) -> None:
        """Raises ValueError for thresholds that are not positive or rows of unequal length."""
        widths = {len(row) for row in params.thresholds}
        if len(widths) != 1 or 0 in widths:
            raise ValueError(f"encoder: thresholds must be rows of one length, not of lengths {sorted(widths)}")
        self._d = np.array(params.thresholds, np.float32)
        if not (np.isfinite(self._d).all() and (self._d > 0).all()):
            raise ValueError("encoder: every threshold must be positive and finite")
        self._minus_d = -self._d
        self._send_on_delta = params.rule == "send_on_delta"
        self.reset()

    @property
    def planes(self) -> int:
        """Spike planes per frame: an up and a down plane for each threshold."""
        return 2 * len(self._d)

    def reset(self) -> None:
        """Forget the baselines: the next frame sets them."""
        self._baseline: NDArray[np.float32] | None = None

    def push(self, frames: Frames) -> Spikes:
        """Return spikes (frames, planes, n_mfcc) of frames (frames, n_mfcc); plane 2*i is up, 2*i+1 down.

        Raises ValueError where the frames have another number of coefficients.
        """
        levels, width = self._d.shape
        if frames.ndim != 2 or frames.shape[1] != width:  # noqa: PLR2004 - a matrix
            raise ValueError(f"frames must have the shape (n, {width}), not {frames.shape}")
        spikes = np.zeros((len(frames), levels, 2, width), np.float32)
        rest = frames
        if self._baseline is None and len(frames):
            self._baseline = np.repeat(frames[:1], levels, axis=0)
            rest = frames[1:]
        if len(rest):
            (self._track if self._send_on_delta else self._difference)(rest, spikes[len(frames) - len(rest) :])
        return spikes.reshape(len(frames), 2 * levels, width)

    def _track(self, frames: Frames, spikes: NDArray[np.float32]) -> None:
        """Fill spikes (n, levels, 2, width), moving the baseline with each spike."""
        b = self._baseline
        assert b is not None  # noqa: S101 - for the type checker: push has set it
        for x, out in zip(frames, spikes, strict=True):
            change = x - b
            up, down = out[:, 0], out[:, 1]
            np.greater(change, self._d, out=up)
            np.less(change, self._minus_d, out=down)
            np.subtract(up, down, out=change)
            change *= self._d
            b += change

    def _difference(self, frames: Frames, spikes: NDArray[np.float32]) -> None:
        """Fill spikes from neighbouring frames; the baseline is the last frame."""
        b = self._baseline
        assert b is not None  # noqa: S101 - for the type checker: push has set it
        change = np.diff(frames, axis=0, prepend=b[:1])[:, None, :]
        np.greater_equal(change, self._d, out=spikes[:, :, 0])
        np.less_equal(change, self._minus_d, out=spikes[:, :, 1])
        b[:] = frames[-1]
