"""The command ``snn-detect doctor``: diagnose the installation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from detector import __version__
from detector.cli.program import (
    config_option,
    json_option,
    model_option,
    print_json,
    stream_options,
    stream_overrides,
)
from detector.system import printable

if TYPE_CHECKING:
    from rich.console import Console

    from detector.doctor.result import CheckResult

_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}
_STATE_WIDTH: Final = 8
_NAME_WIDTH: Final = 13


@click.command()
@config_option
@click.option("--device", help="A device as snn-detect devices lists it, or a URL, in place of the configuration's.")
@stream_options
@model_option
@json_option
@click.option("--selftest", is_flag=True, help="Also play the demo scene through the whole detector.")
@click.pass_context
def doctor(ctx: click.Context, /, path: Path | None, **options: Any) -> None:
    """Diagnose the installation: report what prevents detection, and what to do about it.

    Checks the configuration, model, microphone, levels, mixer, speed, temperature, power, clock, disks,
    brokers and the service, and records 3 s of sound. Exit code 0: no problem, though there may be
    warnings. Otherwise that of the first problem: 2 configuration or model, 69 microphone, disk or
    broker, 70 failed self-test.
    """
    from detector.doctor.checks import CheckRunner
    from detector.doctor.result import exit_code

    logging.getLogger("detector").addHandler(logging.NullHandler())  # the results contain what it would log
    overrides = {"audio.device": options["device"], "model.path": options["model"], **stream_overrides(options)}
    results = CheckRunner(path, overrides, selftest=options["selftest"]).results()
    if options["as_json"]:
        done = list(results)
        findings = [{"name": r.name, "state": r.state, "found": r.found, "advice": r.advice} for r in done]
        print_json({"v": 1, "version": __version__, "exit_code": exit_code(done), "findings": findings})
    else:
        from rich.console import Console

        done = _shown(results, Console(highlight=False))
    ctx.exit(exit_code(done))


def _shown(results: Iterable[CheckResult], console: Console) -> list[CheckResult]:
    """Print each result as it is found, then how many of them need attention, and return them."""
    from rich.table import Table
    from rich.text import Text

    from detector.doctor.result import counted

    done = []
    for r in results:
        done.append(r)
        line = Table.grid(padding=(0, 1))
        line.add_column(width=_STATE_WIDTH)
        line.add_column(width=_NAME_WIDTH)
        line.add_column(ratio=1, overflow="fold")
        line.add_row(Text(r.state, _COLOURS[r.state]), Text(r.name), Text(printable(r.found)))
        if r.advice:
            line.add_row("", "", Text(printable(f"-> {r.advice}"), "cyan"))
        console.print(line)
    counts = {state: sum(r.state == state for r in done) for state in ("problem", "warning")}
    summary = ", ".join(counted(n, state) for state, n in counts.items() if n) or "all is well"
    console.print(Text(summary, "bold"))
    return done
