"""The folder of a training run: its plan, curves and checkpoint, and what a finished run left in it."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from detector import __version__
from detector.errors import ConfigError
from detector.manifest import TrainingRecord, parse_strictly
from detector.system import replace_file
from models.network.twin import Network, make_network
from models.recipe import Recipe, with_current_keys

_RENAMED: Final = {"hidden": "auxiliary_heads", "dice": "rng_state"}
"""Earlier names of keys of a checkpoint, with their present names."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """plan.json, origin.json, curves.jsonl and checkpoint.pt of one training run."""

    path: Path

    def claim(self, plan: dict[str, Any]) -> None:
        """Write the plan and the code's version.

        Raises ConfigError where the folder holds a run of another plan, or anything else than stages of a run.
        """
        text, path = json.dumps(plan, indent=1), self.path / "plan.json"
        check_run_folder(self.path, "plan.json", "stage")
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            others = "of another recipe, seed, left-out fold or --warm-start, or of an earlier version"
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
        """Replace the checkpoint atomically."""
        with replace_file(self.path / "checkpoint.pt") as part:
            torch.save(state, part)

    def load(self) -> dict[str, Any] | None:
        """Return the checkpoint, if there is one."""
        path = self.path / "checkpoint.pt"
        if not path.is_file():
            return None
        saved = torch.load(path, weights_only=True, map_location="cpu")
        return {_RENAMED.get(key, key): value for key, value in saved.items()}


def check_run_folder(folder: Path, mark: str, parts: str) -> None:
    """Raise ConfigError for a folder without ``mark`` that holds more than entries named ``parts`` and a number."""
    if (folder / mark).exists() or not folder.exists():
        return
    part = re.compile(rf"{parts}\d+")
    if not folder.is_dir() or any(not part.fullmatch(entry.name) for entry in folder.iterdir()):
        raise ConfigError(f"{folder}: exists and is not the folder of a run; name a new folder")


def stage_folders(folder: Path, stages: int) -> list[Path]:
    """Return the folder of each stage of a run: the last one's is the run's own."""
    return [*(folder / f"stage{number}" for number in range(1, stages)), folder]


def load_run(folder: Path) -> tuple[Network, Recipe, TrainingRecord]:
    """Return the network, recipe and record of a finished run; raises ConfigError where the folder holds none."""
    try:
        recipe_data = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["recipe"]
        record_data = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        saved = torch.load(folder / "checkpoint.pt", weights_only=True, map_location="cpu")
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ConfigError(
            f"{folder}: not the folder of a finished run ({error}); make one with snn-train fit"
        ) from error
    recipe: Recipe = parse_strictly(
        Recipe, with_current_keys(recipe_data), str(folder / "plan.json"), "recipe", ConfigError
    )
    record: TrainingRecord = parse_strictly(
        TrainingRecord, record_data, str(folder / "record.json"), "record", ConfigError
    )
    net = make_network(recipe.network, recipe.encoder)
    net.load_state_dict(saved["net"])
    return net, recipe, record


def weights_digest(net: nn.Module) -> str:
    """Return the SHA-256 of a network's state, which identifies the initial weights of a run."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def git_revision() -> str:
    """Return the commit of the code, marked where files differ from it; "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - a fixed command
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
