"""Each file of a release, installed in a fresh root of its kind and run once."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.check_processor import SCENE, TARGETS, CheckError, Machine, run
from tests.debian_root import in_root
from tests.release.build import MACHINES, SUITES, Places, fresh_root

_PROGRAM: Final = "/srv/venv/bin/snn-detect"
_QUICK: Final = ("apt-get", "install", "-qq", "--yes", "--no-install-recommends")


@dataclass(frozen=True, slots=True)
class Row:
    """What was run of one file."""

    file: str
    system: str
    processor: str
    outcome: str
    seconds: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Trial:
    """A file, where it is tried, and how."""

    file: Path
    suite: str
    architecture: str
    attempt: Callable[[], str]

    def row(self, skipped: frozenset[str]) -> Row:
        """Try it, unless its architecture is skipped, and return what came of it."""
        system, processor = f"Debian {SUITES[self.suite]}", _processor(self.architecture)
        if self.architecture in skipped:
            return Row(self.file.name, system, processor, "not run")
        print(f"trying {self.file.name} on {system}, {processor}", flush=True)
        begin = time.monotonic()
        try:
            outcome = self.attempt()
        except CheckError as error:
            outcome = f"failed: {error}"
        print(outcome, flush=True)
        return Row(self.file.name, system, processor, outcome, round(time.monotonic() - begin))


def trials(places: Places) -> list[Trial]:
    """Return what there is to try, this processor first."""
    (source,) = places.out.glob("*.tar.gz")
    found = [_python(places, _wheel(places, "x86_64"), suite) for suite in SUITES]
    found.append(_python(places, source, "bookworm", "gcc", "libc6-dev"))
    found += [_package(places, suite, "amd64") for suite in SUITES]
    for architecture, target in TARGETS.items():
        wheel = _wheel(places, target.machine)
        found.append(Trial(wheel, target.suite, architecture, partial(try_emulated, wheel, architecture)))
    emulated = [(suite, a) for a in MACHINES if a != "amd64" for suite in SUITES]
    return found + [_package(places, *pair) for pair in emulated]


def _processor(architecture: str) -> str:
    return architecture if architecture == "amd64" else f"{architecture} under qemu"


def _wheel(places: Places, machine: str) -> Path:
    (wheel,) = places.out.glob(f"*_{machine}.whl")
    return wheel


def _python(places: Places, file: Path, suite: str, *packages: str) -> Trial:
    return Trial(file, suite, "amd64", partial(try_python, places, file, suite, packages))


def _package(places: Places, suite: str, architecture: str) -> Trial:
    (file,) = places.out.glob(f"*+deb{SUITES[suite]}_{architecture}.deb")
    return Trial(file, suite, architecture, partial(try_package, places, file, suite, architecture))


def try_python(places: Places, file: Path, suite: str, packages: tuple[str, ...]) -> str:
    """Install a wheel or the sources by pip, and run the program."""
    with fresh_root(places, suite, "amd64") as root:
        in_root(root, *_QUICK, "libportaudio2", *packages)
        in_root(root, "python3", "-m", "venv", "/srv/venv")
        shutil.copy(file, root / "srv")
        pip = ("/srv/venv/bin/pip", "install", "--quiet", "--no-cache-dir")
        in_root(root, *pip, f"/srv/{file.name}[mqtt,metrics,web]")
        return _replay(partial(in_root, root, _PROGRAM), _copy_scene(root))


def try_package(places: Places, file: Path, suite: str, architecture: str) -> str:
    """Install a Debian package, run the program, and purge the package."""
    with fresh_root(places, suite, architecture) as root:
        shutil.copy(file, root / "srv")
        in_root(root, *_QUICK, f"/srv/{file.name}")
        outcome = _replay(partial(in_root, root, "snn-detect"), _copy_scene(root))
        in_root(root, "apt-get", "purge", "-qq", "--yes", "snn-detect")
        if left := [place for place in ("etc/snn-detect", "usr/lib/snn-detect") if (root / place).exists()]:
            raise CheckError(f"purging leaves {', '.join(left)}")
        return f"{outcome}; purged without a trace"


def try_emulated(file: Path, architecture: str) -> str:
    """Install a wheel for another processor, and run the program in a root that was unpacked without root rights."""
    machine = Machine(architecture)
    machine.unpack()
    machine.install(file)
    return _replay(partial(machine.python, "-m", "detector"), str(SCENE))


def _copy_scene(root: Path) -> str:
    shutil.copy(SCENE, root / "srv")
    return f"/srv/{SCENE.name}"


def _replay(program: Callable[..., str], scene: str) -> str:
    """Replay the demo scene; raises CheckError where the records are not those of this machine."""
    expected = records(run(sys.executable, "-m", "detector", "replay", "--json", SCENE))
    found = records(program("replay", "--json", scene))
    if found != expected or not expected:
        raise CheckError(f"{len(found)} records, which are not the {len(expected)} of this machine")
    info = json.loads(program("model", "info", "--json"))
    if info["engine"] != "core":
        raise CheckError(f"{info['engine']} runs the model: {info['engine_reason']}")
    version = program("--version").split()[-1]
    return f"{version} installed; {len(found)} records of the demo scene as on the machine that built it"


def records(lines: str) -> list[dict[str, Any]]:
    """Return records without what depends on the place of the file."""
    return [{k: v for k, v in json.loads(x).items() if k not in {"id", "source"}} for x in lines.splitlines()]
