"""The command ``snn-train adapt``: a model for sounds of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from models.cli_fit import PATH, material_option
from models.cli_tell import tell

_EXAMPLES: Final = 2400
_EPOCHS: Final = 8


@click.command()
@click.argument("model", type=PATH)
@click.option(
    "--add-class",
    "classes",
    type=(str, PATH),
    multiple=True,
    required=True,
    metavar="LABEL FOLDER",
    help="A new class and the folder of its recordings, 20 or more. Repeat for more.",
)
@click.option("--replace", is_flag=True, help="Leave the old classes out.")
@click.option("--out", type=PATH, help="Model file to write; default: MODEL's name with the labels behind it, here.")
@click.option("--category", default="things", show_default=True, help="Of the new classes, for records and topics.")
@click.option("--background", type=PATH, help="Recordings of the place without the new sounds: a file or a folder.")
@material_option
@click.option("--data", type=PATH, help="Folder of recordings as snn-train fit takes it, if you have one.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Processes that make examples.")
def adapt(  # noqa: PLR0913 - one option each
    model: Path,
    classes: tuple[tuple[str, Path], ...],
    replace: bool,
    out: Path | None,
    category: str,
    background: Path | None,
    material: Path | None,
    data: Path | None,
    seed: int,
    workers: int,
) -> None:
    """Add classes to MODEL from recordings of your own, on a processor in minutes; the old classes stay as they are.

    The recordings are put into five parts, and the figures that are printed, and stand in the card
    beside the new model, are of parts that the judging network had not learnt from. Cuts of one
    recording should share a name up to their number (bell-1.wav, bell-2.wav): they are kept together.
    Sounds that are often around, given as --background, are what it learns to tell the new ones from.
    """
    from models.adapting.adapt import Wish, adapt
    from models.adapting.card import card, evaluation

    labels = [label for label, _ in classes]
    target = out or Path(f"{model.stem}-{'-'.join(labels)}.onnx")
    wish = Wish(
        model=model,
        classes=classes,
        out=target,
        category=category,
        replace=replace,
        background=background,
        material=material,
        data=data,
        seed=seed,
        processes=workers,
        examples=_EXAMPLES,
        epochs=_EPOCHS,
    )
    found = adapt(wish)
    tell(found.problems)
    for line in evaluation(found):
        click.echo(line)
    page = target.with_suffix(".md")
    page.write_text(card(wish, found), encoding="utf-8")
    click.echo(f"{target}, {page}: written; next: snn-detect replay --model {target} RECORDING", err=True)
