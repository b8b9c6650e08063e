"""The sinks that the settings ask for, each behind a worker of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from detector.live.plans import Plan, Wiring, plans
from detector.settings import Settings
from detector.sinks.sink import LiveSink, Record
from detector.sinks.worker import SinkWorker

_log = logging.getLogger(__name__)
_CHANGE_S: Final = 1.5
"""Time for sinks to end when the settings have changed; the sound waits in its buffer meanwhile."""


@dataclass(frozen=True, slots=True)
class _Outlet:
    plan: Plan
    sink: LiveSink
    worker: SinkWorker


class Outlets:
    """All sinks: records go to each one's queue, and no sink knows of another."""

    def __init__(self) -> None:
        """Begin without any."""
        self._outlets: list[_Outlet] = []
        self._leaving: list[SinkWorker] = []

    @property
    def sinks(self) -> tuple[LiveSink, ...]:
        """The sinks themselves."""
        return tuple(o.sink for o in self._outlets)

    @property
    def figures(self) -> dict[str, dict[str, float]]:
        """What became of the records, and what else a sink has to say of itself, by the name of the sink."""
        return {o.worker.name: {**asdict(o.worker.counts), **getattr(o.sink, "figures", {})} for o in self._outlets}

    def prepare(self, settings: Settings, wiring: Wiring) -> Callable[[], tuple[SinkWorker, ...]]:
        """Make what is new in the settings, and return what puts it into service and gives the new workers.

        Sinks whose settings are as before stay as they are. Raises ConfigError, before anything is
        changed, for settings that a sink cannot have.
        """
        wanted = list(plans(settings, wiring))
        kept = [o for o in self._outlets if any(o.plan.is_like(p) for p in wanted)]
        made = [(p, p.make()) for p in wanted if not any(o.plan.is_like(p) for o in kept)]
        return lambda: self._change(kept, made)

    def submit(self, record: Record) -> None:
        """Hand a record to every sink; never waits."""
        for outlet in self._outlets:
            outlet.worker.submit(record)

    def reopen(self) -> None:
        """Have files opened anew, after somebody has renamed them."""
        for sink in self.sinks:
            reopen: Callable[[], Any] | None = getattr(sink, "reopen", None)
            if reopen is not None:
                reopen()

    def finish(self, kind: str, timeout_s: float) -> None:
        """Have the sinks of a kind write everything and end, before the others do."""
        _end([o.worker for o in self._outlets if o.plan.kind == kind], timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Have everything written and closed within a time; False where a sink still hangs."""
        workers = [*(o.worker for o in self._outlets), *self._leaving]
        self._outlets = []
        return _end(workers, timeout_s)

    def _change(self, kept: list[_Outlet], made: list[tuple[Plan, LiveSink]]) -> tuple[SinkWorker, ...]:
        # An address or a file belongs to one at a time: the old ones end before the new ones begin.
        going = [o.worker for o in self._outlets if o not in kept]
        self._outlets = kept
        if not _end(going, _CHANGE_S):
            self._leaving += [w for w in going if not w.join()]
        new = [self._start(plan, sink) for plan, sink in made]
        return tuple(o.worker for o in new)

    def _start(self, plan: Plan, sink: LiveSink) -> _Outlet:
        names = {o.worker.name for o in self._outlets}
        name = next(n for n in _names(plan.kind) if n not in names)
        outlet = _Outlet(plan, sink, SinkWorker(name, sink))
        self._outlets = [*self._outlets, outlet]
        return outlet


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
