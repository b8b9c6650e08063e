"""The documents: their links lead somewhere, nothing is left to fill in, and the card's figures are the manifest's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from detector.network import load_model

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    ".github/CONTRIBUTING.md",
    "firmware_export/c/README.md",
    "models/README.md",
    "systemd/README.md",
    "models/RESULTS.md",
    "models/pretrained/esc10.md",
    "models/pretrained/household.md",
)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(name: str) -> None:
    path = ROOT / name
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (path.parent / link.partition("#")[0]).exists(), link


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_left_to_fill_in(name: str) -> None:
    assert not re.search(r"PLACEHOLDER|BENCH_TABLE|TO" + "DO", (ROOT / name).read_text(encoding="utf-8"))


def test_the_card_gives_the_manifests_figures() -> None:
    manifest = load_model().manifest
    card = (ROOT / "models" / "pretrained" / "household.md").read_text(encoding="utf-8")
    assert f"# {manifest.name} {manifest.version}" in card
    assert f"= {100 * manifest.metrics['esc10_accuracy']:.1f} %" in card
    for label in manifest.labels:
        recall, false = (100 * manifest.metrics[f"{label}_{kind}"] for kind in ("recall", "false_rate"))
        (row,) = re.findall(rf"^\| {label} \|.*$", card, re.MULTILINE)
        assert [float(x) for x in re.findall(r"= ([\d.]+) %", row)] == pytest.approx([recall, false], abs=0.06)


def test_the_shipped_model_is_small_and_was_kept_from_the_test_fold() -> None:
    model = load_model()
    assert model.path.stat().st_size < 3 * 2**20
    assert 5 in model.manifest.training.folds_left_out
