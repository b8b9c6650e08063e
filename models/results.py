"""The figures that are kept with the code: one JSON file for each question, and its pictures.

A kept file says which command made its figures and holds one entry per run: what it was (recipe,
seed, fold left out), what code made it, and its metrics. Weights stay in the run folders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.errors import ConfigError

RESULTS = Path(__file__).parent / "results"


def keep(name: str, command: str, runs: Sequence[Path], results: Path = RESULTS, *, pictures: bool = True) -> Path:
    """Write the metrics of runs to ``name``.json and copy the first one's pictures, if wanted, as ``name``-*.png.

    ``runs`` are folders with a metrics.json: of ``fit``, ``compare`` or ``convert``. Raises
    ConfigError where one has none.
    """
    rows = [_read_run(run) for run in runs]
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    path.write_text(json.dumps({"command": command, "runs": rows}, indent=1) + "\n", encoding="utf-8")
    for picture in sorted(runs[0].glob("*.png")) if pictures else ():
        shutil.copyfile(picture, results / f"{name}-{picture.name}")
    return path


def _read_run(run: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"metrics": _read(run / "metrics.json")}
    if (run / "plan.json").is_file():
        plan = _read(run / "plan.json")
        row |= {"recipe": plan["recipe"]["name"], "seed": plan["seed"], "leave_out": plan["leave_out"]}
    if (run / "origin.json").is_file():
        row["origin"] = _read(run / "origin.json")
    return row


def load(results: Path = RESULTS) -> dict[str, Any]:
    """Return every kept file by its name without the ending."""
    return {path.stem: _read(path) for path in sorted(results.glob("*.json"))}


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no figures there ({error}); end the run first") from error
