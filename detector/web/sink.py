"""The page as one more place where events go."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Field

from detector.config.secrets import read_optional_secret, split_address, token_required
from detector.config.sections import SecretFile
from detector.errors import ConfigError
from detector.records import ClipRecord, OffsetRecord, OnsetRecord, Record
from detector.sinks.base import LiveSink, NodeInfo, RetryableError
from detector.sinks.clips import Clips
from detector.sinks.database import Database
from detector.sinks.section import ServerSinkSection, SinkContext, SinkSpec

if TYPE_CHECKING:  # imported with the page
    from detector.messages import AudioChunk, Trace
    from detector.pipeline import Detector
    from detector.web.events import Archive

_log = logging.getLogger(__name__)
_EXTRA: Final = "the page needs starlette and uvicorn: pip install 'snn-detect[web]'"


class Web(ServerSinkSection):
    """A page for browsers, at http://ADDRESS/, that shows what is detected as it happens, and its JSON API."""

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
        """Return the sink; raises ConfigError for a token that cannot be read."""
        from detector.web.events import Archive

        database, clips = context.find(Database), context.find(Clips)
        archive = Archive(None if database is None else database.file, None if clips is None else clips.folder)
        token = read_optional_secret(self.token_file)
        identity = (self, archive, context.node_info, context.detector.classes, token)
        return SinkSpec(identity, lambda: WebSink(self, archive, context.node_info, context.detector, token))


class WebSink(LiveSink):
    """Serves the page and its API, and takes for it what the detector does, hears and says."""

    def __init__(
        self, settings: Web, archive: Archive, node_info: NodeInfo, detector: Detector, token: str | None
    ) -> None:
        """Prepare; raises ConfigError for an address beyond loopback without a token, or without the extra."""
        self._host, self._port = split_address(settings.address)
        if token is None and token_required(settings.address):
            raise ConfigError(f"web address {settings.address} is open to others: set token_file, or use 127.0.0.1")
        _require_extra()
        from detector.web.events import Events, Pictures
        from detector.web.schema import ModelInfo
        from detector.web.stream import Broadcaster, FrameEncoder

        self._settings, self._token = settings, token
        frame_encoder, features = FrameEncoder(detector), detector.manifest.features
        self._broadcaster = Broadcaster(frame_encoder)
        self._events = Events(archive)
        self._pictures = Pictures(frame_encoder, features.sample_rate_hz, features.hop_length)
        self._model_info = ModelInfo(detector, node_info, self._pictures)
        self._server: Any = None

    @property
    def port(self) -> int:
        """The port in use; 0 while there is none."""
        return int(self._server.address[1]) if self._server else 0

    @property
    def stats(self) -> dict[str, float]:
        """How many look, and the messages that they were too slow for."""
        return {"viewers": self._broadcaster.viewers, "dropped_messages": self._broadcaster.dropped}

    @property
    def wants_layers(self) -> bool:
        """Whether anybody looks."""
        return self._broadcaster.viewers > 0

    @property
    def wants_state(self) -> bool:
        """Whether anybody has asked how the service is."""
        return self._broadcaster.wants_state

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Take the level of the sound."""
        self._broadcaster.on_chunk(chunk)

    def on_trace(self, trace: Trace) -> None:
        """Take what the sound brought about."""
        self._pictures.on_trace(trace)
        self._broadcaster.on_trace(trace)

    def show(self, state: Mapping[str, Any]) -> None:
        """Take how the service is."""
        self._broadcaster.show(state)

    def open(self) -> None:
        """Begin to serve; raises RetryableError while the address is taken or not there yet."""
        from detector.web.app import Api
        from detector.web.server import WebServer

        application = Api(self._broadcaster, self._events, self._pictures, self._model_info).application(
            self._token, self._settings.hosts
        )
        try:
            server = WebServer(application, self._host, self._port)
        except OSError as error:
            raise RetryableError(f"web cannot listen on {self._settings.address}: {error.strerror}") from error
        # A name means what the resolver says.
        if self._token is None and not ipaddress.ip_address(server.address[0]).is_loopback:
            server.stop()
            raise ConfigError(f"web address {self._settings.address} is not loopback here: use 127.0.0.1")
        self._server = server
        _log.info("the page is at http://%s/", _url(*server.address))

    def write(self, record: Record) -> None:
        """Take a record."""
        if isinstance(record, OnsetRecord | OffsetRecord):
            self._pictures.note(record)
        if isinstance(record, OnsetRecord | OffsetRecord | ClipRecord):
            self._events.note(record)
        self._broadcaster.note(record)

    def tick(self) -> None:
        """Take the pictures of sounds that are over."""
        self._pictures.take()

    def close(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.stop()
            self._server = None


def _url(host: str, port: int) -> str:
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _require_extra() -> None:
    try:
        import starlette
        import uvicorn
    except ModuleNotFoundError as error:
        raise ConfigError(_EXTRA) from error
    del starlette, uvicorn
