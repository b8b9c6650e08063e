"""Wheels of packages that neither PyPI nor a release of Debian has for a processor.

Their sources are those of the lock file. Python and the tools around the compiler run under qemu; the compiler is Zig,
which is linked statically and so runs in any root at the speed of this machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.check_processor import CheckError
from tests.debian_root import in_root

PACKAGES: Final = {("bookworm", "armhf"): ("numpy", "soxr")}
"""What has to be compiled, by the release of Debian and the architecture."""
_TARGETS: Final = {"armhf": "arm-linux-gnueabihf.2.36"}
_OPTIONS: Final = {
    # Without a library of linear algebra: its own loops are enough for what the detector multiplies.
    "numpy": ("-Csetup-args=-Dallow-noblas=true", "-Csetup-args=-Ddisable-optimization=true"),
}
_NEEDED: Final = ("python3-dev", "cmake", "ninja-build", "pkgconf", "libc6-dev", "binutils")
_FOLDER: Final = "/srv/compiled"


def compile_wheels(root: Path, zig: Path, lock: str, names: Iterable[str], architecture: str) -> list[Path]:
    """Compile packages in a root of another processor, and return their wheels.

    ``zig`` is the folder of the compiler, ``lock`` the text of the lock file. Raises CheckError where one cannot be
    compiled.
    """
    in_root(root, "apt-get", "install", "-qq", "--yes", "--no-install-recommends", *_NEEDED)
    shutil.copytree(zig, root / "srv" / "zig", symlinks=True)
    for command in ("cc", "c++", "ar"):
        _write_compiler(root, command, _TARGETS[architecture])
    in_root(root, "python3", "-m", "venv", "/srv/compiling")
    # Debian's takes no two options of a package.
    in_root(root, "/srv/compiling/bin/pip", "install", "--quiet", "pip>=24")
    compilers = ("CC=/srv/zig-cc", "CXX=/srv/zig-c++", "AR=/srv/zig-ar", "ZIG_GLOBAL_CACHE_DIR=/srv/zig-cache")
    pip = ("/srv/compiling/bin/pip", "wheel", "--quiet", "--no-deps", "--require-hashes", "--wheel-dir", _FOLDER)
    for name in names:
        (root / "srv" / f"{name}.txt").write_text(locked(lock, name), encoding="ascii")
        options = ("--no-binary", name, *_OPTIONS.get(name, ()), "--requirement", f"/srv/{name}.txt")
        in_root(root, "env", *compilers, *pip, *options)
    return sorted((root / _FOLDER.lstrip("/")).glob("*.whl"))


def locked(lock: str, name: str) -> str:
    """Return the lines of the lock file about a package, with their hashes; raises CheckError where there are none."""
    found, is_wanted = [], False
    for line in lock.splitlines():
        if not line.startswith((" ", "\t")):
            is_wanted = line.startswith(f"{name}==")
        if is_wanted:
            found.append(line)
    if not found:
        raise CheckError(f"the lock file has no {name}")
    return "\n".join(found) + "\n"


def _write_compiler(root: Path, command: str, target: str) -> None:
    """Write a program that calls Zig; headers of Debian's Python, of which Zig does not know, come last."""
    arguments = '"$@"' if command == "ar" else f'-target {target} "$@" -idirafter /usr/include'
    path = root / "srv" / f"zig-{command}"
    path.write_text(f"#!/bin/sh\nexec /srv/zig/zig {command} {arguments}\n", encoding="ascii")
    path.chmod(0o755)
