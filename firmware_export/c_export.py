"""A model file as one folder of C99: the whole detector, with nothing to allocate and little to link.

The C itself is not made here: it lies in the package, and is compiled as it is. What is made are the
two files of the model, see ``c_model``.
"""

from __future__ import annotations

import shutil
import tempfile
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from detector.errors import ConfigError, ManifestError
from firmware_export.c_form import FLOAT, Form, numbers
from firmware_export.c_model import header, tables
from firmware_export.model_reading import Network, read_network
from firmware_export.transform_tables import LEAST_POINTS

_MARK: Final = "snn_model.h"
"""A folder that holds this was made here, and may be made anew."""
_MOST_ROWS: Final = 65535
"""Rows of weights and entries of lists have 16 bits."""


def export_c(model: Path, out: Path, form: Form = FLOAT) -> None:
    """Write a model as a folder of C.

    Raises ManifestError for what is no model or cannot be expressed, ConfigError for a folder that
    cannot be written or holds something else; nothing half-written stays.
    """
    network = read_network(model)
    _check(model, network)
    given = numbers(network, form)
    texts = {"snn_model.h": header(network, given), "snn_model.c": tables(network, given)}
    if out.exists() and not (out.is_dir() and ((out / _MARK).is_file() or not any(out.iterdir()))):
        raise ConfigError(f"{out} is there and was not made by this command; name another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            made = Path(beside) / out.name
            _copy(resources.files("firmware_export").joinpath("c"), made)
            for name, text in texts.items():
                (made / name).write_text(text, encoding="ascii")
            if out.exists():
                shutil.rmtree(out)
            made.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error


def _copy(source: Traversable, to: Path) -> None:
    """Copy files and folders of the package."""
    to.mkdir()
    for entry in source.iterdir():
        if entry.is_dir():
            _copy(entry, to / entry.name)
        else:
            (to / entry.name).write_bytes(entry.read_bytes())


def _check(path: Path, network: Network) -> None:
    """Raise ManifestError for what the C cannot do."""
    features, encoder = network.manifest.features, network.manifest.encoder
    if features.n_fft < LEAST_POINTS or features.n_fft & (features.n_fft - 1):
        raise ManifestError(
            f"{path}: features.n_fft is {features.n_fft}; in C it must be a power of two, {LEAST_POINTS} or more"
        )
    for number, layer in enumerate(network.layers, 1):
        _, channels, frames, bands = layer.weight.shape
        if channels * frames * max(bands, layer.in_width) + layer.in_width > _MOST_ROWS:
            raise ManifestError(f"{path}: layer {number} has more than {_MOST_ROWS} inputs, which C cannot count")
    if encoder.rule == "frame_difference" and encoder.rest:
        raise ManifestError(f"{path}: the frame difference has no rest")
