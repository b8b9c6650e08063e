"""Run the wheel of another processor under qemu and compare it with this machine.

For ``make check-arm64`` and ``make check-armhf``. A root is unpacked from Debian's packages, and the wheel is installed
with what it requires by the pip of that processor; then scores and events of the demo scene are compared with those of
x86-64, bit for bit, and the tests of the stages run. Needs qemu-user-static and Debian's apt-get, but no root rights;
takes longer than CI should.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parents[1]
SCENE: Final = ROOT / "models" / "demo" / "scene.flac"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TESTS: Final = ("test_pipeline.py", "test_encoder.py", "test_decoder.py")
"""The parity part of ``tests/detector`` that needs neither torch nor onnx: chunks and traces change no bit."""

COMPARES_ENGINES: Final = "test_what_is_seen_inside_is_what_the_network_did"
"""A test that needs onnxruntime and does not say so in its name."""


@dataclass(frozen=True, slots=True)
class Target:
    """A processor, and the release of Debian that is emulated."""

    machine: str
    suite: str
    triplet: str
    program: tuple[str, ...]
    packages: tuple[str, ...]
    """What PyPI has no wheel of for this processor, and what wheels need of the system."""
    cpuinfo: str = ""
    """What onnxruntime reads of the processor, which under qemu would be that of this machine; none without it."""


TARGETS: Final = {
    "arm64": Target(
        machine="aarch64",
        suite="bookworm",
        triplet="aarch64-linux-gnu",
        program=("qemu-aarch64-static", "-cpu", "cortex-a72"),
        packages=(),
        cpuinfo="processor\t: 0\nFeatures\t: fp asimd crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        "CPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n",
    ),
    "armhf": Target(
        machine="armv7l",
        suite="trixie",
        triplet="arm-linux-gnueabihf",
        program=("qemu-arm-static", "-cpu", "cortex-a7"),
        packages=("libsndfile1", "python3-cffi", "python3-numpy", "python3-soxr"),
    ),
}


class CheckError(Exception):
    """Something differs, or cannot be had here; the text says what."""


class Machine:
    """A root of another processor below ``build``, and its Python."""

    def __init__(self, name: str) -> None:
        """Take the root of a target; ``unpack`` makes it."""
        self.name, self.target = name, TARGETS[name]
        self.folder = ROOT / "build" / f"check-{name}"
        self.root = self.folder / "root"
        self.site = self.folder / "site"

    def unpack(self) -> None:
        """Fetch the packages of a minimal system with Python, and unpack them, unless that was done."""
        if (self.folder / "unpacked").exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for part in ("state/lists/partial", "cache/archives/partial", "root/usr/lib", "root/usr/bin", "root/usr/sbin"):
            (self.folder / part).mkdir(parents=True)
        for link in ("lib", "bin", "sbin"):
            (self.root / link).symlink_to(f"usr/{link}")
        self._apt("update")
        wanted = ("python3", "python3-pip", "libportaudio2", "libstdc++6", *self.target.packages)
        self._apt("install", "--yes", "--no-install-recommends", "--download-only", *wanted)
        for package in sorted((self.folder / "cache" / "archives").glob("*.deb")):
            run("dpkg-deb", "--extract", package, self.root)
        shutil.rmtree(self.folder / "cache")
        shutil.rmtree(self.folder / "state")
        if self.target.cpuinfo:
            (self.root / "proc").mkdir()
            (self.root / "proc" / "cpuinfo").write_text(self.target.cpuinfo, encoding="ascii")
        (self.folder / "unpacked").touch()

    def _apt(self, *command: str) -> None:
        """Run apt-get for the other processor, with a state of its own and the mirror that this machine uses."""
        sources, status = self.folder / "sources.list", self.folder / "status"
        sources.write_text(f"deb [signed-by={KEYRING}] {debian_mirror()} {self.target.suite} main\n", encoding="ascii")
        status.touch()
        options = {
            "APT::Architecture": self.name,
            "APT::Architectures": self.name,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Dir::State": self.folder / "state",
            "Dir::State::status": status,
            "Dir::Cache": self.folder / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
        }
        run("apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items()), *command)

    def install(self, wheel: Path, *more: str) -> None:
        """Install a wheel with what it requires, by the pip of that processor, which has to accept its tag."""
        shutil.rmtree(self.site, ignore_errors=True)
        options = ("--quiet", "--no-compile", "--no-warn-script-location", "--only-binary=:all:", "--prefix", self.site)
        self.python("-m", "pip", "install", *options, wheel, *more)

    def python(self, *arguments: str | Path, cwd: Path = ROOT.parent) -> str:
        """Return what that processor's Python prints."""
        found = min((self.root / "usr" / "bin").glob("python3.[0-9]*[0-9]"))
        libraries = self.root / "usr" / "lib" / self.target.triplet  # where Debian's alternatives would lead to
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": f"{libraries}/blas:{libraries}/lapack",
            "PYTHONPATH": ":".join(map(str, self.site.glob("**/*-packages"))),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return run(*self.target.program, "-L", self.root, found, *arguments, cwd=cwd, env=environment)


