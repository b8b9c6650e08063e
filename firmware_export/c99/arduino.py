"""A model file as a library for Arduino (its library specification 1.5): the sources of ``export_c`` in ``src``.

Arduino compiles a library with options of its own, which a library cannot change: each source begins with the pragma
that keeps multiplications and additions apart, as everywhere else. Sketches, keywords and properties lie beside it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Final

from detector.errors import ConfigError
from detector.manifest import Manifest
from detector.network import load_model
from firmware_export.c99.export import copy_folder, default_prefix, export_c
from firmware_export.c99.formats import FLOAT, NumberFormat
from firmware_export.files import atomic_output

MARK: Final = Path("src") / "snn_model.h"
"""A folder with this file was made by this export and may be replaced."""
_PROPERTIES: Final = Path("library.properties")
_HOST_ALONE: Final = frozenset({"snn_host.c"})
_VERSION: Final = re.compile(r"\d+(\.\d+){0,2}(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
_LONGEST_NAME: Final = 63
_ROUNDING: Final = """/* Arduino fuses multiplications and additions, which rounds once; the detector rounds twice. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("O2", "fp-contract=off")
#endif
"""


def export_arduino(model: Path, out: Path, number_format: NumberFormat = FLOAT, prefix: str | None = None) -> None:
    """Write a model as a folder that Arduino takes as a library; an earlier one of this command is replaced.

    All names that the linker sees begin with ``prefix``, as those of ``export_c``. Raises ManifestError for a file that
    is no model or a model that the C cannot run, ConfigError for a prefix or a version that cannot be, and for a folder
    that cannot be written or holds something else. The folder is complete or not there.
    """
    if out.exists() and not (out.is_dir() and ((out / MARK).is_file() or not any(out.iterdir()))):
        raise ConfigError(f"{out}: exists and was not made by this command; name another folder, such as one in it")
    with tempfile.TemporaryDirectory(prefix="snn-export-") as work:
        plain = Path(work) / "c"
        export_c(model, plain, number_format, prefix)
        properties = _properties(load_model(model).manifest, number_format)
        with atomic_output(out) as folder:
            copy_folder(resources.files("firmware_export").joinpath("arduino"), folder)
            (folder / _PROPERTIES).write_text(_lines(properties), encoding="utf-8")
            _write_sources(plain, folder / "src")


def _write_sources(plain: Path, folder: Path) -> None:
    folder.mkdir()
    for path in sorted(plain.glob("snn_*.[ch]")):
        if path.name not in _HOST_ALONE:
            begin = _ROUNDING if path.suffix == ".c" else ""
            (folder / path.name).write_text(begin + path.read_text(encoding="ascii"), encoding="ascii")


def _properties(manifest: Manifest, number_format: NumberFormat) -> dict[str, str]:
    """Return the entries of library.properties, in the order of the specification."""
    if not _VERSION.fullmatch(manifest.version):
        raise ConfigError(
            f"the model's version {manifest.version!r} is none of Arduino's, such as 1.2.0; change it in the recipe"
        )
    name = default_prefix(manifest.name, number_format)
    return {
        "name": f"snn_detect_{name}"[:_LONGEST_NAME],
        "version": manifest.version,
        "author": "The snn-detect developers",
        "maintainer": "The snn-detect developers",
        "sentence": f"Detects {len(manifest.classes)} kinds of sounds while they happen.",
        "paragraph": f"A streaming spiking network ({manifest.name} {manifest.version}, {number_format.name}): 16-bit "
        f"samples go in, onsets and offsets of {', '.join(manifest.labels)} come out.",
        "category": "Signal Input/Output",
        "url": "",
        "architectures": "*",
        "includes": "snn_detect.h",
    }


def _lines(entries: Mapping[str, str]) -> str:
    """Return ``name=value`` lines; a value is one line."""
    return "".join(f"{name}={' '.join(value.split())}\n" for name, value in entries.items())
