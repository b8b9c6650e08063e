"""The command ``snn-detect watch``: bands, spikes, scores and sounds in the terminal.

The messages are those of the stream of a service (see ``detector.web.stream``), or of a detector of its own.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

from detector.audio.live_source import AudioSource, drain
from detector.audio.sources import Reader
from detector.cli.meter import LOWEST_DBFS
from detector.cli.program import model_option
from detector.cli.run import is_file
from detector.config.secrets import read_secret, split_address
from detector.config.sections import Audio, Model
from detector.config.settings import Settings
from detector.errors import DeviceError, SourceError
from detector.messages import Trace
from detector.pipeline import Detector
from detector.records import as_dict
from detector.service.engine import Counters, Engine, RecordPublisher
from detector.service.process import SignalHandler
from detector.service.source import RunOptions, make_detector, node_info_of, open_source
from detector.sinks.base import NodeInfo
from detector.system import all_printable
from detector.web.schema import Model as ModelDescription
from detector.web.schema import describe_model
from detector.web.stream import FrameEncoder

_STOPS: Final = (
    (9, 11, 16),
    (38, 22, 74),
    (105, 28, 107),
    (178, 49, 88),
    (235, 101, 52),
    (252, 180, 60),
    (252, 253, 191),
)
_LEVELS: Final = 20
"""Colours of a picture; the fewer, the longer the runs that a terminal is sent."""
_SHADES: Final = " .:-=+*#%@"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_DOTS: Final = np.array([[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]], np.uint16)
"""Bits of a braille cell: two columns of four dots, from the top."""
_BRAILLE: Final = 0x2800
DOTS: Final = 4
"""Dots above each other in a cell."""
FRAMES: Final = 2
"""Dots, and so frames, beside each other in a cell."""
_BYTE: Final = 255
_RATE_FRAMES: Final = 40
"""Frames over which a layer's rate is averaged."""
_RECONNECT_S: Final = 2.0
_STATE_S: Final = 0.5
_DEPTH: Final = 200
_MAX_CELLS: Final = 220
_GUTTER: Final = 14
_SIDE: Final = 34
_WIDE: Final = 96
"""Minimum number of columns for scores beside the pictures."""
_LEVEL_CELLS: Final = 20
_SOUNDS: Final = 6
_DRAW_S: Final = 0.2
_TURN_S: Final = 0.05
_DIM, _BOLD, _BAD, _UP, _DOWN, _ON = (
    Style.parse(s) for s in ("dim", "bold", "bold red", "bright_red", "bright_blue", "bold green")
)
Line = list[Segment]


