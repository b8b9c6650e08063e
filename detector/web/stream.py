"""Where the detector's threads leave what they have, and browsers take it: nobody waits for anybody.

What happens inside the detector, packed for browsers: a second of it is some 15 kB.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.levels import FULL_SCALE, amplitude_dbfs
from detector.decoder import EventDecoder
from detector.features import log_mel_matrix, window_coefficients
from detector.manifest import MfccParams
from detector.messages import AudioChunk, Trace
from detector.network import synaptic_operations
from detector.pipeline import Detector
from detector.records import Record, as_dict

RANGE_DB: Final = 72.0
"""Levels of bands from the loudest one that can be down to what is drawn as nothing."""
MEMBRANE_STEP: Final = 1 / 16
"""One step of a packed membrane, in the network's unit."""
_NEPERS: Final = math.log(10) / 10
_BYTE: Final = 255


class FrameEncoder:
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

    def messages(self, trace: Sequence[Trace]) -> Iterator[dict[str, Any]]:
        """Yield a message for each run of frames without a gap."""
        for run in _runs(trace, self._manifest.features.hop_length):
            yield self._message(run)

    def rates(self, trace: Sequence[Trace]) -> dict[str, float]:
        """Return the share of neurons that spike per frame, by layer and for the encoder; empty without layers."""
        seen = [i for i in trace if i.layers]
        if not seen:
            return {}
        names = ("encoder", *seen[0].layers)
        parts = {n: [i.spikes if n == "encoder" else i.layers[n] for i in seen] for n in names}
        return {n: float(np.concatenate(found).mean()) for n, found in parts.items()}

    def operations(self, rates: dict[str, float]) -> dict[str, float]:
        """Return synaptic operations per second of sound, dense and effective, for these rates."""
        dense, effective = synaptic_operations(self._manifest, rates)
        return {"dense_per_s": round(dense), "effective_per_s": round(effective)}

    def _message(self, run: Sequence[Trace]) -> dict[str, Any]:
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

    def _means(self, run: Sequence[Trace]) -> NDArray[np.float64]:
        """Return the means; where nobody looked, those of a decoder that begins with the run."""
        means = np.concatenate([i.means for i in run])
        if means.shape[1]:
            return means
        decoder = EventDecoder(self._classes, self._manifest.features.hop_length, self._manifest.features.frame_length)
        trace = Trace(0)
        decoder.push(np.concatenate([i.scores for i in run]), trace)
        return trace.means


def _runs(trace: Sequence[Trace], hop_length: int) -> Iterator[list[Trace]]:
    run: list[Trace] = []
    for one in trace:
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


MOST_VIEWERS: Final = 64
_PACE_S: Final = 0.1
_STATE_S: Final = 1.0
_MOST_WAITING: Final = 600
"""Chunks and records that wait for the server's thread."""
_MOST_QUEUED: Final = 50
"""Messages that wait for one viewer: five seconds of them."""


class Viewer:
    """One browser's stream: a bounded queue, whose oldest messages make room and are counted."""

    def __init__(self) -> None:
        """Begin with an empty queue."""
        self._queue: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self.dropped = 0

    def push(self, message: bytes) -> int:
        """Queue a message and return how many had to go for it; never waits."""
        gone = 0
        if len(self._queue) >= _MOST_QUEUED:
            self._queue.popleft()
            self.dropped += 1
            gone = 1
        self._queue.append(message)
        self._filled.set()
        return gone

    async def take(self) -> bytes:
        """Return all that waits, as soon as there is something."""
        await self._filled.wait()
        self._filled.clear()
        messages = b"".join(self._queue)
        self._queue.clear()
        return messages


