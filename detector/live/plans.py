"""Which sinks the settings ask for, and how each is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detector.credentials import broker_password, read_secret
from detector.directories import state_directory
from detector.pipeline import Detector
from detector.settings import Clips, Command, Database, JsonFile, Metrics, Mqtt, Settings, Stdout, Web, Webhook
from detector.sinks.sink import LiveSink, Record, Station


@dataclass(frozen=True, slots=True)
class Wiring:
    """What sinks need besides their settings."""

    station: Station
    rate_hz: int
    """The model's rate."""
    on_listening: Callable[[bool], None] | None
    """Called when somebody turns listening on or off; None: nobody can."""
    on_clip: Callable[[Record], None]
    """Called with the fields of a record for each clip that has been written."""
    detector: Detector
    """The detector that will hear, for those who look into it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A sink that is wanted."""

    kind: str
    identity: tuple[object, ...] = field(repr=False)
    """All that the sink depends on: with the same, it can stay as it is. Never shown: it may hold a secret."""
    make: Callable[[], LiveSink]

    def is_like(self, other: Plan) -> bool:
        """Tell whether the other would make the same sink."""
        return (self.kind, self.identity) == (other.kind, other.identity)


def plans(settings: Settings, wiring: Wiring) -> Iterator[Plan]:
    """Yield a plan for each sink; raises ConfigError for a secret that cannot be read."""
    if settings.stdout.enabled:
        yield _stdout(settings.stdout)
    yield from map(_file, settings.file)
    if settings.database is not None:
        yield _database(settings.database)
    for broker in settings.mqtt:
        yield _mqtt(broker, wiring)
    if settings.metrics is not None:
        yield _metrics(settings.metrics, wiring)
    if settings.web is not None:
        yield _web(settings.web, settings, wiring)
    yield from map(_webhook, settings.webhook)
    yield from map(_command, settings.command)
    if settings.clips is not None:
        yield _clips(settings.clips, wiring)


def _plan(kind: str, sink: Callable[..., LiveSink], *identity: Any) -> Plan:
    return Plan(kind, identity, lambda: sink(*identity))


def _stdout(settings: Stdout) -> Plan:
    from detector.sinks.standard_output import StandardOutput

    return _plan("stdout", StandardOutput, settings)


def _file(settings: JsonFile) -> Plan:
    from detector.sinks.json_file import JsonLinesFile

    return _plan("file", JsonLinesFile, settings)


def _database(settings: Database) -> Plan:
    from detector.sinks.database import DatabaseSink

    return _plan("database", DatabaseSink, settings, settings.path or state_directory() / "events.db")


def _mqtt(settings: Mqtt, wiring: Wiring) -> Plan:
    from detector.sinks.mqtt import MqttSink

    identity = (settings, wiring.station, broker_password(settings))
    return Plan("mqtt", identity, lambda: MqttSink(*identity, wiring.on_listening))


def _metrics(settings: Metrics, wiring: Wiring) -> Plan:
    from detector.sinks.metrics import MetricsSink

    return _plan("metrics", MetricsSink, settings, wiring.station, _secret(settings.token_file))


def _web(web: Web, settings: Settings, wiring: Wiring) -> Plan:
    from detector.web.sink import Archive, WebSink

    database, clips = settings.database, settings.clips
    archive = Archive(
        database=None if database is None else database.path or state_directory() / "events.db",
        clips=None if clips is None else clips.directory or state_directory() / "clips",
    )
    identity = (web, archive, wiring.station, wiring.detector.classes, _secret(web.token_file))
    return Plan("web", identity, lambda: WebSink(web, archive, wiring.station, wiring.detector, identity[-1]))


def _webhook(settings: Webhook) -> Plan:
    from detector.sinks.webhook import WebhookSink

    return _plan("webhook", WebhookSink, settings, _secret(settings.token_file))


def _command(settings: Command) -> Plan:
    from detector.sinks.command import CommandSink

    return _plan("command", CommandSink, settings)


def _clips(settings: Clips, wiring: Wiring) -> Plan:
    from detector.sinks.clips import ClipSink

    identity = (settings, settings.directory or state_directory() / "clips", wiring.rate_hz)
    return Plan("clips", identity, lambda: ClipSink(*identity, wiring.on_clip))


def _secret(file: Path | None) -> str | None:
    return None if file is None else read_secret(file)
