"""Vary keys of a recipe for still pictures, train each variation, and lay the outcomes side by side."""

from __future__ import annotations

import copy
import itertools
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from models.figures import new_figure, save
from models.image_recipe import ImageRecipe, parse_image_recipe
from models.image_train import ImageRun, fit_recipe
from models.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Variation:
    """One choice of values."""

    name: str
    recipe: ImageRecipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    name: str
    metrics: dict[str, Any]
    losses: list[float]
    """By epoch."""


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Read "network.surrogate=atan,sigmoid" as a key and its values; "a.b=1;2" where values hold commas.

    Raises ConfigError where it is no such thing.
    """
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise ConfigError(f"--vary {text}: write KEY=VALUE,VALUE such as network.surrogate=atan,sigmoid")
    return key.strip(), [_value(v.strip()) for v in values.split(";" if ";" in values else ",")]


def variations(base: dict[str, Any], axes: Sequence[str], where: str) -> list[Variation]:
    """Return every combination of the axes' values as a recipe; keys joined by "&" change together.

    "network.surrogate&network.slope=atan&2;sigmoid&25" has two values, each for both keys. Raises
    ConfigError that names a wrong key or value.
    """
    parsed = [parse_axis(axis) for axis in axes]
    return list(_combinations(base, parsed, where))


def _combinations(base: dict[str, Any], axes: list[tuple[str, list[Any]]], where: str) -> Iterator[Variation]:
    for values in itertools.product(*(v for _, v in axes)):
        data = copy.deepcopy(base)
        parts = []
        for (keys, _), value in zip(axes, values, strict=True):
            settings = list(zip(keys.split("&"), _split(value, keys, where), strict=True))
            for key, single in settings:
                _set(data, key.strip(), single, where)
            parts.append(", ".join(f"{k.strip().rpartition('.')[2]} {v}" for k, v in settings))
        yield Variation("; ".join(parts), parse_image_recipe(data, where))


def compare(found: Sequence[Variation], run: ImageRun) -> list[Outcome]:
    """Train each variation in a folder of its own below the run's, and write table.md, metrics.json, comparison.png."""
    outcomes = []
    for number, variation in enumerate(found, 1):
        folder = run.folder / f"{number:02d}"
        metrics = fit_recipe(variation.recipe, ImageRun(run.data, folder, run.seed, run.leave_out))
        losses = [float(row["loss"]) for row in RunFolder(folder).curves()]
        outcomes.append(Outcome(variation.name, metrics, losses))
    written = [{"name": o.name, "folder": f"{i:02d}", **o.metrics} for i, o in enumerate(outcomes, 1)]
    (run.folder / "metrics.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    (run.folder / "table.md").write_text(table(outcomes) + "\n", encoding="utf-8")
    draw(outcomes, run.folder / "comparison.png")
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    rows = ["| variation | accuracy (95 %) | operations, dense | effective | never fire, by layer | training |"]
    rows += ["|---|---|---|---|---|---|"]
    for o in outcomes:
        m = o.metrics
        low, high = (100 * v for v in m["interval"])
        dead = ", ".join(f"{name} {100 * share:.1f} %" for name, share in m["dead"].items())
        rows.append(
            f"| {o.name} | {100 * m['accuracy']:.2f} % ({low:.2f} to {high:.2f} %) | {m['dense_operations']:,} "
            f"| {m['effective_operations']:,} | {dead} | {m['training_seconds']:.0f} s |"
        )
    return "\n".join(rows)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw each variation's loss over the epochs, and its accuracy against its effective operations."""
    figure = new_figure(12, 4.5)
    curves, plane = figure.subplots(1, 2)
    for o in outcomes:
        curves.plot(range(1, len(o.losses) + 1), o.losses, label=o.name)
        low, high = (100 * v for v in o.metrics["interval"])
        value = 100 * o.metrics["accuracy"]
        bar = [[max(0.0, value - low)], [max(0.0, high - value)]]
        plane.errorbar([o.metrics["effective_operations"]], [value], yerr=bar, marker="o", capsize=3, label=o.name)
    curves.set_xlabel("epoch")
    curves.set_title("training loss")
    curves.set_yscale("log")
    plane.set_xlabel("effective synaptic operations per picture")
    plane.set_title("accuracy in %, with its 95 % interval")
    for axes in (curves, plane):
        axes.grid(alpha=0.3)
    curves.legend(fontsize=8)
    save(figure, path)


def _value(text: str) -> Any:
    """Read a number, a truth value or a list as TOML does; anything else is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _split(value: Any, keys: str, where: str) -> list[Any]:
    count = keys.count("&") + 1
    parts = [_value(v.strip()) for v in value.split("&")] if count > 1 and isinstance(value, str) else [value]
    if len(parts) != count:
        raise ConfigError(f"{where}: --vary {keys} needs {count} values joined by '&', not {value!r}")
    return parts


def _set(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    *path, last = key.split(".")
    for name in path:
        data = data.get(name, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: --vary {key}: {name!r} is no table of the recipe")
    if last not in data:
        raise ConfigError(f"{where}: --vary {key}: the recipe has no such key")
    data[last] = value
