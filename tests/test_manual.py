"""The manual pages that are installed are those of the commands, and a formatter has nothing to say to them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from detector.cli.main import cli as snn_detect
from firmware_export.cli import cli as snn_export
from models.cli.main import cli as snn_train
from tests.contracts.live import ROOT
from tests.contracts.snapshots import check
from tests.manual import manual_page
from tests.test_systemd import need

PROGRAMS: dict[str, click.Group] = {"snn-detect": snn_detect, "snn-train": snn_train, "snn-export": snn_export}
PAGES = ROOT / "systemd" / "manual"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_page_is_made_from_the_commands(program: str) -> None:
    others = tuple(other for other in PROGRAMS if other != program)
    check(f"{program}.1", manual_page(program, PROGRAMS[program], others), PAGES)


def shown(page: Path) -> str:
    done = subprocess.run(["man", "--warnings", "-P", "cat", page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(r".\x08", "", done.stdout)


@pytest.mark.parametrize("program", PROGRAMS)
def test_man_shows_the_page_without_a_warning_and_lines_as_help_has_them(program: str) -> None:
    need("man")
    text = " ".join(shown(PAGES / f"{program}.1").replace("\u2010\n", "-").split())
    for name in ("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "SEE ALSO"):
        assert name in text
    if program == "snn-detect":
        assert "--audacity PATH Write the sounds as a label track of Audacity." in text
        assert "snn-detect events query [OPTIONS]" in text
        assert "SNN_DETECT_MODEL Used for --model of snn-detect," in text
