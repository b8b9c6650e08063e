"""Progress of training: a bar where it can be drawn over, else a line now and then."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from models import console
from models.console import Progress, progress

ROOT = Path(__file__).resolve().parents[2]


def test_in_a_log_thousands_of_steps_of_a_minute_write_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(progress(range(20_000), "adding", "numbers")) == 199_990_000
    assert capsys.readouterr() == ("", "")


def test_in_a_log_a_line_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LINE_S", 0.0)
    with Progress("training", 4, "epochs", 1) as shown:
        shown.advance(loss="0.5")
        shown.reach(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "training: 25 %, 1 of 4 epochs",
        "training: 50 %, 2 of 4 epochs, loss 0.5",
        "training: 100 %, 4 of 4 epochs",
    ]


def test_on_a_terminal_it_is_a_bar_that_is_removed_at_the_end() -> None:
    program = (
        "import time\nfrom models.console import progress\n"
        "for _ in progress(range(4), 'counting', 'steps'): time.sleep(0.15)\n"
    )
    own, other = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", program],
        stderr=other,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"},
        check=False,
    )
    os.close(other)
    drawn = os.read(own, 1 << 16).decode()
    os.close(own)
    assert done.returncode == 0
    assert "counting" in drawn
    assert "of 4 steps" in drawn
    assert "\x1b[2K" in drawn
