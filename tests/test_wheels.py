"""Wheels: what an installation does without compiler, core or onnxruntime, and one for each processor."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.test_systemd import NOT_SOURCES, ROOT, make, missing

SCENE: Final = ROOT / "models" / "demo" / "scene.flac"
WHEELS_FOLDER: Final = "SNN_TEST_WHEELS"
LIBRARY: Final = "detector/engine/_snn_core.so"
PROCESSORS: Final = {"x86_64": 62, "aarch64": 183, "armv7l": 40}
"""By the end of a wheel's name, the number of the processor in an ELF header."""
DEPENDENCIES: Final = ("click", "numpy>=2", "pydantic>=2.9", "rich", "sounddevice", "soundfile", "soxr")
"""What the runtime requires besides onnxruntime."""
WARNING: Final = "snn-detect: warning: the C core cannot be used, onnxruntime takes its place: _snn_core.so "


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources, with an environment that builds them."""
    copy = tmp_path_factory.mktemp("wheels") / "sources"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=NOT_SOURCES)
    done = make(".venv-build/.installed", f"PYTHON={sys.executable}", cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


@pytest.fixture(scope="module")
def own_wheel(sources: Path) -> Path:
    """Build the wheel of this processor with this machine's compiler."""
    if shutil.which("cc") is None:
        missing("there is no C compiler")
    done = build(sources, sources / "built", SNN_CORE_REQUIRED="1")
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        missing(f"no packages of Python can be had here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (path,) = (sources / "built").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheels() -> Path:
    """Give the folder with the wheels of all processors."""
    folder = os.environ.get(WHEELS_FOLDER)
    if folder is None:
        pytest.skip("make check-wheels makes the wheels of all processors, with a compiler of 400 MB, and tests them")
    return Path(folder)


@dataclass(frozen=True, slots=True)
class Wheel:
    """What is in a wheel."""

    tag: str
    core: bytes | None
    requirements: set[str]


def read_wheel(path: Path) -> Wheel:
    with zipfile.ZipFile(path) as archive:
        names = {name.partition(".dist-info/")[2]: name for name in archive.namelist()}
        metadata = archive.read(names["METADATA"]).decode()
        (tag,) = re.findall(r"^Tag: (.*)$", archive.read(names["WHEEL"]).decode(), re.MULTILINE)
        return Wheel(
            tag,
            archive.read(LIBRARY) if LIBRARY in archive.namelist() else None,
            set(re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*(?:;(?!.*extra).*)?$", metadata, re.MULTILINE)),
        )


def wheel_for(wheels: Path, processor: str) -> Path:
    (path,) = wheels.glob(f"*_{processor}.whl")
    return path


@pytest.mark.parametrize("processor", PROCESSORS)
def test_each_processor_has_a_wheel_with_its_library(wheels: Path, processor: str) -> None:
    assert len(list(wheels.iterdir())) == len(PROCESSORS)
    path = wheel_for(wheels, processor)
    wheel = read_wheel(path)
    assert wheel.tag == f"py3-none-manylinux_2_17_{processor}"
    assert path.stem.endswith(wheel.tag)
    assert wheel.core is not None
    assert struct.unpack_from("<H", wheel.core, 18) == (PROCESSORS[processor],)
    assert ("onnxruntime" in wheel.requirements) == (processor != "armv7l")
    assert wheel.requirements >= {"numpy", "click", "pydantic", "rich", "sounddevice", "soundfile", "soxr"}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_library_needs_nothing_but_an_old_libc(wheels: Path, tmp_path: Path, processor: str) -> None:
    if shutil.which("readelf") is None:
        missing("readelf is not installed")
    library = read_wheel(wheel_for(wheels, processor)).core
    assert library is not None
    (tmp_path / "library.so").write_bytes(library)
    command = ("readelf", "--dynamic", "--dyn-syms", "--wide", tmp_path / "library.so")
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"Shared library: \[(.*)\]", printed) == ["libc.so.6"]
    versions = {tuple(map(int, v.split("."))) for v in re.findall(r"@GLIBC_([\d.]+)", printed)}
    assert max(versions) <= (2, 17)
    exported = re.findall(r"GLOBAL +DEFAULT +\d+ (\w+)", printed)
    assert exported
    assert all(name.startswith("snn_core_") for name in exported)


class Installation:
    """A virtual environment with a wheel, which the tests' pip installs: to unpack one each time takes seconds."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "bin" / "python"
        (self.core,) = (p / LIBRARY for p in folder.glob("lib/python3*/site-packages"))

    def add(self, *packages: str | Path, with_requirements: bool = True) -> None:
        options = ("-qq", "--disable-pip-version-check", "--no-compile", *(() if with_requirements else ("--no-deps",)))
        pip = (sys.executable, "-m", "pip", "--python", self.python)
        done = subprocess.run([*pip, "install", *options, *packages], capture_output=True, text=True, check=False)
        if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
            missing(f"no packages of Python can be had here: {done.stderr[-300:]}")
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV", "SNN_DETECT_ENGINE"}}
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.python.parent,
            env=kept | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    def detect(self, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "detector", *arguments, **environment)

    def info(self) -> dict[str, Any]:
        done = self.detect("model", "info", "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def threads(self, state: str) -> str:
        """Return what the doctor found of the engine, which must have a state."""
        results = json.loads(self.detect("doctor", "--json").stdout)["findings"]
        (found,) = (r for r in results if r["name"] == "threads")
        assert found["state"] == state
        return str(found["found"])


@pytest.fixture(scope="module")
def bare(own_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Install the wheel of this processor, all that it requires, and no onnxruntime."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    made = Installation(folder)
    made.add(*DEPENDENCIES)
    made.add(own_wheel, with_requirements=False)
    return made


@pytest.fixture(scope="module")
def whole(bare: Installation, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Install the same and onnxruntime."""
    folder = tmp_path_factory.mktemp("whole") / "venv"
    shutil.copytree(bare.python.parents[1], folder, symlinks=True)
    found = Installation(folder)
    found.add("onnxruntime>=1.20,<1.33")
    return found


@pytest.fixture(scope="module")
def events(bare: Installation) -> str:
    """Return what replaying the demo scene prints with the core, where onnxruntime cannot be imported."""
    assert "ModuleNotFoundError" in bare.run("-c", "import onnxruntime").stderr
    done = bare.detect("replay", "--quiet", SCENE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count('"type":"onset"') == 4
    return done.stdout


def test_without_onnxruntime_the_core_runs_the_model(bare: Installation, events: str) -> None:
    assert events
    assert bare.info()["engine"] == "core"
    assert bare.detect("model", "verify").returncode == 0
    done = bare.detect("replay", SCENE, SNN_DETECT_ENGINE="onnxruntime")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def damage(library: Path, how: str) -> str:
    """Damage a library; return what the warning says of it."""
    content = library.read_bytes()
    library.unlink()
    match how:
        case "missing":
            return "is missing"
        case "empty":
            library.touch()
            return "cannot be loaded (file too short)"
        case "cut off":
            library.write_bytes(content[: len(content) // 2])
            return "cannot be loaded (the file is cut off)"
        case "text":
            library.write_text("version https://git-lfs.github.com/spec/v1\n" * 9)
            return "cannot be loaded (invalid ELF header)"
    (processor,) = struct.unpack_from("<H", content, 18)
    other = PROCESSORS["armv7l" if processor != PROCESSORS["armv7l"] else "x86_64"]
    library.write_bytes(content[:18] + struct.pack("<H", other) + content[20:])
    return "cannot be loaded ("


@pytest.mark.parametrize("how", ["missing", "empty", "cut off", "text", "of another processor"])
def test_a_damaged_core_is_one_warning_and_the_same_events(whole: Installation, events: str, how: str) -> None:
    kept = whole.core.read_bytes()
    try:
        reason = damage(whole.core, how)
        done = whole.detect("replay", "--quiet", SCENE)
        assert (done.returncode, done.stdout) == (0, events)
        (line,) = done.stderr.splitlines()
        assert line.startswith(WARNING + reason)
        assert line.endswith("install snn-detect again")
        info = whole.info()
        assert (info["engine"], reason in info["engine_reason"]) == ("onnxruntime", True)
        assert whole.threads("warning").count(reason) == 1
    finally:
        whole.core.write_bytes(kept)
    assert whole.info()["engine"] == "core"


def test_without_both_engines_there_is_an_error_of_one_line(bare: Installation) -> None:
    kept = bare.core.read_bytes()
    try:
        damage(bare.core, "missing")
        done = bare.detect("replay", SCENE)
    finally:
        bare.core.write_bytes(kept)
    assert (done.returncode, done.stdout) == (2, "")
    warning, error = done.stderr.splitlines()
    assert warning.startswith(WARNING)
    assert error.startswith("snn-detect: error: ")


def build(sources: Path, into: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel as pip does for a user."""
    python = sources / ".venv-build" / "bin" / "python"
    command = (python, "-m", "pip", "wheel", "--no-deps", "-qq", "--wheel-dir", into, sources)
    for left in sources.glob("build/[lb]*.linux-*"):
        shutil.rmtree(left)
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_without_a_compiler_the_wheel_is_pure_python_and_onnxruntime_runs(
    whole: Installation, sources: Path, own_wheel: Path, tmp_path: Path, events: str
) -> None:
    done = build(sources, tmp_path, CC="no-such-compiler")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*-py3-none-any.whl")
    wheel = read_wheel(path)
    assert (wheel.tag, wheel.core, "onnxruntime" in wheel.requirements) == ("py3-none-any", None, True)
    whole.add(path, "--force-reinstall", with_requirements=False)
    try:
        replayed = whole.detect("replay", "--quiet", SCENE)
        assert (replayed.returncode, replayed.stdout, replayed.stderr) == (0, events, "")
        info = whole.info()
        assert (info["engine"], "no C compiler" in info["engine_reason"]) == ("onnxruntime", True)
        assert "no C compiler" in whole.threads("ok")
    finally:
        whole.add(own_wheel, "--force-reinstall", with_requirements=False)


def test_a_compiler_that_is_required_has_to_be_there(sources: Path, tmp_path: Path) -> None:
    done = build(sources, tmp_path, CC="no-such-compiler", SNN_CORE_REQUIRED="1")
    assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_the_compiler_of_this_machine_makes_a_wheel_for_it(own_wheel: Path) -> None:
    wheel = read_wheel(own_wheel)
    assert wheel.tag == f"py3-none-linux_{os.uname().machine}"
    assert wheel.core is not None