def run(*command: str | Path, cwd: Path = ROOT.parent, env: dict[str, str] | None = None) -> str:
    """Return what a program prints; raises CheckError with its last lines where it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=1800)
    except OSError as error:
        raise CheckError(f"{command[0]}: {error.strerror}; install it") from error
    if done.returncode:
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise CheckError(f"{' '.join(map(str, command))}: exit code {done.returncode}\n{end}")
    return done.stdout


def debian_mirror() -> str:
    """Return the mirror of Debian that this machine uses."""
    mirrors = run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages").split()
    if not mirrors or not KEYRING.exists():
        raise CheckError("apt-get knows no mirror of Debian, or debian-archive-keyring is missing")
    return mirrors[0]


def check_scene(machine: Machine) -> int:
    """Compare scores and records of the demo scene, and those of ``--device``; return how many records there are."""
    here, there = machine.folder / "here.npz", machine.folder / "there.npz"
    replay = ("-m", "detector", "replay", "--json", "--scores")
    expected = run(sys.executable, *replay, here, SCENE)
    if machine.python(*replay, there, SCENE) != expected:
        raise CheckError(f"{machine.name}: the records of {SCENE.name} differ from those of this machine")
    with np.load(here) as own, np.load(there) as other:
        for name in own.files:
            if own[name].tobytes() != other[name].tobytes():
                raise CheckError(f"{machine.name}: {name} of {SCENE.name} differ from those of this machine")
    listen = ("-m", "detector", "--device", SCENE)
    found, wanted = (_events(text) for text in (machine.python(*listen), run(sys.executable, *listen)))
    if found != wanted or not wanted:
        raise CheckError(f"{machine.name}: --device {SCENE.name} gives other events than on this machine")
    return len(expected.splitlines())


def _events(lines: str) -> list[dict[str, Any]]:
    """Return records without what differs from run to run: the clock, and ids that are made of it."""
    records = [json.loads(line) for line in lines.splitlines()]
    return [{k: v for k, v in record.items() if k not in {"id", "time"}} for record in records]


def check_engine(machine: Machine) -> str:
    """Return which engines gave the same bits; raises CheckError where the core does not run the model."""
    info = json.loads(machine.python("-m", "detector", "model", "info", "--json"))
    if info["engine"] != "core":
        raise CheckError(f"{machine.name}: {info['engine']} runs the model: {info['engine_reason']}")
    engines = json.loads(machine.python("-m", "detector", "model", "verify", "--json"))["engines"]
    if ("onnxruntime" in engines) != bool(machine.target.cpuinfo):
        raise CheckError(f"{machine.name}: the engines are {engines}")
    return " and ".join(engines)


def check_tests(machine: Machine) -> str:
    """Run the parity part of the tests, beside no source; return pytest's count."""
    suite = machine.folder / "suite"
    shutil.rmtree(suite, ignore_errors=True)
    shutil.copytree(ROOT / "tests", suite / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", suite)
    tests = [Path("tests", "detector", name) for name in TESTS]
    options = () if machine.target.cpuinfo else ("-k", f"not onnxruntime and not {COMPARES_ENGINES}")
    printed = machine.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *tests, cwd=suite)
    return re.sub(r" in .*", "", printed.strip().splitlines()[-1])


def check(machine: Machine) -> str:
    """Do all checks; return the line of results."""
    began = time.monotonic()
    (wheel,) = (ROOT / "build" / "wheels").glob(f"*_{machine.target.machine}.whl")
    machine.unpack()
    machine.install(wheel, "pytest", "hypothesis")
    python = machine.python("-c", "import platform; print(platform.machine(), 'Python', platform.python_version())")
    records, engines = check_scene(machine), check_engine(machine)
    tests = check_tests(machine)
    return (
        f"{machine.name}, {datetime.now(UTC):%Y-%m-%d}: {python.strip()}, Debian {machine.target.suite}: the demo "
        f"scene's scores and {records} records equal x86-64's in every bit, --device too; same bits in {engines}; "
        f"tests: {tests}; {time.monotonic() - began:.0f} s"
    )


def main() -> None:
    """Check the processor that the command line names, and print one line."""
    parser = argparse.ArgumentParser(description="Compare the wheel of another processor with this machine.")
    parser.add_argument("target", choices=sorted(TARGETS))
    try:
        print(check(Machine(parser.parse_args().target)))
    except CheckError as error:
        sys.exit(f"check: {error}")


if __name__ == "__main__":
    main()