def bands(shares: NDArray[np.float32], rows: int, *, colours: bool) -> Iterator[list[Segment]]:
    """Yield lines of a picture of shares (frames, bands) in [0, 1], the highest band on top, two frames a cell."""
    cells = shares[: len(shares) // FRAMES * FRAMES].reshape(-1, FRAMES, shares.shape[1]).max(axis=1)
    if colours:
        picture = np.rint(_fitted(cells, 2 * rows) * (_LEVELS - 1)).astype(int)[:, ::-1].T
        for top, bottom in zip(picture[0::2], picture[1::2], strict=True):
            yield list(_runs(top.tolist(), bottom.tolist()))
    else:
        picture = np.rint(_fitted(cells, rows) * (len(_SHADES) - 1)).astype(int)[:, ::-1].T
        for row in picture:
            yield [Segment("".join(_SHADES[level] for level in row))]


def raster(spikes: NDArray[np.bool_], rows: int) -> Iterator[str]:
    """Yield lines with a dot for each spike (frames, neurons) of as many neurons as there are dots, evenly chosen."""
    dots = DOTS * rows
    chosen = np.linspace(0, spikes.shape[1] - 1, dots).astype(int)
    grid = spikes[: len(spikes) // FRAMES * FRAMES, chosen[::-1]].reshape(-1, FRAMES, rows, DOTS)
    codes = (grid * _DOTS[:, None, :]).sum(axis=(1, 3)) + _BRAILLE
    for row in codes.T:
        yield "".join(map(chr, row.tolist()))


def bar(share: float, width: int, mark: float | None = None) -> str:
    """Return a bar of eighths of a cell, with a mark where a threshold is."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    text = ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width, "·")
    if mark is not None:
        at = min(width - 1, int(mark * width))
        text = f"{text[:at]}│{text[at + 1 :]}"
    return text


def _fitted(cells: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return cells (columns, bands) as (columns, rows): the loudest of bands that share a row."""
    width = cells.shape[1]
    edges = np.minimum(np.arange(rows) * width // rows, width - 1)
    return np.clip(np.maximum.reduceat(cells, edges, axis=1) if width >= rows else cells[:, edges], 0, 1)


def _runs(top: list[int], bottom: list[int]) -> Iterator[Segment]:
    """Yield half blocks, neighbours of the same colours together."""
    begin = 0
    for at in range(1, len(top) + 1):
        if at == len(top) or (top[at], bottom[at]) != (top[begin], bottom[begin]):
            yield Segment("▀" * (at - begin), _style(top[begin], bottom[begin]))
            begin = at


@cache
def _style(top: int, bottom: int) -> Style:
    return Style(color=_colour(top), bgcolor=_colour(bottom))


@cache
def _colour(level: int) -> str:
    at = level / (_LEVELS - 1) * (len(_STOPS) - 1)
    low = min(int(at), len(_STOPS) - 2)
    mixed = (round(a + (at - low) * (b - a)) for a, b in zip(_STOPS[low], _STOPS[low + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


class LastFrames:
    """Bands, spikes and means of a bounded number of frames."""

    def __init__(self, model: Mapping[str, Any], frames: int) -> None:
        """Take the model as ``/api/model`` describes it, and the number of frames to keep."""
        self._frames = frames
        self._encoder = int(model["encoder"]["planes"]) * int(model["encoder"]["width"])
        self._width = int(model["encoder"]["width"])
        neurons = {x["name"]: int(x["neurons"]) for x in model["layers"] if x["spikes"]}
        self._per_s = 1 / float(model["features"]["hop_s"])
        self.mel: NDArray[np.float32] = np.zeros((frames, len(model["features"]["mel_hz"])), np.float32)
        """(frames, bands), 0 to 1; before the first sound there was silence."""
        self.encoder: NDArray[np.bool_] = np.zeros((frames, self._encoder), np.bool_)
        """(frames, spike trains): the up planes, the finest threshold first, then the down planes."""
        self.layers: dict[str, NDArray[np.bool_]] = {n: np.zeros((frames, k), np.bool_) for n, k in neurons.items()}
        self.means: NDArray[np.float64] = np.zeros(len(model["classes"]))
        """Of the last frame, by class."""

    def push(self, message: Mapping[str, Any]) -> None:
        """Process a message with frames."""
        frames = int(message["frames"])
        mel = _bytes(message["mel"]).reshape(frames, -1)
        self.mel = self._added(self.mel, mel.astype(np.float32) / _BYTE)
        planes = _bits(message["encoder"], frames, self._encoder).reshape(frames, -1, self._width)
        ordered = np.concatenate((planes[:, 0::2], planes[:, 1::2]), axis=1).reshape(frames, -1)
        self.encoder = self._added(self.encoder, ordered)
        for name, kept in self.layers.items():
            packed = message["layers"].get(name)
            width = kept.shape[1]
            fired = np.zeros((frames, width), np.bool_) if packed is None else _bits(packed, frames, width)
            self.layers[name] = self._added(kept, fired)
        if frames:
            self.means = _bytes(message["means"]).reshape(frames, -1)[-1] / _BYTE

    def rate_hz(self, spikes: NDArray[np.bool_]) -> float:
        """Return the mean firing rate of the neurons in the latest frames (frames, neurons)."""
        return float(spikes[-_RATE_FRAMES:].mean()) * self._per_s

    def _added(self, kept: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate((kept, new))[-self._frames :]


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def _bits(text: str, frames: int, neurons: int) -> NDArray[np.bool_]:
    return np.unpackbits(_bytes(text).reshape(frames, -1), axis=1, count=neurons).astype(np.bool_)


class Screen:
    """The content of the messages, drawn as a rich renderable."""

    def __init__(self, model: Mapping[str, Any]) -> None:
        """Take the model as ``/api/model`` describes it."""
        self._model = all_printable(model)
        self._frames = LastFrames(self._model, FRAMES * _MAX_CELLS)
        self._state: Mapping[str, Any] = {}
        self._sounds: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._lost = ""

    def handle(self, message: Message) -> None:
        """Process a message of the stream, or of the kind ``connection`` with what is wrong with it."""
        kind, content = message[0], all_printable(message[1])
        if kind == "frames":
            self._frames.push(content)
        elif kind == "state":
            self._state = content
        elif kind == "connection":
            self._lost = content["detail"]
        elif content["type"] in {"onset", "offset"}:
            self._sounds[content["id"]] = self._sounds.get(content["id"], {}) | dict(content)
            while len(self._sounds) > _SOUNDS:
                self._sounds.popitem(last=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Yield the picture for a terminal of that size."""
        width, height = options.max_width, options.height or console.height
        side = list(self._scores(_SIDE - 2)) if width >= _WIDE else []
        cells = min(_MAX_CELLS, max(10, width - _GUTTER - (_SIDE if side else 0)))
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

    def _pictures(self, cells: int, height: int, *, colours: bool) -> Iterator[Line]:
        """Yield bands and rasters, the bands in the height that the rasters leave."""
        frames, count = self._frames, FRAMES * cells
        layers = frames.layers
        deep = 2 if height >= 10 + 2 * (len(layers) + 2) else 1
        rows = max(4, min(frames.mel.shape[1] // 2, height - deep * (len(layers) + 2)))
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
        """Yield the latest sounds; where the scores are not beside the pictures, the highest of them too."""
        if not has_side:
            scores = list(self._scores(width))
            means = self._frames.means
            for c in sorted(range(len(scores)), key=lambda c: -means[c])[:4]:
                yield scores[c]
        yield []
        for sound in reversed(self._sounds.values()):
            moment = (sound.get("time") or "")[11:19]
            if sound["type"] == "onset":
                yield [Segment(f" {moment}  {sound['label']:16} detected, {sound['score']:.2f}", _ON)]
            else:
                yield [Segment(f" {moment}  {sound['label']:16} {sound['duration_s']:.1f} s, peak {sound['peak']:.2f}")]


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


@click.command()
@click.option("--device", default="mic", show_default=True, help="A device as `devices` lists it, a sound file, or -.")
@model_option
@click.option("--loop", is_flag=True, help="Repeat a sound file.")
@click.option(
    "--connect", metavar="ADDRESS:PORT", help="Show what a service with a page at this address detects, not a device."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the token of that page.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long; left out: until Ctrl-C.")
@click.pass_context
def watch(ctx: click.Context, /, seconds: float | None, **options: Any) -> None:
    """Show bands, spikes, scores and sounds in the terminal, live.

    A microphone that the service uses is shown through the service: --connect 127.0.0.1:8765,
    with `[web]` in its settings.
    """
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        raise click.UsageError("There is no terminal to draw on; snn-detect meter prints lines.")
    connect, token_file = options.pop("connect"), options.pop("token_file")
    if connect is not None and ctx.get_parameter_source("device") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--device and --connect: name one of them.")
    until_s = time.monotonic() + seconds if seconds is not None else float("inf")
    with SignalHandler() as signals:

        def goes_on() -> bool:
            return signals.goes_on() and time.monotonic() < until_s

        if connect is None:
            _watch_device(console, goes_on, **options)
        else:
            _watch_service(console, goes_on, connect, token_file)
        ctx.exit(signals.exit_code)


def _watch_device(
    console: Console, goes_on: Callable[[], bool], device: str, model: Path | None, *, loop: bool
) -> None:
    source_name = "file" if is_file(device) else "mic"
    settings = Settings(audio=Audio(device=device, source=source_name), model=Model(path=model))
    detector = make_detector(settings)
    node_info = node_info_of(settings, detector)
    run_options = RunOptions(files=frozenset({device} if is_file(device) else ()), loop=loop)
    with (
        closing(open_source(settings.audio, detector.sample_rate_hz, run_options)) as source,
        _drawing(console, asdict(describe_model(detector, node_info)), goes_on) as (screen, turn),
    ):
        watcher = _Watcher(source, detector, node_info, screen)
        drain(source, watcher.handle, lambda: watcher.update() and turn(), _TURN_S)


def _watch_service(console: Console, goes_on: Callable[[], bool], address: str, token_file: Path | None) -> None:
    host, port = split_address(address.removeprefix("http://").rstrip("/"))
    client = WebClient(host or "localhost", port, None if token_file is None else read_secret(token_file))
    with closing(Reader(_messages(client), _DEPTH)) as reader:
        models: list[Message] = []
        drain(reader, models.append, lambda: not models and goes_on(), _TURN_S)
        if not models:
            return
        try:
            with _drawing(console, models[0][1], goes_on) as (screen, turn):
                drain(reader, screen.handle, turn, _TURN_S)
        except _FOREIGN as error:
            raise client.foreign(f"{type(error).__name__}: {error}") from error


@contextmanager
def _drawing(
    console: Console, model: Mapping[str, Any], goes_on: Callable[[], bool]
) -> Iterator[tuple[Screen, Callable[[], bool]]]:
    """Yield a screen, and what draws it where that is due and returns whether to go on."""
    from rich.live import Live

    screen = Screen(model)
    drawn_s = 0.0
    with Live(screen, console=console, screen=True, auto_refresh=False) as live:

        def turn() -> bool:
            nonlocal drawn_s
            now_s = time.monotonic()
            if now_s - drawn_s >= _DRAW_S:
                drawn_s = now_s
                live.refresh()
            return goes_on()

        yield screen, turn


class _Watcher:
    """A detector over a source, and its observer; its messages go to a screen."""

    wants_layers = True

    def __init__(self, source: AudioSource, detector: Detector, node_info: NodeInfo, screen: Screen) -> None:
        """Take an open source and a detector with a fresh state."""
        self._source, self._screen = source, screen
        self._frame_encoder = FrameEncoder(detector)
        self._traces: list[Trace] = []
        publisher = RecordPublisher(node_info.source, lambda record: screen.handle(("record", as_dict(record))))
        publisher.unlogged = frozenset(
            {"waiting", "silent", "clipping", "dc_offset", "wrong_rate", "off_hours", "listening"}
        )
        self._engine = Engine(source, detector, publisher, Counters())
        self._engine.observer = self
        self.handle = self._engine.handle
        self._state_at_s = 0.0

    def on_trace(self, trace: Trace) -> None:
        """Keep the trace of a chunk."""
        self._traces.append(trace)

    def update(self) -> bool:
        """Give the screen the traces since the last call, and the state where it is due; return True."""
        now_s = time.monotonic()
        if now_s >= self._state_at_s:
            self._state_at_s = now_s + _STATE_S
            self._screen.handle(("state", self._state()))
        traces, self._traces = self._traces, []
        for frames in self._frame_encoder.messages(traces):
            self._screen.handle(("frames", asdict(frames)))
        return True

    def _state(self) -> dict[str, Any]:
        stats = self._source.stats
        return {
            "device": stats.device,
            "up": stats.is_open,
            "rms_dbfs": stats.rms_dbfs,
            "peak_dbfs": stats.peak_dbfs,
            "conditions": [{"name": c.name, "detail": c.detail} for c in self._engine.conditions],
        }


def _messages(client: WebClient) -> Generator[Message, None, None]:
    """Yield the model, and then the messages of the stream, which is opened again where it is lost.

    Raises DeviceError where there is no service at the start.
    """
    yield "model", _checked_model(client)
    while True:
        try:
            for message in client.stream():
                yield "connection", {"detail": ""}
                yield message
        except (OSError, http.client.HTTPException, DeviceError, SourceError) as error:
            yield "connection", {"detail": f"no connection: {error}"}
        time.sleep(_RECONNECT_S)


def _checked_model(client: WebClient) -> dict[str, Any]:
    """Return the model, of a size that can be drawn; raises DeviceError where it is none."""
    from pydantic import TypeAdapter

    try:
        model = TypeAdapter(ModelDescription).validate_python(client.get("/api/model"))
    except ValueError as error:
        raise client.foreign("no model") from error
    values = len(model.classes) + len(model.features.mel_hz) + sum(layer.neurons for layer in model.layers)
    if values + model.encoder.planes * model.encoder.width > _MAX_VALUES:
        raise client.foreign("too large a model")
    return asdict(model)


Message: TypeAlias = tuple[str, Mapping[str, Any]]
"""A kind (frames, record, state) and its JSON object; see the description of the API."""
_ANSWER_TIMEOUT_S: Final = 10.0
_STREAM_TIMEOUT_S: Final = 5.0
"""A stream without data for so long is dead: the state is sent once a second."""
_MAX_ANSWER_BYTES: Final = 4_000_000
_MAX_LINE_BYTES: Final = 1_000_000
"""Some ten times what a model of a thousand classes takes."""
_MAX_VALUES: Final = 1_000_000
"""Values of a frame."""
_FOREIGN: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)
"""What is raised on the way through an answer that is not snn-detect's."""


class WebClient:
    """Requests from one service."""

    def __init__(self, host: str, port: int, token: str | None) -> None:
        """Prepare; nothing is requested yet."""
        self._host, self._port = host, port
        self._address = f"{host}:{port}"
        self._headers = {"Authorization": f"Bearer {token}".encode()} if token else {}

    def get(self, path: str) -> Any:
        """Return the JSON of an answer; raises DeviceError where there is no such service, or it requires a token."""
        until_s, text = time.monotonic() + _ANSWER_TIMEOUT_S, b""
        try:
            with closing(self._answer(path, _ANSWER_TIMEOUT_S)) as answer:
                while (part := answer.read1(_MAX_ANSWER_BYTES)) and len(text) <= _MAX_ANSWER_BYTES:
                    text += part
                    if time.monotonic() > until_s:
                        raise TimeoutError("too slow")
            if len(text) > _MAX_ANSWER_BYTES:
                raise ValueError("too long")
            return json.loads(text)
        except (OSError, http.client.HTTPException, *_FOREIGN) as error:
            raise self.foreign(error) from error

    def foreign(self, error: object) -> DeviceError:
        """Return the error for an answer that is not that of a page of snn-detect."""
        return DeviceError(f"{self._address}: the answer is not that of snn-detect's page ({error})")

    def stream(self) -> Iterator[Message]:
        """Yield messages as they come.

        Raises DeviceError as ``get`` does, OSError where nothing comes any more, SourceError where the stream ends.
        """
        kind = ""
        with closing(self._answer("/api/stream", _STREAM_TIMEOUT_S)) as answer:
            while raw := answer.readline(_MAX_LINE_BYTES):
                if not raw.endswith(b"\n"):
                    raise self.foreign("a line without an end")
                try:
                    name, _, value = raw.decode().rstrip("\n").partition(": ")
                    content = json.loads(value) if name == "data" else None
                except _FOREIGN as error:
                    raise self.foreign(error) from error
                kind = value if name == "event" else kind
                if isinstance(content, dict):
                    yield kind, content
        raise SourceError("the stream has ended")

    def _answer(self, path: str, timeout_s: float) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers=self._headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            reason = f"no page of snn-detect answers ({error}); start one with --web"
            raise DeviceError(f"{self._address}: {reason}") from error
        if answer.status == http.client.UNAUTHORIZED:
            raise DeviceError(f"{self._address}: a token is required; name its file with --token-file")
        if answer.status != http.client.OK:
            raise DeviceError(f"{self._address}: answers {answer.status} {answer.reason}")
        return answer
