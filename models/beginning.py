"""The weights of an ended run, for another to begin with."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor, nn

from detector.errors import ConfigError
from models.corpus import folds_left_out
from models.recipe import Recipe
from models.run_folder import RunFolder
from models.trained import load_run

_ALIKE = ("kind", "classes", "features", "encoder", "network")
"""Tables of a recipe that both runs have to share."""


def weights_of(folder: Path, recipe: Recipe, leave_out: int | None) -> dict[str, Tensor]:
    """Return the network's state at the end of the run in ``folder``.

    Raises ConfigError where that is not the folder of an ended run, or its network, front end or
    classes are others than the recipe's, or it did not leave out every fold that the new run leaves out.
    """
    net, first, record = load_run(folder)
    if others := [name for name in _ALIKE if getattr(first, name) != getattr(recipe, name)]:
        raise ConfigError(f"{folder}: {recipe.name} cannot begin with it, since they differ in {', '.join(others)}")
    if seen := sorted(set(folds_left_out(recipe, leave_out)) - set(record.folds_left_out)):
        raise ConfigError(f"{folder}: was trained on fold {', '.join(map(str, seen))}, which this run leaves out")
    return net.state_dict()


def hidden_of(folder: Path) -> dict[str, Tensor] | None:
    """Return the state of the hidden layers' read-outs at the end of the run in ``folder``, if it had any."""
    saved = RunFolder(folder).load()
    return None if saved is None else saved.get("hidden")


def weights_digest(net: nn.Module) -> str:
    """Return the SHA-256 of a network's state, by which a run knows again what it began with."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
