"""Detect sounds in a stream with a small spiking network.

>>> from detector import Detector, detect_file
>>> for found in detect_file("recording.wav"):
...     print(found.label, found.onset_s, found.offset_s, found.score)
>>> detector = Detector.load()

The names below are loaded when they are first used, so that ``import detector`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.messages import Event
    from detector.pipeline import Detector
    from detector.service.api import Detection, detect_file, listen

__all__ = ["Detection", "Detector", "Event", "__version__", "detect_file", "listen"]
__version__ = "0.1.0"

_HOMES = {
    "Detection": "detector.service.api",
    "Detector": "detector.pipeline",
    "Event": "detector.messages",
    "detect_file": "detector.service.api",
    "listen": "detector.service.api",
}


def __getattr__(name: str) -> Any:
    """Import a public name from the module where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
