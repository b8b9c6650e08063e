"""From recordings to a model file: heads for cross-validation, and a final one of all examples."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.live_source import Channel, Mixing
from detector.errors import ConfigError, unknown_label
from detector.manifest import (
    SENSITIVITIES,
    ClassSpec,
    DataSource,
    DecoderParams,
    Manifest,
    OperatingPoints,
    Sensitivity,
)
from detector.messages import Samples
from detector.network import load_model
from detector.pipeline import Detector
from detector.statistics import Rate
from detector.system import replace_file
from models.adapting.bank import FRAMES, Bank, find_bank, kinds_like
from models.adapting.extension import BackboneShape, Extension, backbone_of, extend
from models.adapting.head import HeadExamples, make_examples, scores_of, train_heads
from models.adapting.operating_points import Choice, Peaks, Piece, choose, peaks_of, smoothers
from models.adapting.scenes import head_recipe
from models.adapting.sounds import SoundSet, check_labels, negative_sounds, positive_sounds
from models.console import Progress
from models.data.datasets import FOLDS
from models.recipe import Recipe, Schedule

_EXAMPLES, _EPOCHS = 2400, 8
"""Training without a bank: all examples are made from recordings."""
_EXAMPLES_BESIDE_BANK, _EPOCHS_BESIDE_BANK = 560, 3
"""Training with the entries of a bank; more epochs find fewer new recordings."""
_NEGATIVES_BESIDE_BANK: Final = 0.5
_NEGATIVES: Final = 2.0
"""How often a negative is drawn for each time that a new class is."""
_BEFORE_S, _BEHIND_S, _BEHIND_RMS = 2.0, 1.0, 1e-4
"""Length of the sound before each recording of the evaluation, and of the faint noise behind it: an event of a brief
sound may be reported after its end."""
_SMALLEST_KIND, _TAKEN_SHARE = 3, 1 / 3
"""A kind of the bank is named where it has so many entries, and such a share of them is taken for the new class."""
_MEMORY: Final = 16
"""Frames before a piece that its averages may take in."""
_BATCH: Final = 32
_LEARNING_RATE, _WEIGHT_DECAY = 0.003, 0.01


@dataclass(frozen=True, slots=True)
class AdaptOptions:
    """Input of an adaptation."""

    model: Path
    classes: Sequence[tuple[str, Path]]
    """Label and folder of each new class."""
    out: Path
    category: str
    replace: bool
    """Whether the old classes are removed."""
    background: Path | None
    material: Path | None
    data: Path | None
    seed: int
    processes: int
    """Number of processes that make examples and train."""
    examples: int | None = None
    """Number of examples to draw; None: as many as usual."""
    epochs: int | None = None
    """None: as many as usual."""
    channel: Channel = "mean"
    """Channel of the recordings of the new classes and of the background."""
    bank: Path | None = None
    """None: the one beside the model, or beside the shipped model."""
    uses_bank: bool = True
    without: Sequence[str] = ()
    """Kinds of the bank that are left out, beside those whose name is like a label."""

    @property
    def folders(self) -> dict[str, Path]:
        """The folder of each new class, by its label."""
        return dict(self.classes)

    @property
    def negatives(self) -> tuple[Path | None, Path | None, Path | None]:
        """Background, material and data."""
        return self.background, self.material, self.data

    @property
    def mixing(self) -> Mixing:
        """How channels of the user's recordings become one."""
        return Mixing(self.channel)


@dataclass(frozen=True, slots=True)
class AddedClass:
    """A new class, evaluated by cross-validation."""

    label: str
    choice: Choice
    recall: dict[Sensitivity, Rate]
    """With values that were chosen without the evaluated fold."""
    false: dict[Sensitivity, dict[str, Rate]]
    """Share of pieces of other sounds with an event of it, by group."""
    taken: dict[str, Rate]
    """Kinds of the bank that are often taken for it, although their entries were trained on as other sounds."""

    @property
    def clips(self) -> int:
        """Number of its recordings."""
        return self.recall["balanced"].total

    @property
    def worst(self) -> Rate:
        """The share in the group where it is highest, at the balanced sensitivity."""
        return max(self.false["balanced"].values(), key=lambda rate: rate.value, default=Rate(0, 0))


