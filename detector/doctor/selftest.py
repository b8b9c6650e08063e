"""The demo scene through all that live sound goes through, and whether its sounds are detected."""

from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector.doctor.finding import WRONG, Finding, ok, problem, skipped
from detector.errors import SourceError
from detector.live.engine import Engine
from detector.live.health import NO_SOURCE
from detector.live.tally import Tally
from detector.live.teller import Teller
from detector.messages import AudioChunk, Samples
from detector.microphone.news import Figures, News, Sound
from detector.pipeline import Detector
from detector.sources import FileSource

SELFTEST: Final = "selftest"
_CHUNK_S: Final = 0.04
_EARLY_S: Final = 0.25
"""An onset may be told this much before its place in the annotation, which is a person's."""
_ENOUGH: Final = 0.5
"""Share of the sounds that a detector in order finds: the scene is not made of easy ones alone."""
_Record = dict[str, Any]
_ADVICE: Final = (
    "install snn-detect and its model again; if that does not help, snn-detect model verify and "
    "snn-detect bench show whether onnxruntime is at fault"
)


@dataclass(frozen=True, slots=True)
class Expected:
    """A sound that is in the scene."""

    label: str
    onset_s: float
    offset_s: float


class Playback:
    """A sound file as a live source: in chunks as a microphone gives them, as fast as they are taken."""

    def __init__(self, path: Path, rate_hz: int) -> None:
        """Open the file; raises SourceError where it cannot be heard."""
        self._file = FileSource(path, rate_hz, round(_CHUNK_S * rate_hz))
        self._chunks = iter(self._file)
        self._rate_hz, self._begin_s = rate_hz, time.monotonic()
        self.heard: list[Samples] = []
        """All that was taken."""
        self.figures: Figures = dataclasses.replace(NO_SOURCE, device=path.name, is_open=True)

    def take(self, timeout_s: float) -> list[News] | None:  # noqa: ARG002 - a file never has to be waited for
        """Return the next chunk; None behind the last one."""
        chunk = next(self._chunks, None)
        if chunk is None:
            return None
        self.heard.append(chunk.samples)
        return [Sound(chunk, self._begin_s + _end(chunk) / self._rate_hz)]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def check_scene(detector: Detector, scene: Path | None = None) -> Finding:
    """Play a scene (None: the demo scene) and compare the events with its annotation and with those in one piece.

    The thresholds are those of the detector.
    """
    scene = scene or Path(str(resources.files("models") / "demo" / "scene.flac"))
    try:
        expected = [e for e in annotated(scene) if e.label in detector.labels]
        if not expected:
            return skipped(SELFTEST, f"this model knows none of the sounds in {scene.name}")
        records, at_once = _play(detector, scene)
    except (OSError, ValueError, SourceError) as error:
        return problem(SELFTEST, f"the scene cannot be played: {error}", "install snn-detect again", WRONG)
    onsets = [(r["label"], r["onset_s"]) for r in records if r["type"] == "onset"]
    if onsets != at_once:
        found = f"in chunks it hears {_listed(onsets)}, in one piece {_listed(at_once)}"
        return problem(SELFTEST, f"live sound and files give different events: {found}", _ADVICE, WRONG)
    return judge(expected, onsets)


def judge(expected: Sequence[Expected], onsets: Sequence[tuple[str, float]]) -> Finding:
    """Compare onsets (label and seconds) with the sounds that are in the scene."""
    heard = [e for e in expected if any(_fits(e, *onset) for onset in onsets)]
    others = [onset for onset in onsets if not any(_fits(e, *onset) for e in expected)]
    found = f"{len(heard)} of {len(expected)} sounds heard"
    if missed := [(e.label, e.onset_s) for e in expected if e not in heard]:
        found = f"{found}, not {_listed(missed)}"
    if others:
        found = f"{found}; besides {_listed(others)}"
    if len(heard) <= _ENOUGH * len(expected):
        return problem(SELFTEST, found, _ADVICE, WRONG)
    return ok(SELFTEST, found)


def annotated(scene: Path) -> Iterator[Expected]:
    """Yield the sounds of a scene by the table beside it; raises OSError and ValueError where it cannot be read."""
    with scene.with_suffix(".tsv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            try:
                yield Expected(row["event_label"], float(row["onset"]), float(row["offset"]))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{scene.with_suffix('.tsv')}: a row lacks {error}") from error


def _play(detector: Detector, scene: Path) -> tuple[list[_Record], list[tuple[str, float]]]:
    """Return the records of the scene as live sound, and the onsets of the same sound in one piece."""
    records: list[_Record] = []
    playback = Playback(scene, detector.sample_rate_hz)
    detector.reset()
    try:
        engine = Engine(playback, detector, Teller(SELFTEST, lambda r: records.append(dict(r))), Tally())
        while engine.turn(0.0):
            pass
        engine.close_events("end_of_stream")
    finally:
        playback.close()
    detector.reset()
    events = detector.push(np.concatenate(playback.heard)) + detector.flush()
    rate_hz = detector.sample_rate_hz
    return records, [(e.label, round(e.onset_sample / rate_hz, 6)) for e in events if e.kind == "onset"]


def _fits(expected: Expected, label: str, onset_s: float) -> bool:
    return label == expected.label and expected.onset_s - _EARLY_S <= onset_s <= expected.offset_s


def _listed(onsets: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{label} at {onset_s:.1f} s" for label, onset_s in onsets) or "nothing"


def _end(chunk: AudioChunk) -> int:
    return chunk.first_sample + len(chunk.samples)
