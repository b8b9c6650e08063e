"""The page as a sink of the service, and the thread that serves it."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from pydantic import Field

from detector.config.secrets import read_optional_secret, split_address, token_required
from detector.config.sections import SecretFile
from detector.errors import ConfigError
from detector.records import ClipRecord, OffsetRecord, OnsetRecord, Record, ServiceState
from detector.sinks.base import (
    AudioTap,
    LiveSink,
    NodeInfo,
    RetryableError,
    ServerSinkSection,
    SinkContext,
    SinkSpec,
    SourceContext,
)
from detector.sinks.clips import Clips
from detector.sinks.database import Database
from detector.sinks.prometheus import Metrics
from detector.system import install_command

if TYPE_CHECKING:  # imported with the page
    from detector.messages import Observer
    from detector.sinks.prometheus import EventMetrics
    from detector.web.app import WebServer
    from detector.web.events import Archive

_log = logging.getLogger(__name__)
_ALL_ADDRESSES: Final = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


class Web(ServerSinkSection):
    """A page for browsers, at http://ADDRESS/, that shows what is detected as it happens, and its JSON API."""

    serves_metrics: ClassVar[bool] = True
    address: str = Field(
        "127.0.0.1:8765",
        description="Address and port to listen on. One that other machines can reach needs token_file.",
    )
    token_file: SecretFile | None = Field(
        None, description="File with the token that the page asks for once.", examples=["/etc/snn-detect/web.token"]
    )
    hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")], ...] = Field(
        (),
        description="Names by which browsers call this machine, beside localhost and its own; IP addresses always "
        "work.",
    )

    frame_ancestors: tuple[Annotated[str, Field(pattern=r"^https?://(\*\.)?[A-Za-z0-9.\[\]:-]{1,253}$")], ...] = Field(
        (),
        description="Origins whose pages may show this one in a frame, such as a dashboard. Empty: none.",
        examples=[["http://homeassistant.local:8123"]],
    )

    @property
    def public_url(self) -> str | None:
        """Address of the page for other machines, by the first of ``hosts`` or the machine's own name."""
        if not token_required(self.address):
            return None
        host, port = split_address(self.address)
        if host in _ALL_ADDRESSES:
            host = self.hosts[0] if self.hosts else socket.gethostname()
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

    def build(self, context: SinkContext, /) -> SinkSpec:
        """Return the sink; raises ConfigError for a token that cannot be read, or another one of the metrics."""
        from detector.web.events import Archive

        database, clips = context.find(Database), context.find(Clips)
        archive = Archive(None if database is None else database.file, None if clips is None else clips.folder)
        metrics, token = self._metrics(context), read_optional_secret(self.token_file)
        if metrics is not None and metrics.token_file and read_optional_secret(metrics.token_file) != token:
            raise ConfigError(
                f"metrics.token_file: the page at {self.address} serves the metrics, too, with one token for both: "
                "leave it out, name that of the page, or choose another metrics.address"
            )
        shown = tuple((s.node_info, s.detector.classes, s.detector.sensitivity) for s in context.sources)
        identity = (self, archive, shown, token, metrics)
        return SinkSpec(identity, lambda: WebSink(self, archive, context.sources, token, metrics))

    def _metrics(self, context: SinkContext) -> Metrics | None:
        """Return the section of metrics that the page serves, since both have one address."""
        metrics = context.find(Metrics)
        is_shared = metrics is not None and split_address(metrics.address) == split_address(self.address)
        return metrics if is_shared else None


