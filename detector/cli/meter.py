"""What a microphone hears, as it hears it: level, clipping, what is the matter, and the highest scores.

The commands about microphones: which there are, and what one hears.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import numpy as np

from detector.audio.live_source import AudioBlock, AudioGap, LiveSource, SourceCondition, SourceEvent
from detector.cli.program import model_option, print_json, print_status
from detector.service.signals import StopOnSignal, Stopped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from detector.pipeline import Detector
    from detector.service.signals import StopOnSignal

LOWEST_DBFS: Final = -60.0
"""The left end of the bar."""
_CELLS: Final = 48
_HOLD_S: Final = 1.5
_FALL_DB_S: Final = 20.0
_LAMP_S: Final = 2.0
_DRAW_S: Final = 0.08
_LINE_S: Final = 1.0
_TAKE_S: Final = 0.05
_TOP: Final = 5
_LABEL_WIDTH: Final = 16
_LOUD_DBFS: Final = (-12.0, -3.0)
"""Where the bar turns yellow, and red."""


class PeakHold:
    """Keeps the highest level for a while, and lets it sink then."""

    def __init__(self) -> None:
        """Begin at the bottom."""
        self._dbfs, self._since_s = LOWEST_DBFS, 0.0

    def push(self, dbfs: float, now_s: float) -> float:
        """Take a level and return the held one."""
        held = self._dbfs - _FALL_DB_S * max(0.0, now_s - self._since_s - _HOLD_S)
        if dbfs >= held:
            self._dbfs, self._since_s = dbfs, now_s
            return dbfs
        return held


class Meter:
    """Takes what a source has through the detector, and keeps what there is to show of it."""

    def __init__(self, source: LiveSource, detector: Detector) -> None:
        """Take an open source and a detector with a fresh state."""
        self._source, self._detector = source, detector
        self._hold = PeakHold()
        self._clipped, self._lamp_until_s = 0, 0.0
        self.conditions: dict[str, str] = {}
        """What is the matter now, by name."""
        self._begin()

    def turn(self, timeout_s: float) -> list[str]:
        """Take what comes within that time; return a line for each thing that has happened besides sound."""
        return [line for item in self._source.take(timeout_s) or [] if (line := self._take(item))]

    def show(self, now_s: float) -> Text:
        """Return the meter as it stands, for a terminal, and begin to gather anew."""
        from rich.text import Text

        lamp = (" CLIP ", "bold white on red") if self._is_clipping(now_s) else (" clip ", "dim")
        text = Text.assemble(f"{self._source.stats.device}\n", *self._bar(now_s), " ", lamp, "\n")
        for label, score in self._top():
            width = round(score * _CELLS)
            text.append(f"{label:<{_LABEL_WIDTH}} {score:4.2f} ")
            text.append(f"{'━' * width}\n", "cyan")
        for detail in self.conditions.values():
            text.append(f"{detail}\n", "yellow")
        self._begin()
        return text

    def line(self, now_s: float) -> str:
        """Return the meter as one line, and begin to gather anew."""
        stats = self._source.stats
        clip = "  CLIPPING" if self._is_clipping(now_s) else ""
        scores = "".join(f"  {label} {score:.2f}" for label, score in self._top())
        level = f"rms {stats.rms_dbfs:6.1f} dBFS  peak {stats.peak_dbfs:6.1f} dBFS"
        self._begin()
        return f"{level}{clip}{scores}" if stats.is_open else "no sound"

    def _begin(self) -> None:
        self._peak_dbfs = LOWEST_DBFS
        self._scores = np.zeros(len(self._detector.labels), np.float32)

    def _take(self, item: SourceEvent) -> str | None:
        match item:
            case AudioBlock():
                scores, _ = self._detector.process_chunk(item.chunk)
                self._scores = np.maximum(self._scores, scores.max(axis=0, initial=0.0))
                peak = float(np.abs(item.chunk.samples).max())
                self._peak_dbfs = max(self._peak_dbfs, 20 * np.log10(peak) if peak > 0 else LOWEST_DBFS)
                return None
            case AudioGap():
                return f"{item.samples / self._detector.sample_rate_hz:.2f} s of sound lost ({item.cause})"
            case SourceCondition():
                self.conditions.pop(item.name, None)
                if item.active:
                    self.conditions[item.name] = item.detail
                return item.detail

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


def watch(meter: Meter, console: Console, stop: StopOnSignal, seconds: float | None) -> None:
    """Show a meter until a signal comes or that time has passed; raises Stopped at the signal.

    A terminal gets a picture that moves, anything else a line a second.
    """
    until_s = time.monotonic() + seconds if seconds is not None else float("inf")
    if console.is_terminal and not console.is_dumb_terminal:
        _draw(meter, console, stop, until_s)
    else:
        _print(meter, console, stop, until_s)


def _draw(meter: Meter, console: Console, stop: StopOnSignal, until_s: float) -> None:
    from rich.live import Live

    drawn_s = 0.0
    with Live(console=console, auto_refresh=False) as live:
        while (now_s := time.monotonic()) < until_s:
            meter.turn(_TAKE_S)
            stop.check()
            if now_s - drawn_s >= _DRAW_S:
                drawn_s = now_s
                live.update(meter.show(now_s), refresh=True)


def _print(meter: Meter, console: Console, stop: StopOnSignal, until_s: float) -> None:
    due_s = time.monotonic() + _LINE_S
    while (now_s := time.monotonic()) < until_s:
        lines = meter.turn(_TAKE_S)
        stop.check()
        if now_s >= due_s:
            due_s += _LINE_S
            lines.append(meter.line(now_s))
        for line in lines:
            console.print(line, soft_wrap=True, markup=False, highlight=False)
            console.file.flush()


def _cell(dbfs: float) -> int:
    """Return how many cells a level fills."""
    return round(_CELLS * min(1.0, max(0.0, 1 - dbfs / LOWEST_DBFS)))


if TYPE_CHECKING:
    from detector.audio.devices import Device


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def devices(*, as_json: bool) -> None:
    """List the microphones, with ids that stay the same whatever number a card gets.

    The first id of each is what --device and audio.device should name. A device that another program
    holds may be missing.
    """
    from detector.audio import portaudio
    from detector.audio.devices import NO_INPUT_ADVICE, rates_of
    from detector.audio.microphone import list_devices

    with portaudio.quiet():
        found = [(device, rates_of(device, portaudio.takes_rate)) for device in list_devices()]
    if as_json:
        print_json([_facts(device, rates) for device, rates in found])
        return
    if not found:
        print_status(f"no input can be opened: {NO_INPUT_ADVICE}")
    for device, rates in found:
        click.echo(f"{device.id}{' (the default)' if device.is_default else ''}")
        if device.is_hardware:
            plural = "" if device.channels == 1 else "s"
            click.echo(f"    {device.name}, {device.channels} channel{plural}, {', '.join(map(str, rates))} Hz")
        else:
            click.echo("    a sound server or plug-in: any rate, any number of channels")
        click.echo(f"    also: {', '.join([*device.ids[1:], str(device.number)])}")


@click.command()
@click.option("--device", default="mic", show_default=True, help="A device as snn-detect devices lists it.")
@model_option
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long; left out: until Ctrl-C.")
@click.pass_context
def meter(ctx: click.Context, /, device: str, model: Path | None, seconds: float | None) -> None:
    """Show what a microphone hears: level, clipping, and the highest scores.

    On a terminal the picture moves; elsewhere a line is printed every second.
    """
    with StopOnSignal() as stop:
        from contextlib import closing, suppress

        from rich.console import Console

        from detector.audio.microphone import Microphone
        from detector.config.sections import Audio
        from detector.pipeline import Detector

        detector = Detector.load(model)
        source = Microphone(Audio(device=device), detector.sample_rate_hz)
        with closing(source), suppress(Stopped):  # a signal is the usual end
            watch(Meter(source, detector), Console(), stop, seconds)
        ctx.exit(stop.exit_code)


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
