"""Make a release of the commit that is checked out, try every file of it, and write what was tried.

For ``make release``. Nothing is released from files that differ from the commit, and no folder is replaced. Packages
are built in roots of Debian, so that this needs root, debootstrap and, for other processors, qemu-user-static; takes
half an hour.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from detector import __version__
from tests.check_processor import CheckError, run
from tests.release.build import (
    SUITES,
    Places,
    build_packages,
    build_wheels,
    require_commit,
    unpack_source,
    write_bill,
    write_sums,
)
from tests.release.trial import trials


def make(places: Places, folder: Path, skipped: frozenset[str]) -> dict[str, Any]:
    """Make the release and try it; return what was tried. Raises CheckError where something fails."""
    if folder.exists():
        raise CheckError(f"{folder} exists; a release is never replaced: name another folder with RELEASE=")
    require_commit()
    clear(places)
    places.out.mkdir(parents=True)
    unpack_source(places)
    print("building wheels and the source package", flush=True)
    build_wheels(places)
    for suite in SUITES:
        print(f"building packages for Debian {SUITES[suite]}", flush=True)
        build_packages(places, suite)
    write_bill(places)
    result = try_all(places, skipped)
    (places.out / "TRIED.md").write_text(table(result), encoding="utf-8")
    write_sums(places.out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    places.out.rename(folder)
    clear(places)
    return result


def clear(places: Places) -> None:
    """Remove what an earlier attempt left."""
    for mounted in places.work.glob("root-*/proc"):
        if mounted.is_mount():
            run("umount", mounted)
    shutil.rmtree(places.work, ignore_errors=True)


def try_all(places: Places, skipped: frozenset[str]) -> dict[str, Any]:
    """Try every file, and return what was tried; raises CheckError where one fails."""
    rows = [trial.row(skipped) for trial in trials(places)]
    if failed := [f"{row.file}: {row.outcome}" for row in rows if row.outcome.startswith("failed")]:
        raise CheckError("; ".join(failed))
    return {
        "command": f"make release SKIP={','.join(sorted(skipped))}" if skipped else "make release",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "version": __version__,
        "tried": [row.as_dict() for row in rows],
    }


def table(result: dict[str, Any]) -> str:
    """Return what was tried as a table in Markdown."""
    lines = [
        f"`{result['command']}`, {result['date']}, version {result['version']}.",
        "Each file was installed in a fresh root, and run once.",
        "",
        "| file | system | processor | outcome | s |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{r['file']}` | {r['system']} | {r['processor']} | {r['outcome']} | {r['seconds'] or ''} |"
        for r in result["tried"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make a release, and print what was tried."""
    parser = argparse.ArgumentParser(description="Make a release and try every file of it.")
    parser.add_argument("--folder", type=Path, required=True, help="where the release goes; must not exist")
    parser.add_argument("--roots", type=Path, required=True, help="where roots of Debian are kept")
    parser.add_argument("--building", type=Path, required=True, help="the environment that builds wheels")
    parser.add_argument("--result", type=Path, help="JSON file of what was tried; a table goes beside it")
    parser.add_argument("--skip", default="", help="architectures not to try, such as arm64,armhf")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    work = folder.with_name(f".{folder.name}-work")
    places = Places(arguments.roots.resolve(), work, work / "out", arguments.building.absolute())
    try:
        result = make(places, folder, frozenset(arguments.skip.split(",")) - {""})
    except CheckError as error:
        sys.exit(f"release: {error}")
    if arguments.result:
        arguments.result.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        arguments.result.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
