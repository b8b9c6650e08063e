"""What a release refuses, and what it reports; that its files can be installed is for ``make release`` to show."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.check_processor import CheckError, run
from tests.release import build, release
from tests.release.build import Places, check_bill, require_commit, write_sums
from tests.release.compiled import locked
from tests.release.trial import Row, Trial, records

LOCK = """
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:00
pydantic-core==2.50.5 \\
    --hash=sha256:11
"""


def places(folder: Path) -> Places:
    return Places(folder / "roots", folder / "work", folder / "work" / "out", folder / "building")


def test_a_folder_that_exists_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "0.1.0"
    folder.mkdir()
    with pytest.raises(CheckError, match="exists; a release is never replaced"):
        release.make(places(tmp_path), folder, frozenset())
    assert [path.name for path in tmp_path.iterdir()] == ["0.1.0"]


def test_files_that_differ_from_the_commit_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run("git", "init", "--quiet", tmp_path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "new.py").touch()
    with pytest.raises(CheckError, match=r"1 files differ from the commit, such as new\.py"):
        require_commit()


def test_the_bill_of_materials_has_the_releases_of_the_lock_file() -> None:
    check_bill({"snn-detect": "0.1.0", "numpy": "2.4.6", "pydantic-core": "2.50.5"}, LOCK)
    with pytest.raises(CheckError, match=r"numpy 2\.4\.5, which the lock file has not"):
        check_bill({"numpy": "2.4.5"}, LOCK)


def test_sums_are_those_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"wheel")
    write_sums(tmp_path)
    assert (tmp_path / "SHA256SUMS").read_text() == f"{hashlib.sha256(b'wheel').hexdigest()}  a.whl\n"


def test_what_was_not_run_is_in_the_table_as_such() -> None:
    def attempt() -> str:
        raise CheckError("no root")

    trial = Trial(Path("a_arm64.deb"), "trixie", "arm64", attempt)
    skipped, failed = trial.row(frozenset({"arm64"})), trial.row(frozenset())
    assert skipped == Row("a_arm64.deb", "Debian 13", "arm64 under qemu", "not run")
    assert failed.outcome == "failed: no root"
    result = {"command": "make release", "date": "2026-11-30", "version": "0.1.0", "tried": [skipped.as_dict()]}
    assert release.table(result).splitlines()[-1] == "| `a_arm64.deb` | Debian 13 | arm64 under qemu | not run |  |"


def test_what_is_compiled_is_of_the_lock_file() -> None:
    assert locked(LOCK, "numpy") == "numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:00\n"
    assert locked(LOCK, "pydantic-core") == "pydantic-core==2.50.5 \\\n    --hash=sha256:11\n"
    with pytest.raises(CheckError, match="the lock file has no pydantic"):
        locked(LOCK, "pydantic")


def test_records_are_compared_without_the_place_of_the_file() -> None:
    first, second = '{"id":"a","source":"/a.flac","label":"guitar"}', '{"id":"b","source":"/b.flac","label":"guitar"}'
    assert records(first) == records(second) == [{"label": "guitar"}]
    assert records(first.replace("guitar", "rain")) != records(second)
