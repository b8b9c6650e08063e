"""Making of a bank: which recordings may be in it, and a backbone's spikes over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.network import load_model
from models.adapting.backbone import BackboneStream, backbone_sha256
from models.adapting.bank import FRAMES, TEXTS, VERSION, Bank, BankOrigin, pack, write_bank
from models.adapting.extension import BackboneShape, backbone_of
from models.adapting.scenes import alone, head_recipe
from models.console import progress
from models.data.clips import Clip
from models.data.datasets import read_or_reason
from models.data.household import RECORDINGS, TEST_FOLD, list_clips
from models.data.recordings import (
    NO_CLASS,
    Recording,
    allows_derived_data,
    label_and_source,
    read_recordings_index,
    usable_rows,
)
from models.recipe import Recipe, SceneExamples, Schedule
from models.training.examples import ExampleMaker

_LICENCES: Final = {"esc10": "CC BY 3.0", "instruments": "CC0 or CC BY 3.0", "guitar_notes": "CC0"}
"""Other data sets whose licences allow derived data; credits are in their own files. Spoken digits are CC BY-SA."""
_GROUP_OF_KIND: Final = {
    **dict.fromkeys(
        (
            "applause",
            "breathing",
            "burp_fart",
            "clap_hand",
            "crowd",
            "drinking",
            "eating",
            "human_grunt",
            "laughter",
            "scream",
            "snore",
            "whistle_human",
        ),
        "human sounds",
    ),
    **dict.fromkeys(
        (
            "ceramic",
            "chopping",
            "cupboard_drawer",
            "cutlery",
            "dishes_washing",
            "frying_pan",
            "glass_break",
            "glass_clink",
            "plates",
        ),
        "dishes",
    ),
}
_MUSIC: Final = frozenset({"guitar", "bowed_strings", "winds", "drums"})
_SPEECH: Final = "speech"
_MAX_OF_KIND: Final = {"speech": 330, "human sounds": 40, "dishes": 40, "instruments": 9, "other classes": 24}
_MAX_OF_EVERYDAY_KIND: Final = 18
"""Entries of a kind or class at most: what is most often taken for other sounds counts most."""
_MIN_OF_KIND: Final = {"human sounds": 12, "dishes": 12}
_MAX_REPEATS: Final = 3
"""A clip of these kinds, where they are few, is taken up to three times, under other conditions."""
_ALONE_SHARE: Final = 0.5
"""Probability that a short clip occurs once in its entry."""
_LANE: Final = 16
"""Entries of a stream."""
_LEAD_INS, _LEAD_IN_FRAMES = 96, 60


@dataclass(frozen=True, slots=True)
class BankClip:
    """A clip for a bank."""

    path: Path
    kind: str
    group: str
    name: str
    """Data set and path in it."""
    author: str
    licence: str
    fold: int


@dataclass(frozen=True, slots=True)
class _Lane:
    number: int
    clips: tuple[BankClip, ...]
    seed: int


_Made = tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]
_worker: _LaneMaker | None = None


class _LaneMaker:
    """Makes the entries of streams."""

    def __init__(self, model: Path, shape: BackboneShape, recipe: Recipe) -> None:
        self._model, self._shape, self._recipe = load_model(model), shape, recipe
        self._rate_hz = recipe.features.sample_rate_hz

    def make(self, lane: _Lane) -> _Made:
        """Return the spikes of each entry, and the features of its end."""
        stream = BackboneStream(self._model, self._shape.dense)
        rng = np.random.default_rng([lane.seed, lane.number])
        stream.push(self._features(lane.clips[-1], rng))  # nothing begins with the state after a reset
        entries, ends = [], []
        for clip in lane.clips:
            features = self._features(clip, rng)
            entries.append(pack(stream.push(features), self._shape.inputs + self._shape.dense))
            ends.append(features[-_LEAD_IN_FRAMES:])
        return entries, ends

    def _features(self, clip: BankClip, rng: np.random.Generator) -> NDArray[np.float32]:
        wave = read_or_reason(clip.path, self._rate_hz)
        assert not isinstance(wave, str), wave  # noqa: S101 - checked before
        if rng.random() < _ALONE_SHARE:
            wave = alone(wave, FRAMES * self._recipe.features.hop_length)
        params = self._recipe.examples
        assert isinstance(params, SceneExamples)  # noqa: S101 - for mypy
        maker = ExampleMaker([Clip(clip.path, None, clip.group, clip.fold)], [wave], self._recipe, params)
        return np.asarray(maker.draw(rng).spikes, np.float32)


def make_bank(model: Path, data: Path, seed: int, processes: int) -> tuple[Bank, list[str]]:
    """Return the bank of a model over the recordings below ``data``, and a line for each problem.

    Fold 5 is left out, and so are clips whose licence does not allow derived data. Raises SourceError where a folder of
    recordings is missing, ManifestError for a model that cannot be adapted.
    """
    manifest, shape = load_model(model).manifest, backbone_of(model)
    clips, problems = _readable(bank_clips(data), manifest.features.sample_rate_hz)
    lanes = list(_lanes(clips, seed))
    recipe = head_recipe(manifest, {"new": "things"}, Schedule(1, 1, 1, 0.0, 0.0, muon=False), FRAMES, 1.0)
    with ProcessPoolExecutor(processes, initializer=_begin, initargs=(model, shape, recipe)) as pool:
        made = list(progress(pool.map(_make, lanes), "bank", "streams", len(lanes)))
    entries = [clip for lane in lanes for clip in lane.clips]
    ends = np.stack([end for _, several in made for end in several])
    rng = np.random.default_rng(seed)
    about = BankOrigin(
        version=VERSION,
        backbone=backbone_sha256(model, manifest, shape.dense),
        inputs=shape.inputs,
        dense=shape.dense,
        model=f"{manifest.name} {manifest.version}",
        command=f"snn-train make-bank {model.name} --data DATA --seed {seed}",
    )
    bank = Bank(
        about=about,
        spikes=np.stack([entry for several, _ in made for entry in several]),
        lead_ins=ends[rng.permutation(len(ends))[:_LEAD_INS]].astype(np.float16),
        kind=np.array([c.kind for c in entries]),
        group=np.array([c.group for c in entries]),
        clip=np.array([c.name for c in entries]),
        author=np.array([c.author for c in entries]),
        licence=np.array([c.licence for c in entries]),
        fold=np.array([c.fold for c in entries], np.uint8),
        begins=np.array([i == 0 for lane in lanes for i in range(len(lane.clips))]),
    )
    return bank, problems


def write_limited(path: Path, bank: Bank, size: int) -> Bank:
    """Write as many of a bank's streams, which are in random order, as fit into ``size`` bytes; return what is written.

    The file is written again with fewer streams where it is larger.
    """
    kept = bank
    while True:
        write_bank(path, kept)
        share = size / path.stat().st_size
        streams = list(kept.streams())
        if share >= 1 or len(streams) == 1:
            return kept
        end = streams[max(1, int(share * len(streams))) - 1].stop
        kept = replace(kept, **{name: getattr(kept, name)[:end] for name in ("spikes", "fold", "begins", *TEXTS)})


def credits_page(path: Path, bank: Bank) -> str:
    """Return whose recordings a bank was made of, as text."""
    sounds, frames = bank.lead_ins.shape[:2]
    lines = [
        f"# {path.name}",
        f"Spikes of {bank.about.model} over recordings, which `snn-train adapt` takes as sounds of no new class.",
        f"Made by `{bank.about.command}`. It holds no samples, but",
        f"beside the spikes the features (MFCC) of {sounds} sounds, {frames} frames each, to precede others.",
        f"Kind, clip, author and licence of each example are in the file: `numpy.load({path.name!r})`.",
        "",
        "| licence | examples | recordings by |",
        "|---|---|---|",
    ]
    for licence in np.unique(bank.licence):
        own = bank.licence == licence
        authors = sorted({author or "authors named in the collection" for author in bank.author[own].tolist()})
        lines.append(f"| {licence} | {own.sum()} | {'; '.join(authors)} |")
    return "\n".join([lines[0], "", *lines[1:]]) + "\n"


def bank_clips(data: Path) -> list[BankClip]:
    """List the clips that a bank may hold, at most some of each kind, evenly spread; none of fold 5."""
    found = [clip for clip in (*_of_recordings(data), *_of_others(data)) if clip.fold != TEST_FOLD]
    by_kind: dict[tuple[str, str], list[BankClip]] = {}
    for clip in sorted(found, key=lambda clip: clip.name):
        by_kind.setdefault((clip.group, clip.kind), []).append(clip)
    chosen: list[BankClip] = []
    for (group, _), clips in sorted(by_kind.items()):
        most = _MAX_OF_KIND.get(group, _MAX_OF_EVERYDAY_KIND)
        kept = [clips[int(i)] for i in np.linspace(0, len(clips) - 1, min(most, len(clips)))]
        repeats = min(_MAX_REPEATS, max(1, -(-_MIN_OF_KIND.get(group, 1) // len(kept))))
        chosen += [clip for clip in kept for _ in range(repeats)]
    return chosen


def _of_recordings(data: Path) -> Iterator[BankClip]:
    folder = data / RECORDINGS
    rows = usable_rows(read_recordings_index(folder)) if folder.is_dir() else []
    for row in rows:
        if allows_derived_data(row.licence):
            name = f"{RECORDINGS}/{row.path.relative_to(folder).as_posix()}"
            kind, group = _kind_and_group(row)
            yield BankClip(row.path, kind, group, name, row.author, row.licence, row.fold)


def _of_others(data: Path) -> Iterator[BankClip]:
    for clip in list_clips(data):
        if clip.source in _LICENCES and clip.label is not None:
            name = clip.path.relative_to(data).as_posix()
            owner = f"{clip.source}: credits in its own files"
            yield BankClip(clip.path, clip.label, _group(clip.label), name, owner, _LICENCES[clip.source], clip.fold)


def _kind_and_group(row: Recording) -> tuple[str, str]:
    """Return what is counted together: the class, or the kind of what is of no class."""
    label, _ = label_and_source(row)
    if label is not None:
        return label, _group(label)
    if row.label == NO_CLASS:
        return row.kind, _GROUP_OF_KIND.get(row.kind, "everyday sounds")
    return row.kind or row.label, "instruments"


def _group(label: str) -> str:
    if label == _SPEECH:
        return _SPEECH
    return "instruments" if label in _MUSIC else "other classes"


def _readable(clips: Sequence[BankClip], rate_hz: int) -> tuple[list[BankClip], list[str]]:
    found = {clip.path: read_or_reason(clip.path, rate_hz) for clip in clips}
    problems = [f"{reason}; left out" for reason in found.values() if isinstance(reason, str)]
    return [clip for clip in clips if not isinstance(found[clip.path], str)], problems


def _lanes(clips: Iterable[BankClip], seed: int) -> Iterator[_Lane]:
    """Yield streams of clips of one fold each, in random order."""
    rng = np.random.default_rng(seed)
    by_fold: dict[int, list[BankClip]] = {}
    for clip in clips:
        by_fold.setdefault(clip.fold, []).append(clip)
    several = []
    for _, own in sorted(by_fold.items()):
        order = [own[int(i)] for i in rng.permutation(len(own))]
        several += [tuple(order[at : at + _LANE]) for at in range(0, len(order), _LANE)]
    for number, chosen in enumerate(rng.permutation(len(several))):
        yield _Lane(number, several[int(chosen)], seed)


def _begin(model: Path, shape: BackboneShape, recipe: Recipe) -> None:
    global _worker  # noqa: PLW0603 - set once when the worker process starts
    _worker = _LaneMaker(model, shape, recipe)


def _make(lane: _Lane) -> _Made:
    assert _worker is not None  # noqa: S101 - the pool's initialiser has run
    return _worker.make(lane)
