"""``make test`` in a fresh root of another release of Debian: with its Python, and what pip chooses for that.

For ``make check-debian-13``. Packages of PyPI drop releases of Python, so that other releases of them run there than on
the machine that develops this.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.check_processor import ROOT, CheckError, run
from tests.debian_root import environment, in_root, make_root

PACKAGES: Final = ("ca-certificates", "git", "make", "python3-venv")
DATA: Final = ROOT.parent / "shared"
"""What the tests read beside the checkout, where it is there."""
_MOUNTED: Final = Path("/proc/self/mounts")
_MOUNTS: Final = (
    ("proc", "proc"),
    ("sysfs", "sys"),
    ("tmpfs", "run"),
    ("devtmpfs", "dev"),
    ("devpts", "dev/pts"),
    ("tmpfs", "dev/shm"),
)


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """Mount what programs expect; the root is a mount itself, without which ``unshare`` fails in it."""
    with ExitStack() as mounts:

        def mount(*arguments: str | Path) -> None:
            run("mount", *arguments)
            mounts.callback(run, "umount", "--lazy", arguments[-1])

        mount("--bind", root, root)
        for kind, place in _MOUNTS:
            mount("-t", kind, kind, root / place)
        if DATA.is_dir():
            (root / "srv" / DATA.name).mkdir(exist_ok=True)
            mount("--bind", "-o", "ro", DATA, root / "srv" / DATA.name)
        yield


def test(root: Path, suite: str, arguments: list[str]) -> int:
    """Clone the commit into a fresh root and return the exit code of make."""
    if left := [line.split()[1] for line in _MOUNTED.read_text().splitlines() if line.split()[1].startswith(f"{root}")]:
        raise CheckError(f"{left[0]} is still mounted; unmount it, since all below {root} is removed")
    shutil.rmtree(root, ignore_errors=True)
    make_root(root, suite, PACKAGES, run("dpkg", "--print-architecture").strip())
    run("git", "clone", "--quiet", "--bare", ROOT, root / "srv" / "main.git")
    with mounted(root):
        in_root(root, "apt-get", "update", "-qq")
        in_root(root, "git", "clone", "--quiet", "/srv/main.git", "/srv/main")
        command = ["chroot", str(root), "make", "-C", "/srv/main", *arguments]
        return subprocess.run(command, env=environment(), check=False).returncode


def main() -> int:
    """Test, and return make's exit code."""
    parser = argparse.ArgumentParser(description="Run make test in a fresh root of Debian.")
    parser.add_argument("--suite", default="trixie")
    parser.add_argument("--root", type=Path, required=True, help="where the root is made, in place of what is there")
    parser.add_argument("arguments", nargs="*", default=["test"], help="what make is called with")
    given = parser.parse_args()
    try:
        return test(given.root.resolve(), given.suite, given.arguments)
    except CheckError as error:
        sys.stderr.write(f"check: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
