"""The table of classes in the README: from the model's results where it has them, else from its card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detector.errors import ConfigError
from detector.manifest import ClassResults, Manifest
from detector.network import load_model
from models.evaluation import class_table
from models.evaluation.class_table import BEGIN, END, updated

CARD = """
| class | found | false events | latency p50, p95 | missed at 1 false event an hour |
|---|---|---|---|---|
| `guitar` | 46/142 = 32 % | 0.5/h (at most 2.4) | 0.36 s, 3.5 s | 61 % |
| `speech` | 0/23 = 0 % | 0.0/h (at most 1.8) | none found | 100 % |

| | 0.1.0 | 0.2.0 |
|---|---|---|
| sounds found, at the model's own thresholds | 1/165 = 1 % (0 to 3 %) | 46/165 = 28 % (22 to 35 %) |
| false events of any class | 10.0/h (at most 15) | 14.5/h (at most 20) |
"""
DOCUMENT = f"before\n{BEGIN}\nold\n{END}\nafter\n"
READY = ClassResults(True, 31, 50, 0.5, 2.0, 0.302)
ON_TRIAL = ClassResults(False, 0, 8, 3.0, 2.0)


def manifest(*results: ClassResults | None) -> Manifest:
    whole = load_model().manifest
    classes = {c.label: c for c in whole.classes}
    wanted = [replace(classes[label], results=r) for label, r in zip(("guitar", "speech"), results, strict=True)]
    return replace(whole, version="0.2.0", classes=tuple(wanted), metrics={"accuracy": 0.9024, "clips": 369.0})


def rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| `")]


def test_a_model_without_results_has_its_card_s_figures() -> None:
    found = updated(DOCUMENT, manifest(None, None), CARD)
    assert rows(found) == [
        "| `guitar` | 46/142 = 32 % | 0.5 (at most 2.4) | 0.36 s | not evaluated |",
        "| `speech` | 0/23 = 0 % | 0.0 (at most 1.8) | none found | not evaluated |",
    ]
    assert found.startswith(f"before\n{BEGIN}\n**It is no alarm.** In test scenes")
    assert found.endswith(f"\n{END}\nafter\n")
    words = " ".join(found.split())
    assert "0.2.0 reports 14.5 false events an hour (at most 20) and finds 46 of 165 sounds (28 %)" in words
    assert "classifies 333 of 369 correctly (90.2 %)" in words
    assert "so all are reported" in words
    assert updated(found, manifest(None, None), CARD) == found


def test_a_model_with_results_has_those_and_says_which_classes_are_ready() -> None:
    """One false event in two hours is at most 2.4 an hour, six at most 5.9 (Garwood's bounds 4.74 and 11.84)."""
    found = updated(DOCUMENT, manifest(READY, ON_TRIAL), CARD)
    assert rows(found) == [
        "| `guitar` | 31/50 = 62 % | 0.5 (at most 2.4) | 0.30 s | ready |",
        "| `speech` | 0/8 = 0 % | 3.0 (at most 5.9) | none found | on trial |",
    ]
    words = " ".join(found.split())
    assert "sounds at 10 dB and more, at no more than 1 false event an hour" in words
    assert "A class with 10 such sounds or more of which 60 % are found is ready" in words
    assert rows(updated(DOCUMENT, manifest(READY, None), CARD))[1] == "| `speech` |  |  |  | not evaluated |"


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (CARD.replace("`speech`", "`rain`"), "no row of long streams for speech"),
        (CARD.replace("| 0.2.0 |", "| 0.3.0 |"), 'no row "sounds found, at the model\'s own thresholds" with a column'),
        (CARD.replace("14.5/h (at most 20)", "14.5"), "another form than"),
    ],
)
def test_a_card_that_lacks_a_figure_is_refused(card: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        updated(DOCUMENT, manifest(None, None), card)


def test_a_document_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="put these lines around it"):
        updated("no place", manifest(None, None), CARD)


def test_the_command_writes_the_table_of_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "README.md"
    document.write_text(DOCUMENT, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["class_table", str(document)])
    class_table.main()
    model = load_model()
    card = model.path.with_suffix(".md").read_text(encoding="utf-8")
    assert document.read_text(encoding="utf-8") == updated(DOCUMENT, model.manifest, card)
    assert len(rows(document.read_text(encoding="utf-8"))) == len(model.manifest.labels)
