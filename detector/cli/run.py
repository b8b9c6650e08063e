"""The command ``snn-detect run``, and ``snn-detect --device``: the same for one device, without a configuration."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from detector.cli.program import (
    all_classes_option,
    check_raw_options,
    force_option,
    has_raw_options,
    model_option,
    only_option,
    parse_channel,
    print_error,
    print_status,
    raw_options,
    sensitivity_option,
    stream_options,
    stream_overrides,
    threshold_option,
)
from detector.config.paths import (
    STDIN,
    is_stream,
    listening_flag,
    sensitivity_file,
    state_directory,
    web_token_file,
)
from detector.errors import DetectorError
from detector.manifest import SENSITIVITIES
from detector.service.process import SignalHandler
from detector.system import WAV, LastingChoice, LastingFlag, Output, ProcessLock, check_outputs, limit_heap

if TYPE_CHECKING:
    from detector.config.settings import Settings
    from detector.service.service import Service
    from detector.service.source import RunOptions

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DEVICES: Final = ("hw:", "plughw:", "usb-id:", "usb-path:", "CARD=")
_WEB: Final = "127.0.0.1:8765"
_DEVICE_HELP: Final = (
    "mic (the system's default), a number, a name or a part of it, hw:CARD=..., a stable id as `devices` "
    "lists them, - for raw samples on standard input, or a stream: rtsp://, rtsps://, http://, https://, "
    "udp://, an SDP file; without a command, also a sound file, in real time."
)
_log = logging.getLogger(__name__)


def live_options(command: _Command) -> _Command:
    """Add the options of ``run``."""
    return _with_options(command, click.option("--device", help=_DEVICE_HELP))


def _with_options(command: _Command, device_option: Callable[[_Command], _Command]) -> _Command:
    """Add the options that ``run`` and the bare command share."""
    options = (
        device_option,
        stream_options,
        model_option,
        click.option("--channel", help="Channel to use: mean, left, right, or a number from 1.  [default: mean]"),
        only_option,
        all_classes_option,
        sensitivity_option,
        threshold_option,
        click.option(
            "--web",
            metavar="[ADDRESS:PORT]",
            is_flag=False,
            flag_value=_WEB,
            help=f"Serve a page that shows levels, spikes, scores and events.  [default address: {_WEB}]",
        ),
        click.option(
            "--web-token-file", type=click.Path(path_type=Path), help="File with the token that the page requires."
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
        click.option("--no-wait", is_flag=True, help="End with exit code 69 where the device is absent."),
        raw_options,
        click.option("--loop", is_flag=True, help="Repeat a sound file, with --web."),
        click.option("--tee", type=click.Path(path_type=Path), help="Record the sound in this WAV file."),
        force_option,
    )
    for option in reversed(options):
        command = option(command)
    several = "May be given more than once: each device is a source of its own, which its events name."
    return _with_options(command, click.option("--device", multiple=True, help=f"{_DEVICE_HELP} {several}"))


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@live_options
@click.pass_context
def run(ctx: click.Context, /, path: Path | None, **options: Any) -> None:
    """Run as a service, with the settings of the configuration.

    They say where events are sent. SIGHUP reloads them, SIGUSR1 reopens files, SIGTERM and SIGINT end the
    service with exit code 0 after open events are closed and everything is written. Without --config, the
    file is looked for as `snn-detect config` does; the other options override it.
    """
    _configure_logging(quiet=options.pop("quiet"))
    overrides = _overrides(options)

    def load() -> Settings:
        from detector.config.loading import load_settings

        return load_settings(path, overrides)

    with SignalHandler(exits=True, reloads=True) as signals, ExitStack() as stack:
        from detector.service.service import Service

        settings = load()
        _lock_state(stack)
        choice = LastingChoice(sensitivity_file(), SENSITIVITIES)
        ctx.exit(_run(Service(settings, signals, load=load, switch=LastingFlag(listening_flag()), choice=choice)))


def listen(ctx: click.Context, options: Mapping[str, Any]) -> None:
    """Run the bare command: the options of ``run`` with standard output as the only sink, and a summary at the end.

    A device is a microphone, raw samples, or a file; a file alone without a page is replayed in real time.
    """
    devices = options["device"]
    _check_devices(ctx, options, devices)
    files = [device for device in devices if is_file(device)]
    if files == list(devices) and len(devices) == 1 and options["web"] is None:
        _replay(ctx, options, devices[0])
        return
    inputs = (*files, options["model"], options["web_token_file"])
    check_outputs([Output("--tee", options["tee"], WAV)], inputs, force=options["force"])
    _configure_logging(quiet=options["quiet"])
    with SignalHandler(exits=True) as signals:
        from detector.config.loading import settings_of
        from detector.service.service import Service

        service = Service(settings_of(_bare_overrides(ctx, options)), signals, _run_options(options, files))
        code = _run(service)
        if not options["quiet"] and service.counters.heard_s:
            sounds = service.counters.sounds
            print_status(f"{service.counters.heard_s:.1f} s processed, {sounds} sound{'' if sounds == 1 else 's'}")
        ctx.exit(code)


def _check_devices(ctx: click.Context, options: Mapping[str, Any], devices: tuple[str, ...]) -> None:
    """Raise click.UsageError for options that do not fit the devices."""
    if twice := next((device for device in devices if devices.count(device) > 1), None):
        raise click.UsageError(f"--device {twice} is given more than once.")
    check_raw_options(ctx, reads_raw=any(device == STDIN or is_stream(device) for device in devices))
    if options["tee"] is not None and len(devices) > 1:
        raise click.UsageError("--tee records one device; there are several.")
    is_played = any(map(is_file, devices)) and (options["web"] or len(devices) > 1)
    if options["loop"] and not is_played:
        raise click.UsageError("--loop is for sound files, with --web.")


def is_file(device: str) -> bool:
    """Return whether a device is a sound file: it exists, or its name can be nothing else."""
    if device in {"mic", STDIN} or device.isdigit() or device.startswith(_DEVICES) or is_stream(device):
        return False
    path = Path(device)
    from detector.audio.files import is_sound_name

    return is_sound_name(path) or path.is_file() or device.startswith(("/", "./", "../", "~/"))


def _overrides(options: Mapping[str, Any]) -> dict[str, object]:
    """Return the options by the keys of the settings that they override; None overrides nothing."""
    return {
        "audio.device": options["device"],
        "audio.channel": options["channel"],
        "model.path": options["model"],
        "listening.only": [] if options["all_classes"] and not options["only"] else list(options["only"]) or None,
        "listening.all_classes": options["all_classes"] or None,
        "listening.sensitivity": options["sensitivity"],
        "listening.thresholds": options["thresholds"] or None,
        "stdout.format": "json" if options["as_json"] else None,
        "web.address": options["web"],
        "web.token_file": None if options["web_token_file"] is None else str(options["web_token_file"]),
    } | stream_overrides(options)


def _bare_overrides(ctx: click.Context, options: Mapping[str, Any]) -> dict[str, object]:
    """Return the settings of the bare command."""
    devices, web = options["device"], options["web"]
    overrides = _overrides({**options, "device": devices[0] if len(devices) == 1 else None})
    if len(devices) == 1:
        kinds = {"stdin": devices[0] == STDIN, "file": is_file(devices[0]), "stream": is_stream(devices[0])}
        overrides["audio.source"] = next((name for name, is_it in kinds.items() if is_it), None)
    else:
        overrides |= {f"sources.{name}.device": device for name, device in _named(devices).items()}
    if any(map(is_stream, devices)) and has_raw_options(ctx):
        overrides["audio.rate_hz"] = options["rate"]
        overrides["audio.sample_format"], overrides["audio.channels"] = options["sample_format"], options["channels"]
    if web is not None and options["web_token_file"] is None:
        overrides["web.token_file"] = _own_token(web)
    if sys.stdout.isatty() and not options["as_json"]:
        overrides["stdout.types"] = ["onset", "offset"]  # the rest is logged on standard error, the same terminal
    return overrides


def _named(devices: tuple[str, ...]) -> dict[str, str]:
    """Return several devices by the names of their sources: of a file its own, of a URL its host."""
    from urllib.parse import urlsplit

    from detector.config.sections import slug
    from detector.records import ALL_SOURCES

    named: dict[str, str] = {}
    for device in devices:
        name = "stdin" if device == STDIN else slug(Path(device).stem if is_file(device) else device)
        if "://" in device:
            try:
                name = slug(urlsplit(device).hostname or "stream")
            except ValueError:  # which is refused with the settings
                name = "stream"
        numbers = (f"{name[:60]}-{number}" for number in range(2, len(devices) + 2))
        taken = {*named, ALL_SOURCES}
        named[name if name not in taken else next(n for n in numbers if n not in taken)] = device
    return named


def _run_options(options: Mapping[str, Any], files: Iterable[str]) -> RunOptions:
    from detector.service.source import RunOptions

    raw = None
    if STDIN in options["device"]:
        from detector.audio.sources import RawFormat

        raw = RawFormat(options["rate"], options["sample_format"], options["channels"])
    return RunOptions(
        raw=raw,
        wait=not options["no_wait"],
        tee=options["tee"],
        files=frozenset(files),
        loop=options["loop"],
        is_filter=True,
    )


def _own_token(address: str) -> str | None:
    """Return the file of the token for an address that needs one, created the first time; None where none is needed."""
    from detector.config.secrets import make_secret, token_required

    if not token_required(address):
        return None
    path = web_token_file()
    make_secret(path)
    print_status(f"other machines need the token in {path}")
    return str(path)


def _lock_state(stack: ExitStack) -> None:
    """Keep other services out of the folder of the state; raises ConfigError where one is in it already."""
    folder = state_directory()
    try:
        stack.enter_context(closing(ProcessLock(folder)))
    except OSError as error:
        _log.warning("%s: cannot be written (%s): a restart switches listening on again", folder, error.strerror)


def _configure_logging(*, quiet: bool) -> None:
    from detector.service.process import configure_logs, standard_error

    faulthandler.enable(standard_error())  # the watchdog of systemd ends a service by SIGABRT
    configure_logs(logging.WARNING if quiet else logging.INFO)


def _run(service: Service) -> int:
    """Run a service and return its exit code; where a part of it hangs, end the process without that part."""
    limit_heap()
    try:
        code = service.run()
    except DetectorError as error:
        print_error(error)
        code = error.exit_code
    if service.is_hung:
        # The interpreter would wait for locks that the hanging thread holds.
        os._exit(code)
    return code


def _replay(ctx: click.Context, options: Mapping[str, Any], file: str) -> None:
    if options["tee"] is not None:
        raise click.UsageError("--tee is for live sound; a file is replayed as it is.")
    with SignalHandler() as signals:
        from detector.cli.replay import Options, Replay

        asked = Options(
            files=(file,),
            model=options["model"],
            as_json=options["as_json"],
            realtime=True,
            only=options["only"],
            all_classes=options["all_classes"],
            thresholds=options["thresholds"],
            sensitivity=options["sensitivity"],
            quiet=options["quiet"],
            channel=parse_channel(options["channel"]),
            track=options["track"],
        )
        ctx.exit(Replay(asked, signals).run())
