"""Read a training run's folder and export it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from detector.errors import ConfigError
from detector.strict import parse_strictly
from firmware_export.onnx_export import Parity, build_manifest, export
from firmware_export.parity import DEMO, comparison_sound
from models.network import SpikingConvNet
from models.recipe import Recipe, load_recipe
from models.trained import load_run


def export_run(run: Path, recipe_path: Path | None, out: Path, sound: tuple[Path, ...], metrics: Path | None) -> Parity:
    """Export an ended run; ``recipe_path`` may give other decoding than the run's own copy had.

    Raises ConfigError, SourceError or ParityError; ``out`` is written whole or not at all.
    """
    net, recipe, record = load_run(run)
    if not isinstance(net, SpikingConvNet):
        raise ConfigError(f"{run}: a run of a CNN, which has no streaming form; export a spiking network's run")
    if recipe_path is not None:
        recipe = _with_decoding_of(recipe, recipe_path)
    figures = _figures(metrics) if metrics else {}
    samples = comparison_sound(sound or (DEMO,), recipe.features.sample_rate_hz)
    return export(net, lambda finished: build_manifest(recipe, finished, record, figures), samples, out)


def _with_decoding_of(trained: Recipe, path: Path) -> Recipe:
    """Return the recipe of a run with name, version and decoding of another that is otherwise the same network."""
    other = load_recipe(path)
    for part in ("features", "encoder", "network"):
        if getattr(other, part) != getattr(trained, part):
            raise ConfigError(
                f"{path}: its [{part}] is not what the run was trained with; only the decoding may differ"
            )
    return dataclasses.replace(trained, name=other.name, version=other.version, decoding=other.decoding)


def _figures(path: Path) -> dict[str, float]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no figures there ({error}); make them with snn-train evaluate --json") from error
    figures: dict[str, float] = parse_strictly(dict[str, float], data, str(path), "figures", ConfigError)
    return figures
