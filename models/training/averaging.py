"""The mean of the weights of several models that were trained from the same weights.

Networks that begin at the same weights and are trained on with other examples often lie in one region of low loss;
their mean generalises better than either, at the cost of one (M. Wortsman et al., Model soups, ICML 2022). Whether it
does has to be evaluated: of networks trained apart the mean is none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detector.errors import ConfigError
from detector.manifest import Manifest, TrainingRecord
from models.recipe import Recipe, as_dict
from models.training.runs import RunFolder, weights_digest
from models.training.warm_start import read_model


def average(recipe: Recipe, models: Sequence[Path], folder: Path) -> TrainingRecord:
    """Write a finished run whose weights are the mean of those of model files; return its training record.

    Time constants are averaged as the logits that are trained. Raises ConfigError for fewer than two models, for models
    whose classes, front end or shapes differ from the recipe's, and for a folder that holds another run, and
    ManifestError where a file is no model.
    """
    if len(models) < 2:  # noqa: PLR2004
        raise ConfigError("the mean of fewer than two models is none; name two model files or more")
    networks, manifests = zip(*(read_model(path, recipe) for path in models), strict=True)
    digests, mean = [weights_digest(network) for network in networks], networks[0]
    mean.load_state_dict(_mean([network.state_dict() for network in networks]))
    run, record = RunFolder(folder), _record(recipe, manifests, [path.name for path in models])
    plan: dict[str, Any] = {"recipe": as_dict(recipe), "seed": record.seed, "leave_out": None}
    run.claim(plan | {"averaged": digests})
    run.save({"net": mean.state_dict(), "epoch": record.epochs})
    run.write("record.json", dataclasses.asdict(record))
    return record


def _mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor; of counters, which are no weights, the first."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if first.is_floating_point() else first
        for name, first in states[0].items()
    }


def _record(recipe: Recipe, manifests: Sequence[Manifest], names: Sequence[str]) -> TrainingRecord:
    """Describe the models together: what any of them was trained on, and only the folds that all of them left out."""
    records = [manifest.training for manifest in manifests]
    left_out = reduce(lambda a, b: a & b, (set(record.folds_left_out) for record in records))
    return TrainingRecord(
        command=f"snn-train average {' '.join(names)} --recipe models/recipes/{recipe.name}.toml --run RUN",
        seed=records[-1].seed,
        epochs=max(record.epochs for record in records),
        clips=max(record.clips for record in records),
        folds_left_out=tuple(sorted(left_out)),
        sources=tuple({source.name: source for record in records for source in record.sources}.values()),
    )
