"""The live stream: traces, records and states on their way from the detector's threads to the browsers.

No thread of the detector waits for the server, and the server waits for no browser: all queues are bounded. A second
of sound is about 15 kB.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import math
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
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
from detector.records import Record, ServiceState, as_dict
from detector.web.schema import MEMBRANE_STEP, RANGE_DB, Frames, Health, Operations

MAX_VIEWERS: Final = 64
_SEND_INTERVAL_S: Final = 0.1
_STATE_INTERVAL_S: Final = 1.0
_MAX_ARRIVED: Final = 600
"""Records that wait for the server's thread."""
_MAX_ARRIVED_S: Final = 5
"""Seconds of frames that wait for it: where sound comes faster than in real time, viewers see the newest."""
_MAX_QUEUED: Final = 50
"""Messages that wait for one viewer: five seconds of them."""
_NEPERS: Final = math.log(10) / 10
_BYTE: Final = 255


class FrameEncoder:
    """Packs traces into ``Frames``; see there for the format."""

    def __init__(self, detector: Detector) -> None:
        """Read the manifest of a detector."""
        self._manifest, self._classes = detector.manifest, detector.classes
        p = self._manifest.features
        self._to_mel = log_mel_matrix(p)
        self._full_scale = _full_scale(p)
        self._frame_s = p.frame_length / p.sample_rate_hz
        self.frames_per_s: Final = round(p.sample_rate_hz / p.hop_length)

    def messages(self, traces: Sequence[Trace]) -> Iterator[Frames]:
        """Yield one message for each run of frames without a gap."""
        for run in _runs(traces, self._manifest.features.hop_length):
            yield self._message(run)

    def rates(self, traces: Sequence[Trace]) -> dict[str, float]:
        """Return the share of neurons that spike per frame, by layer and for the encoder; empty without layers."""
        seen = [t for t in traces if t.layers]
        if not seen:
            return {}
        names = ("encoder", *seen[0].layers)
        parts = {n: [t.spikes if n == "encoder" else t.layers[n] for t in seen] for n in names}
        return {n: float(np.concatenate(found).mean()) for n, found in parts.items()}

    def operations(self, rates: dict[str, float]) -> Operations:
        """Return synaptic operations per second of sound for these rates."""
        dense, effective = synaptic_operations(self._manifest, rates)
        return Operations(round(dense), round(effective))

    def _message(self, run: Sequence[Trace]) -> Frames:
        rate_hz = self._manifest.features.sample_rate_hz
        has_layers = all(t.layers for t in run)
        mel = np.concatenate([t.frames for t in run]) @ self._to_mel
        share = 1 + (mel - self._full_scale) / (RANGE_DB * _NEPERS)
        return Frames(
            # A frame is placed at its end: that is when it is known.
            end_s=round(run[0].first_sample / rate_hz + self._frame_s, 6),
            frames=len(mel),
            mel=_text(_bytes(share)),
            encoder=_bits([t.spikes for t in run]),
            layers={n: _bits([t.layers[n] for t in run]) for n in run[0].layers} if has_layers else {},
            membranes=_text(_steps(np.concatenate([t.membranes for t in run]))) if has_layers else "",
            scores=_text(_bytes(np.concatenate([t.scores for t in run]))),
            means=_text(_bytes(self._means(run))),
        )

    def _means(self, run: Sequence[Trace]) -> NDArray[np.float64]:
        """Return the means; where none were traced, those of a decoder that starts with the run."""
        means = np.concatenate([t.means for t in run])
        if means.shape[1]:
            return means
        decoder = EventDecoder(self._classes, self._manifest.features.hop_length, self._manifest.features.frame_length)
        trace = Trace(0)
        decoder.push(np.concatenate([t.scores for t in run]), trace)
        return trace.means


