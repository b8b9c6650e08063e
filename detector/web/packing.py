"""What happens inside the detector, packed for browsers: a second of it is some 15 kB."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.decoder import EventDecoder
from detector.insides import Insides
from detector.manifest import MfccParams
from detector.mfcc_tables import log_mel_matrix, window_coefficients
from detector.operations import synaptic_operations
from detector.pipeline import Detector

RANGE_DB: Final = 72.0
"""Levels of bands from the loudest one that can be down to what is drawn as nothing."""
MEMBRANE_STEP: Final = 1 / 16
"""One step of a packed membrane, in the network's unit."""
_NEPERS: Final = math.log(10) / 10
_BYTE: Final = 255


class Packer:
    """Turns insides into messages; the arrays are base64 of rows, one a frame, the oldest first.

    ``mel`` has a byte per band, from ``RANGE_DB`` below a sine at full scale up to it; ``encoder`` and each of
    ``layers`` a bit per neuron, the first one highest, rows filled up to whole bytes; ``scores`` and ``means`` a byte
    per class, 255 being 1; ``membranes`` a signed byte per class, in ``MEMBRANE_STEP``.
    """

    def __init__(self, detector: Detector) -> None:
        """Take the manifest of a detector."""
        self._manifest, self._classes = detector.manifest, detector.classes
        p = self._manifest.features
        self._to_mel = log_mel_matrix(p)
        self._top = _loudest(p)
        self._frame_s = p.frame_length / p.sample_rate_hz
        self.frames_per_s: Final = round(p.sample_rate_hz / p.hop_length)

    def messages(self, insides: Sequence[Insides]) -> Iterator[dict[str, Any]]:
        """Yield a message for each run of frames without a gap."""
        for run in _runs(insides, self._manifest.features.hop_length):
            yield self._message(run)

    def rates(self, insides: Sequence[Insides]) -> dict[str, float]:
        """Return the share of neurons that spike per frame, by layer and for the encoder; empty without layers."""
        seen = [i for i in insides if i.layers]
        if not seen:
            return {}
        names = ("encoder", *seen[0].layers)
        parts = {n: [i.spikes if n == "encoder" else i.layers[n] for i in seen] for n in names}
        return {n: float(np.concatenate(found).mean()) for n, found in parts.items()}

    def operations(self, rates: dict[str, float]) -> dict[str, float]:
        """Return synaptic operations per second of sound, dense and effective, for these rates."""
        dense, effective = synaptic_operations(self._manifest, rates)
        return {"dense_per_s": round(dense), "effective_per_s": round(effective)}

    def _message(self, run: Sequence[Insides]) -> dict[str, Any]:
        rate_hz = self._manifest.features.sample_rate_hz
        has_layers = all(i.layers for i in run)
        mel = np.concatenate([i.frames for i in run]) @ self._to_mel
        share = 1 + (mel - self._top) / (RANGE_DB * _NEPERS)
        return {
            # A frame stands where it ends: that is when it is known.
            "end_s": round(run[0].first_sample / rate_hz + self._frame_s, 6),
            "frames": len(mel),
            "mel": _text(_bytes(share)),
            "encoder": _bits([i.spikes for i in run]),
            "layers": {n: _bits([i.layers[n] for i in run]) for n in run[0].layers} if has_layers else {},
            "membranes": _text(_steps(np.concatenate([i.membranes for i in run]))) if has_layers else "",
            "scores": _text(_bytes(np.concatenate([i.scores for i in run]))),
            "means": _text(_bytes(self._means(run))),
        }

    def _means(self, run: Sequence[Insides]) -> NDArray[np.float64]:
        """Return the means; where nobody looked, those of a decoder that begins with the run."""
        means = np.concatenate([i.means for i in run])
        if means.shape[1]:
            return means
        decoder = EventDecoder(self._classes, self._manifest.features.hop_length, self._manifest.features.frame_length)
        return decoder.watch(np.concatenate([i.scores for i in run]))[1]


def _runs(insides: Sequence[Insides], hop_length: int) -> Iterator[list[Insides]]:
    run: list[Insides] = []
    for one in insides:
        if run:
            last = run[-1]
            goes_on = one.first_sample == last.first_sample + len(last.scores) * hop_length
            if not goes_on or one.layers.keys() != last.layers.keys():
                yield run
                run = []
        run.append(one)
    if run:
        yield run


def _loudest(p: MfccParams) -> float:
    """Return the log energy that a sine at full scale has in its band."""
    amplitude = float(window_coefficients(p).sum()) / 2
    return math.log(amplitude * amplitude / p.n_fft)


def _bytes(share: NDArray[Any]) -> NDArray[np.uint8]:
    return np.asarray(np.clip(np.rint(share * _BYTE), 0, _BYTE), np.uint8)


def _steps(membranes: NDArray[np.float32]) -> NDArray[np.int8]:
    return np.asarray(np.clip(np.rint(membranes / MEMBRANE_STEP), -128, 127), np.int8)


def _bits(spikes: Sequence[NDArray[np.float32]]) -> str:
    rows = np.concatenate([s.reshape(len(s), -1) for s in spikes])
    return _text(np.packbits(rows > 0, axis=1))


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")
