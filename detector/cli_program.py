"""What the commands of ``snn-detect`` share: errors as one line, and an orderly end on a signal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import click

from detector.errors import DetectorError

_T = TypeVar("_T")
INTERNAL_ERROR = 70
_DEBUG = "SNN_DETECT_DEBUG"
MODEL_VARIABLE = "SNN_DETECT_MODEL"

model_option = click.option(
    "--model",
    type=click.Path(path_type=Path),
    envvar=MODEL_VARIABLE,
    show_envvar=True,
    help="Model file; default: the one that ships.",
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


only_option = click.option(
    "--only", multiple=True, metavar="LABEL,...", callback=_labels, help="Report these sounds only."
)
threshold_option = click.option(
    "--threshold",
    "thresholds",
    multiple=True,
    metavar="LABEL=VALUE,...",
    callback=_thresholds,
    help="Score from which on a sound is reported, in place of the model's own.",
)


class LazyCommand(NamedTuple):
    """A command whose module is imported when it is run, so that others start without it."""

    name: str
    module: str
    """The module, in which the command has its own name."""
    summary: str
    """Its line in the list of commands."""


class Program(click.Group):
    """A group whose commands turn every error into one line on standard error and an exit code."""

    def __init__(self, *args: Any, lazy_commands: Sequence[LazyCommand] = (), **attributes: Any) -> None:
        """Take the arguments of click.Group, and commands to import when they are run."""
        super().__init__(*args, **attributes)
        self._lazy = {command.name: command for command in lazy_commands}

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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the group's own options; what cannot be read is told as that of its commands is."""
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
            report(error)
            code = error.exit_code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        except BrokenPipeError:
            code = 128 + signal.SIGPIPE
        except Exception as error:  # noqa: BLE001 - the last resort: a line instead of a traceback
            # What the system refuses (no space left) explains itself; anything else is a mistake in here.
            what = "" if isinstance(error, OSError) else f"internal error: {type(error).__name__}: "
            report(f"{what}{error} ({_DEBUG}=1 shows where)")
            if os.environ.get(_DEBUG) == "1":
                traceback.print_exc()
            code = INTERNAL_ERROR
        raise click.exceptions.Exit(code)


def _report_usage(error: click.UsageError) -> int:
    """Say what is wrong with the arguments, and return the exit code."""
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    report(f"{error.format_message()}{hint}")
    return error.exit_code


def report(message: object) -> None:
    """Print an error as one line on standard error."""
    tell(f"snn-detect: error: {' '.join(str(message).splitlines())}")


def tell(line: str) -> None:
    """Print a line on standard error; where nobody can read it, the work goes on all the same."""
    with contextlib.suppress(OSError):
        click.echo(line, err=True)


def open_closed_streams() -> None:
    """Lead standard streams that the parent has closed to nowhere, before a file can take their place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 - open to the end


def settle_streams() -> None:
    """Drop what the standard streams will not take, so that the interpreter does not fail on it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_json(value: object) -> None:
    """Print one JSON document for programs and people."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


class Stopped(BaseException):
    """A signal asks for the end while nothing was being computed."""


class StopOnSignal:
    """While entered, SIGINT and SIGTERM end the work between two chunks, never within one.

    The first signal is noted. Stopped is raised by ``look``, which the work calls between its turns, or at once
    inside ``waiting``, which is for what may wait for ever, as a pipe does; so the detector is whole and can close
    its open events. Inside ``waiting`` Stopped comes at any instruction: nothing there may hold a lock that threads
    share, start a thread, or import a module. A second SIGINT or SIGTERM ends at once.
    """

    def __init__(self) -> None:
        """Wait for ``with``."""
        self.number: int | None = None
        self._waiting = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 and the signal's number; 0 where there was none."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self) -> Self:
        """Take the two signals over, but for one that the parent had ignored (as nohup does)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def look(self) -> None:
        """Raise Stopped where a signal has come."""
        if self.number is not None:
            raise Stopped

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Enter around what may block; raises Stopped where a signal has come or comes."""
        self._waiting = True
        try:
            self.look()
            yield
        finally:
            self._waiting = False

    def between(self, items: Iterable[_T]) -> Generator[_T, None, None]:
        """Yield the items; raises Stopped instead of the next one after a signal."""
        iterator = iter(items)
        while True:
            with self.waiting():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self._waiting:
            raise Stopped
