"""One table of all exported forms of a model: size, speed, parity and accuracy.

Every form is made from the model file, built and run here: the C with this computer's compiler and its own Makefile,
its sizes and stack with a compiler for the Cortex-M4 where there is one. Parity and accuracy are measured on sounds
that the table names.

Times are medians of rounds in which the forms take turns, on one core each. The runtime receives one hop of sound at a
time, as from a microphone; its times for shorter and longer pushes are below the table.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from detector.bench import activity
from detector.errors import ConfigError
from detector.messages import Event
from detector.network import load_model
from detector.pipeline import Detector
from detector.statistics import Rate
from firmware_export.c99.build import BoardName, Host, Pcm, build_firmware, build_host, from_pcm, model_rate_hz, to_pcm
from firmware_export.c99.export import export_c
from firmware_export.c99.fixed_point import SCORE_BITS
from firmware_export.c99.formats import FLOAT, INT8, INT8_FLOAT_FRONT_END, NumberFormat
from firmware_export.nir.export import export_nir
from firmware_export.onnx.int8 import export_int8
from models import DEMO_SCENE
from models.data.clips import Clip

SPEED_S: Final = 120
"""Seconds of sound that are timed."""
ROUNDS: Final = 5
PUSHES_MS: Final = (10, 100, 1000 * SPEED_S)
"""Lengths of pushes, besides a hop, for which the runtime is timed."""
BOARD: Final[BoardName] = "mps2-an386"

EventKey = tuple[str, str, int, int]
"""Kind, label, onset sample and emitted sample of an event: what must be equal."""

_RATES: Final = ("same_events", "same_class", "accuracy")


@dataclass(frozen=True, slots=True)
class Row:
    """The measurements of one form; None where they do not apply or cannot be taken here."""

    form: str
    bytes: int
    """Size of the file; flash of the detector, for C."""
    state_bytes: int | None
    stack_bytes: int | None
    dense_ops_per_s: float | None
    effective_ops_per_s: float | None
    same_events: Rate | None
    """Sounds whose events equal the runtime's, each in its frame."""
    same_class: Rate | None
    accuracy: Rate | None
    cpu_s_per_s: float | None = None
    push_cpu_s_per_s: dict[int, float] | None = None
    """By the length of a push in milliseconds; only of the runtime, since longer pushes do not speed up the C."""

    def record(self) -> dict[str, Any]:
        """Return the row as a JSON object."""
        rates = {k: None if (r := getattr(self, k)) is None else {"hits": r.hits, "total": r.total} for k in _RATES}
        return asdict(self) | rates


class RunnableForm(Protocol):
    """A form of a model that runs here."""

    def detect(self, pcm: Pcm) -> tuple[NDArray[np.float32], list[EventKey]]:
        """Return the scores (frames, classes) in [0, 1] and the events of one stream of 16-bit samples (n,)."""
        ...

    def cpu_seconds(self, pcm: Pcm) -> float:
        """Return the CPU time in seconds for a stream that arrives one hop at a time."""
        ...


def report(model: Path, clips: Sequence[Clip], work: Path, compiler: str = "cc") -> list[Row]:
    """Make every form of a model below the folder ``work`` and return a row for each, the runtime's first.

    ``clips`` have labels; the demo scene is always measured, too. Raises ManifestError, ConfigError or ParityError
    where a form cannot be made.
    """
    labels = Detector.load(model).labels
    sounds = [(to_pcm(read_sound(DEMO_SCENE, _rate(model))), None), *((_pcm(c.path, model), c.label) for c in clips)]
    runtime = _Runtime(model)
    expected = [runtime.detect(pcm) for pcm, _ in sounds]
    int8 = work / "int8.onnx"
    export_int8(model, int8)
    forms: list[tuple[str, Path, RunnableForm]] = [("float ONNX, the runtime", model, runtime)]
    forms.append(("int8 ONNX", int8, _Runtime(int8)))
    for number_format in (FLOAT, INT8_FLOAT_FRONT_END, INT8):
        folder = work / number_format.name.replace(", ", "-").replace(" ", "-")
        export_c(model, folder, number_format)
        compiled = _Compiled(build_host(folder, compiler, None), number_format, len(labels))
        forms.append((f"C99, {number_format.name}", folder, compiled))
    rows = [_row(name, made, form, sounds, expected, labels) for name, made, form in forms]
    rows = _with_times(rows, [form for _, _, form in forms], runtime, np.resize(sounds[0][0], SPEED_S * _rate(model)))
    graph = work / "network.nir"
    export_nir(model, graph)
    rows.append(Row("NIR", graph.stat().st_size, *[None] * 7))
    return rows


