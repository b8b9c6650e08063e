"""Somebody who shows people what the detector does, while they look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from detector.insides import Insides


@runtime_checkable
class Onlooker(Protocol):
    """A sink that is also an observer of the detector, and may ask how the service is."""

    @property
    def wants_layers(self) -> bool:
        """Whether anybody looks at the layers now."""

    def see(self, insides: Insides) -> None:
        """Take what a chunk brought about, without waiting."""

    @property
    def wants_state(self) -> bool:
        """Whether anybody has asked how the service is since it was shown last."""

    def show(self, state: Mapping[str, Any]) -> None:
        """Take how the service is, without waiting."""
