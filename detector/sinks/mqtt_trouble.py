"""Why there is no connection to a broker, in one line that says what to do."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no connection."""

    text: str
    is_refusal: bool
    """Somebody is there and does not want this client as it is: to wait does not help."""


_EXPLANATIONS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (socket.gaierror, "no such host ({0.strerror}); check host and the network"),
    (ConnectionRefusedError, "nothing listens there; check host and port, and whether the broker runs"),
    (ConnectionError, "breaks the connection off; check port and tls (TLS is usually on 8883, without it on 1883)"),
    (TimeoutError, "no answer; check host, port and firewall"),
    (ssl.SSLCertVerificationError, "its certificate is not trusted: {0.verify_message}; check host, ca_file and clock"),
    (ssl.SSLError, "TLS failed: {0.reason}; check port (usually 8883) and certificates"),
)


def explain(error: Exception) -> str:
    """Say what went wrong and what to do."""
    for kind, text in _EXPLANATIONS:
        if isinstance(error, kind):
            return text.format(error)
    return getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"


def is_refusal(error: Exception) -> bool:
    """Tell whether somebody is there who does not want this client as it is."""
    return isinstance(error, ssl.SSLError)
