"""The file of settings that a calibration leaves: thresholds, and what they were measured with."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from detector.calibration.choice import Choice
from detector.config import Configuration
from detector.config_show import toml_value
from detector.errors import ConfigError
from detector.settings import Calibration, Settings

NAME: Final = "50-calibration.toml"
_SECTION: Final = "calibration"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def target_of(configuration: Configuration, out: Path | None) -> Path | None:
    """Return where the settings go: ``out``, else config.d beside the configuration; None where there is none.

    Raises ConfigError where nothing can be written there, or something else lies there: better before
    hours of listening than behind them.
    """
    if out is None and not configuration.files:
        return None
    path = out or configuration.files[0].with_suffix(".d") / NAME
    folder = next(p for p in path.absolute().parents if p.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(f"{path}: cannot be written ({folder} is not yours); sudo, or --out FILE, or --no-write")
    if out is not None and folder != path.absolute().parent:
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not _is_calibration(path):
        raise ConfigError(f"{path}: is there already and is no calibration; name another file with --out")
    return path


def write(path: Path, calibration: Calibration, choices: Sequence[Choice]) -> None:
    """Write the file, whole or not at all; raises ConfigError where that cannot be."""
    text = "\n".join(lines(calibration, choices)) + "\n"
    Settings.model_validate(tomllib.loads(text))  # what is not fit to be read must not be written
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def lines(calibration: Calibration, choices: Sequence[Choice]) -> Iterator[str]:
    """Yield the lines of the file."""
    yield "# Written by snn-detect calibrate, which replaces it. To change a threshold, write it into a file with"
    yield "# a later name, such as 60-own.toml."
    yield f"[{_SECTION}]"
    for name, value in calibration.model_dump(mode="json", exclude_none=True).items():
        yield f"{name} = {toml_value(value)}"
    yield ""
    yield "[listening.thresholds]"
    for choice in choices:
        alarms = choice.chosen.alarms
        name = choice.label if _BARE.fullmatch(choice.label) else toml_value(choice.label)
        text = f"{name} = {choice.chosen.threshold:g}"
        held = "" if choice.is_held else "; THE PROMISE IS NOT HELD at any threshold"
        yield f"{text:<28}  # {alarms.events} false alarms, at most {alarms.bound:.2g} an hour{held}"


def _is_calibration(path: Path) -> bool:
    try:
        return _SECTION in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
