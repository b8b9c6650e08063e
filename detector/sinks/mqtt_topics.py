"""What is published where: topics and messages, the same for every broker; their names are a contract."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from detector.setting_types import slug

ONLINE: Final = "online"
OFFLINE: Final = "offline"
ON: Final = "ON"
OFF: Final = "OFF"
PROBLEM: Final = "problem"
"""Takes the place of a class: ON while the source cannot hear well."""
_RESERVED: Final = frozenset({PROBLEM, "event", "level", "status", "listening"})
_DIGITS: Final = 8
_LONGEST: Final = 64


@dataclass(frozen=True, slots=True)
class Message:
    """Something to publish."""

    topic: str
    payload: str
    qos: int = 1
    retain: bool = False
    lasting: bool = False
    """Tells of the past, and so is worth sending late; other messages tell of the present alone."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one machine with one sound source."""

    prefix: str
    node: str
    source: str

    @property
    def base(self) -> str:
        """What all topics begin with."""
        return f"{self.prefix.rstrip('/')}/{self.node}"

    @property
    def status(self) -> str:
        """Whether the service runs; the last will."""
        return f"{self.base}/status"

    @property
    def source_status(self) -> str:
        """Whether the source is open and sound arrives."""
        return f"{self.base}/{self.source}/status"

    @property
    def event(self) -> str:
        """One message per onset."""
        return f"{self.base}/{self.source}/event"

    @property
    def level(self) -> str:
        """How loud it is."""
        return f"{self.base}/{self.source}/level"

    @property
    def health(self) -> str:
        """How the service is."""
        return f"{self.base}/health"

    @property
    def listening_set(self) -> str:
        """Where others ask for listening to be turned on or off."""
        return f"{self.base}/listening/set"

    @property
    def listening_state(self) -> str:
        """Whether listening is on."""
        return f"{self.base}/listening/state"

    def state(self, class_id: str) -> str:
        """Whether a sound is heard now."""
        return f"{self.base}/{self.source}/{class_id}/state"

    def attributes(self, class_id: str) -> str:
        """Particulars of the last sound of a class."""
        return f"{self.base}/{self.source}/{class_id}/attributes"


def client_id(node: str) -> str:
    """Return the name that a machine has with the broker; a second client of that name throws the first one out."""
    return f"snn-detect-{node}"


def class_ids(labels: Iterable[str]) -> dict[str, str]:
    """Return for each label its part of topics; labels that would share one, or take a reserved one, get a suffix."""
    slugs = {label: slug(label) for label in labels}
    uses = Counter(slugs.values())
    return {
        label: _distinct(name, label) if uses[name] > 1 or name in _RESERVED else name for label, name in slugs.items()
    }


def _distinct(name: str, label: str) -> str:
    digest = hashlib.sha256(label.encode()).hexdigest()[:_DIGITS]
    return f"{name[: _LONGEST - _DIGITS - 1]}_{digest}"
