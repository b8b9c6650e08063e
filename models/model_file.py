"""A model file with another manifest: the same network, other decoder values."""

from __future__ import annotations

from pathlib import Path

from detector.errors import ConfigError
from detector.manifest import METADATA_KEY, Manifest
from detector.network import load_model


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
