"""Records by HTTP POST."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic import Field

from detector.config.secrets import read_optional_secret, redacted_url
from detector.config.sections import RECORD_TYPES, Labels, RecordType, SecretFile, UserPath
from detector.errors import ConfigError, DetectorError
from detector.records import Record, json_line
from detector.sinks.base import LiveSink, RetryableError, SinkContext, SinkSection, SinkSpec

if TYPE_CHECKING:  # imported with the first webhook
    import socket
    import ssl
    from email.message import Message
    from http.client import HTTPConnection, HTTPResponse
    from urllib.error import HTTPError
    from urllib.request import OpenerDirector, Request

_RETRYABLE: Final = frozenset({408, 429})
"""Answers that, like those from 500 on, do not reject the record itself."""
_MAX_PAUSE_S: Final = 300.0
"""Limit of Retry-After."""
_MAX_ANSWER_BYTES: Final = 65536
_LEAST_S: Final = 0.001
"""The time for a step that begins behind the deadline; 0 would mean not to wait at all."""


class Webhook(SinkSection):
    """HTTP POST of each record as JSON."""

    url: str = Field(pattern=r"^https?://[^\s]+$", description="Where to post.", examples=["https://example.org/hook"])
    types: tuple[RecordType, ...] = Field(("onset", "offset"), description=f"Types of records to post, {RECORD_TYPES}.")
    labels: Labels = Field((), description="Labels to post. Empty: all.")
    token_file: SecretFile | None = Field(
        None,
        description='File with a token for the header "Authorization: Bearer".',
        examples=["/etc/snn-detect/hook.token"],
    )
    ca_file: UserPath | None = Field(
        None,
        description="Certificates to trust, where they are not the system's.",
        examples=["/etc/snn-detect/ca.pem"],
    )
    timeout_s: float = Field(
        5.0, gt=0, le=60, description="Seconds for one attempt, from the connection to the answer."
    )
    max_attempts: int = Field(5, ge=1, le=100, description="Attempts for one record before it is given up.")

    def shown(self) -> dict[str, Any]:
        """Return the values without the URL's path, which often is the permission to post."""
        return super().shown() | {"url": redacted_url(self.url)}

    def build(self, _context: SinkContext, /) -> SinkSpec:
        """Return the sink; raises ConfigError for a token that cannot be read."""
        return SinkSpec.of(WebhookSink, self, read_optional_secret(self.token_file))


class WebhookSink(LiveSink):
    """POST each record as JSON, in order, one at a time.

    An answer from 200 to 299 means that it has arrived. The header Idempotency-Key is the same for
    each attempt for one record and no other, so that a server can recognise a repetition. Redirects are not
    followed: they would send the token to another server.
    """

    def __init__(self, settings: Webhook, token: str | None) -> None:
        """Prepare; ``token``: bearer token to send. Raises ConfigError for a wrong URL or wrong certificates."""
        self.types = frozenset(settings.types)
        self.labels = frozenset(settings.labels) or None
        self._settings, self._token = settings, token
        self._name, self._opener = _check_url(settings.url), _opener(settings)
        self._record: Record | None = None
        self._attempts = 0
        self._not_before = 0.0
        self._trouble = ""

    def write(self, record: Record) -> None:
        """Post one record.

        Raises RetryableError where the server is away or busy, DetectorError where it refuses the
        record or the last attempt has failed.
        """
        if time.monotonic() < self._not_before:
            raise RetryableError(self._trouble)
        if record is not self._record:
            self._record, self._attempts = record, 0
        self._attempts += 1
        try:
            self._post(record)
        except RetryableError as error:
            self._trouble = str(error)
            if self._attempts >= self._settings.max_attempts:
                raise DetectorError(f"{error}; given up after {self._attempts} attempts") from error
            raise

    def _post(self, record: Record) -> None:
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError
        from urllib.request import Request

        line = json_line(record)
        request = Request(self._settings.url, line.encode(), self._headers(record, line), method="POST")  # noqa: S310 - the settings allow http and https alone
        try:
            with self._opener.open(request, timeout=self._settings.timeout_s) as answer:
                _drain(answer)
        except HTTPError as error:
            with error:
                _drain(error)
            self._refused(error)
        except URLError as error:
            raise RetryableError(f"{self._name}: {_words(error.reason)}") from error
        except (OSError, HTTPException) as error:
            raise RetryableError(f"{self._name}: {_words(error)}") from error

    def _headers(self, record: Record, line: str) -> dict[str, str]:
        key = getattr(record, "id", None) or hashlib.sha256(line.encode()).hexdigest()[:32]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "snn-detect",
            "Idempotency-Key": f"{key}-{record.type}",
        }
        if self._token is None:
            return headers
        return headers | {"Authorization": f"Bearer {self._token}".encode().decode("latin-1")}  # its bytes are UTF-8

    def _refused(self, error: HTTPError) -> None:
        """Raise what the answer means."""
        text = f"{self._name}: answers {error.code} {error.reason}".rstrip()
        if error.code in _RETRYABLE or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._not_before = time.monotonic() + min(_pause_s(error.headers), _MAX_PAUSE_S)
            raise RetryableError(text) from error
        if error.code < HTTPStatus.BAD_REQUEST:
            where = _host(error.headers.get("Location", "")) or "another place"
            raise DetectorError(f"{text}, to {where}; redirects are not followed: name the new url") from error
        raise DetectorError(f"{text}; check url and token_file") from error


