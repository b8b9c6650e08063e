"""One table of a model's forms: how large, how quick, how much the same, how good.

Every form is made from the model file, built, and run here: the C ones with this computer's compiler, their
sizes and stack with that of a Cortex-M4 where there is one. Parity and accuracy come from sounds; which
ones, the table says.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.bench import activity
from detector.errors import ConfigError
from detector.messages import Event
from detector.network import load_model
from detector.pipeline import Detector
from detector.rates import Rate
from detector.sources import read_sound
from firmware_export import cortex_m
from firmware_export.c_export import export_c
from firmware_export.c_form import FLOAT, INT8, INT8_FLOAT_FRONT_END, Form
from firmware_export.fixed_point import SCORE_BITS
from firmware_export.host import Host, build, from_pcm, to_pcm
from firmware_export.int8_onnx import export_int8
from firmware_export.nir_export import export_nir
from firmware_export.parity import DEMO
from models.datasets import Clip

Pcm = NDArray[np.int16]
Told = tuple[str, str, int, int]
"""Kind, label, onset sample, emitted sample of an event."""
BOARD: Final = "mps2-an386"
_SPEED_S: Final = 600


class Runnable(Protocol):
    """A form that hears: scores (frames, classes) in [0, 1] and events of 16-bit samples."""

    def hear(self, pcm: Pcm) -> tuple[NDArray[np.float32], list[Told]]:
        """Return what it makes of one stream."""
        ...

    def cpu_seconds(self, pcm: Pcm) -> float:
        """Return what one core spends on a stream that comes frame by frame."""
        ...


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one form; None where it does not apply or could not be found out."""

    form: str
    bytes: int
    """Of the file; of flash, for C."""
    state_bytes: int | None
    stack_bytes: int | None
    dense_ops_per_s: float | None
    effective_ops_per_s: float | None
    cpu_s_per_s: float | None
    same_events: Rate | None
    """Clips whose events are the runtime's, to the frame."""
    same_class: Rate | None
    accuracy: Rate | None

    def record(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        rates = {k: None if (r := getattr(self, k)) is None else {"hits": r.hits, "total": r.total} for k in _RATES}
        return asdict(self) | rates


_RATES: Final = ("same_events", "same_class", "accuracy")


def report(model: Path, clips: Sequence[Clip], work: Path, compiler: str = "cc") -> list[Row]:
    """Make every form of a model below the folder ``work`` and return a row for each, the runtime's first.

    Raises ManifestError, ConfigError or ParityError where a form cannot be made.
    """
    labels = Detector.load(model).labels
    sounds = [(to_pcm(read_sound(DEMO, _rate(model))), None), *((_pcm(c.path, model), c.label) for c in clips)]
    runtime = _Runtime(model)
    wanted = [runtime.hear(pcm) for pcm, _ in sounds]
    int8 = work / "int8.onnx"
    export_int8(model, int8)
    rows = [_row("float ONNX, the runtime", model, runtime, sounds, wanted, labels)]
    rows.append(_row("int8 ONNX", int8, _Runtime(int8), sounds, wanted, labels))
    for form in (FLOAT, INT8_FLOAT_FRONT_END, INT8):
        folder = work / form.name.replace(", ", "-").replace(" ", "-")
        export_c(model, folder, form)
        compiled = _Compiled(build(folder, compiler), form, len(labels))
        rows.append(_row(f"C99, {form.name}", folder, compiled, sounds, wanted, labels))
    graph = work / "network.nir"
    export_nir(model, graph)
    rows.append(Row("NIR", graph.stat().st_size, *[None] * 8))
    return rows


def table(rows: Sequence[Row], model: Path) -> str:
    """Return the rows as a Markdown table."""
    base = rows[0].cpu_s_per_s or float("nan")
    sounds = rows[0].same_events.total if rows[0].same_events else 0
    head = ["form", "bytes", "state", "stack bound", "operations per s, dense / effective", "CPU s per s"]
    head += ["times quicker", "same events", "same class", "accuracy"]
    lines = [
        f"{model.name}, over {sounds} sounds: the demo scene, clips it never saw. Times are of one core.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        quicker = None if row.cpu_s_per_s is None else base / row.cpu_s_per_s
        operations = "-" if row.dense_ops_per_s is None else _operations(row)
        cells = [row.form, _count(row.bytes), _count(row.state_bytes), _count(row.stack_bytes), operations]
        cells += ["-" if row.cpu_s_per_s is None else f"{row.cpu_s_per_s:.5f}"]
        cells += ["-" if quicker is None else f"{quicker:.1f}"]
        cells += ["-" if rate is None or not rate.total else str(rate) for rate in (getattr(row, k) for k in _RATES)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> str:
    """Return the rows as JSON."""
    return json.dumps([row.record() for row in rows], indent=1)


@dataclass(frozen=True, slots=True)
class _Runtime:
    model: Path

    def hear(self, pcm: Pcm) -> tuple[NDArray[np.float32], list[Told]]:
        detector = Detector.load(self.model)
        scores, events = detector.process(from_pcm(pcm))
        last, more = detector.finish()
        return np.concatenate([scores, last]), [_told(e) for e in [*events, *more]]

    def cpu_seconds(self, pcm: Pcm) -> float:
        detector, sound = Detector.load(self.model), from_pcm(pcm)
        hop = detector.manifest.features.hop_length
        detector.push(sound[: 10 * hop])
        begin = time.process_time()
        for at in range(0, sound.size, hop):
            detector.push(sound[at : at + hop])
        return time.process_time() - begin


@dataclass(frozen=True, slots=True)
class _Compiled:
    host: Host
    form: Form
    classes: int

    def hear(self, pcm: Pcm) -> tuple[NDArray[np.float32], list[Told]]:
        scores = self.host.room("scores", pcm, np.int32 if self.form.int8 else np.float32, self.classes)
        events = self.host.events(pcm)
        told = [(e["type"], e["label"], e["onset_sample"], e["emitted_sample"]) for e in events]
        return np.asarray(scores * (2.0**-SCORE_BITS if self.form.int8 else 1.0), np.float32), told

    def cpu_seconds(self, pcm: Pcm) -> float:
        return _children_seconds(lambda: self.host.events(pcm))


def _row(  # noqa: PLR0913 - one row
    name: str,
    made: Path,
    form: Runnable,
    sounds: Sequence[tuple[Pcm, str | None]],
    wanted: Sequence[tuple[NDArray[np.float32], list[Told]]],
    labels: tuple[str, ...],
) -> Row:
    heard = [form.hear(pcm) for pcm, _ in sounds]
    events = sum(own[1] == other[1] for own, other in zip(heard, wanted, strict=True))
    classes = [_best(scores, labels) for scores, _ in heard]
    same = sum(own == _best(scores, labels) for own, (scores, _) in zip(classes, wanted, strict=True))
    right = [own == label for own, (_, label) in zip(classes, sounds, strict=True) if label is not None]
    pcm = np.resize(sounds[0][0], _SPEED_S * _rate_of(made))
    size, state, stack = _footprint(made)
    operations = activity(Detector.load(made), from_pcm(sounds[0][0])) if made.is_file() else {}
    return Row(
        form=name,
        bytes=size,
        state_bytes=state,
        stack_bytes=stack,
        dense_ops_per_s=operations.get("dense_ops_per_s"),
        effective_ops_per_s=operations.get("effective_ops_per_s"),
        cpu_s_per_s=form.cpu_seconds(pcm) / _SPEED_S,
        same_events=Rate(events, len(sounds)),
        same_class=Rate(same, len(sounds)),
        accuracy=Rate(sum(right), len(right)),
    )


def _footprint(made: Path) -> tuple[int, int | None, int | None]:
    """Return bytes of a file or of flash, of state, and the bound of the stack."""
    if made.is_file():
        states = load_model(made).manifest.network.states
        return made.stat().st_size, 4 * sum(int(np.prod(s.shape)) for s in states), None
    try:
        board = cortex_m.build(made, BOARD)
        usage = board.run(np.zeros(_rate_of(made) // 10, np.int16), _rate_of(made))[1]
        return board.sizes().detector_flash, usage.detector_bytes, board.stack_bound()
    except ConfigError:  # no compiler for the board here: the tables alone, then
        return (made / "snn_host").stat().st_size, None, None


def _rate_of(made: Path) -> int:
    return _rate(made) if made.is_file() else cortex_m.model_rate_hz(made)


def _rate(model: Path) -> int:
    return load_model(model).manifest.features.sample_rate_hz


def _pcm(path: Path, model: Path) -> Pcm:
    return to_pcm(read_sound(path, _rate(model)))


def _best(scores: NDArray[np.float32], labels: tuple[str, ...]) -> str:
    return labels[int(np.argmax(scores.astype(np.float64).mean(axis=0)))]


def _told(event: Event) -> Told:
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