class Viewer:
    """The stream of one browser: a bounded queue whose oldest messages are dropped and counted when it is full."""

    def __init__(self) -> None:
        """Start with an empty queue."""
        self._queue: deque[bytes] = deque()
        self._filled = asyncio.Event()
        self.dropped = 0

    def push(self, message: bytes) -> int:
        """Queue a message and return the number of messages dropped for it; never waits."""
        dropped = 0
        if len(self._queue) >= _MAX_QUEUED:
            self._queue.popleft()
            self.dropped += 1
            dropped = 1
        self._queue.append(message)
        self._filled.set()
        return dropped

    async def take(self) -> bytes:
        """Wait for messages and return all that are queued."""
        await self._filled.wait()
        self._filled.clear()
        messages = b"".join(self._queue)
        self._queue.clear()
        return messages


class _Arrivals:
    """What waits for the server's thread, in the order in which it came; the oldest frames and records are dropped."""

    def __init__(self, max_frames: int) -> None:
        """Start empty."""
        self._lock = threading.Lock()
        self._number = itertools.count()
        self._max_frames, self._frames = max_frames, 0
        self._traces: deque[tuple[int, Trace]] = deque()
        self._records: deque[tuple[int, Record]] = deque(maxlen=_MAX_ARRIVED)

    def __len__(self) -> int:
        """Return the number of traces and records."""
        return len(self._traces) + len(self._records)

    def add_trace(self, trace: Trace) -> None:
        """Add the frames of a chunk; the newest chunk is kept, however long."""
        with self._lock:
            self._traces.append((next(self._number), trace))
            self._frames += len(trace.scores)
            while self._frames > self._max_frames and len(self._traces) > 1:
                self._frames -= len(self._traces.popleft()[1].scores)

    def add_record(self, record: Record) -> None:
        """Add a record."""
        with self._lock:
            self._records.append((next(self._number), record))

    def take(self) -> list[Trace | Record]:
        """Return all there is, and start empty."""
        with self._lock:
            found = sorted((*self._traces, *self._records), key=itemgetter(0))
            self._traces.clear()
            self._records.clear()
            self._frames = 0
        return [item for _, item in found]


