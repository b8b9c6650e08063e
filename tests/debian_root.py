"""Roots of Debian, to install and run programs in, also of other processors."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from tests.check_processor import CheckError, debian_mirror, run

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_PASSED: Final = ("SOURCE_DATE_EPOCH", "DEBFULLNAME", "DEBEMAIL")
"""Variables of this program that count in a root as well."""
_BINFMT: Final = Path("/proc/sys/fs/binfmt_misc")
_FORMATS: Final = {"arm64": "qemu-aarch64", "armhf": "qemu-arm"}


def environment() -> dict[str, str]:
    """Return the variables of programs in a root."""
    names = {"SSL_CERT_FILE": str(CERTIFICATES), "PIP_CERT": str(CERTIFICATES), "HOME": "/root", "LANG": "C.UTF-8"}
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    return names | passed | {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}


def make_root(root: Path, suite: str, packages: tuple[str, ...], architecture: str) -> None:
    """Make a root by debootstrap in place of what is there; raises CheckError where that fails."""
    if os.geteuid() != 0:
        raise CheckError("a root of Debian can be made by the user root alone")
    if architecture in _FORMATS:
        _emulate(_FORMATS[architecture])
    if (root / "proc").is_mount():  # a debootstrap that was killed leaves it mounted
        run("umount", root / "proc")
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    options = (f"--arch={architecture}", "--variant=minbase", f"--include={','.join(packages)}")
    run("debootstrap", *options, suite, root, debian_mirror())
    shutil.copy(CERTIFICATES, root / str(CERTIFICATES).lstrip("/"))  # this machine may trust others than Debian does


def in_root(root: Path, *command: str | Path) -> str:
    """Return what a program in a root prints; raises CheckError with its last lines where it fails."""
    return run("chroot", root, *command, env=environment())


def _emulate(name: str) -> None:
    """Have the kernel run programs of another processor under qemu."""
    if not (_BINFMT / "register").exists():
        run("mount", "-t", "binfmt_misc", "binfmt_misc", _BINFMT)
    if not (_BINFMT / name).exists():
        described = Path(f"/usr/lib/binfmt.d/{name}.conf")
        if not described.exists():
            raise CheckError("qemu-user-static is missing; as root, run: apt-get install qemu-user-static")
        (_BINFMT / "register").write_text(described.read_text(encoding="ascii"), encoding="ascii")
