"""The sinks that the settings ask for, each behind a worker of its own.

Which sinks the settings ask for, and how each is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from detector.config.paths import clips_directory, database_file
from detector.config.secrets import broker_password, read_secret, split_address
from detector.config.settings import Clips, Command, Database, JsonFile, Metrics, Mqtt, Settings, Stdout, Web, Webhook
from detector.errors import ConfigError
from detector.pipeline import Detector
from detector.records import Record
from detector.sinks.base import LiveSink, NodeInfo, SavedClip, SinkWorker


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What sinks need besides their settings."""

    node_info: NodeInfo
    rate_hz: int
    """The model's rate."""
    on_listening: Callable[[bool], None] | None
    """Called when somebody turns listening on or off; None: nobody can."""
    on_clip: Callable[[SavedClip], None]
    """Called with the fields of a record for each clip that has been written."""
    detector: Detector
    """The detector that will hear, for those who look into it."""


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """A sink that is wanted."""

    kind: str
    identity: tuple[object, ...] = field(repr=False)
    """All that the sink depends on: with the same, it can stay as it is. Never shown: it may hold a secret."""
    make: Callable[[], LiveSink]

    def is_like(self, other: SinkSpec) -> bool:
        """Tell whether the other would make the same sink."""
        return (self.kind, self.identity) == (other.kind, other.identity)


def specs(settings: Settings, wiring: SinkContext) -> Iterator[SinkSpec]:
    """Yield a plan for each sink; raises ConfigError for a secret that cannot be read."""
    if settings.stdout.enabled:
        yield _stdout(settings.stdout)
    yield from map(_file, settings.file)
    if settings.database is not None:
        yield _database(settings.database)
    for broker in settings.mqtt:
        yield _mqtt(broker, wiring)
    if settings.metrics is not None and not _is_shared(settings):
        yield _metrics(settings.metrics, wiring)
    if settings.web is not None:
        yield _web(settings.web, settings, wiring)
    yield from map(_webhook, settings.webhook)
    yield from map(_command, settings.command)
    if settings.clips is not None:
        yield _clips(settings.clips, wiring)


def _plan(kind: str, sink: Callable[..., LiveSink], *identity: Any) -> SinkSpec:
    return SinkSpec(kind, identity, lambda: sink(*identity))


def _stdout(settings: Stdout) -> SinkSpec:
    from detector.sinks.stdout import StandardOutput

    return _plan("stdout", StandardOutput, settings)


def _file(settings: JsonFile) -> SinkSpec:
    from detector.sinks.json_file import JsonLinesFile

    return _plan("file", JsonLinesFile, settings)


def _database(settings: Database) -> SinkSpec:
    from detector.sinks.database import DatabaseSink

    return _plan("database", DatabaseSink, settings, settings.path or database_file())


def _mqtt(settings: Mqtt, wiring: SinkContext) -> SinkSpec:
    from detector.sinks.mqtt import MqttSink

    identity = (settings, wiring.node_info, broker_password(settings))
    return SinkSpec("mqtt", identity, lambda: MqttSink(*identity, wiring.on_listening))


def _metrics(settings: Metrics, wiring: SinkContext) -> SinkSpec:
    from detector.sinks.prometheus import MetricsSink

    return _plan("metrics", MetricsSink, settings, wiring.node_info, _secret(settings.token_file))


def _web(web: Web, settings: Settings, wiring: SinkContext) -> SinkSpec:
    from detector.web.sink import Archive, WebSink

    database, clips = settings.database, settings.clips
    archive = Archive(
        database=None if database is None else database.path or database_file(),
        clips=None if clips is None else clips.directory or clips_directory(),
    )
    metrics = settings.metrics if _is_shared(settings) else None
    token = _secret(web.token_file)
    if metrics is not None and metrics.token_file is not None and _secret(metrics.token_file) != token:
        raise ConfigError(
            f"metrics.token_file: the page at {web.address} serves the metrics, too, with one token for both: "
            "leave it out, name that of the page, or choose another metrics.address"
        )
    identity = (web, archive, wiring.node_info, wiring.detector.classes, token, metrics)
    return SinkSpec("web", identity, lambda: WebSink(web, archive, wiring.node_info, wiring.detector, token, metrics))


