"""The sinks that the settings ask for, each behind a worker of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from detector.config.settings import Settings
from detector.errors import ConfigError
from detector.records import Record
from detector.sinks.base import LiveSink, SinkContext, SinkSection, SinkSpec, SinkWorker
from detector.sinks.stdout import Stdout

_log = logging.getLogger(__name__)
_CHANGE_S: Final = 1.5
"""Time for sinks to end when the settings have changed; the sound waits in its buffer meanwhile."""


def specs(settings: Settings, context: SinkContext) -> Iterator[tuple[str, SinkSpec]]:
    """Yield kind and specification of each sink; raises ConfigError for a secret that cannot be read."""
    context = _with_sections(settings, context)
    for (kind, *_), section in settings.sections():
        if isinstance(section, SinkSection):
            with _named(kind):
                spec = section.build(context)
            if spec is not None:
                yield kind, spec


def mistakes(settings: Settings, context: SinkContext) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield key and reason for each section that a sink cannot be made of; the sinks are made and not started."""
    context = _with_sections(settings, context)
    for key, section in settings.sections():
        try:
            is_plain = isinstance(section, Stdout)  # needs nothing, and would take standard output over
            if isinstance(section, SinkSection) and not is_plain and (spec := section.build(context)) is not None:
                spec.make()
        except ConfigError as error:
            yield key, str(error)


def _with_sections(settings: Settings, context: SinkContext) -> SinkContext:
    return replace(context, sections=tuple(section for _, section in settings.sections()))


@contextmanager
def _named(kind: str) -> Iterator[None]:
    """Begin the text of a ConfigError with the section."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(kind) else f"{kind}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Output:
    kind: str
    spec: SinkSpec
    sink: LiveSink
    worker: SinkWorker


class SinkManager:
    """All sinks: records go to the queue of each one, and no sink depends on another."""

    def __init__(self) -> None:
        """Start without any."""
        self._outputs: list[_Output] = []
        self._leaving: list[SinkWorker] = []

    @property
    def sinks(self) -> tuple[LiveSink, ...]:
        """The sinks themselves."""
        return tuple(o.sink for o in self._outputs)

    @property
    def stats(self) -> dict[str, dict[str, float]]:
        """Counts of records, and what else each sink reports of itself, by the name of the sink."""
        return {o.worker.name: {**asdict(o.worker.counts), **o.sink.stats} for o in self._outputs}

    def prepare(self, settings: Settings, context: SinkContext) -> Callable[[], tuple[SinkWorker, ...]]:
        """Make the sinks that are new in the settings; the function returned starts them and returns their workers.

        Sinks whose settings are as before stay as they are. Raises ConfigError, before anything is
        changed, for settings that a sink cannot have.
        """
        wanted = list(specs(settings, context))
        identities = [spec.identity for _, spec in wanted]
        kept = [o for o in self._outputs if o.spec.identity in identities]
        known = [o.spec.identity for o in kept]
        made = []
        for kind, spec in wanted:
            if spec.identity not in known:
                with _named(kind):
                    made.append((kind, spec, spec.make()))
        return lambda: self._change(kept, made)

    def submit(self, record: Record) -> None:
        """Queue a record for every sink; never waits."""
        for output in self._outputs:
            output.worker.submit(record)

    def reopen(self) -> None:
        """Reopen files, after a rotation has renamed them."""
        for sink in self.sinks:
            sink.reopen()

    def finish_makers(self, timeout_s: float) -> None:
        """Let the sinks that make records write everything and end, before the others do."""
        _end([o.worker for o in self._outputs if o.sink.makes_records], timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Write everything and close all sinks within a time; returns False where one still hangs."""
        workers = [*(o.worker for o in self._outputs), *self._leaving]
        self._outputs = []
        return _end(workers, timeout_s)

    def _change(self, kept: list[_Output], made: list[tuple[str, SinkSpec, LiveSink]]) -> tuple[SinkWorker, ...]:
        # An address or a file belongs to one at a time: the old ones end before the new ones begin.
        going = [o.worker for o in self._outputs if o not in kept]
        self._outputs = kept
        if not _end(going, _CHANGE_S):
            self._leaving += [w for w in going if not w.join()]
        new = [self._start(*sink) for sink in made]
        return tuple(o.worker for o in new)

    def _start(self, kind: str, spec: SinkSpec, sink: LiveSink) -> _Output:
        names = {o.worker.name for o in self._outputs}
        name = next(n for n in _names(kind) if n not in names)
        output = _Output(kind, spec, sink, SinkWorker(name, sink))
        self._outputs = [*self._outputs, output]
        return output


def _names(kind: str) -> Iterator[str]:
    yield kind
    number = 2
    while True:
        yield f"{kind}-{number}"
        number += 1


def _end(workers: list[SinkWorker], timeout_s: float) -> bool:
    for worker in workers:
        worker.begin_close(timeout_s)
    ended = [worker.join() for worker in workers]
    return all(ended)