@dataclass(frozen=True, slots=True)
class AdaptResult:
    """Result of an adaptation."""

    manifest: Manifest
    classes: tuple[AddedClass, ...]
    problems: tuple[str, ...]
    sources: dict[str, int]
    """Number of negative clips in training, by source."""
    old_scores_equal: bool


@dataclass(frozen=True, slots=True)
class _Others:
    """What a bank holds for these new classes."""

    bank: Bank
    path: Path
    kept: NDArray[np.bool_]
    """(entries,): whether an entry is no sound of a new class."""
    fired: NDArray[np.uint8]
    """(entries, frames, bytes)."""

    @property
    def source(self) -> DataSource:
        """The record of it, for manifests."""
        licences = "CC0, CC BY, MIT, Apache-2.0, BSD, ODbL and public domain, per clip in the bank"
        use = f"other sounds: {self.kept.sum()} stored examples of {self.bank.about.model} ({self.bank.about.command})"
        return DataSource(f"bank {self.path.name}", licences, use)


def adapt(options: AdaptOptions) -> AdaptResult:
    """Add classes to a model, or replace its classes; the file is written atomically.

    Raises ConfigError, SourceError or ManifestError for unusable input.
    """
    manifest = load_model(options.model).manifest
    check_labels([label for label, _ in options.classes], () if options.replace else manifest.labels)
    others, lines = _others(options, manifest)
    shape = _shape(options.model, others)
    rate_hz = manifest.features.sample_rate_hz
    positives = positive_sounds(options.folders, rate_hz, options.mixing)
    negatives = negative_sounds(rate_hz, options.seed, *options.negatives, options.mixing)
    recipe = _recipe(manifest, options, beside_bank=others is not None)
    examples = _make_examples(options, shape, positives, negatives, others, recipe)
    with tempfile.TemporaryDirectory(dir=options.out.absolute().parent) as folder:
        part = Path(folder) / options.out.name
        pieces: dict[str, list[Piece]] = {label: [] for label in options.folders}
        plain = _with_classes(manifest, options, {})
        heads = train_heads(examples, shape, recipe, options.seed, (*FOLDS, None), options.processes)
        with Progress("training", len(FOLDS) + 1, "heads") as bar:
            for fold, head in zip(FOLDS, heads, strict=False):
                extend(options.model, part, head, plain, replace=options.replace)
                _add_pieces(pieces, part, positives.of_fold(fold), negatives.of_fold(fold))
                if others is not None:
                    _add_entries(pieces, head, others, shape, fold)
                bar.advance()
            final = next(heads)
            bar.advance()
        classes = tuple(_cross_validate(label, own) for label, own in pieces.items())
        described = _final_manifest(manifest, options, classes, positives, others)
        extend(options.model, part, final, described, replace=options.replace)
        found = AdaptResult(
            manifest=load_model(part).manifest,
            classes=classes,
            problems=tuple(lines + positives.problems + negatives.problems),
            sources=dict(Counter(clip.source for clip in negatives.clips)),
            old_scores_equal=options.replace or _same_scores(options.model, part, positives.waves + negatives.waves),
        )
        with replace_file(options.out) as new:
            new.write_bytes(part.read_bytes())
    return found


def _shape(model: Path, others: _Others | None) -> BackboneShape:
    """Return the sizes of the head's input: those of the bank's spikes, where there is one."""
    own = backbone_of(model)  # raises ManifestError for another architecture
    return own if others is None else BackboneShape(others.bank.about.inputs, others.bank.about.dense)


def _others(options: AdaptOptions, manifest: Manifest) -> tuple[_Others | None, list[str]]:
    """Return the bank's sounds, and a line about what is not used of it; raises ConfigError for a wrong ``without``."""
    found = find_bank(options.model, manifest, options.bank) if options.uses_bank else None
    if found is None:
        if options.without:
            raise ConfigError(f"--without {options.without[0]}: there is no bank for {options.model}; leave it out")
        what = "no bank is used" if not options.uses_bank else f"{options.model}: there is no bank for its backbone"
        return None, [f"{what}: other sounds are those of --background, --material and --data, and computed noises"]
    bank, path = found
    kinds = [str(kind) for kind in np.unique(bank.kind)]
    for kind in options.without:
        if kind not in kinds:
            raise ConfigError(f"--without: {unknown_label(kind, kinds, str(path))}")
    like = [kind for label in options.folders for kind in kinds_like(label, kinds) if kind not in options.without]
    left_out = [*options.without, *dict.fromkeys(like)]
    kept = ~np.isin(bank.kind, left_out)
    lines = [f"{path.name}: without {', '.join(left_out)}, which may be of a new class"] if left_out else []
    return _Others(bank, path, kept, bank.frames()), lines


