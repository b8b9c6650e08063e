"""The command ``snn-detect``.

Modules that take long to import are imported by the commands that need them, so that ``--help`` is
quick on a small board.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import click
from click.core import ParameterSource

from detector import __version__
from detector.cli.program import LazyCommand, Program, run_program
from detector.cli.run import bare_options, listen
from detector.system import printable

_OWN_HASHES = (("_md5",), ("_sha1",), ("_sha2", "_sha256"), ("_sha2", "_sha512"))
"""Modules of Python releases that compute hash values without OpenSSL."""
_COMMANDS = (
    LazyCommand("run", "detector.cli.run", "Run as a service, as the configuration says."),
    LazyCommand("replay", "detector.cli.replay", "Detect sounds in files or raw samples."),
    LazyCommand("archive", "detector.cli.archive", "Detect sounds in folders of recordings, into Parquet."),
    LazyCommand("watch", "detector.cli.terminal", "Show bands, spikes and scores in the terminal."),
    LazyCommand("devices", "detector.cli.meter", "List the microphones with their stable ids."),
    LazyCommand("meter", "detector.cli.meter", "Show a microphone's level and the scores."),
    LazyCommand("calibrate", "detector.cli.calibrate", "Fit the thresholds to a place."),
    LazyCommand("doctor", "detector.cli.diagnose", "Diagnose the installation."),
    LazyCommand("events", "detector.cli.events", "Query the events that the service stored."),
    LazyCommand("config", "detector.cli.config", "Check, show and create the configuration."),
    LazyCommand("mqtt", "detector.cli.diagnose", "Test MQTT brokers, and list and remove nodes."),
    LazyCommand("model", "detector.cli.model", "Inspect a model file."),
    LazyCommand("bench", "detector.cli.model", "Measure speed, latency and memory here."),
)


@click.group(
    "snn-detect",
    cls=Program,
    lazy_commands=_COMMANDS,
    invoke_without_command=True,
    no_args_is_help=True,
)
@bare_options
@click.version_option(__version__, prog_name="snn-detect", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:
    """Detect sounds as they happen: samples in, onsets and offsets of labelled sounds out.

    With --device, listen to a microphone, raw samples or a file, and print the events; the other
    options here belong to it. `run` does the same as a service, with more outputs for events.

    Events go to standard output, everything else to standard error. Exit codes: 0 done; 2 wrong
    usage, setting or model; 66 sound that is missing or damaged; 69 no such device or broker; 70 an error of
    the program itself; 130 and 143 ended by Ctrl-C and SIGTERM; 141 the reader of the output has closed it.
    """
    given_by = {ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP}  # the latter under an option's old name
    given = [p for p in options if ctx.get_parameter_source(p) in given_by]
    if ctx.invoked_subcommand is not None:
        if given:
            raise click.UsageError(
                f"Options belong after {ctx.invoked_subcommand!r}; those before it need --device alone."
            )
        return
    if not options["device"]:
        raise click.UsageError("Name a command, or what to listen to: --device mic.")
    listen(ctx, options)


class _Metadata(ModuleType):
    """Stands for ``importlib.metadata`` until something of it is used.

    pydantic imports it, and with it email, csv and zipfile, to look for plugins, which ``_load_less`` switches off.
    """

    def __getattr__(self, name: str) -> Any:
        """Return what the real module has, which takes its place."""
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)

    def entry_points(self, **selection: Any) -> Any:
        """Return the entry points that the real function does; pydantic imports it by its name."""
        return self.__getattr__("entry_points")(**selection)


def _load_less() -> None:
    """Decide, before they are imported, what libraries load; a tenth of a service's memory, and half of its start."""
    # Each thread of OpenBLAS is started when numpy is imported, and spins for a while.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # All installed packages are searched for them.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if "importlib.metadata" not in sys.modules:
        importlib.metadata = sys.modules["importlib.metadata"] = _Metadata("importlib.metadata")
    # hashlib then uses the interpreter's own code, as where Python is built without OpenSSL.
    if all(any(map(find_spec, names)) for names in _OWN_HASHES):
        sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def main() -> None:
    """Run the command line and exit."""
    _load_less()
    if logging.lastResort is not None:  # for commands that configure no log of their own
        logging.lastResort.setFormatter(_Formatter("snn-detect: warning: %(message)s"))
    run_program(cli, "snn-detect")
