"""Live listening: the command ``snn-detect run``, and ``snn-detect --device``, which is the same without a file.

What the bare command is asked for, as settings and wishes of a run.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from detector.cli.program import model_option, only_option, print_error, print_status, threshold_option
from detector.errors import DetectorError
from detector.service.signals import StopOnSignal

if TYPE_CHECKING:
    from detector.config.settings import Settings
    from detector.service.runtime import RunOptions

STDIN: Final = "-"
_DEVICES: Final = ("hw:", "plughw:", "usb-id:", "usb-path:", "CARD=")


@dataclasses.dataclass(frozen=True, slots=True)
class Bare:
    """What the user asked the bare command for."""

    device: str
    model: Path | None
    channel: str | None
    only: tuple[str, ...]
    """Labels to report; none is all."""
    thresholds: dict[str, float]
    as_json: bool
    no_wait: bool
    quiet: bool
    rate: int | None
    sample_format: str
    channels: int
    """Rate in Hz, format and channels of raw samples."""
    tee: Path | None
    web: str | None
    web_token_file: Path | None
    loop: bool


def overrides(options: Mapping[str, Any]) -> dict[str, object]:
    """Return what options wish for by the keys of the settings; None is no wish."""
    return {
        "audio.device": options["device"],
        "audio.channel": options["channel"],
        "model.path": options["model"],
        "listening.only": list(options["only"]) or None,
        "listening.thresholds": options["thresholds"] or None,
        "stdout.format": "json" if options["as_json"] else None,
        "web.address": options["web"],
        "web.token_file": None if options["web_token_file"] is None else str(options["web_token_file"]),
    }


def settings_of(asked: Bare) -> Settings:
    """Return the settings of the bare command: standard output and nothing else; raises ConfigError."""
    from pydantic import ValidationError

    from detector.config.loading import COMMAND_LINE, Layers, SettingsError, problems
    from detector.config.settings import Settings

    layers = Layers()
    wanted = overrides(dataclasses.asdict(asked))
    wanted["audio.source"] = "stdin" if asked.device == STDIN else "file" if is_file(asked.device) else None
    if asked.web is not None and asked.web_token_file is None:
        wanted["web.token_file"] = _own_token(asked.web)
    if sys.stdout.isatty() and not asked.as_json:
        wanted["stdout.types"] = ["onset", "offset"]  # the rest is told on standard error, to the same eyes
    for key, selector in wanted.items():
        if selector is not None:
            layers.put(tuple(key.split(".")), selector, COMMAND_LINE)
    try:
        return Settings.model_validate(layers.values)
    except ValidationError as error:
        raise SettingsError(problems(error, layers)) from None


def run_options_of(asked: Bare) -> RunOptions:
    """Return what the bare command is asked for beyond settings."""
    from detector.audio.sources import RawFormat
    from detector.service.runtime import RunOptions

    raw = RawFormat(16000 if asked.rate is None else asked.rate, asked.sample_format, asked.channels)
    plays_file = is_file(asked.device)
    return RunOptions(
        raw=raw, wait=not asked.no_wait, tee=asked.tee, plays_file=plays_file, loop=asked.loop, is_filter=True
    )


def _own_token(address: str) -> str | None:
    """Return the file of a token for an address that needs one, made at the first time; None where none is needed."""
    from detector.config.paths import state_directory
    from detector.config.secrets import make_secret, token_required

    if not token_required(address):
        return None
    path = state_directory() / "web.token"
    make_secret(path)
    print_status(f"other machines are let in by the token in {path}")
    return str(path)


def is_file(device: str) -> bool:
    """Tell whether a device is a sound file: it is there, or its name can be nothing else."""
    if device in {"mic", STDIN} or device.isdigit() or device.startswith(_DEVICES):
        return False
    path = Path(device)
    from detector.audio.files import is_sound_name

    return is_sound_name(path) or path.is_file() or device.startswith(("/", "./", "../", "~/"))


if TYPE_CHECKING:
    from detector.config.settings import Settings
    from detector.service.service import Service

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
        from detector.config.loading import load_settings

        return load_settings(path, wanted)

    from detector.service.signals import Requests

    with Requests(is_service=True) as requests:
        from detector.service.service import Service

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
    from detector.service.signals import Requests

    with Requests(is_service=False) as requests:
        from detector.service.service import Service

        service = Service(settings_of(asked), requests, run_options_of(asked))
        code = _end(service)
        if not asked.quiet and service.counters.heard_s:
            _summarise(service)
        ctx.exit(code)


def _begin(*, quiet: bool) -> None:
    from detector.service import logs

    faulthandler.enable(logs.standard_error())  # the watchdog of systemd ends a service by SIGABRT
    logs.configure(logging.WARNING if quiet else logging.INFO)


def _end(service: Service) -> int:
    """Run a service and return its exit code; where a part of it hangs, end the process without that part."""
    try:
        code = service.run()
    except DetectorError as error:
        print_error(error)
        code = error.exit_code
    if service.is_hung:
        # The interpreter would wait for locks that the hanging thread holds.
        os._exit(code)
    return code


def _replay(ctx: click.Context, asked: Bare) -> None:
    if asked.channel is not None or asked.tee is not None:
        raise click.UsageError("--channel and --tee are for live sound; a file is replayed as it is.")
    with StopOnSignal() as stop:
        from detector.cli.replay import Options, Replay

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
    sounds = service.counters.sounds
    print_status(f"{service.counters.heard_s:.1f} s heard, {sounds} sound{'' if sounds == 1 else 's'}")
