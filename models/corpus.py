"""The recordings of a recipe: its layout, its labels, what to leave out."""

from __future__ import annotations

from pathlib import Path

from detector.errors import ConfigError
from detector.manifest import DataSource
from models.datasets import SOURCES, Clip, list_clips
from models.layouts import Listing, read_esc, read_folders, read_manifest
from models.recipe import Recipe

RECIPES = Path(__file__).parent / "recipes"


def recordings(recipe: Recipe, data: Path, material: Path | None = None) -> Listing:
    """List what a recipe can be trained and judged with, and a line for each clip that was left out.

    Raises SourceError where the recordings are missing, ConfigError where the recipe takes no
    rendered material but some was given.
    """
    layout, labels = recipe.data.layout, recipe.labels
    if layout == "household":
        return _household(recipe, data, material)
    if material is not None:
        raise ConfigError(f"{recipe.name}: rendered material belongs to the layout household, not to {layout}")
    if layout == "manifest":
        return read_manifest(RECIPES / recipe.data.path, data, labels)
    return (read_esc if layout == "esc" else read_folders)(data / recipe.data.path, labels)


def _household(recipe: Recipe, data: Path, material: Path | None) -> Listing:
    clips = list_clips(data, material)
    unknown = sorted({c.label for c in clips if c.label is not None} - set(recipe.labels))
    problems = [f"{data}: label {label!r} is none of the recipe's; its clips are left out" for label in unknown]
    return Listing([c for c in clips if c.label is None or c.label in recipe.classes], problems)


def folds_left_out(recipe: Recipe, leave_out: int | None) -> tuple[int, ...]:
    """Return the folds that a run must not train on, in order."""
    return tuple(sorted({*recipe.data.test_folds, *([] if leave_out is None else [leave_out])}))


def sources_of(recipe: Recipe, clips: list[Clip]) -> tuple[DataSource, ...]:
    """Say where a run's recordings came from and under which licence they are."""
    names = {clip.source for clip in clips}
    known = tuple(source for source in SOURCES if source.name in names)
    others = sorted(names - {source.name for source in known})
    return known + tuple(DataSource(name, recipe.data.licence, f"recordings of {recipe.name}") for name in others)
