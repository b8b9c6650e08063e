"""Run the programs of the project as users do: as processes, in an environment without settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.contracts.live import ROOT

DETECT: Final = (sys.executable, "-W", "error", "-m", "detector")
_LONGEST_S: Final = 300


def clean_environment(**more: str) -> dict[str, str]:
    """Return the environment without settings of snn-detect, and with ``more``."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SNN_DETECT_", "NOTIFY_", "WATCHDOG_"))}
    return kept | {"PYTHONPATH": str(ROOT)} | more


def detect(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run snn-detect and return how it ended."""
    return subprocess.run(
        [*DETECT, *map(str, arguments)],
        cwd=ROOT,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LONGEST_S,
    )


def output(*arguments: str | Path, **environment: str) -> str:
    """Run snn-detect to a good end and return its standard output."""
    done = detect(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def json_output(*arguments: str | Path, **environment: str) -> Any:
    """Run snn-detect to a good end and return the JSON document on its standard output."""
    return json.loads(output(*arguments, **environment))
