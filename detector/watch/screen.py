"""The view in a terminal: bands, spikes, scores and sounds, as far as they fit."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

from detector.meter import LOWEST_DBFS
from detector.watch.cells import FRAMES, bands, bar, raster
from detector.watch.feed import Feed
from detector.watch.frames import LastFrames
from detector.web.client import Message

if TYPE_CHECKING:
    from detector.cli_program import StopOnSignal

_MOST_CELLS: Final = 220
_GUTTER: Final = 14
_SIDE: Final = 34
_WIDE: Final = 96
"""Columns from which on the scores stand beside the pictures."""
_LEVEL_CELLS: Final = 20
_SOUNDS: Final = 6
_DRAW_S: Final = 0.2
_TAKE_S: Final = 0.05
_DIM, _BOLD, _BAD, _UP, _DOWN, _ON = (
    Style.parse(s) for s in ("dim", "bold", "bold red", "bright_red", "bright_blue", "bold green")
)
Line = list[Segment]


class Screen:
    """Keeps what the messages tell, and draws it when asked to."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        """Take what the model is."""
        self._model = model
        self._frames = LastFrames(model, FRAMES * _MOST_CELLS)
        self._state: Mapping[str, Any] = {}
        self._sounds: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lost = ""

    def take(self, messages: Iterable[Message]) -> None:
        """Take what has come."""
        for kind, message in messages:
            if kind == "frames":
                self._frames.push(message)
            elif kind == "state":
                self._state = message
            elif kind == "connection":
                self._lost = message["detail"]
            elif message["type"] in {"onset", "offset"}:
                self._sounds[message["id"]] = self._sounds.get(message["id"], {}) | dict(message)
                while len(self._sounds) > _SOUNDS:
                    self._sounds.popitem(last=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield the picture for a terminal of that size."""
        width, height = options.max_width, options.height or console.height
        side = list(self._scores(_SIDE - 2)) if width >= _WIDE else []
        cells = min(_MOST_CELLS, max(10, width - _GUTTER - (_SIDE if side else 0)))
        pictures = list(self._pictures(cells, height - 3 - _SOUNDS, colours=_has_colours(console)))
        lines = [
            *self._head(width),
            *_beside(pictures, side, _GUTTER + cells),
            *self._below(width, has_side=bool(side)),
        ]
        for number, line in enumerate(lines[: height - 1]):
            yield from Segment.adjust_line_length(line, width)
            if number < height - 2:
                yield Segment.line()

    def _head(self, width: int) -> Iterator[Line]:
        state = self._state
        details = [self._lost] if self._lost else [c["detail"] for c in state.get("conditions", ())]
        name = f" {self._model['source']} on {self._model['node']}  {state.get('device', '')}"
        if details:
            yield [Segment(name, _BOLD), Segment(f"  {details[0]}", _BAD)]
        else:
            rms = float(state.get("rms_dbfs", LOWEST_DBFS))
            level = bar(1 - rms / LOWEST_DBFS, _LEVEL_CELLS)
            shown = f"  {level} {rms:6.1f} dBFS"[:width]
            yield [Segment(name[: width - len(shown)], _BOLD), Segment(shown)]
        yield []

    def _pictures(self, cells: int, room: int, *, colours: bool) -> Iterator[Line]:
        """Yield bands and rasters, the bands in what room the rasters leave."""
        frames, count = self._frames, FRAMES * cells
        layers = frames.layers
        deep = 2 if room >= 10 + 2 * (len(layers) + 2) else 1
        rows = max(4, min(frames.mel.shape[1] // 2, room - deep * (len(layers) + 2)))
        for number, line in enumerate(bands(frames.mel[-count:], rows, colours=colours)):
            yield [_gutter("log mel" if number == 0 else ""), *line]
        half = frames.encoder.shape[1] // 2
        rate = frames.rate_hz(frames.encoder)
        for name, part, style in (
            (f"encoder {rate:4.1f}", frames.encoder[-count:, half - 1 :: -1], _UP),
            ("  up, down", frames.encoder[-count:, half:][:, ::-1], _DOWN),
        ):
            yield from _raster(name, part, deep, style)
        for name, spikes in layers.items():
            yield from _raster(f"{name:7.7} {frames.rate_hz(spikes):4.1f}", spikes[-count:], deep, None)

    def _scores(self, width: int) -> Iterator[Line]:
        going = {s["label"] for s in self._sounds.values() if s["type"] == "onset"}
        cells = width - 21
        for spec, mean in zip(self._model["classes"], self._frames.means.tolist(), strict=True):
            style = _ON if spec["label"] in going else None
            text = f"{spec['label'].replace('_', ' '):15.15} {bar(mean, cells, spec['threshold'])} {mean:4.2f}"
            yield [Segment(text, style)]

    def _below(self, width: int, *, has_side: bool) -> Iterator[Line]:
        """Yield the latest sounds; where the scores have no place of their own, the highest of them."""
        if not has_side:
            scores = list(self._scores(width))
            means = self._frames.means
            for c in sorted(range(len(scores)), key=lambda c: -means[c])[:4]:
                yield scores[c]
        yield []
        for sound in reversed(self._sounds.values()):
            moment = (sound.get("time") or "")[11:19]
            if sound["type"] == "onset":
                yield [Segment(f" {moment}  {sound['label']:16} is heard, {sound['score']:.2f}", _ON)]
            else:
                yield [Segment(f" {moment}  {sound['label']:16} {sound['duration_s']:.1f} s, peak {sound['peak']:.2f}")]


def show_feed(feed: Feed, console: Console, stop: StopOnSignal, until_s: float) -> None:
    """Show a feed until its end or until that moment of the monotonic clock; raises Stopped at a signal."""
    from rich.live import Live

    screen = Screen(feed.model)
    drawn_s = 0.0
    with Live(screen, console=console, screen=True, auto_refresh=False) as live:
        while (now_s := time.monotonic()) < until_s:
            messages = feed.take(_TAKE_S)
            stop.look()
            if messages is None:
                return
            screen.take(messages)
            if now_s - drawn_s >= _DRAW_S:
                drawn_s = now_s
                live.refresh()


def _has_colours(console: Console) -> bool:
    return console.color_system is not None and not console.no_color


def _raster(name: str, spikes: Any, rows: int, style: Style | None) -> Iterator[Line]:
    for number, text in enumerate(raster(spikes, rows)):
        yield [_gutter(name if number == 0 else ""), Segment(text, style)]


def _gutter(text: str) -> Segment:
    return Segment(f" {text:<{_GUTTER - 2}.{_GUTTER - 2}} ", _DIM)


def _beside(left: list[Line], right: list[Line], width: int) -> Iterator[Line]:
    for number in range(max(len(left), len(right))):
        line = left[number] if number < len(left) else []
        other = right[number] if number < len(right) else []
        yield [*Segment.adjust_line_length(line, width), Segment("  "), *other] if other else line