def _is_shared(settings: Settings) -> bool:
    """Return whether the page serves the metrics, since both have one address."""
    web, metrics = settings.web, settings.metrics
    return web is not None and metrics is not None and split_address(web.address) == split_address(metrics.address)


def _webhook(settings: Webhook) -> SinkSpec:
    from detector.sinks.webhook import WebhookSink

    return _plan("webhook", WebhookSink, settings, _secret(settings.token_file))


def _command(settings: Command) -> SinkSpec:
    from detector.sinks.command import CommandSink

    return _plan("command", CommandSink, settings)


def _clips(settings: Clips, wiring: SinkContext) -> SinkSpec:
    from detector.sinks.clips import ClipSink

    identity = (settings, settings.directory or clips_directory(), wiring.rate_hz)
    return SinkSpec("clips", identity, lambda: ClipSink(*identity, wiring.on_clip))


def _secret(file: Path | None) -> str | None:
    return None if file is None else read_secret(file)


_log = logging.getLogger(__name__)
_CHANGE_S: Final = 1.5
"""Time for sinks to end when the settings have changed; the sound waits in its buffer meanwhile."""


@dataclass(frozen=True, slots=True)
class _Outlet:
    plan: SinkSpec
    sink: LiveSink
    worker: SinkWorker


class SinkManager:
    """All sinks: records go to each one's queue, and no sink knows of another."""

    def __init__(self) -> None:
        """Begin without any."""
        self._outputs: list[_Outlet] = []
        self._leaving: list[SinkWorker] = []

    @property
    def sinks(self) -> tuple[LiveSink, ...]:
        """The sinks themselves."""
        return tuple(o.sink for o in self._outputs)

    @property
    def stats(self) -> dict[str, dict[str, float]]:
        """What became of the records, and what else a sink has to say of itself, by the name of the sink."""
        return {o.worker.name: {**asdict(o.worker.counts), **o.sink.stats} for o in self._outputs}

    def prepare(self, settings: Settings, wiring: SinkContext) -> Callable[[], tuple[SinkWorker, ...]]:
        """Make what is new in the settings, and return what puts it into service and gives the new workers.

        Sinks whose settings are as before stay as they are. Raises ConfigError, before anything is
        changed, for settings that a sink cannot have.
        """
        wanted = list(specs(settings, wiring))
        kept = [o for o in self._outputs if any(o.plan.is_like(p) for p in wanted)]
        made = [(p, p.make()) for p in wanted if not any(o.plan.is_like(p) for o in kept)]
        return lambda: self._change(kept, made)

    def submit(self, record: Record) -> None:
        """Hand a record to every sink; never waits."""
        for outlet in self._outputs:
            outlet.worker.submit(record)

    def reopen(self) -> None:
        """Have files opened anew, after somebody has renamed them."""
        for sink in self.sinks:
            reopen: Callable[[], Any] | None = getattr(sink, "reopen", None)
            if reopen is not None:
                reopen()

    def finish(self, kind: str, timeout_s: float) -> None:
        """Have the sinks of a kind write everything and end, before the others do."""
        _end([o.worker for o in self._outputs if o.plan.kind == kind], timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Have everything written and closed within a time; False where a sink still hangs."""
        workers = [*(o.worker for o in self._outputs), *self._leaving]
        self._outputs = []
        return _end(workers, timeout_s)

    def _change(self, kept: list[_Outlet], made: list[tuple[SinkSpec, LiveSink]]) -> tuple[SinkWorker, ...]:
        # An address or a file belongs to one at a time: the old ones end before the new ones begin.
        going = [o.worker for o in self._outputs if o not in kept]
        self._outputs = kept
        if not _end(going, _CHANGE_S):
            self._leaving += [w for w in going if not w.join()]
        new = [self._start(plan, sink) for plan, sink in made]
        return tuple(o.worker for o in new)

    def _start(self, plan: SinkSpec, sink: LiveSink) -> _Outlet:
        names = {o.worker.name for o in self._outputs}
        name = next(n for n in _names(plan.kind) if n not in names)
        outlet = _Outlet(plan, sink, SinkWorker(name, sink))
        self._outputs = [*self._outputs, outlet]
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
