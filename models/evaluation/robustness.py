"""Robustness to the channel: level, bandwidth, DC offset, clipping and resampling of a scene."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from detector.audio.live_source import Resampler
from detector.audio.sources import read_chunks
from detector.messages import AudioChunk, Samples
from detector.statistics import Rate
from models.evaluation.inference import Change, predict_scenes
from models.evaluation.matching import Outcome, evaluate_detections, latencies_s
from models.scenes.folder import Scenes

TOLERANCE = 0.05
"""Largest relative change in the number of found events that counts as robust."""
CLEAN = "clean"
_OFFSET = 0.05
"""DC offset of a cheap microphone, relative to full scale."""
_CLIPPED = 0.01
_TELEPHONE_HZ = 8_000
_STEPS = 32_768
_BINS = 4096


@dataclass(frozen=True, slots=True)
class Channel:
    """Results through one channel."""

    name: str
    found: Rate
    false_events: int
    latency_p50_s: float | None
    kept: Rate
    """Of the references found in the clean scene, the share also found here."""
    change: float
    """Relative change of the number found, against the clean scene."""

    @property
    def holds(self) -> bool:
        """Whether the number found is within ``TOLERANCE`` of the clean scene's."""
        return abs(self.change) <= TOLERANCE


def compare(model: Path, scenes: Scenes, processes: int, progress: Callable[[str], None]) -> list[Channel]:
    """Evaluate a model on a scene as it is and through each channel; ``progress`` receives the name of each.

    Raises what ``predict_scenes`` raises.
    """
    result: list[Channel] = []
    clean: Outcome | None = None
    for name, change in channels(scenes).items():
        progress(name)
        predictions = predict_scenes(model, scenes, processes, change)
        outcome = evaluate_detections(predictions.detections, scenes, predictions.manifest.labels)
        clean = clean or outcome
        result.append(_channel(name, outcome, clean))
    return result


def channels(scenes: Scenes) -> dict[str, Change | None]:
    """Return the channels by name; each applies one gain to the whole scene."""
    peak, limit = _levels(scenes)
    to_db = {f"loudest at {db} dBFS": partial(_scaled, gain=10 ** (db / 20) / peak) for db in (-50, -6)}
    return {
        CLEAN: None,
        **to_db,
        "sampled at 8 kHz": partial(_through, rate_hz=_TELEPHONE_HZ),
        f"DC offset of {100 * _OFFSET:g} %": _with_offset,
        f"{100 * _CLIPPED:g} % clipped": partial(_scaled, gain=1 / limit),
        "from 44.1 kHz": partial(_through, rate_hz=44_100),
        "from 48 kHz": partial(_through, rate_hz=48_000),
    }


def table(found: list[Channel]) -> str:
    """Return the comparison as Markdown."""
    lines = ["| channel | found | against clean | same events kept | false events |", "|---|---|---|---|---|"]
    for c in found:
        verdict = "" if c.holds else f", more than {100 * TOLERANCE:g} % off"
        lines.append(f"| {c.name} | {c.found} | {100 * c.change:+.1f} %{verdict} | {c.kept} | {c.false_events} |")
    return "\n".join(lines)


def as_json(found: list[Channel]) -> list[dict[str, Any]]:
    """Return the comparison as JSON values."""
    return [
        {
            "channel": c.name,
            "found": c.found.hits,
            "of": c.found.total,
            "change": round(c.change, 4),
            "holds": c.holds,
            "kept": c.kept.hits,
            "kept_of": c.kept.total,
            "false_events": c.false_events,
            "latency_p50_s": c.latency_p50_s,
        }
        for c in found
    ]


def _channel(name: str, outcome: Outcome, clean: Outcome) -> Channel:
    found = Rate(sum(m.reports > 0 for m in outcome.matched), len(outcome.matched))
    before = [m.reports > 0 for m in clean.matched]
    kept = sum(m.reports > 0 and was for m, was in zip(outcome.matched, before, strict=True))
    late = latencies_s(outcome.matched)
    return Channel(
        name=name,
        found=found,
        false_events=len(outcome.false),
        latency_p50_s=round(float(np.median(late)), 3) if late.size else None,
        kept=Rate(kept, sum(before)),
        change=(found.hits - sum(before)) / max(1, sum(before)),
    )


def _levels(scenes: Scenes) -> tuple[float, float]:
    """Return a scene's largest magnitude, and the one that a share of ``_CLIPPED`` of its samples exceeds."""
    counts, peak = np.zeros(_BINS, np.int64), 0.0
    for stream in scenes.streams:
        with closing(read_chunks(stream.path, scenes.manifest.rate_hz)) as source:
            for chunk in source:
                size = np.abs(chunk.samples)
                peak = max(peak, float(size.max()))
                counts += np.histogram(size, _BINS, (0, 1))[0]
    above = np.cumsum(counts[::-1])[::-1] / max(1, int(counts.sum()))
    limit = (int(np.argmax(above <= _CLIPPED)) or 1) / _BINS
    return max(peak, 1 / _STEPS), limit


def _scaled(chunks: Iterable[AudioChunk], _: int, gain: float) -> Iterator[AudioChunk]:
    return _each(chunks, lambda samples: samples * np.float32(gain))


def _with_offset(chunks: Iterable[AudioChunk], _: int) -> Iterator[AudioChunk]:
    return _each(chunks, lambda samples: samples + np.float32(_OFFSET))


def _each(chunks: Iterable[AudioChunk], change: Callable[[Samples], Samples]) -> Iterator[AudioChunk]:
    for chunk in chunks:
        yield AudioChunk(_captured(change(chunk.samples)), chunk.first_sample, chunk.gap)


def _through(chunks: Iterable[AudioChunk], own_hz: int, rate_hz: int) -> Iterator[AudioChunk]:
    """Capture at another rate, and resample back as the detector does."""
    there, back = Resampler(own_hz, rate_hz), Resampler(rate_hz, own_hz)
    first = 0
    for part in _resampled(chunks, there, back):
        if part.size:
            yield AudioChunk(part, first)
            first += part.size


def _resampled(chunks: Iterable[AudioChunk], there: Resampler, back: Resampler) -> Iterator[Samples]:
    for chunk in chunks:
        yield back.push(_captured(there.push(chunk.samples)))
    yield back.push(_captured(there.flush()))
    yield back.flush()


def _captured(samples: Samples) -> Samples:
    """Quantise samples to 16 bits, clipped at full scale."""
    steps = np.clip(np.round(samples * _STEPS), -_STEPS, _STEPS - 1)
    return np.asarray(steps / _STEPS, np.float32)
