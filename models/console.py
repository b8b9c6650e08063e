"""Problems with single clips on standard error, of thousands only the first."""

from __future__ import annotations

from collections.abc import Sequence

import click

SHOWN = 20


def report_problems(lines: Sequence[str]) -> None:
    """Print the first ``SHOWN`` lines to stderr, and the number of further ones."""
    for line in lines[:SHOWN]:
        click.echo(f"snn-train: {line}", err=True)
    if len(lines) > SHOWN:
        click.echo(f"snn-train: and {len(lines) - SHOWN} more like these", err=True)
