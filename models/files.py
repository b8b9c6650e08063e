"""A folder that is made whole or not at all.

A model file with another manifest: the same network, other decoder values.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.errors import ConfigError
from detector.manifest import METADATA_KEY, Manifest
from detector.network import load_model


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``out`` at the end; nothing is left of it where that fails.

    Raises ConfigError where ``out`` is there already or cannot be made.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a new folder")
    part = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        part.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({(error.strerror or str(error)).lower()})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_with_manifest(model: Path, manifest: Manifest, out: Path) -> None:
    """Write a model's network with another manifest; the file is there whole or not at all.

    Raises ManifestError where the result is no model that the runtime takes, ConfigError where it
    cannot be written.
    """
    import onnx

    graph = onnx.load(model)
    metadata = {p.key: p.value for p in graph.metadata_props} | {METADATA_KEY: manifest.to_json()}
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, metadata)
    part = out.with_name(out.name + ".part")
    try:
        part.write_bytes(graph.SerializeToString())
        load_model(part)
        part.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); name another file") from error
    finally:
        part.unlink(missing_ok=True)
