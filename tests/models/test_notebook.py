"""The notebook that ships runs from its first cell to its last, as it stands, and draws what it found."""

from __future__ import annotations

import json
from typing import Any

import pytest
from matplotlib import pyplot

from detector import detect_file
from models import DEMO_SCENE

NOTEBOOK = DEMO_SCENE.with_name("detect.ipynb")


def cells(kind: str) -> list[str]:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (document["nbformat"], document["metadata"]["kernelspec"]["language"]) == (4, "python")
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == kind]


def test_it_holds_no_results_of_a_run() -> None:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert [cell["id"] for cell in document["cells"] if cell.get("outputs") or cell.get("execution_count")] == []


def test_each_cell_runs_and_the_plot_shows_each_sound(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain Python, without magics, so that no kernel is needed to run it."""
    monkeypatch.chdir(NOTEBOOK.parent)  # as a notebook server does
    pyplot.switch_backend("agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells("code")):
        exec(compile(cell, f"{NOTEBOOK.name}, cell {number}", "exec", dont_inherit=True), names)  # noqa: S102 - our own
    found = detect_file(DEMO_SCENE)
    assert names["found"] == found
    above, below = names["figure"].axes
    assert len(above.patches) == len(below.patches) == len(found) == 4
    assert {line.get_label() for line in below.lines} == {sound.label for sound in found}
    printed = capsys.readouterr().out
    assert all(f"{sound.onset_s:6.2f} to {sound.offset_s:6.2f} s" in printed for sound in found)
    pyplot.close("all")
