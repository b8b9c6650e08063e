"""Common parts of the commands of ``snn-detect``: options, errors as one line, and progress."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from detector.errors import ConfigError, DetectorError
from detector.manifest import SENSITIVITIES
from detector.system import install_command, printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.progress import Progress

    from detector.audio.live_source import Channel

    TimeType = click.ParamType[datetime]
else:
    # Not generic in older releases of click.
    TimeType = click.ParamType

_Command = TypeVar("_Command", bound=Callable[..., Any])
INTERNAL_ERROR = 70
_WRITING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of the system that say that an output takes no more."""
_REFRESH_S = 0.1
_LINE_S = 600.0
_MAX_LINE = 2000
_DEBUG = "SNN_DETECT_DEBUG"
MODEL_VARIABLE = "SNN_DETECT_MODEL"

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    envvar=MODEL_VARIABLE,
    show_envvar=True,
    help="Model file; default: the one that ships.",
)
config_option = click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
force_option = click.option(
    "--force", is_flag=True, help="Replace output files that exist, where they are of the same kind."
)


def _split(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _labels(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    labels = _split(ctx, param, values)
    if values and not labels:
        raise click.BadParameter("names no label; leave the option out to report every sound")
    return labels


def _thresholds(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for part in _split(ctx, param, values):
        label, _, number = part.rpartition("=")
        try:
            found[label.strip()] = float(number)
        except ValueError:
            raise click.BadParameter(f"{part!r} is not of the form label=value, such as guitar=0.7") from None
        if not label.strip():
            raise click.BadParameter(f"{part!r} is not of the form label=value, such as guitar=0.7")
    return found


class Moment(TimeType):
    """A time of day with its offset from UTC."""

    name = "RFC3339"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse the text; fails for a time without an offset, which could mean any."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-23T18:04:05+01:00", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} lacks its offset from UTC: add Z or such as +01:00", param, ctx)
        return moment


def _complete_labels(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the list of labels so far with each label of the model that may be its last one."""
    from detector.network import load_model

    before, comma, begun = incomplete.rpartition(",")
    try:
        labels = load_model(ctx.params.get("model")).manifest.labels
    except DetectorError:
        return []
    end = "=" if param.name == "thresholds" else ""
    return [f"{before}{comma}{label}{end}" for label in labels if label.startswith(begun)]


only_option = click.option(
    "--only",
    multiple=True,
    metavar="LABEL,...",
    callback=_labels,
    shell_complete=_complete_labels,
    help="Report these sounds only.",
)
all_classes_option = click.option(
    "--all-classes", is_flag=True, help="Report the classes on trial, too: those that the model does not find reliably."
)
threshold_option = click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="LABEL=VALUE,...",
    callback=_thresholds,
    shell_complete=_complete_labels,
    help="Score from which on a sound is reported, in place of the model's own.",
)
sensitivity_option = click.option(
    "--sensitivity",
    type=click.Choice(SENSITIVITIES),
    help="The model's operating point: low gives few false events, high misses few sounds.  [default: balanced]",
)


def options(*decorators: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    """Return a decorator that adds several options, in the order of the help."""

    def add(command: _Command) -> _Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return add


_CHANNELS: Final[dict[str, Channel]] = {"mean": "mean", "left": "left", "right": "right"}
_DIGITS: Final = 5


def parse_channel(text: str | None) -> Channel:
    """Return the channel that an option names; raises click.BadParameter where it can be none."""
    if text is None or text in _CHANNELS:
        return _CHANNELS[text or "mean"]
    if text.isascii() and text.isdecimal() and len(text) < _DIGITS and int(text) > 0:
        return int(text)
    raise click.BadParameter(f"--channel {text}: use mean, left, right, or a number from 1")


_track_option = click.option(
    "--track", help="Sound track of a stream or film: a number from 1, or a language.  [default: the first]"
)
channel_option = click.option(
    "--channel",
    callback=lambda _ctx, _param, text: parse_channel(text),
    help="Channel to use: mean, left, right, or a number from 1.  [default: mean]",
)
mixing_options = options(channel_option, _track_option)
"""Adds the options for the sound of files that is used: ``channel``, ``track``."""
stream_options = options(
    click.option(
        "--credentials-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="File whose first line is user:password, for a stream (a URL).",
    ),
    click.option("--transport", type=click.Choice(["tcp", "udp"]), help="How an RTSP server sends.  [default: tcp]"),
    _track_option,
)
"""Adds the options of streams: ``credentials_file``, ``transport``, ``track``."""


def stream_overrides(values: Mapping[str, Any]) -> dict[str, object]:
    """Return the options of streams by the keys of the settings that they override; None overrides nothing."""
    file = values["credentials_file"]
    return {
        "audio.credentials_file": None if file is None else str(file),
        "audio.transport": values["transport"],
        "audio.track": values["track"],
    }


_RAW: Final = ("rate", "sample_format", "channels")


def raw_options(command: _Command) -> _Command:
    """Add the options for the format of raw samples: ``rate``, ``sample_format`` and ``channels``."""
    return options(
        click.option(
            "--sample-rate",
            "rate",
            type=int,
            default=16000,
            show_default=True,
            help="Samples per second of raw samples, from - or a URL.",
        ),
        renamed_option("--rate", "--sample-rate"),
        click.option(
            "--format",
            "sample_format",
            default="s16le",
            show_default=True,
            help="s16le, s24le, s32le, f32le, for - or a URL.",
        ),
        click.option(
            "--channels", type=int, default=1, show_default=True, help="Interleaved channels, for - or a URL."
        ),
    )(command)


def has_raw_options(ctx: click.Context) -> bool:
    """Return whether the format of raw samples is given."""
    return any(ctx.get_parameter_source(name) is not ParameterSource.DEFAULT for name in _RAW)


def check_raw_options(ctx: click.Context, *, reads_raw: bool) -> None:
    """Raise click.UsageError where the format of raw samples is given for something else."""
    if not reads_raw and has_raw_options(ctx):
        raise click.UsageError(
            "--sample-rate, --format and --channels describe raw samples, on standard input (-) or from a URL."
        )


def renamed_option(old: str, new: str, *, nargs: int = 1, multiple: bool = False) -> Callable[[_Command], _Command]:
    """Accept the old name of an option for one more release, hidden, with one line of warning.

    Its value becomes the default of ``new``, which keeps its type and limits and has precedence where both are given.
    ``nargs`` and ``multiple`` are those of ``new``.
    """

    def use(ctx: click.Context, _param: click.Parameter, value: str | tuple[Any, ...] | None) -> None:
        if value is None or value == () or ctx.resilient_parsing:
            return
        program = ctx.find_root().info_name
        print_status(f"{program}: warning: {old} is now {new}; the old name goes with the next release")
        renamed = next(p for p in ctx.command.params if new in p.opts)
        ctx.default_map = {**(ctx.default_map or {}), str(renamed.name): value}

    own = f"{old.strip('-').replace('-', '_')}_renamed"  # another parameter may have the name that click would derive
    return click.option(
        old,
        own,
        type=str,
        nargs=nargs,
        multiple=multiple,
        hidden=True,
        expose_value=False,
        is_eager=True,
        callback=use,
    )


class LazyCommand(NamedTuple):
    """A command whose module is imported when it is run, so that others start without it."""

    name: str
    module: str
    """The module, in which the command has its own name."""
    summary: str
    """Its line in the list of commands."""


class CommandGroup(click.Group):
    """A group that lists its commands with their first sentences, not with as much as fits on a line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        named = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl([(n, c.get_short_help_str(_MAX_LINE)) for n, c in named.items() if c and not c.hidden])


class Program(CommandGroup):
    """A group whose commands turn every error into one line on standard error and an exit code."""

    def __init__(
        self,
        *args: Any,
        lazy_commands: Sequence[LazyCommand] = (),
        extra_of: Callable[[str], str | None] = lambda _module: None,
        **attributes: Any,
    ) -> None:
        """Take the arguments of click.Group, and commands to import when they are run.

        ``extra_of`` returns the extra of the project that installs a module, None where none does.
        """
        attributes.setdefault("context_settings", {"help_option_names": ["-h", "--help"]})
        super().__init__(*args, **attributes)
        self._lazy = {command.name: command for command in lazy_commands}
        self._extra_of = extra_of

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module; None where there is none of this name."""
        lazy = self._lazy.get(cmd_name)
        if lazy is None:
            return super().get_command(ctx, cmd_name)
        command: click.Command = getattr(import_module(lazy.module), lazy.name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing the lazy ones."""
        if not self._lazy:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy[name].summary) for name in sorted(self._lazy)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the options and commands that begin like this, without importing the lazy ones."""
        if not self._lazy:
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem

        found = [CompletionItem(c.name, help=c.summary) for c in self._lazy.values() if c.name.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the group's own options; errors are printed as those of its commands are."""
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            raise click.exceptions.Exit(_report_usage(error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed standard output ends it quietly with 141, as SIGPIPE ends other filters."""
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            code = _report_usage(error)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except DetectorError as error:
            print_error(error)
            code = error.exit_code
        except ModuleNotFoundError as error:
            code = self._report_missing(error)
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BrokenPipeError:
            code = 128 + signal.SIGPIPE
        except Exception as error:  # noqa: BLE001 - the last resort: a line instead of a traceback
            code = _report_internal(error)
        raise click.exceptions.Exit(code)

    def _report_missing(self, error: ModuleNotFoundError) -> int:
        """Print what installs a module that is missing, and return the exit code."""
        extra = self._extra_of((error.name or "").partition(".")[0])
        if extra is None:
            return _report_internal(error)
        print_error(f"{error.name} is not installed: {install_command(extra)}")
        return ConfigError.exit_code


def run_program(group: click.Group, name: str) -> None:
    """Run a program and exit; what the standard streams do not take is no error of it."""
    open_closed_streams()
    try:
        group(prog_name=name)
    except OSError as error:  # --help and --version write before any command is entered
        print_error(_explained(error), name)
        sys.exit(INTERNAL_ERROR)
    finally:
        settle_streams()


def _report_internal(error: Exception) -> int:
    """Print an error that no user can have caused, and return the exit code."""
    if isinstance(error, FileNotFoundError) and not _has_folder():
        print_error("the current folder has been removed; go to another one")
        return ConfigError.exit_code
    # Errors of the system explain themselves; any other is an error of this program.
    what = "" if isinstance(error, OSError) else f"internal error: {type(error).__name__}: "
    print_error(f"{what}{_explained(error)} ({_DEBUG}=1 shows where)")
    if os.environ.get(_DEBUG) == "1":
        traceback.print_exc()
    return INTERNAL_ERROR


def _explained(error: Exception) -> str:
    """Return what an error says; files are named where they are written, so one without a name is standard output."""
    if isinstance(error, OSError) and error.filename is None and error.errno in _WRITING:
        return f"standard output cannot be written: {os.strerror(error.errno).lower()}; write it elsewhere"
    return str(error)


def _has_folder() -> bool:
    """Return whether the current folder is there: without it no relative name can be followed."""
    try:
        return bool(Path.cwd())
    except OSError:
        return False


def _report_usage(error: click.UsageError) -> int:
    """Print what is wrong with the arguments, and return the exit code."""
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    print_error(f"{error.format_message()}{hint}")
    return error.exit_code


def print_error(message: object, program: str | None = None) -> None:
    """Print an error as one line on standard error, shortened where it repeats thousands of characters of its input.

    ``program`` is its name; None: that of the one that runs.
    """
    context = click.get_current_context(silent=True)
    name = program or (context and context.find_root().info_name) or "snn-detect"
    line = " ".join(str(message).splitlines())
    print_status(f"{name}: error: {line if len(line) <= _MAX_LINE else f'{line[:_MAX_LINE]}...'}")


def print_status(line: str) -> None:
    """Print a line on standard error; where that cannot be written, that is ignored."""
    with contextlib.suppress(OSError):
        click.echo(printable(line), err=True)


def print_text(text: str) -> None:
    """Print lines for people on standard output, without what would control a terminal."""
    click.echo(printable(text))


def open_closed_streams() -> None:
    """Open the null device for standard streams that the parent has closed, before a file takes their descriptors."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open to the end


def settle_streams() -> None:
    """Discard what cannot be written to the standard streams, so that the interpreter does not fail at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_json(value: object) -> None:
    """Print one indented JSON document."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


class Gauge:
    """Progress of something that takes long: a bar on a terminal, else a line now and then.

    It is drawn by ``advance`` alone, without a thread of its own.
    """

    def __init__(self, name: str, total: float | None, *, wanted: bool, line_every_s: float = _LINE_S) -> None:
        """Start; ``total`` is what ``advance`` counts to, None while it is not known."""
        self._progress = _progress() if wanted and sys.stderr.isatty() else None
        self._line_every_s = line_every_s if wanted and self._progress is None else float("inf")
        self._name, self._total = name, total
        self._drawn = self._line = time.monotonic()
        if self._progress is not None:
            self._progress.add_task(name, total=total, detail="")
            self._progress.start()

    def advance(self, done: float, detail: str = "", total: float | None = None) -> None:
        """Show the progress: drawn at most ten times a second, or written at most every few minutes."""
        now = time.monotonic()
        self._total = total or self._total
        if self._progress is not None and now - self._drawn >= _REFRESH_S:
            self._drawn = now
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=done, total=self._total, detail=detail, refresh=True)
        if now - self._line >= self._line_every_s and self._total:
            self._line = now
            print_status(f"{self._name}: {100 * done / self._total:.0f} %, {detail}")

    def print_line(self, line: str) -> None:
        """Write a line to standard error, with the bar removed meanwhile."""
        with self.aside():
            print_status(line)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Remove the bar while other lines are written to the same terminal."""
        if self._progress is None:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def close(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()


def _progress() -> Progress | None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_interactive:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
        # The sinks write to the streams themselves, within aside().
        redirect_stdout=False,
        redirect_stderr=False,
    )
