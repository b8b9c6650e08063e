"""The architecture: which package imports which, what stays outside the runtime, and how long a module may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("detector", "models", "firmware_export")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
OUTSIDE = ("torch", "snntorch", "onnx", "nir", "scipy", "numba", "matplotlib", "mido")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "module", ["detector", "detector.cli.main", "detector.cli.replay", "detector.pipeline", "models", "models.cli.main"]
)
def test_training_stays_outside_the_runtime(module: str) -> None:
    program = f"import sys, {module}; print([m for m in {OUTSIDE} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_help_loads_no_numbers() -> None:
    """Start-up is felt on a small board: numpy and onnxruntime are loaded by the commands that need them."""
    program = "import sys, detector.cli.main; print([m for m in ('numpy', 'onnxruntime', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_torch_is_pinned_wherever_it_comes_in() -> None:
    """Whatever brings torch along is asked for together with the one version that was tested."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    for group, requirements in groups.items():
        names = {re.split(r"[\[<>=!~ ]", r)[0]: r for r in requirements}
        if "torch" in names or "snntorch" in names:
            assert names.get("torch") == "torch==2.13.0", group


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_are_named_for_what_they_hold(path: Path) -> None:
    assert path.stem not in {"utils", "util", "common", "helpers", "misc", "types"}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_have_at_most_600_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


def test_the_runtime_has_at_most_90_files_besides_the_archive_and_16_in_a_folder() -> None:
    """The archive is a program of its own on top of the runtime, which nothing of the rest imports."""
    files = sorted((ROOT / "detector").rglob("*.py"))
    archive = [
        path for path in files if path.parent.name == "archive" or path == ROOT / "detector" / "cli" / "archive.py"
    ]
    assert len(files) - len(archive) <= 90
    assert len(archive) <= 6
    folders = Counter(path.parent for path in files)
    assert {name(folder): count for folder, count in folders.items() if count > 16} == {}


def test_a_module_that_only_one_other_imports_has_at_least_60_lines() -> None:
    modules = {_dotted(path): path for path in MODULES}
    importers: dict[str, set[str]] = {module: set() for module in modules}
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for found in {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)} - {module}:
                    importers.get(found, set()).add(module)
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in modules.items()}
    packages = {module for module, path in modules.items() if path.name == "__init__.py"}
    assert {m: lines[m] for m in modules.keys() - packages if len(importers[m]) == 1 and lines[m] < 60} == {}


def _dotted(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_functions_fit_on_a_screen(path: Path) -> None:
    """Forty lines, docstring and all; the signature is not counted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f.name: (f.end_lineno or f.lineno) - f.body[0].lineno + 1 for f in functions}
    assert {f: n for f, n in lengths.items() if n > 40} == {}
