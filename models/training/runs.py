"""The folder of a run: what it is, how it goes, where it stands.

Read what an ended run of a streaming network left in its folder.

The weights of an ended run, for another to begin with.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detector import __version__
from detector.errors import ConfigError
from detector.manifest import TrainingRecord
from detector.strict import parse_strictly
from models.data.datasets import folds_left_out
from models.network.twin import Network, make_network
from models.recipe import Recipe


@dataclass(frozen=True, slots=True)
class RunFolder:
    """plan.json, origin.json, curves.jsonl and checkpoint.pt of one training run."""

    path: Path

    def claim(self, plan: dict[str, Any]) -> None:
        """Write down what the run is, and what code made it; raises ConfigError where it holds another run."""
        text, path = json.dumps(plan, indent=1), self.path / "plan.json"
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            others = "of another recipe, seed, left-out fold or --begin, or of an earlier version"
            raise ConfigError(f"{self.path}: holds a run {others}; name another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.write("origin.json", {"version": __version__, "revision": git_revision(), "torch": torch.__version__})

    def write(self, name: str, content: Any) -> None:
        """Write a JSON file of the run."""
        (self.path / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def add_row(self, row: dict[str, Any]) -> None:
        """Append an epoch to the curves."""
        with (self.path / "curves.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def curves(self) -> list[dict[str, Any]]:
        """Return the rows of the epochs so far; of an epoch that was run twice, the later one."""
        path = self.path / "curves.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return list({row["epoch"]: row for row in map(json.loads, lines)}.values())

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; an interruption leaves the old one whole."""
        path = self.path / "checkpoint.pt"
        part = path.with_suffix(".part")
        torch.save(state, part)
        part.replace(path)

    def load(self) -> dict[str, Any] | None:
        """Return the checkpoint, if there is one."""
        path = self.path / "checkpoint.pt"
        return torch.load(path, weights_only=True, map_location="cpu") if path.is_file() else None


def git_revision() -> str:
    """Return the commit of the code, marked where files differ from it; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - a fixed command
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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
