"""Read what an ended run of a streaming network left in its folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from detector.errors import ConfigError
from detector.manifest import TrainingRecord
from detector.strict import parse_strictly
from models.recipe import Recipe
from models.untrained import Network, make_network


def load_run(folder: Path) -> tuple[Network, Recipe, TrainingRecord]:
    """Return the network, its recipe and its record; raises ConfigError where the folder holds no ended run."""
    try:
        recipe_data = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["recipe"]
        record_data = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        saved = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ConfigError(f"{folder}: not the folder of an ended run ({error}); make one with snn-train fit") from error
    recipe: Recipe = parse_strictly(Recipe, recipe_data, str(folder / "plan.json"), "recipe", ConfigError)
    record: TrainingRecord = parse_strictly(
        TrainingRecord, record_data, str(folder / "record.json"), "record", ConfigError
    )
    net = make_network(recipe)
    net.load_state_dict(saved["net"])
    return net, recipe, record
