"""Live listening: the command ``snn-detect run``, and ``snn-detect --device``, which is the same without a file."""

from __future__ import annotations

import faulthandler
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from detector.cli_bare import STDIN, Bare, is_file, overrides, settings_of, wishes_of
from detector.cli_program import StopOnSignal, model_option, only_option, report, tell, threshold_option
from detector.errors import DetectorError

if TYPE_CHECKING:
    from detector.daemon import Service
    from detector.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])
_WEB: Final = "127.0.0.1:8765"
_RAW: Final = ("rate", "sample_format", "channels")


def live_options(command: _Command) -> _Command:
    """Add the options that ``run`` and the bare command share."""
    options = (
        click.option(
            "--device",
            help="mic (the system's default), a number, a name or a part of it, hw:CARD=..., a stable id as `devices` "
            "lists them, a sound file (heard at its own pace), or - for raw samples on standard input.",
        ),
        model_option,
        click.option("--channel", help="Channel to hear: mean, left, right, or a number from 1.  [default: mean]"),
        only_option,
        threshold_option,
        click.option(
            "--web",
            metavar="[ADDRESS:PORT]",
            is_flag=False,
            flag_value=_WEB,
            help=f"Show what is heard on a page for browsers.  [{_WEB}, unless told otherwise]",
        ),
        click.option(
            "--web-token-file", type=click.Path(path_type=Path), help="File with the token that the page asks for."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal too."),
        click.option("--quiet", "-q", is_flag=True, help="Only warnings and errors on standard error."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def bare_options(command: _Command) -> _Command:
    """Add the options of the bare command."""
    options = (
        click.option("--no-wait", is_flag=True, help="End with exit code 69 where the device is not there."),
        click.option("--rate", type=int, help="Samples per second of raw samples (-).  [default: 16000]"),
        click.option(
            "--format", "sample_format", default="s16le", show_default=True, help="s16le, s24le, s32le, f32le."
        ),
        click.option("--channels", type=int, default=1, show_default=True, help="Interleaved channels, for -."),
        click.option("--loop", is_flag=True, help="Play a sound file again and again, with --web."),
        click.option("--tee", type=click.Path(path_type=Path), help="Keep the sound as it is heard in this WAV file."),
    )
    for option in reversed(options):
        command = option(command)
    return live_options(command)


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@live_options
@click.pass_context
def run(ctx: click.Context, /, path: Path | None, **options: Any) -> None:
    """Listen for months, as the configuration says.

    Events go wherever it wants them. SIGHUP reads it anew, SIGUSR1 opens files anew, SIGTERM and
    SIGINT end with exit code 0 once open events are closed and everything is written. Without
    --config, the file is looked for as `snn-detect config` does; the other options override it.
    """
    _begin(quiet=options.pop("quiet"))
    wanted = overrides(options)

    def load() -> Settings:
        from detector.config import load_settings

        return load_settings(path, wanted)

    from detector.live.requests import Requests

    with Requests(is_service=True) as requests:
        from detector.daemon import Service

        ctx.exit(_end(Service(load(), requests, load=load)))


def listen(ctx: click.Context, asked: Bare) -> None:
    """Listen as the bare command does: to a device, to raw samples, or to a file at its own pace."""
    given = [name for name in _RAW if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given and asked.device != STDIN:
        raise click.UsageError("--rate, --format and --channels describe raw samples on standard input (-).")
    if asked.loop and not (asked.web and is_file(asked.device)):
        raise click.UsageError("--loop is for sound files, with --web.")
    if is_file(asked.device) and asked.web is None:
        _replay(ctx, asked)
        return
    _begin(quiet=asked.quiet)
    from detector.live.requests import Requests

    with Requests(is_service=False) as requests:
        from detector.daemon import Service

        service = Service(settings_of(asked), requests, wishes_of(asked))
        code = _end(service)
        if not asked.quiet and service.tally.heard_s:
            _summarise(service)
        ctx.exit(code)


def _begin(*, quiet: bool) -> None:
    from detector.live import logs

    faulthandler.enable(logs.standard_error())  # the watchdog of systemd ends a service by SIGABRT
    logs.configure(logging.WARNING if quiet else logging.INFO)


def _end(service: Service) -> int:
    """Run a service and return its exit code; where a part of it hangs, end the process without that part."""
    try:
        code = service.run()
    except DetectorError as error:
        report(error)
        code = error.exit_code
    if service.is_hung:
        # The interpreter would wait for locks that the hanging thread holds.
        os._exit(code)
    return code


def _replay(ctx: click.Context, asked: Bare) -> None:
    if asked.channel is not None or asked.tee is not None:
        raise click.UsageError("--channel and --tee are for live sound; a file is replayed as it is.")
    with StopOnSignal() as stop:
        from detector.replay import Options, Replay

        options = Options(
            files=(asked.device,),
            model=asked.model,
            as_json=asked.as_json,
            realtime=True,
            rate=16000,
            sample_format=asked.sample_format,
            channels=asked.channels,
            scores=None,
            only=asked.only,
            thresholds=asked.thresholds,
            start_time=None,
            quiet=asked.quiet,
        )
        ctx.exit(Replay(options, stop).run())


def _summarise(service: Service) -> None:
    sounds = service.tally.sounds
    tell(f"{service.tally.heard_s:.1f} s heard, {sounds} sound{'' if sounds == 1 else 's'}")