def table(rows: Sequence[Row], model: Path) -> str:
    """Return the rows as a Markdown table."""
    base = rows[0].cpu_s_per_s or float("nan")
    sounds = rows[0].same_events.total if rows[0].same_events else 0
    head = ["form", "bytes", "state", "stack bound", "operations per s, dense / effective", "CPU s per s"]
    head += ["times faster", "same events", "same class", "accuracy"]
    title = (
        f"{model.name}, over {sounds} sounds: the demo scene and held-out clips. Times are medians of {ROUNDS}, "
        "on one core; the runtime receives one hop at a time."
    )
    lines = [
        title,
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        faster = None if row.cpu_s_per_s is None else base / row.cpu_s_per_s
        operations = "-" if row.dense_ops_per_s is None else _operations(row)
        cells = [row.form, _count(row.bytes), _count(row.state_bytes), _count(row.stack_bytes), operations]
        cells += ["-" if row.cpu_s_per_s is None else f"{row.cpu_s_per_s:.5f}"]
        cells += ["-" if faster is None else f"{faster:.1f}"]
        cells += ["-" if rate is None or not rate.total else str(rate) for rate in (getattr(row, k) for k in _RATES)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Same events: every onset and offset in its frame. Same class: the highest mean score over a clip."]
    if rows[0].push_cpu_s_per_s:
        times = (f"{seconds:.5f} ({ms} ms a push)" for ms, seconds in rows[0].push_cpu_s_per_s.items())
        lines += [f"With other pushes, the runtime takes {', '.join(times)} CPU s per s."]
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> str:
    """Return the rows as JSON."""
    return json.dumps([row.record() for row in rows], indent=1)


def _with_times(rows: Sequence[Row], forms: Sequence[RunnableForm], runtime: _Runtime, pcm: Pcm) -> list[Row]:
    rounds = []
    for _ in range(ROUNDS):
        took = [form.cpu_seconds(pcm) for form in forms]
        rounds.append([*took, *(runtime.cpu_seconds_by_push(pcm, ms) for ms in PUSHES_MS)])
    medians = [statistics.median(took) / SPEED_S for took in zip(*rounds, strict=True)]
    first, *others = (dataclasses.replace(row, cpu_s_per_s=t) for row, t in zip(rows, medians, strict=False))
    by_push = dict(zip(PUSHES_MS, medians[len(forms) :], strict=True))
    return [dataclasses.replace(first, push_cpu_s_per_s=by_push), *others]


@dataclass(frozen=True, slots=True)
class _Runtime:
    model: Path

    def detect(self, pcm: Pcm) -> tuple[NDArray[np.float32], list[EventKey]]:
        detector = Detector.load(self.model)
        scores, events = detector.process(from_pcm(pcm))
        last, more = detector.finish()
        return np.concatenate([scores, last]), [_event_key(e) for e in [*events, *more]]

    def cpu_seconds(self, pcm: Pcm) -> float:
        return self._seconds(pcm, load_model(self.model).manifest.features.hop_length)

    def cpu_seconds_by_push(self, pcm: Pcm, push_ms: int) -> float:
        return self._seconds(pcm, _rate(self.model) * push_ms // 1000)

    def _seconds(self, pcm: Pcm, chunk: int) -> float:
        """Return the CPU time of pushes of so many samples, after a first second that is not counted."""
        detector, sound = Detector.load(self.model), from_pcm(pcm)
        warm = detector.sample_rate_hz
        for at in range(0, warm, min(chunk, warm)):
            detector.push(sound[at : at + chunk][:warm])
        begin = time.process_time()
        for at in range(0, sound.size, chunk):
            detector.push(sound[at : at + chunk])
        return time.process_time() - begin


@dataclass(frozen=True, slots=True)
class _Compiled:
    host: Host
    number_format: NumberFormat
    classes: int

    def detect(self, pcm: Pcm) -> tuple[NDArray[np.float32], list[EventKey]]:
        scores = self.host.stage_output(
            "scores", pcm, np.int32 if self.number_format.int8 else np.float32, self.classes
        )
        events = self.host.events(pcm)
        keys = [(e["type"], e["label"], e["onset_sample"], e["emitted_sample"]) for e in events]
        return np.asarray(scores * (2.0**-SCORE_BITS if self.number_format.int8 else 1.0), np.float32), keys

    def cpu_seconds(self, pcm: Pcm) -> float:
        return _children_seconds(lambda: self.host.events(pcm))


def _row(  # noqa: PLR0913 - one row
    name: str,
    made: Path,
    form: RunnableForm,
    sounds: Sequence[tuple[Pcm, str | None]],
    expected: Sequence[tuple[NDArray[np.float32], list[EventKey]]],
    labels: tuple[str, ...],
) -> Row:
    detected = [form.detect(pcm) for pcm, _ in sounds]
    events = sum(own[1] == other[1] for own, other in zip(detected, expected, strict=True))
    classes = [_best(scores, labels) for scores, _ in detected]
    same = sum(own == _best(scores, labels) for own, (scores, _) in zip(classes, expected, strict=True))
    correct = [own == label for own, (_, label) in zip(classes, sounds, strict=True) if label is not None]
    size, state, stack = _footprint(made)
    operations = activity(Detector.load(made), from_pcm(sounds[0][0])) if made.is_file() else {}
    return Row(
        form=name,
        bytes=size,
        state_bytes=state,
        stack_bytes=stack,
        dense_ops_per_s=operations.get("dense_ops_per_s"),
        effective_ops_per_s=operations.get("effective_ops_per_s"),
        same_events=Rate(events, len(sounds)),
        same_class=Rate(same, len(sounds)),
        accuracy=Rate(sum(correct), len(correct)),
    )


def _footprint(made: Path) -> tuple[int, int | None, int | None]:
    """Return the bytes of the file or of flash, of the state, and of the most stack."""
    if made.is_file():
        states = load_model(made).manifest.network.states
        return made.stat().st_size, 4 * sum(int(np.prod(s.shape)) for s in states), None
    try:
        board = build_firmware(made, BOARD)
        usage = board.run(np.zeros(_rate_of(made) // 10, np.int16), _rate_of(made))[1]
        return board.sizes().detector_flash, usage.detector_bytes, board.stack_bound()
    except ConfigError:  # no compiler for the board here: the program of this computer instead
        return (made / "snn_host").stat().st_size, None, None


def _rate_of(made: Path) -> int:
    return _rate(made) if made.is_file() else model_rate_hz(made)


def _rate(model: Path) -> int:
    return load_model(model).manifest.features.sample_rate_hz


def _pcm(path: Path, model: Path) -> Pcm:
    return to_pcm(read_sound(path, _rate(model)))


def _best(scores: NDArray[np.float32], labels: tuple[str, ...]) -> str:
    return labels[int(np.argmax(scores.astype(np.float64).mean(axis=0)))]


def _event_key(event: Event) -> EventKey:
    return event.kind, event.label, event.onset_sample, event.emitted_sample


def _children_seconds(run: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _operations(row: Row) -> str:
    dense, effective = row.dense_ops_per_s or 0.0, row.effective_ops_per_s or 0.0
    return f"{dense / 1e6:.2f} M / {effective / 1e6:.2f} M"
