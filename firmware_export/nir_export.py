"""A model file's network as a NIR file, kept only if it spikes as the model does; beside it what NIR cannot say."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import nir

from detector.errors import ConfigError
from detector.network import load_model
from firmware_export.model_reading import read_network
from firmware_export.nir_check import NirParity, check_graph
from firmware_export.nir_graph import build_graph
from firmware_export.nir_text import MARK, describe
from firmware_export.parity import DEMO, comparison_sound, encoded


def export_nir(path: Path, out: Path) -> NirParity:
    """Write a model's network as the NIR file ``out``, and a text of the same name that ends in ``.md``.

    Raises ManifestError for what is no model or has no such form, ConfigError for what NIR cannot say or
    a place that cannot be written, and ParityError where the file does not spike as the model does over
    the demo scene. Nothing half-written stays; files that are there are replaced only by both new ones.
    """
    text = out.with_suffix(".md")
    try:
        _check_names(out, text)
        network, model = read_network(path), load_model(path)
        graph = build_graph(network)
        spikes = encoded(model.manifest, comparison_sound((DEMO,), model.manifest.features.sample_rate_hz))
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            new_graph, new_text = Path(beside) / out.name, Path(beside) / text.name
            new_graph.write_bytes(_file_of(graph))
            parity = check_graph(new_graph, model, spikes)
            new_text.write_text(describe(network, parity), encoding="utf-8")
            new_text.replace(text)
            new_graph.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error})") from error
    return parity


def _file_of(graph: nir.NIRGraph) -> bytes:
    """Return a graph as a file; made in memory, since HDF5 ends the whole process where a disk is full."""
    file = io.BytesIO()
    nir.write(file, graph)
    return file.getvalue()


def _check_names(out: Path, text: Path) -> None:
    """Raise ConfigError where the files would take others' places."""
    if out.suffix != ".nir":
        raise ConfigError(f"{out}: the file's name must end in .nir; what NIR cannot say goes beside it, in .md")
    for path in (out, text):
        if path.is_dir():
            raise ConfigError(f"{path}: there is a folder of that name; name another file")
    if text.exists() and not text.read_bytes().startswith(MARK.encode()):
        raise ConfigError(f"{text} is there and was not made by this command; give {out.name} another name")