class Broadcaster:
    """Takes sound's traces, records and states from their threads, and gives them to the viewers.

    Without viewers nothing is taken but records and, when asked for, states.
    """

    def __init__(self, frame_encoder: FrameEncoder) -> None:
        """Begin without viewers."""
        self._frame_encoder = frame_encoder
        self._viewers: list[Viewer] = []
        self._someone = asyncio.Event()
        self._arrived: deque[Trace | Record] = deque(maxlen=_MOST_WAITING)
        self._peak = self._energy = 0.0
        self._samples = 0
        self.dropped = 0
        """Messages that viewers were too slow for."""
        self.state: Mapping[str, Any] | None = None
        """How the service was when somebody last asked."""
        self.wants_state = True
        self._last_second: deque[Trace] = deque()

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Take the sound's level, for the engine's thread."""
        samples = chunk.samples
        if self._viewers and len(samples):
            self._peak = max(self._peak, float(np.abs(samples).max()))
            self._energy += float(np.dot(samples, samples))
            self._samples += len(samples)

    def on_trace(self, trace: Trace) -> None:
        """Take what the sound brought about, for the engine's thread."""
        if self._viewers:
            self._arrived.append(trace)

    def note(self, record: Record) -> None:
        """Take a record, for the sink's thread."""
        if self._viewers:
            self._arrived.append(record)

    def show(self, state: Mapping[str, Any]) -> None:
        """Take how the service is, for the main thread."""
        self.state, self.wants_state = state, False

    async def fresh_state(self, patience_s: float) -> Mapping[str, Any] | None:
        """Ask how the service is, and return the answer; the last one where none comes in time."""
        before, until_s = self.state, time.monotonic() + patience_s
        self.wants_state = True
        while self.state is before and time.monotonic() < until_s:
            await asyncio.sleep(_PACE_S / 4)
        return self.state

    def join(self) -> Viewer | None:
        """Return a stream for a new viewer; None where there are too many."""
        if len(self._viewers) >= MOST_VIEWERS:
            return None
        viewer = Viewer()
        self._viewers.append(viewer)
        self._someone.set()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Forget a viewer."""
        self._viewers.remove(viewer)
        if not self._viewers:
            self._someone.clear()
            self._arrived.clear()
            self._last_second.clear()

    async def run(self) -> None:
        """Pass on what arrives, about ten times a second, while anybody looks."""
        state_at_s, told = 0.0, None
        while True:
            await self._someone.wait()
            await asyncio.sleep(_PACE_S)
            now_s = time.monotonic()
            if now_s >= state_at_s:
                state_at_s, self.wants_state = now_s + _STATE_S, True
            self._pass_on()
            if self.state is not None and self.state is not told:
                told = self.state
                self._send("state", self.described())

    def described(self) -> dict[str, Any]:
        """Return the state with what the server knows of it."""
        rates = self._frame_encoder.rates(list(self._last_second))
        return {
            **(self.state or {}),
            "viewers": self.viewers,
            "dropped_messages": self.dropped,
            "operations": self._frame_encoder.operations(rates) if rates else None,
        }

    def _pass_on(self) -> None:
        """Send what has arrived, in its order: frames in batches, records one by one."""
        batch: list[Trace] = []
        while self._arrived:
            item = self._arrived.popleft()
            if isinstance(item, Trace):
                batch.append(item)
                continue
            self._send_frames(batch)
            batch = []
            self._send("record", as_dict(item))
        self._send_frames(batch)

    def _send_frames(self, batch: list[Trace]) -> None:
        if not batch:
            return
        self._last_second.extend(batch)
        while sum(len(i.scores) for i in self._last_second) > self._frame_encoder.frames_per_s:
            self._last_second.popleft()
        level = self._level()
        for message in self._frame_encoder.messages(batch):
            self._send("frames", message | level)

    def _level(self) -> dict[str, Any]:
        """Return the level since the last time, and begin anew."""
        peak, energy, samples = self._peak, self._energy, self._samples
        self._peak = self._energy = 0.0
        self._samples = 0
        rms = math.sqrt(energy / samples) if samples and math.isfinite(energy) else 0.0
        return {"rms_dbfs": _dbfs(rms), "peak_dbfs": _dbfs(peak), "clipped": peak >= FULL_SCALE}

    def _send(self, kind: str, message: Mapping[str, Any]) -> None:
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=True)
        data = f"event: {kind}\ndata: {text}\n\n".encode()
        for viewer in self._viewers:
            self.dropped += viewer.push(data)


def _dbfs(amplitude: float) -> float:
    return round(amplitude_dbfs(amplitude), 1)
