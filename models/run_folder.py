"""The folder of a run: what it is, how it goes, where it stands."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector import __version__
from detector.errors import ConfigError


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
