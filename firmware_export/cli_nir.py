"""``snn-export nir``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write, FILE.nir.")
def nir(model: Path, out: Path) -> None:
    """Write MODEL's network as a NIR graph, after proving that it spikes the same; FILE.md says what NIR cannot."""
    from firmware_export.nir_export import export_nir

    parity = export_nir(model, out)
    spikes = f"{parity.near} spikes differ, all at the threshold" if parity.near else "the same spikes"
    click.echo(
        f"{out}: {spikes} in {len(parity.spikes)} layers over {parity.frames} frames; scores differ by at most "
        f"{parity.largest_score_difference:.1e}; what NIR cannot say stands in {out.with_suffix('.md')}"
    )
