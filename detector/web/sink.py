"""The page as a sink of the service, and the thread that serves it."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import threading
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

from pydantic import Field

from detector.config.secrets import read_optional_secret, split_address, token_required
from detector.config.sections import SecretFile
from detector.errors import ConfigError
from detector.records import ClipRecord, OffsetRecord, OnsetRecord, Record, ServiceState
from detector.sinks.base import LiveSink, NodeInfo, RetryableError
from detector.sinks.clips import Clips
from detector.sinks.database import Database
from detector.sinks.prometheus import Metrics
from detector.sinks.section import ServerSinkSection, SinkContext, SinkSpec

if TYPE_CHECKING:  # imported with the page
    import asyncio

    from detector.messages import AudioChunk, Trace
    from detector.pipeline import Detector
    from detector.sinks.prometheus import EventMetrics
    from detector.web.events import Archive

_log = logging.getLogger(__name__)
_EXTRA: Final = "the page needs fastapi and uvicorn: pip install 'snn-detect[web]'"
_STOP_S: Final = 0.5
_USER_TIMEOUT_MS: Final = 30_000
"""A connection whose client acknowledges nothing for so long is closed."""
_SEND_BYTES: Final = 65_536
_BACKLOG: Final = 64
_MAX_CONNECTIONS: Final = 200


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
        identity = (self, archive, context.node_info, context.detector.classes, token, metrics)
        detector = context.detector
        return SinkSpec(identity, lambda: WebSink(self, archive, context.node_info, detector, token, metrics))

    def _metrics(self, context: SinkContext) -> Metrics | None:
        """Return the section of metrics that the page serves, since both have one address."""
        metrics = context.find(Metrics)
        is_shared = metrics is not None and split_address(metrics.address) == split_address(self.address)
        return metrics if is_shared else None


class WebSink(LiveSink):
    """Serves the page and its API, and receives for them records, traces, levels and states."""

    def __init__(  # noqa: PLR0913 - all that the page shows
        self,
        settings: Web,
        archive: Archive,
        node_info: NodeInfo,
        detector: Detector,
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
        from detector.web.events import Events, ModelInfo, Pictures
        from detector.web.stream import Broadcaster, FrameEncoder

        self._settings, self._token = settings, token
        self._metrics = None if metrics is None else _event_metrics(metrics, node_info)
        self.shows_states = metrics is not None
        frame_encoder, features = FrameEncoder(detector), detector.manifest.features
        self._broadcaster = Broadcaster(frame_encoder)
        self._events = Events(archive)
        self._pictures = Pictures(frame_encoder, features.sample_rate_hz, features.hop_length)
        self._model_info = ModelInfo(detector, node_info, self._pictures)
        self._server: WebServer | None = None

    @property
    def port(self) -> int:
        """The port in use; 0 while there is none."""
        return self._server.address[1] if self._server else 0

    @property
    def stats(self) -> dict[str, float]:
        """Number of viewers, and of the messages dropped because they were too slow."""
        return {"viewers": self._broadcaster.viewers, "dropped_messages": self._broadcaster.dropped}

    @property
    def wants_layers(self) -> bool:
        """Whether there is a viewer."""
        return self._broadcaster.viewers > 0

    @property
    def wants_state(self) -> bool:
        """Whether the state of the service has been requested."""
        return self._broadcaster.wants_state

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Add a chunk to the level."""
        self._broadcaster.on_chunk(chunk)

    def on_trace(self, trace: Trace) -> None:
        """Keep a trace for pictures, and send it to viewers."""
        self._pictures.on_trace(trace)
        self._broadcaster.on_trace(trace)

    def show(self, state: ServiceState) -> None:
        """Set the state of the service."""
        self._broadcaster.show(state)

    def open(self) -> None:
        """Start to serve; raises RetryableError while the address is in use or does not exist yet."""
        from detector.web.app import Api

        api = Api(self._broadcaster, self._events, self._pictures, self._model_info)
        metrics = None if self._metrics is None else self._metrics.exposition
        application = api.application(self._token, self._settings.hosts, metrics)
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
        if isinstance(record, OnsetRecord | OffsetRecord):
            self._pictures.on_record(record)
        if isinstance(record, OnsetRecord | OffsetRecord | ClipRecord):
            self._events.on_record(record)
        if self._metrics is not None:
            self._metrics.on_record(record)
        self._broadcaster.on_record(record)

    def tick(self) -> None:
        """Take the pictures of sounds that have ended."""
        self._pictures.take()

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.stop()
            self._server = None


class WebServer:
    """Runs an ASGI application with uvicorn, in a thread with its own event loop, until ``stop``."""

    def __init__(self, application: Any, host: str, port: int) -> None:
        """Listen and start the thread; raises OSError where the address cannot be had."""
        import asyncio

        import uvicorn

        # Clients' mistakes are not logged; errors of ours are logged by the worker of the sink.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        self._socket = _listen(host, port)
        self.address: Final[tuple[str, int]] = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            http="h11",
            loop="asyncio",
            lifespan="on",
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=0,
        )
        self._server = uvicorn.Server(config)
        # uvicorn's own loop wakes up ten times a second to see whether it is to end.
        self._server.main_loop = self._wait  # type: ignore[method-assign]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = asyncio.Event()
        serve = self._server.serve
        self._thread = threading.Thread(target=lambda: asyncio.run(serve([self._socket])), name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Close all connections, and wait for the thread for at most half a second."""
        self._server.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_STOP_S)
        with contextlib.suppress(OSError):
            self._socket.close()

    async def _wait(self) -> None:
        """Sleep until ``stop``."""
        import asyncio

        self._loop = asyncio.get_running_loop()
        if not self._server.should_exit:
            await self._stopped.wait()


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; an empty host is every address of this machine."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Of all addresses, that of IPv6 accepts connections over IPv4, too.
    chosen = found[0] if host else min(found, key=lambda f: f[0] != socket.AF_INET6)
    family, kind, protocol, _, address = chosen
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both: what waits for a browser is bounded in the system, too.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _url(host: str, port: int) -> str:
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _event_metrics(settings: Metrics, node_info: NodeInfo) -> EventMetrics:
    from detector.sinks.prometheus import EventMetrics

    return EventMetrics(node_info, scores=settings.scores)


def _require_extra() -> None:
    # Found, not imported: that takes time, which the thread of the sink has.
    if any(find_spec(name) is None for name in ("fastapi", "uvicorn")):
        raise ConfigError(_EXTRA)
