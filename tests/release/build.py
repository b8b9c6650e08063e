"""What a release is made of: wheels, source, Debian packages, bill of materials."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.check_processor import ROOT, CheckError, run
from tests.debian_root import in_root, make_root
from tests.release.compiled import PACKAGES, compile_wheels

MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
"""Architectures of Debian that packages are made for, and what wheels call them."""
SUITES: Final = {"bookworm": "12", "trixie": "13"}
BASE_PACKAGES: Final = ("ca-certificates", "python3-venv")
_SOURCE: Final = "/srv/source"


@dataclass(frozen=True, slots=True)
class Places:
    """Folders of a release."""

    roots: Path
    """Roots of Debian, kept from release to release."""
    work: Path
    """Everything else that is needed meanwhile."""
    out: Path
    """What is released."""
    building: Path
    """The environment that builds wheels."""

    @property
    def source(self) -> Path:
        """The sources of the commit, and nothing else."""
        return self.work / "source"


@contextmanager
def fresh_root(places: Places, suite: str, architecture: str) -> Iterator[Path]:
    """Give a root in which nothing was installed but Python, and remove it."""
    base = places.roots / f"{architecture}-{suite}"
    if not base.exists():
        part = base.with_suffix(".part")
        make_root(part, suite, BASE_PACKAGES, architecture)
        part.rename(base)
    root = places.work / f"root-{architecture}-{suite}"
    run("cp", "-a", base, root)
    run("mount", "-t", "proc", "proc", root / "proc")
    try:
        in_root(root, "apt-get", "update", "-qq")
        yield root
    finally:
        run("umount", root / "proc")
        shutil.rmtree(root)


def require_commit() -> None:
    """Raise CheckError where files differ from the commit that is released."""
    if changed := run("git", "status", "--porcelain", cwd=ROOT).splitlines():
        raise CheckError(
            f"{len(changed)} files differ from the commit, such as {changed[0][3:]}; commit or remove them"
        )


def unpack_source(places: Places) -> None:
    """Unpack the sources of the commit; times in what is built are the commit's."""
    os.environ["SOURCE_DATE_EPOCH"] = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    places.source.mkdir(parents=True)
    archive = places.work / "source.tar"
    run("git", "archive", "--output", archive, "HEAD", cwd=ROOT)
    run("tar", "--extract", "--file", archive, "--directory", places.source)


def build_wheels(places: Places) -> None:
    """Build the wheels of all processors, and the source package."""
    pip = (places.building / "bin" / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check")
    run("make", f"BUILDING={places.building}", "wheels", cwd=places.source)
    for wheel in sorted((places.source / "build" / "wheels").glob("*.whl")):
        shutil.copy(wheel, places.out)
    run(*pip, "build>=1.2", "cyclonedx-bom>=7", "uv>=0.7")
    run(places.building / "bin" / "python", "-m", "build", "--sdist", "--outdir", places.out, cwd=places.source)


def build_packages(places: Places, suite: str) -> None:
    """Build the Debian packages of one release of Debian, in a root of that release, from the wheels."""
    compiled = {a: _compiled(places, suite, a) for a in MACHINES if (suite, a) in PACKAGES}
    with fresh_root(places, suite, "amd64") as root:
        in_root(root, "apt-get", "install", "-qq", "--yes", "--no-install-recommends", "make")
        shutil.copytree(places.source, root / _SOURCE.lstrip("/"), ignore=shutil.ignore_patterns("build"))
        for architecture, machine in MACHINES.items():
            (wheel,) = places.out.glob(f"*_{machine}.whl")
            shutil.copy(wheel, root / "srv")
            version = f"{version_of(wheel)}+deb{SUITES[suite]}"
            options = [f"DEB_ARCHITECTURE={architecture}", f"DEB_VERSION={version}", f"WHEEL=/srv/{wheel.name}"]
            options += [f"MACHINE={machine}"] if architecture != "amd64" else []
            if folder := compiled.get(architecture):
                shutil.copytree(folder, root / "srv" / folder.name)
                options.append(f"COMPILED=/srv/{folder.name}")
            in_root(root, "make", "-C", _SOURCE, "deb", "CC=true", *options)
        for package in (root / _SOURCE.lstrip("/") / "build").glob("*.deb"):
            shutil.copy(package, places.out)


def _compiled(places: Places, suite: str, architecture: str) -> Path:
    """Return a folder of the wheels that have to be compiled."""
    folder = places.work / f"compiled-{architecture}-{suite}"
    folder.mkdir()
    (zig,) = (places.building / "lib").glob("python3*/site-packages/ziglang")
    lock = (places.source / "systemd" / "requirements.txt").read_text(encoding="utf-8")
    with fresh_root(places, suite, architecture) as root:
        for wheel in compile_wheels(root, zig, lock, PACKAGES[suite, architecture], architecture):
            shutil.copy(wheel, folder)
    return folder


def version_of(wheel: Path) -> str:
    """Return the version in the name of a wheel."""
    return wheel.name.split("-")[1]


def write_bill(places: Places) -> dict[str, str]:
    """Write the bill of materials of the runtime as it is installed from the lock file, and return what is in it.

    Raises CheckError where a release in it is not the lock file's.
    """
    (wheel,) = places.out.glob("*_x86_64.whl")
    installed, version = places.work / "installed", version_of(wheel)
    make = ("make", f"BUILDING={places.building}", f"DESTDIR={installed}", "PREFIX=/usr", f"WHEEL={wheel.resolve()}")
    run(*make, "install-runtime", cwd=places.source)
    path = places.out / f"snn-detect-{version}.cdx.json"
    tool = (places.building / "bin" / "cyclonedx-py", "environment", "--validate", "--output-reproducible")
    python = installed / "usr" / "lib" / "snn-detect" / "bin" / "python"
    described = ("--pyproject", places.source / "pyproject.toml", "--output-file", path)
    run(*tool, "--output-format", "JSON", *described, python)
    bill = json.loads(path.read_text(encoding="utf-8"))
    found = {part["name"].lower().replace("_", "-"): part["version"] for part in bill["components"]}
    check_bill(found, (places.source / "systemd" / "requirements.txt").read_text(encoding="utf-8"))
    return found


def check_bill(found: dict[str, str], lock: str) -> None:
    """Raise CheckError where a package is not of a release in the lock file."""
    locked = {tuple(line.split()[0].split("==")) for line in lock.splitlines() if "==" in line}
    if extra := sorted(f"{n} {v}" for n, v in found.items() if n != "snn-detect" and (n, v) not in locked):
        raise CheckError(f"the bill of materials has {', '.join(extra)}, which the lock file has not")


def write_sums(out: Path) -> None:
    """Write the SHA-256 of every file, as ``sha256sum --check`` reads them."""
    names = sorted(path.name for path in out.iterdir())
    (out / "SHA256SUMS").write_text(run("sha256sum", *names, cwd=out), encoding="ascii")
