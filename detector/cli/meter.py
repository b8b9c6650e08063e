"""The commands ``snn-detect devices`` and ``meter``: the microphones, and the level and scores of one of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np

from detector.audio.levels import amplitude_dbfs
from detector.audio.live_source import AudioBlock, AudioGap, AudioSource, SourceCondition, SourceEvent, drain
from detector.cli.program import model_option, print_json, print_status, print_text, stream_options, stream_overrides
from detector.messages import AudioChunk
from detector.service.process import SignalHandler
from detector.system import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.text import Text

    from detector.audio.devices import Device
    from detector.pipeline import Detector

LOWEST_DBFS: Final = -60.0
"""The left end of the bar."""
_CELLS: Final = 48
_HOLD_S: Final = 1.5
_FALL_DB_S: Final = 20.0
_LAMP_S: Final = 2.0
_DRAW_S: Final = 0.08
_LINE_S: Final = 1.0
_TURN_S: Final = 0.05
_TOP: Final = 5
_LABEL_WIDTH: Final = 16
_LOUD_DBFS: Final = (-12.0, -3.0)
"""Where the bar turns yellow, and red."""


class PeakHold:
    """Holds the highest level for a while, and then lets it fall."""

    def __init__(self) -> None:
        """Begin at the lowest level."""
        self._dbfs, self._since_s = LOWEST_DBFS, 0.0

    def push(self, dbfs: float, now_s: float) -> float:
        """Process a level and return the held one, both in dBFS."""
        held = self._dbfs - _FALL_DB_S * max(0.0, now_s - self._since_s - _HOLD_S)
        if dbfs >= held:
            self._dbfs, self._since_s = dbfs, now_s
            return dbfs
        return held


class Meter:
    """Passes the events of a source to the detector, and shows levels, scores and conditions."""

    def __init__(self, source: AudioSource, detector: Detector) -> None:
        """Take an open source and a detector with a fresh state."""
        self._source, self._detector = source, detector
        self._hold = PeakHold()
        self._clipped, self._lamp_until_s = 0, 0.0
        self.conditions: dict[str, str] = {}
        """Details of the active conditions, by name."""
        self._begin()

    def handle(self, event: SourceEvent) -> str | None:
        """Process an event of the source; return a line for a gap or condition, None for sound."""
        match event:
            case AudioBlock():
                self._process(event.chunk)
                return None
            case AudioGap():
                self._process(event.chunk())
                return f"{event.samples / self._detector.sample_rate_hz:.2f} s of sound lost ({event.cause})"
            case SourceCondition():
                self.conditions.pop(event.name, None)
                if event.active:
                    self.conditions[event.name] = event.detail
                return event.detail

    def show(self, now_s: float) -> Text:
        """Return the meter for a terminal; peaks begin again."""
        from rich.text import Text

        mark = (" CLIP ", "bold white on red") if self._is_clipping(now_s) else (" clip ", "dim")
        text = Text.assemble(f"{self._source.stats.device}\n", *self._bar(now_s), " ", mark, "\n")
        for label, score in self._top():
            width = round(score * _CELLS)
            text.append(f"{label:<{_LABEL_WIDTH}} {score:4.2f} ")
            text.append(f"{'━' * width}\n", "cyan")
        for detail in self.conditions.values():
            text.append(f"{detail}\n", "yellow")
        self._begin()
        return text

    def line(self, now_s: float) -> str:
        """Return the meter as one line; peaks begin again."""
        stats = self._source.stats
        clip = "  CLIPPING" if self._is_clipping(now_s) else ""
        scores = "".join(f"  {label} {score:.2f}" for label, score in self._top())
        level = f"rms {stats.rms_dbfs:6.1f} dBFS  peak {stats.peak_dbfs:6.1f} dBFS"
        self._begin()
        return f"{level}{clip}{scores}" if stats.is_open else "no sound"

    def _begin(self) -> None:
        self._peak_dbfs = LOWEST_DBFS
        self._scores = np.zeros(len(self._detector.labels), np.float32)

    def _process(self, chunk: AudioChunk) -> None:
        scores, _ = self._detector.process_chunk(chunk)
        self._scores = np.maximum(self._scores, scores.max(axis=0, initial=0.0))
        self._peak_dbfs = max(self._peak_dbfs, amplitude_dbfs(float(np.abs(chunk.samples).max(initial=0.0))))

    def _is_clipping(self, now_s: float) -> bool:
        clipped = self._source.stats.clipped_samples
        if clipped > self._clipped:
            self._clipped, self._lamp_until_s = clipped, now_s + _LAMP_S
        return now_s < self._lamp_until_s

    def _top(self) -> list[tuple[str, float]]:
        order = np.argsort(-self._scores, kind="stable")[:_TOP]
        return [(self._detector.labels[i], float(self._scores[i])) for i in order]

    def _bar(self, now_s: float) -> list[tuple[str, str]]:
        held = _cell(self._hold.push(self._peak_dbfs, now_s))
        filled = _cell(self._peak_dbfs)
        cells = "".join("█" if i < filled else "│" if i == held - 1 else "·" for i in range(_CELLS))
        yellow, red = (_cell(dbfs) for dbfs in _LOUD_DBFS)
        parts = ((cells[:yellow], "green"), (cells[yellow:red], "yellow"), (cells[red:], "red"))
        return [*parts, (f" {self._peak_dbfs:6.1f} dBFS", "")]


def watch(meter: Meter, source: AudioSource, console: Console, signals: SignalHandler, seconds: float | None) -> None:
    """Show a meter until a signal arrives or that time has passed.

    A terminal gets a moving picture, anything else a line a second.
    """
    until_s = time.monotonic() + seconds if seconds is not None else float("inf")

    def goes_on() -> bool:
        return signals.goes_on() and time.monotonic() < until_s

    if console.is_terminal and not console.is_dumb_terminal:
        from rich.live import Live

        with Live(console=console, auto_refresh=False) as live:
            draw = _every(_DRAW_S, lambda now_s: live.update(meter.show(now_s), refresh=True))
            drain(source, meter.handle, lambda: draw() and goes_on(), _TURN_S)
        return

    def print_line(line: str | None) -> None:
        if line is not None:
            console.print(printable(line), soft_wrap=True, markup=False, highlight=False)
            console.file.flush()

    show = _every(_LINE_S, lambda now_s: print_line(meter.line(now_s)))
    drain(source, lambda event: print_line(meter.handle(event)), lambda: show() and goes_on(), _TURN_S)


def _every(seconds: float, call: Callable[[float], object]) -> Callable[[], bool]:
    """Return what calls ``call`` with the time, so often at most, and returns True."""
    due_s = time.monotonic() + seconds

    def turn() -> bool:
        nonlocal due_s
        now_s = time.monotonic()
        if now_s >= due_s:
            due_s = max(due_s + seconds, now_s)
            call(now_s)
        return True

    return turn


def _cell(dbfs: float) -> int:
    """Return how many cells a level fills."""
    return round(_CELLS * min(1.0, max(0.0, 1 - dbfs / LOWEST_DBFS)))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def devices(*, as_json: bool) -> None:
    """List the microphones, with ids that do not depend on the order of cards.

    The first id of each is the one to use as audio.device and with --device. A device that
    another program uses may be missing.
    """
    from detector.audio import portaudio
    from detector.audio.devices import NO_INPUT_ADVICE, list_devices, rates_of

    with portaudio.quiet():
        found = [(device, rates_of(device, portaudio.takes_rate)) for device in list_devices()]
    if as_json:
        print_json([_facts(device, rates) for device, rates in found])
        return
    if not found:
        print_status(f"no input can be opened: {NO_INPUT_ADVICE}")
    for device, rates in found:
        print_text(f"{device.id}{' (the default)' if device.is_default else ''}")
        if device.is_hardware:
            plural = "" if device.channels == 1 else "s"
            print_text(f"    {device.name}, {device.channels} channel{plural}, {', '.join(map(str, rates))} Hz")
        else:
            click.echo("    a sound server or plug-in: any rate, any number of channels")
        print_text(f"    also: {', '.join([*device.ids[1:], str(device.number)])}")


@click.command()
@click.option("--device", default="mic", show_default=True, help="A device as snn-detect devices lists it, or a URL.")
@stream_options
@model_option
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long; left out: until Ctrl-C.")
@click.pass_context
def meter(ctx: click.Context, /, device: str, model: Path | None, seconds: float | None, **stream: Any) -> None:
    """Show level, clipping and the highest scores of a microphone or stream.

    On a terminal the picture moves; elsewhere a line is printed every second.
    """
    with SignalHandler() as signals:
        from contextlib import closing

        from rich.console import Console

        from detector.config.loading import settings_of
        from detector.pipeline import Detector
        from detector.service.source import RunOptions, open_source

        audio = settings_of({"audio.device": device, **stream_overrides(stream)}).audio
        detector = Detector.load(model)
        with closing(open_source(audio, detector.sample_rate_hz, RunOptions())) as source:
            watch(Meter(source, detector), source, Console(), signals, seconds)
        ctx.exit(signals.exit_code)


def _facts(device: Device, rates: list[int]) -> dict[str, Any]:
    return {
        "id": device.id,
        "ids": list(device.ids),
        "number": device.number,
        "name": device.name,
        "channels": device.channels,
        "rate_hz": device.rate_hz,
        "rates_hz": rates,
        "default": device.is_default,
        "hardware": device.is_hardware,
    }
