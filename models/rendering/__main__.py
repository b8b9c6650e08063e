"""The command ``python -m models.rendering material OUT``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from detector.errors import DetectorError
from models.rendering.material import render_material


def main() -> int:
    """Render the training material; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.rendering", description="Render sounds to train with.")
    commands = parser.add_subparsers(required=True)
    material = commands.add_parser("material", help="render the training clips into a folder")
    material.add_argument("out", type=Path, metavar="OUT", help="folder for the clips and their index.csv")
    material.add_argument("--seed", type=int, default=0, help="another seed, other clips (default: %(default)s)")
    args = parser.parse_args()
    try:
        render_material(args.out, args.seed, lambda line: print(line, file=sys.stderr))
    except DetectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
