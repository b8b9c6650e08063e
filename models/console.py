"""Lines for people: what is wrong with single clips, not all of thousands."""

from __future__ import annotations

from collections.abc import Sequence

import click

SHOWN = 20


def tell(lines: Sequence[str]) -> None:
    """Print the first lines to stderr, and how many more there are."""
    for line in lines[:SHOWN]:
        click.echo(f"snn-train: {line}", err=True)
    if len(lines) > SHOWN:
        click.echo(f"snn-train: and {len(lines) - SHOWN} more like these", err=True)