def _check_url(url: str) -> str:
    """Return the server's name for messages, since path and query often hold a secret; raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ConfigError(f"webhook url: {error}") from error
    if port == 0:
        raise ConfigError("webhook url: there is no port 0")
    if not url.isascii() or not url.isprintable():
        raise ConfigError("webhook url: write what is not ASCII as a browser's address shows it: xn--... and %C3%A4")
    if not parts.hostname or parts.username is not None:
        raise ConfigError("webhook url: must be http(s)://HOST/PATH; a user's name or password cannot be in it")
    return f"{parts.hostname}{f':{port}' if port else ''}"


def _opener(settings: Webhook) -> OpenerDirector:
    """Return the opener that urllib would build, without following redirects, and with a deadline for all of it."""
    from urllib import request

    http, https = _connections()
    opener = request.OpenerDirector()
    for handler in (request.ProxyHandler, request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor):
        opener.add_handler(handler())

    class Http(request.HTTPHandler):
        def http_open(self, req: Request) -> HTTPResponse:
            return self.do_open(http, req)

    opener.add_handler(Http())
    if settings.url.startswith("https:"):
        context = _trust(settings.ca_file)

        class Https(request.HTTPSHandler):
            def https_open(self, req: Request) -> HTTPResponse:
                return self.do_open(https, req, context=context)

        opener.add_handler(Https(context=context))
    return opener


@cache
def _connections() -> tuple[type[HTTPConnection], type[HTTPConnection]]:
    """Return classes of connections whose timeout is that of the whole exchange, not of each step."""
    from http.client import HTTPConnection, HTTPResponse, HTTPSConnection

    class Timed(HTTPConnection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            deadline_s = time.monotonic() + float(self.timeout or 0)
            self._left_s: Callable[[], float] = lambda: max(_LEAST_S, deadline_s - time.monotonic())
            self._create_connection = partial(_connect, self._left_s)
            self.response_class = partial(_response, HTTPResponse, self._left_s)  # type: ignore[assignment]

        def send(self, data: Any) -> None:
            if self.sock is not None:
                self.sock.settimeout(self._left_s())
            super().send(data)

    class TimedSecurely(Timed, HTTPSConnection):
        pass

    return Timed, TimedSecurely


def _connect(left_s: Callable[[], float], address: tuple[str, int], *_rest: Any) -> socket.socket:
    """Connect to the first address of a server that answers, in the time that is left for all of them."""
    import socket

    failure: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left_s())
            sock.connect(where)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or OSError("no address")


def _response(kind: type[HTTPResponse], left_s: Callable[[], float], sock: Any, *arguments: Any, **options: Any) -> Any:
    """Return a response that is read in the time that is left, however slowly it comes."""
    response = kind(sock, *arguments, **options)
    raw = response.fp.detach()

    class Reader(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int | None:
            sock.settimeout(left_s())
            return int(raw.readinto(buffer))

        def close(self) -> None:
            raw.close()
            super().close()

    response.fp = io.BufferedReader(Reader())
    return response


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    import ssl

    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError(f"{ca_file}: holds no certificates (PEM)") from error
    except OSError as error:
        raise ConfigError(f"{ca_file}: cannot be read ({(error.strerror or str(error)).lower()})") from error


def _drain(answer: Any) -> None:
    """Read the answer's body, which is ignored, so that the connection is not closed in its middle."""
    from http.client import HTTPException

    with contextlib.suppress(OSError, HTTPException):
        answer.read(_MAX_ANSWER_BYTES)


def _pause_s(headers: Message) -> float:
    """Return the pause that the server asks for by Retry-After, in seconds; 0 without one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        moment = parsedate_to_datetime(text)
        left_s = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):
        return 0.0
    return max(0.0, left_s)


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _words(reason: object) -> str:
    """Return in one line why a server cannot be reached."""
    import ssl

    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}); check url, ca_file and the clock"
    if isinstance(reason, TimeoutError):
        return "gives no answer in time"
    if isinstance(reason, OSError):
        return f"cannot be reached ({(reason.strerror or str(reason)).lower()})"
    return f"gives no answer that is HTTP ({type(reason).__name__})"
