"""Detect sounds in a stream with a small spiking network.

>>> from detector import Detector
>>> detector = Detector.load()

The names below are loaded when they are first used, so that ``import detector`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.messages import Event
    from detector.pipeline import Detector

__all__ = ["Detector", "Event", "__version__"]
__version__ = "0.1.0"

_HOMES = {"Detector": "detector.pipeline", "Event": "detector.messages"}


def __getattr__(name: str) -> Any:
    """Import a public name from the module where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
