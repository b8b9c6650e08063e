"""MNIST from its usual gzipped IDX files."""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import SourceError

SIDE = 28
CLASSES = tuple("0123456789")
_UNSIGNED_BYTES = 0x08


def load_mnist(data: Path, *, train: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return (images, labels) of ``data/mnist``: (n, 28, 28) and (n,), 60,000 for training or 10,000 for testing.

    Raises SourceError where a file is missing, truncated, or not an IDX file of that shape.
    """
    name = "train" if train else "t10k"
    images = _read_idx(data / "mnist" / f"{name}-images-idx3-ubyte.gz", 3)
    labels = _read_idx(data / "mnist" / f"{name}-labels-idx1-ubyte.gz", 1)
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels):
        raise SourceError(f"{data / 'mnist'}: images {images.shape} and labels {labels.shape} do not belong together")
    return images, labels


def _read_idx(path: Path, dimensions: int) -> NDArray[Any]:
    """Read an IDX file: two zero bytes, the type, the number of dimensions, their sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise SourceError(f"{path}: no such file; name the folder that holds mnist/ with --data") from error
    except (OSError, EOFError) as error:
        raise SourceError(f"{path}: not a whole gzip file ({error}); fetch it again") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, _UNSIGNED_BYTES, dimensions]):
        raise SourceError(f"{path}: not an IDX file of bytes in {dimensions} dimensions; fetch it again")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise SourceError(f"{path}: holds {len(content) - start} values where its header says {shape}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