def _make_examples(  # noqa: PLR0913 - one argument per source
    options: AdaptOptions,
    shape: BackboneShape,
    positives: SoundSet,
    negatives: SoundSet,
    others: _Others | None,
    recipe: Recipe,
) -> HeadExamples:
    lead_ins = np.zeros((0, 0, 0), np.float16) if others is None else others.bank.lead_ins
    with Progress("examples", recipe.schedule.examples_per_epoch, "examples") as bar:
        made = make_examples(
            options.model, shape, positives, negatives, lead_ins, recipe, options.seed, options.processes, bar.advance
        )
    return made if others is None else made.with_negatives(others.fired[others.kept], others.bank.fold[others.kept])


def _recipe(manifest: Manifest, options: AdaptOptions, *, beside_bank: bool) -> Recipe:
    examples, epochs, negatives = _EXAMPLES, _EPOCHS, _NEGATIVES
    if beside_bank:
        examples, epochs, negatives = _EXAMPLES_BESIDE_BANK, _EPOCHS_BESIDE_BANK, _NEGATIVES_BESIDE_BANK
    examples, epochs = options.examples or examples, options.epochs or epochs
    schedule = Schedule(epochs, examples, _BATCH, _LEARNING_RATE, _WEIGHT_DECAY, muon=False)
    categories = dict.fromkeys(options.folders, options.category)
    return head_recipe(manifest, categories, schedule, FRAMES, negatives)


def _with_classes(manifest: Manifest, options: AdaptOptions, added: Mapping[str, AddedClass]) -> Manifest:
    """Return a manifest with the new classes after the old ones; durations behind an onset are those of the first."""
    first = dataclasses.replace(manifest.classes[0].decoder, evidence=None)
    points = manifest.operating_points
    if options.replace:
        points = _measured_points(manifest, list(added.values())) if added else None
    new = []
    for label in options.folders:
        values: dict[Sensitivity, DecoderParams] = dict.fromkeys(SENSITIVITIES, first)
        if label in added:
            values = {name: added[label].choice.decoder(first, name) for name in SENSITIVITIES}
        spec = ClassSpec(label, options.category, values["balanced"])
        new.append(spec if points is None else dataclasses.replace(spec, low=values["low"], high=values["high"]))
    old = () if options.replace else manifest.classes
    return dataclasses.replace(manifest, classes=(*old, *new), operating_points=points)


def _measured_points(manifest: Manifest, classes: Sequence[AddedClass]) -> OperatingPoints:
    """Return the false events of a class per hour of other sounds, one after another, as cross-validation found."""
    hours_of_piece = FRAMES * manifest.features.hop_length / manifest.features.sample_rate_hz / 3600
    rates = {
        name: max(
            sum(r.hits for r in c.false[name].values()) / max(1, sum(r.total for r in c.false[name].values()))
            for c in classes
        )
        for name in SENSITIVITIES
    }
    return OperatingPoints(**{n: float(f"{r / hours_of_piece:.3g}") for n, r in rates.items()}, of="class")


def _add_pieces(pieces: Mapping[str, list[Piece]], model: Path, positives: SoundSet, negatives: SoundSet) -> None:
    """Run recordings through the detector, each behind a sound that is a negative."""
    detector = Detector.load(model)
    rate_hz = detector.sample_rate_hz
    before = [wave[-round(_BEFORE_S * rate_hz) :] for wave in negatives.waves]
    noise = np.random.default_rng(0).standard_normal(round(_BEHIND_S * rate_hz)).astype(np.float32)
    pairs = zip(positives.clips + negatives.clips, positives.waves + negatives.waves, strict=True)
    for number, (clip, wave) in enumerate(pairs):
        first, _ = detector.process(before[number % len(before)])
        own, _ = detector.process(np.concatenate([wave, _BEHIND_RMS * noise]))
        last, _ = detector.finish()
        scores = np.concatenate([first, own, last])
        for label, found in pieces.items():
            group = "" if clip.label == label else clip.source
            column = detector.labels.index(label)
            found.append(Piece(group, "", clip.fold, scores[:, column], len(first)))


