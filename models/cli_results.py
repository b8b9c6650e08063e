"""Commands for what is kept of runs: keep, report."""

from __future__ import annotations

from pathlib import Path

import click

from models.cli_fit import PATH

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("name")
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("--command", required=True, help="The command that made the runs, for the results page.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Keep the first run's pictures too.")
@click.option("--results", type=PATH, default=RESULTS, help="Folder of kept figures; default: models/results.")
def keep(name: str, runs: tuple[Path, ...], command: str, results: Path, *, pictures: bool) -> None:
    """Keep the metrics and pictures of RUNS as NAME for the results page."""
    from models import results as kept

    click.echo(str(kept.keep(name, command, runs, results, pictures=pictures)))


@click.command()
@click.option("--results", type=PATH, default=RESULTS, help="Folder of kept figures; default: models/results.")
@click.option("--out", type=PATH, default=RESULTS.parent / "RESULTS.md", help="Default: models/RESULTS.md.")
def report(results: Path, out: Path) -> None:
    """Write the results page from the kept figures."""
    from models import results as kept
    from models.report import write_report

    write_report(kept.load(results), out)
    click.echo(str(out))
