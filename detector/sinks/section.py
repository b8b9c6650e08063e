"""What a sink's own section of the configuration adds to any section: how the sink is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from detector.config.sections import Section, ServerSection

if TYPE_CHECKING:
    from detector.pipeline import Detector
    from detector.sinks.base import LiveSink, NodeInfo, SavedClip

_SectionT = TypeVar("_SectionT", bound=Section)


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What sinks need beside their settings."""

    node_info: NodeInfo
    rate_hz: int
    """The model's sample rate."""
    on_listening: Callable[[bool], None] | None
    """Called when a user turns listening on or off; None: that is not possible."""
    on_clip: Callable[[SavedClip], None]
    """Called for each clip that has been written."""
    detector: Detector
    """The detector in use, for sinks that show its inner state."""
    sections: tuple[Section, ...] = ()
    """All sections of the settings."""

    def find(self, kind: type[_SectionT]) -> _SectionT | None:
        """Return the first section of a kind, for sinks that depend on another one; None without."""
        return next((section for section in self.sections if isinstance(section, kind)), None)


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """A sink to be made."""

    identity: tuple[object, ...] = field(repr=False)
    """All that the sink depends on: one with an equal identity can stay as it is. Not shown: it may hold a secret."""
    make: Callable[[], LiveSink]
    """Raises ConfigError for settings that the sink cannot have."""

    @classmethod
    def of(cls, sink: Callable[..., LiveSink], *arguments: object) -> SinkSpec:
        """Return the specification of a sink that depends on nothing but these arguments."""
        return cls((sink, *arguments), lambda: sink(*arguments))


class SinkSection(Section):
    """The section of a sink; a field of ``Settings`` with such a type is all that the program needs to know of it."""

    def build(self, context: SinkContext, /) -> SinkSpec | None:
        """Return the sink to be made, None where the settings ask for none.

        Raises ConfigError for a secret that cannot be read.
        """
        raise NotImplementedError


class ServerSinkSection(SinkSection, ServerSection):
    """The section of a sink that listens for connections."""
