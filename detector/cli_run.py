"""Live listening: the command ``snn-detect run``, and ``snn-detect --device``, which is the same without a file."""

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

from detector.cli_program import StopOnSignal, model_option, only_option, report, tell, threshold_option
from detector.errors import DetectorError
from detector.sound_names import is_sound_name

if TYPE_CHECKING:
    from detector.daemon import Service
    from detector.live.parts import Wishes
    from detector.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., Any])
_STDIN: Final = "-"
_RAW: Final = ("rate", "sample_format", "channels")
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
    overrides = _overrides(options)

    def load() -> Settings:
        from detector.config import load_settings

        return load_settings(path, overrides)

    from detector.live.requests import Requests

    with Requests(is_service=True) as requests:
        from detector.daemon import Service

        ctx.exit(_end(Service(load(), requests, load=load)))


def listen(ctx: click.Context, asked: Bare) -> None:
    """Listen as the bare command does: to a device, to raw samples, or to a file at its own pace."""
    given = [name for name in _RAW if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given and asked.device != _STDIN:
        raise click.UsageError("--rate, --format and --channels describe raw samples on standard input (-).")
    if _is_file(asked.device):
        _replay(ctx, asked)
        return
    _begin(quiet=asked.quiet)
    from detector.live.requests import Requests

    with Requests(is_service=False) as requests:
        from detector.daemon import Service

        service = Service(_settings(asked), requests, _wishes(asked))
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


def _overrides(options: Mapping[str, Any]) -> dict[str, object]:
    """Return what options wish for by the keys of the settings; None is no wish."""
    return {
        "audio.device": options["device"],
        "audio.channel": options["channel"],
        "listening.path": options["model"],
        "listening.only": list(options["only"]) or None,
        "listening.thresholds": options["thresholds"] or None,
        "stdout.format": "json" if options["as_json"] else None,
    }


def _settings(asked: Bare) -> Settings:
    """Return the settings of the bare command: standard output and nothing else; raises ConfigError."""
    from pydantic import ValidationError

    from detector.config import COMMAND_LINE, SettingsError
    from detector.config_errors import problems
    from detector.config_layers import Layers
    from detector.settings import Settings

    layers = Layers()
    wishes = _overrides(dataclasses.asdict(asked))
    wishes["audio.source"] = "stdin" if asked.device == _STDIN else None
    if sys.stdout.isatty() and not asked.as_json:
        wishes["stdout.types"] = ["onset", "offset"]  # the rest is told on standard error, to the same eyes
    for key, wish in wishes.items():
        if wish is not None:
            layers.put(tuple(key.split(".")), wish, COMMAND_LINE)
    try:
        return Settings.model_validate(layers.values)
    except ValidationError as error:
        raise SettingsError(problems(error, layers)) from None


def _wishes(asked: Bare) -> Wishes:
    from detector.live.parts import Wishes
    from detector.live.pcm import RawFormat

    raw = RawFormat(16000 if asked.rate is None else asked.rate, asked.sample_format, asked.channels)
    return Wishes(raw=raw, wait=not asked.no_wait, tee=asked.tee, is_filter=True)


def _is_file(device: str) -> bool:
    """Tell whether a device is a sound file: it is there, or its name can be nothing else."""
    if device in {"mic", _STDIN} or device.isdigit() or device.startswith(_DEVICES):
        return False
    path = Path(device)
    return is_sound_name(path) or path.is_file() or device.startswith(("/", "./", "../", "~/"))


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
