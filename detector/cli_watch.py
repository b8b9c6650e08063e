"""The command ``snn-detect watch``: what is heard, in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector.cli_bare import is_file
from detector.cli_program import StopOnSignal, Stopped, model_option

if TYPE_CHECKING:
    from detector.watch.feed import Feed


@click.command()
@click.option("--device", default="mic", show_default=True, help="A device as `devices` lists it, a sound file, or -.")
@model_option
@click.option("--loop", is_flag=True, help="Play a sound file again and again.")
@click.option(
    "--connect", metavar="ADDRESS:PORT", help="Watch what a service hears that shows its page there, not a device."
)
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the token of that page.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="How long; left out: until Ctrl-C.")
@click.pass_context
def watch(ctx: click.Context, /, seconds: float | None, **options: Any) -> None:
    """Show bands, spikes, scores and sounds as they come, in the terminal.

    A microphone that the service holds is watched through the service: --connect 127.0.0.1:8765,
    with `[web]` in its settings.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        raise click.UsageError("There is no terminal to draw on; snn-detect meter prints lines.")
    if options["connect"] is not None and ctx.get_parameter_source("device") is not click.core.ParameterSource.DEFAULT:
        raise click.UsageError("--device and --connect: name one of them.")
    with StopOnSignal() as stop:
        import time
        from contextlib import closing, suppress

        from detector.watch.screen import show_feed

        until_s = time.monotonic() + seconds if seconds is not None else float("inf")
        with suppress(Stopped), closing(_feed(stop, **options)) as feed:
            show_feed(feed, console, stop, until_s)
        ctx.exit(stop.exit_code)


def _feed(stop: StopOnSignal, connect: str | None, token_file: Path | None, **own: Any) -> Feed:
    return _own(**own) if connect is None else _service(stop, connect, token_file)


def _service(stop: StopOnSignal, address: str, token_file: Path | None) -> Feed:
    from detector.addresses import split_address
    from detector.credentials import read_secret
    from detector.watch.feed import StreamFeed
    from detector.web.client import WebClient

    host, port = split_address(address.removeprefix("http://").rstrip("/"))
    client = WebClient(host or "localhost", port, None if token_file is None else read_secret(token_file))
    with stop.waiting():
        known = client.get("/api/model")
    return StreamFeed(client, known)


def _own(device: str, model: Path | None, *, loop: bool) -> Feed:
    from detector.live.parts import Wishes, make_detector, make_station, open_source
    from detector.settings import Audio, Listening, Settings
    from detector.watch.feed import OwnFeed

    source = "file" if is_file(device) else "mic"
    settings = Settings(audio=Audio(device=device, source=source), listening=Listening(path=model))
    detector = make_detector(settings)
    wishes = Wishes(plays_file=is_file(device), loop=loop)
    return OwnFeed(
        open_source(settings.audio, detector.sample_rate_hz, wishes), detector, make_station(settings, detector)
    )
