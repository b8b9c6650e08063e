"""Records by HTTP POST."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ssl
import time
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from detector.config.settings import Webhook
from detector.errors import ConfigError, DetectorError
from detector.records import Record
from detector.sinks.base import LiveSink, RetryableError
from detector.sinks.stdout import json_line

_AGAIN: Final = frozenset({408, 429})
"""Answers that, like those from 500 on, say nothing against the record itself."""
_LONGEST_PAUSE_S: Final = 300.0
"""A server that asks to be left alone for longer than this is asked again sooner."""
_MOST_ANSWER_BYTES: Final = 65536


class WebhookSink(LiveSink):
    """POST each record as JSON, in order, one at a time.

    An answer from 200 to 299 means that it has arrived. The header Idempotency-Key is the same for
    each try of one record and no other, so that a server can tell a repetition. Redirects are not
    followed: the token would go to whom it is not meant for.
    """

    def __init__(self, settings: Webhook, token: str | None) -> None:
        """Take the bearer token, if there is one; raises ConfigError for a URL or certificates that cannot be."""
        self.types = frozenset(settings.types)
        self.labels = frozenset(settings.labels) or None
        self._settings, self._token = settings, token
        self._name, self._opener = _check_url(settings.url), _opener(settings)
        self._record: Record | None = None
        self._tries = 0
        self._not_before = 0.0
        self._trouble = ""

    def write(self, record: Record) -> None:
        """Post one record.

        Raises RetryableError where the server is away or busy, DetectorError where it refuses the
        record or the last try has failed.
        """
        if time.monotonic() < self._not_before:
            raise RetryableError(self._trouble)
        if record is not self._record:
            self._record, self._tries = record, 0
        self._tries += 1
        try:
            self._post(record)
        except RetryableError as error:
            self._trouble = str(error)
            if self._tries >= self._settings.max_attempts:
                raise DetectorError(f"{error}; given up after {self._tries} tries") from error
            raise

    def _post(self, record: Record) -> None:
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
        except (OSError, http.client.HTTPException) as error:
            raise RetryableError(f"{self._name}: {_words(error)}") from error

    def _headers(self, record: Record, line: str) -> dict[str, str]:
        key = getattr(record, "id", None) or hashlib.sha256(line.encode()).hexdigest()[:32]
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "snn-detect",
            "Idempotency-Key": f"{key}-{record.type}",
        }
        return headers if self._token is None else headers | {"Authorization": f"Bearer {self._token}"}

    def _refused(self, error: HTTPError) -> None:
        """Raise what the answer means."""
        told = f"{self._name}: answers {error.code} {error.reason}".rstrip()
        if error.code in _AGAIN or error.code >= http.client.INTERNAL_SERVER_ERROR:
            self._not_before = time.monotonic() + min(_pause_s(error.headers), _LONGEST_PAUSE_S)
            raise RetryableError(told) from error
        if error.code < http.client.BAD_REQUEST:
            where = urlsplit(error.headers.get("Location", "")).hostname or "another place"
            raise DetectorError(f"{told}, to {where}; redirects are not followed: name the new url") from error
        raise DetectorError(f"{told}; check url and token_file") from error


def _check_url(url: str) -> str:
    """Return the server's name for messages: path and query often hold a secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"webhook url: {error}") from error
    if not parts.hostname or parts.username is not None:
        raise ConfigError("webhook url: must be http(s)://HOST/PATH; a user's name or password cannot be in it")
    return f"{parts.hostname}{f':{port}' if port else ''}"


def _opener(settings: Webhook) -> OpenerDirector:
    """Return what the library would build, but for the part that follows redirects."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPDefaultErrorHandler(), HTTPErrorProcessor()):
        opener.add_handler(handler)
    if settings.url.startswith("https:"):
        opener.add_handler(HTTPSHandler(context=_trust(settings.ca_file)))
    return opener


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError(f"{ca_file}: holds no certificates (PEM)") from error
    except OSError as error:
        raise ConfigError(f"{ca_file}: cannot be read ({(error.strerror or str(error)).lower()})") from error


def _drain(answer: Any) -> None:
    """Take the answer's body, so that the server is not cut off in it; what it says does not matter."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        answer.read(_MOST_ANSWER_BYTES)


def _pause_s(headers: Message) -> float:
    """Return how long the server asks to be left alone, in seconds; 0 where it does not say."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    left_s = (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, left_s)


def _words(reason: object) -> str:
    """Say in one line why a server cannot be reached."""
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message}); check url, ca_file and the clock"
    if isinstance(reason, TimeoutError):
        return "gives no answer in time"
    if isinstance(reason, OSError):
        return f"cannot be reached ({(reason.strerror or str(reason)).lower()})"
    return f"gives no answer that is HTTP ({type(reason).__name__})"
