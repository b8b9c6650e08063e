"""The comparison with the pinned files: it finds what differs, and no file is left that no test looks at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts import snapshots


def test_a_difference_is_shown_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "EXPECTED", tmp_path)
    monkeypatch.delenv(snapshots.UPDATE, raising=False)
    (tmp_path / "keys.json").write_text('{\n  "a": "integer",\n  "b": "string"\n}\n')
    snapshots.check("keys.json", {"a": "integer", "b": "string"})
    with pytest.raises(pytest.fail.Exception) as failure:
        snapshots.check("keys.json", {"b": "string", "a": "integer"})
    assert '-  "a": "integer",' in str(failure.value)
    assert '+  "a": "integer"' in str(failure.value)


def test_a_contract_without_a_file_fails_until_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "EXPECTED", tmp_path)
    monkeypatch.delenv(snapshots.UPDATE, raising=False)
    with pytest.raises(pytest.fail.Exception):
        snapshots.check("new.txt", "line")
    monkeypatch.setenv(snapshots.UPDATE, "1")
    snapshots.check("new.txt", "line")
    monkeypatch.delenv(snapshots.UPDATE)
    snapshots.check("new.txt", "line")


def test_shape_keeps_the_order_of_keys() -> None:
    found = snapshots.shape({"b": 1, "a": 1.0, "c": [{"x": None}], "m": 3, "scores": {"guitar": 0.5}}, "m")
    assert list(found) == ["b", "a", "c", "m", "scores"]
    assert found == {
        "b": "integer",
        "a": "number",
        "c": [{"x": "null"}],
        "m": "any",
        "scores": {"<name>": "number"},
    }


def test_each_file_belongs_to_a_test() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    programs = {f"command-line-{program}.txt" for program in ("snn-detect", "snn-train", "snn-export")}
    names = {path.name for path in snapshots.EXPECTED.iterdir()} - programs
    assert len(names) > 20
    assert [name for name in sorted(names) if f'"{name}"' not in sources] == []
