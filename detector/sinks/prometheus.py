"""EventMetrics for Prometheus over HTTP."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from pydantic import Field

from detector.config.secrets import read_optional_secret, split_address, token_required
from detector.config.sections import SecretFile
from detector.errors import ConfigError
from detector.records import Record
from detector.sinks.base import LiveSink, NodeInfo, RetryableError
from detector.sinks.section import ServerSinkSection, SinkContext, SinkSpec

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from detector.sinks.metrics_figures import EventMetrics
    from detector.sinks.metrics_server import MetricsServer

_EXTRA: Final = "metrics need prometheus-client: pip install 'snn-detect[metrics]'"


class Metrics(ServerSinkSection):
    """Metrics for Prometheus, at http://ADDRESS/metrics."""

    address: str = Field(
        "127.0.0.1:9464",
        description="Address and port to listen on. One that other machines can reach needs token_file.",
    )
    token_file: SecretFile | None = Field(
        None, description="File with the bearer token to require.", examples=["/etc/snn-detect/metrics.token"]
    )
    scores: bool = Field(False, description="Whether to add the score of each class.")

    def build(self, context: SinkContext, /) -> SinkSpec:
        """Return the sink; raises ConfigError for a token that cannot be read."""
        return SinkSpec.of(MetricsSink, self, context.node_info, read_optional_secret(self.token_file))


class MetricsSink(LiveSink):
    """Counts what records say, and serves it on ``/metrics``."""

    types = frozenset({"onset", "offset", "gap", "status", "health", "clip"})

    def __init__(self, settings: Metrics, node_info: NodeInfo, token: str | None) -> None:
        """Prepare; raises ConfigError for an address beyond loopback without a token, or without prometheus-client."""
        self._host, self._port = split_address(settings.address)
        self._address, self._token = settings.address, token
        if token is None and token_required(settings.address):
            raise ConfigError(f"metrics address {settings.address} is open to others: set token_file, or use 127.0.0.1")
        self._figures, self._registry = _registry(node_info, scores=settings.scores)
        self._server: MetricsServer | None = None

    @property
    def port(self) -> int:
        """The port in use; 0 while there is none."""
        return self._server.port if self._server else 0

    def open(self) -> None:
        """Start to listen; raises RetryableError while the address is taken or not there yet."""
        from detector.sinks.metrics_server import MetricsServer

        try:
            server = MetricsServer(self._host, self._port, self._token, self._page)
        except OSError as error:
            raise RetryableError(f"metrics cannot listen on {self._address}: {error.strerror}") from error
        # A name means what the resolver says.
        if self._token is None and not ipaddress.ip_address(str(server.server_address[0])).is_loopback:
            server.stop()
            raise ConfigError(f"metrics address {self._address} is not loopback here: use 127.0.0.1, or set token_file")
        self._server = server

    def write(self, record: Record) -> None:
        """Count a record."""
        self._figures.take(record)

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _page(self, accept: str) -> tuple[bytes, str]:
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


def _registry(node_info: NodeInfo, *, scores: bool) -> tuple[EventMetrics, CollectorRegistry]:
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector

        from detector.sinks.metrics_figures import EventMetrics
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("prometheus_client"):
            raise
        raise ConfigError(_EXTRA) from error
    figures, registry = EventMetrics(node_info, scores=scores), CollectorRegistry()
    registry.register(figures)
    ProcessCollector(registry=registry)
    return figures, registry
