"""Small recipes and a small MNIST for tests of networks for still images."""

from __future__ import annotations

import copy
import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

from models import RECIPES
from models.images.recipe import ImageRecipe, as_dict, load_image_recipe, parse_image_recipe

TINY: dict[str, Any] = {
    "images": {"shift_pixels": 0.0, "rotation_degrees": 0.0, "stretch": 0.0},
    "network": {
        "steps": 6,
        "convs": [
            {"channels": 3, "size": 5, "padding": 0, "pool": 2},
            {"channels": 4, "size": 5, "padding": 0, "pool": 2},
        ],
    },
    "schedule": {"epochs": 1, "batch": 50},
}


def tiny(base: str = "mnist-direct", **changes: dict[str, Any]) -> ImageRecipe:
    """Return a shipped recipe with a small network, and with changes by table."""
    data = as_dict(load_image_recipe(RECIPES / f"{base}.toml"))
    small = copy.deepcopy(TINY)
    if base != "mnist-direct":
        del small["network"]["steps"]
    if data["images"]["kind"] != "mnist":
        del small["images"]
    for table, values in (*small.items(), *changes.items()):
        data[table] |= values
    return parse_image_recipe(data, "tiny.toml")


def write_mnist(data: Path, train: int = 300, test: int = 60) -> Path:
    """Write digits that are bars at a place of their class, with noise, as MNIST's files; return the folder."""
    rng = np.random.default_rng(0)
    (data / "mnist").mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        images = rng.integers(0, 40, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            row, column = 4 + 4 * (label // 2), 4 + 12 * (label % 2)
            image[row : row + 3, column : column + 9] = 250
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            path = data / "mnist" / f"{name}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes(), 1))
    return data


def write_recipe(recipe: ImageRecipe, path: Path) -> Path:
    """Write a recipe as TOML."""
    lines: list[str] = []
    plain = as_dict(recipe)
    lines += [f"{key} = {_literal(value)}" for key, value in plain.items() if not isinstance(value, dict)]
    for table, values in plain.items():
        if isinstance(values, dict):
            lines.append(f"[{table}]")
            lines += [f"{key} = {_literal(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_literal(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