class Broadcaster:
    """Receives traces, records and states from their threads and sends them to the viewers.

    Without viewers it keeps nothing but the last state.
    """

    def __init__(self, frame_encoder: FrameEncoder, source: str | None = None) -> None:
        """Start without viewers; ``source`` is the one that is shown, None: the only one."""
        self._source = source
        self._frame_encoder = frame_encoder
        self._viewers: list[Viewer] = []
        self._has_viewers = asyncio.Event()
        self._arrived = _Arrivals(_MAX_ARRIVED_S * frame_encoder.frames_per_s)
        self._levels: deque[tuple[float, float, int]] = deque(maxlen=_MAX_ARRIVED)
        """Peak, energy and number of samples of each chunk since the last message."""
        self.dropped = 0
        """Messages dropped because viewers were too slow."""
        self.state: ServiceState | None = None
        """The last state that was requested; None before the first."""
        self._states: Sequence[ServiceState] = ()
        self.wants_state = True
        self._last_second: deque[Trace] = deque()

    @property
    def viewers(self) -> int:
        """Number of viewers."""
        return len(self._viewers)

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Add a chunk to the level; called in the engine's thread."""
        samples = chunk.samples
        if self._viewers and len(samples):
            self._levels.append((float(np.abs(samples).max()), float(np.dot(samples, samples)), len(samples)))

    def on_trace(self, trace: Trace) -> None:
        """Queue a trace; called in the engine's thread."""
        if self._viewers:
            self._arrived.add_trace(trace)

    def on_record(self, record: Record) -> None:
        """Queue a record, of this source or another; called in the sink's thread."""
        if self._viewers:
            self._arrived.add_record(record)

    def show(self, states: Sequence[ServiceState]) -> None:
        """Set the states of all sources; called in the main thread."""
        own = next((state for state in states if self._source in {None, state.source}), None)
        if own is not None:  # the source may have been removed meanwhile
            self.wants_state = False  # first: what is asked for from here on is a later state
            self._states, self.state = states, own

    async def health(self, timeout_s: float = 0.0) -> Health | None:
        """Request the state and return it; the last one where none comes in time, None where there was none yet."""
        before, until_s = self.state, time.monotonic() + timeout_s
        self.wants_state = True
        while self.state is before and time.monotonic() < until_s:
            await asyncio.sleep(_SEND_INTERVAL_S / 4)
        return None if self.state is None else self._health(self.state)

    def join(self) -> Viewer | None:
        """Add a viewer; returns None where there are ``MAX_VIEWERS`` already."""
        if len(self._viewers) >= MAX_VIEWERS:
            return None
        if not self._viewers:  # the detector's threads may have added some since the last one left
            self._arrived.take()
            self._levels.clear()
        viewer = Viewer()
        self._viewers.append(viewer)
        self._has_viewers.set()
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Remove a viewer."""
        self._viewers.remove(viewer)
        if not self._viewers:
            self._has_viewers.clear()
            self._arrived.take()
            self._levels.clear()
            self._last_second.clear()

    async def run(self) -> None:
        """Send what has arrived to the viewers about ten times a second, and a new state once a second."""
        state_at_s, sent = 0.0, None
        while True:
            await self._has_viewers.wait()
            await asyncio.sleep(_SEND_INTERVAL_S)
            now_s = time.monotonic()
            if now_s >= state_at_s:
                state_at_s, self.wants_state = now_s + _STATE_INTERVAL_S, True
            self._send_arrived()
            state = self.state
            if state is not None and state is not sent:
                sent = state
                self._send("state", asdict(self._health(state)))

    def _health(self, state: ServiceState) -> Health:
        rates = self._frame_encoder.rates(list(self._last_second))
        operations = self._frame_encoder.operations(rates) if rates else None
        return Health.of(state, self.viewers, self.dropped, operations, self._states)

    def _send_arrived(self) -> None:
        """Send what has arrived, in its order: frames in batches, records one by one."""
        batch: list[Trace] = []
        for item in self._arrived.take():
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
        while sum(len(t.scores) for t in self._last_second) > self._frame_encoder.frames_per_s:
            self._last_second.popleft()
        level = self._level()
        for frames in self._frame_encoder.messages(batch):
            self._send("frames", asdict(frames) | level)

    def _level(self) -> dict[str, Any]:
        """Return the level since the last call, and start the next one."""
        levels = [self._levels.popleft() for _ in range(len(self._levels))]
        peak = max((level[0] for level in levels), default=0.0)
        energy, samples = sum(level[1] for level in levels), sum(level[2] for level in levels)
        rms = math.sqrt(energy / samples) if samples and math.isfinite(energy) else 0.0
        return {"rms_dbfs": _dbfs(rms), "peak_dbfs": _dbfs(peak), "clipped": peak >= FULL_SCALE}

    def _send(self, kind: str, message: Mapping[str, Any]) -> None:
        text = json.dumps(message, separators=(",", ":"), ensure_ascii=True)
        data = f"event: {kind}\ndata: {text}\n\n".encode()
        for viewer in self._viewers:
            self.dropped += viewer.push(data)


def _runs(traces: Sequence[Trace], hop_length: int) -> Iterator[list[Trace]]:
    run: list[Trace] = []
    for trace in traces:
        if run:
            last = run[-1]
            is_next = trace.first_sample == last.first_sample + len(last.scores) * hop_length
            if not is_next or trace.layers.keys() != last.layers.keys():
                yield run
                run = []
        run.append(trace)
    if run:
        yield run


def _full_scale(p: MfccParams) -> float:
    """Return the log energy of a sine at full scale in its band."""
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


def _dbfs(amplitude: float) -> float:
    return round(amplitude_dbfs(amplitude), 1)
