"""Delta encoding of frames into binary spikes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.manifest import EncoderParams
from detector.messages import Frames, Spikes


class DeltaEncoder:
    """Encode frames as binary up and down spikes, per coefficient and threshold.

    Rule ``send_on_delta`` (M. Miskowicz, "Send-on-delta concept", Sensors 6(1), 2006; also called
    step-forward modulation). Each coefficient has a baseline b, which moves by a threshold when a
    spike of it is sent. Several thresholds d[0] > d[1] > ... share one baseline, coarse to fine,
    each taking what the coarser ones left of the change r:

        b'      = rest + (1 - leak) * (b[t-1] - rest)
        r       = x[t] - b'
        up[i]   = r >  d[i],   down[i] = r < -d[i],   r = r - d[i] * (up[i] - down[i])
        b[t]    = b' + sum of d[i] * (up[i] - down[i])

    With a leak, the baseline sinks back towards the coefficient's value in silence, and keeping it
    up takes spikes: a steady sound goes on sending spikes, not only its changes. A synapse that decays
    by the same leak adds the spikes up to the signal again, to within the coarsest threshold while it
    moves and the finest where it rests. After a reset the baseline is at rest, as if there had been
    silence; with no ``rest`` given (and so no leak) the first frame sets it and sends nothing.

    Rule ``frame_difference`` is that of ``snntorch.spikegen.delta(off_spike=True, padding=True)``
    and keeps only the last frame:

        up[t]   = x[t] - x[t-1] >=  d
        down[t] = x[t] - x[t-1] <= -d
    """

    def __init__(self, params: EncoderParams) -> None:
        """Take the parameters; raises ValueError for thresholds, a leak or a rest that cannot be."""
        check_encoder(params)
        self._d = np.array(params.thresholds, np.float32)
        self._levels = [(2 * i, d) for i, d in enumerate(self._d)]
        self._rest = np.array(params.rest, np.float32) if params.rest else None
        self._keep = np.float32(1 - params.leak)
        self._send_on_delta = params.rule == "send_on_delta"
        self.reset()

    @property
    def planes(self) -> int:
        """Spike planes per frame: an up and a down plane for each threshold."""
        return 2 * len(self._d)

    def reset(self) -> None:
        """Set the baselines to their initial values, or clear them where there are none."""
        self._baseline: NDArray[np.float32] | None = None if self._rest is None else np.zeros_like(self._rest)

    def push(self, frames: Frames) -> Spikes:
        """Return spikes (frames, planes, n_mfcc) of frames (frames, n_mfcc); plane 2*i is up, 2*i+1 down.

        Raises ValueError where the frames have another number of coefficients.
        """
        levels, width = self._d.shape
        if frames.ndim != 2 or frames.shape[1] != width:  # noqa: PLR2004 - a matrix
            raise ValueError(f"frames must have the shape (n, {width}), not {frames.shape}")
        spikes = np.zeros((len(frames), 2 * levels, width), np.float32)
        # Baselines are kept relative to the rest: silence is zero.
        rest = frames if self._rest is None else frames - self._rest
        if self._baseline is None and len(frames):
            self._baseline, rest = frames[0].copy(), frames[1:]
        if self._baseline is not None and len(rest):
            encode = self._track if self._send_on_delta else self._difference
            encode(rest, spikes[len(frames) - len(rest) :], self._baseline)
        return spikes

    def _track(self, frames: Frames, spikes: Spikes, baseline: NDArray[np.float32]) -> None:
        """Fill spikes (n, planes, width), moving the baseline in place."""
        # Row 0 is the change, row 1 its negative: one comparison finds up and down spikes.
        both, sent = np.empty((2, baseline.size), np.float32), np.empty_like(baseline)
        change, negative = both
        for x, planes in zip(frames, spikes, strict=True):
            np.multiply(baseline, self._keep, out=baseline)
            np.subtract(x, baseline, out=change)
            np.negative(change, out=negative)
            for i, d in self._levels:
                fired = planes[i : i + 2]
                np.greater(both, d, out=fired)
                np.subtract(fired[0], fired[1], out=sent)
                np.multiply(sent, d, out=sent)
                np.subtract(change, sent, out=change)
                np.add(negative, sent, out=negative)
                np.add(baseline, sent, out=baseline)

    def _difference(self, frames: Frames, spikes: Spikes, baseline: NDArray[np.float32]) -> None:
        """Fill spikes from neighbouring frames; the baseline is the last frame."""
        change = np.diff(frames, axis=0, prepend=baseline[None])[:, None, :]
        np.greater_equal(change, self._d, out=spikes[:, 0::2])
        np.less_equal(change, -self._d, out=spikes[:, 1::2])
        baseline[:] = frames[-1]


def check_encoder(p: EncoderParams) -> None:
    """Raise ValueError for thresholds, a leak or a rest that cannot be."""
    widths = {len(row) for row in p.thresholds}
    d = np.array(p.thresholds, np.float64) if len(widths) == 1 else np.zeros((0, 0))
    wrong = [
        (len(widths) != 1 or 0 in widths, f"thresholds must be rows of one length, not of {sorted(widths)}"),
        (not (np.isfinite(d).all() and (d > 0).all()), "every threshold must be positive and finite"),
        (bool((np.diff(d, axis=0) >= 0).any()), "thresholds must fall from row to row, coarse to fine"),
        (bool(p.rest) and len(p.rest) not in widths, "rest must have one value for each coefficient, or none at all"),
        (not np.isfinite(p.rest).all(), "every rest value must be finite"),
        (not 0 <= p.leak < 1, f"leak must lie in [0, 1), not {p.leak}"),
        (p.leak > 0 and not p.rest, "a leak needs a rest to sink to"),
        (p.rule == "frame_difference" and bool(p.rest), "the frame difference has neither leak nor rest"),
    ]
    for is_wrong, text in wrong:
        if is_wrong:
            raise ValueError(f"encoder: {text}")
