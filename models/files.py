"""Atomic writes: a new folder, a JSON document, a model file with another manifest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.manifest import METADATA_KEY, Manifest
from detector.network import load_model
from detector.system import replace_file, write_text


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Provide a folder to write to, which is renamed to ``out`` at the end and removed on failure.

    Raises ConfigError where ``out`` exists or cannot be created.
    """
    if out.exists():
        raise ConfigError(f"{out}: exists already; name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            part = Path(folder, out.name)
            part.mkdir()
            yield part
            part.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({(error.strerror or str(error)).lower()})") from error


def write_json(path: Path, document: Any) -> None:
    """Write a document atomically; raises ConfigError where it cannot be written."""
    try:
        write_text(path, json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def write_with_manifest(model: Path, manifest: Manifest, out: Path) -> None:
    """Write a model's network with another manifest, atomically.

    Raises ManifestError where the runtime does not accept the result, ConfigError where it cannot be written.
    """
    import onnx

    graph = onnx.load(model)
    metadata = {p.key: p.value for p in graph.metadata_props} | {METADATA_KEY: manifest.to_json()}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, metadata)
    try:
        with replace_file(out) as part:
            part.write_bytes(graph.SerializeToString())
            load_model(part)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); name another file") from error
