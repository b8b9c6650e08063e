"""The command ``snn-detect doctor``: what is wrong here, and what to do about it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from detector import __version__
from detector.cli.program import model_option, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from detector.doctor.result import CheckResult

_COLOURS: Final = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}
_STATE_WIDTH: Final = 8
_NAME_WIDTH: Final = 13


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@click.option("--device", help="A device as snn-detect devices lists it, in place of the configuration's.")
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--selftest", is_flag=True, help="Also play the demo scene through the whole detector.")
@click.pass_context
def doctor(ctx: click.Context, /, path: Path | None, **options: Any) -> None:
    """Look whether the detector will hear here, and say what to do where it will not.

    It looks at the configuration, model, microphone, levels, mixer, speed, temperature, power, clock,
    disks, brokers and the service, and listens for 3 s. Exit code 0: all is well, but for warnings.
    The first problem decides on another: 2 configuration or model, 69 microphone, disk or broker, 70
    the self-test has failed.
    """
    from detector.doctor.checks import Examination
    from detector.doctor.result import exit_code

    logging.getLogger("detector").addHandler(logging.NullHandler())  # what it would say, the findings say
    overrides = {"audio.device": options["device"], "model.path": options["model"]}
    examination = Examination(path, overrides, selftest=options["selftest"])
    if options["as_json"]:
        found = list(examination.findings())
        print_json({"v": 1, "version": __version__, "exit_code": exit_code(found), "findings": _as_json(found)})
    else:
        from rich.console import Console

        found = _shown(examination.findings(), Console(highlight=False))
    ctx.exit(exit_code(found))


def _as_json(findings: Iterable[CheckResult]) -> list[dict[str, str]]:
    return [{"name": f.name, "state": f.state, "found": f.found, "advice": f.advice} for f in findings]


def _shown(findings: Iterable[CheckResult], console: Console) -> list[CheckResult]:
    """Print findings as they come, then how many there are of a kind, and return them."""
    from rich.table import Table
    from rich.text import Text

    found = []
    for f in findings:
        found.append(f)
        line = Table.grid(padding=(0, 1))
        line.add_column(width=_STATE_WIDTH)
        line.add_column(width=_NAME_WIDTH)
        line.add_column(ratio=1, overflow="fold")
        line.add_row(Text(f.state, _COLOURS[f.state]), Text(f.name), Text(f.found))
        if f.advice:
            line.add_row("", "", Text(f"-> {f.advice}", "cyan"))
        console.print(line)
    console.print(Text(_summary(found), "bold"))
    return found


def _summary(found: list[CheckResult]) -> str:
    counts = {state: sum(f.state == state for f in found) for state in ("problem", "warning")}
    parts = [f"{n} {state}{'' if n == 1 else 's'}" for state, n in counts.items() if n]
    return ", ".join(parts) or "all is well"