def _add_entries(
    pieces: Mapping[str, list[Piece]], head: Extension, others: _Others, shape: BackboneShape, fold: int
) -> None:
    """Run a head over the bank's streams of a fold."""
    bank = others.bank
    for entries in bank.streams():
        if bank.fold[entries.start] != fold:
            continue
        scores = scores_of(head, np.concatenate(others.fired[entries.start : entries.stop]), shape)
        for i, entry in enumerate(entries):
            if others.kept[entry]:
                begin, own = max(0, i * FRAMES - _MEMORY), scores[max(0, i * FRAMES - _MEMORY) : (i + 1) * FRAMES]
                for column, found in enumerate(pieces.values()):
                    group, kind = str(bank.group[entry]), str(bank.kind[entry])
                    found.append(Piece(group, kind, fold, own[:, column], i * FRAMES - begin))


def _cross_validate(label: str, pieces: Sequence[Piece]) -> AddedClass:
    """Choose decoder values; evaluate each fold with those of the others."""
    peaks = {smoother: peaks_of(pieces, smoother) for smoother in smoothers()}
    choice = choose(peaks)
    recall = {name: [0, 0] for name in SENSITIVITIES}
    false: dict[Sensitivity, dict[str, list[int]]] = {name: {} for name in SENSITIVITIES}
    for fold in FOLDS:
        elsewhere = choose({smoother: own.without(fold) for smoother, own in peaks.items()})
        own = peaks[elsewhere.smoother].only(fold)
        for name in SENSITIVITIES:
            threshold = elsewhere.thresholds[name]
            _count(recall[name], own.found(threshold))
            for group, rate in own.false(threshold).items():
                _count(false[name].setdefault(group, [0, 0]), rate)
    return AddedClass(
        label=label,
        choice=choice,
        recall={name: Rate(*counts) for name, counts in recall.items()},
        false={name: {group: Rate(*c) for group, c in sorted(groups.items())} for name, groups in false.items()},
        taken=_taken(pieces, peaks[choice.smoother], choice.thresholds["balanced"]),
    )


def _count(counts: list[int], rate: Rate) -> None:
    counts[0] += rate.hits
    counts[1] += rate.total


def _taken(pieces: Sequence[Piece], peaks: Peaks, threshold: float) -> dict[str, Rate]:
    kinds = np.array([p.kind for p in pieces])
    rates = {}
    for kind in np.unique(kinds[kinds != ""]):
        values = peaks.values[kinds == kind]
        rate = Rate(int((values >= np.float32(threshold)).sum()), len(values))
        if rate.total >= _SMALLEST_KIND and rate.value >= _TAKEN_SHARE:
            rates[str(kind)] = rate
    return rates


def _final_manifest(
    manifest: Manifest,
    options: AdaptOptions,
    classes: Sequence[AddedClass],
    positives: SoundSet,
    others: _Others | None,
) -> Manifest:
    """Return the manifest of the final model: thresholds, metrics, and sources of its training data."""
    named = _with_classes(manifest, options, {c.label: c for c in classes})
    training = manifest.training
    new_sources = tuple(
        DataSource(label, "the user's own", f"{sum(c.label == label for c in positives.clips)} recordings of {label}")
        for label in options.folders
    )
    if others is not None:
        new_sources = (others.source, *new_sources)
    metrics = {} if options.replace else dict(manifest.metrics)
    for c in classes:
        rates = c.false["balanced"].values()
        metrics[f"{c.label}_recall"] = round(c.recall["balanced"].value, 4)
        metrics[f"{c.label}_false_rate"] = round(sum(r.hits for r in rates) / max(1, sum(r.total for r in rates)), 4)
    return dataclasses.replace(
        named,
        name=f"{manifest.name}-{'-'.join(options.folders)}",
        training=dataclasses.replace(
            training,
            command=f"{training.command}; {shlex.join(['snn-train', *sys.argv[1:]])}",
            clips=training.clips + len(positives.clips),
            sources=training.sources + new_sources,
        ),
        metrics=metrics,
    )


def _same_scores(before: Path, after: Path, waves: Sequence[Samples]) -> bool:
    """Return whether the old classes' scores are bit-identical over all the sounds of the run."""
    old, new = Detector.load(before), Detector.load(after)
    count = len(old.labels)
    return all(np.array_equal(old.score(wave), new.score(wave)[:, :count]) for wave in waves)