class WebSink(LiveSink):
    """Serves the page and its API, and receives for them records, traces, levels and states."""

    def __init__(
        self,
        settings: Web,
        archive: Archive,
        sources: Sequence[SourceContext],
        token: str | None,
        metrics: Metrics | None = None,
    ) -> None:
        """Prepare; with ``metrics`` it serves those, too, on ``/metrics``.

        Raises ConfigError for an address beyond loopback without a token, or without the extra that it needs.
        """
        self._host, self._port = split_address(settings.address)
        if token is None and token_required(settings.address):
            raise ConfigError(f"web address {settings.address} is open to others: set token_file, or use 127.0.0.1")
        _require_extra()
        from detector.sinks.metrics_server import weakness

        if token is not None and (found := weakness(token)) is not None:
            _log.warning("web: %s", found)
        from detector.web.events import Events, SourceView

        self._settings, self._token = settings, token
        node_infos = [source.node_info for source in sources]
        self._metrics = None if metrics is None else _event_metrics(metrics, node_infos)
        self.shows_states = metrics is not None
        self._events = Events(archive)
        names = [info.source for info in node_infos]
        self._views = {s.node_info.source: SourceView(s.node_info, s.detector, names) for s in sources}
        self._server: WebServer | None = None

    @property
    def port(self) -> int:
        """The port in use; 0 while there is none."""
        return self._server.address[1] if self._server else 0

    @property
    def stats(self) -> dict[str, float]:
        """Number of viewers, and of the messages dropped because they were too slow."""
        broadcasters = [view.broadcaster for view in self._views.values()]
        return {
            "viewers": sum(b.viewers for b in broadcasters),
            "dropped_messages": sum(b.dropped for b in broadcasters),
        }

    @property
    def wants_state(self) -> bool:
        """Whether the state of the service has been requested."""
        is_wanted = any(view.broadcaster.wants_state for view in self._views.values())
        return is_wanted or (self._metrics is not None and self._metrics.wants_state)

    def taps(self, rates_hz: Mapping[str, int]) -> Mapping[str, AudioTap]:
        """Add the sound of each source to its level."""
        return {name: view.broadcaster for name, view in self._views.items() if name in rates_hz}

    def observers(self) -> Mapping[str, Observer]:
        """Keep the traces of each source for pictures, and send them to viewers."""
        return self._views

    def show(self, states: Sequence[ServiceState]) -> None:
        """Set the state of the service, with each of its sources."""
        for view in self._views.values():
            view.broadcaster.show(states)
        if self._metrics is not None:
            self._metrics.show(states)

    def open(self) -> None:
        """Start to serve; raises RetryableError while the address is in use or does not exist yet."""
        from detector.web.app import Api, WebServer

        api = Api(self._views, self._events)
        metrics = None if self._metrics is None else self._metrics.exposition
        settings = self._settings
        application = api.application(self._token, settings.hosts, settings.frame_ancestors, metrics)
        try:
            server = WebServer(application, self._host, self._port)
        except OSError as error:
            raise RetryableError(f"web cannot listen on {self._settings.address}: {error.strerror}") from error
        # What a name stands for is up to the resolver.
        if self._token is None and not ipaddress.ip_address(server.address[0]).is_loopback:
            server.stop()
            raise ConfigError(f"web address {self._settings.address} is not loopback here: use 127.0.0.1")
        self._server = server
        _log.info("the page is at http://%s/", _url(*server.address))

    def write(self, record: Record) -> None:
        """Pass a record to all parts that show it."""
        view = self._views.get(record.source)
        if view is not None and isinstance(record, OnsetRecord | OffsetRecord):
            view.pictures.on_record(record)
        if isinstance(record, OnsetRecord | OffsetRecord | ClipRecord):
            self._events.on_record(record)
        if self._metrics is not None:
            self._metrics.on_record(record)
        for each in self._views.values():
            each.broadcaster.on_record(record)

    def tick(self) -> None:
        """Take the pictures of sounds that have ended; where the server has ended, start it again."""
        for view in self._views.values():
            view.pictures.take()
        server = self._server
        if server is None or not server.is_running:
            if server is not None:
                server.stop()
                self._server = None
                _log.warning("the page has ended and is started again: %r", server.failure)
            self.open()

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.stop()
            self._server = None


def _url(host: str, port: int) -> str:
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _event_metrics(settings: Metrics, node_infos: Sequence[NodeInfo]) -> EventMetrics:
    from detector.sinks.prometheus import EventMetrics

    return EventMetrics(node_infos, scores=settings.scores)


def _require_extra() -> None:
    # Found, not imported: that takes time, which the thread of the sink has.
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise ConfigError(f"the page needs fastapi and uvicorn: {install_command('web')}")
