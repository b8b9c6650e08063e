"""Addresses to listen on, and whether they can be reached from elsewhere."""

from __future__ import annotations

import ipaddress

from detector.errors import ConfigError

_HIGHEST_PORT = 65535


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``[IPv6]:port`` or ``:port`` (every address of this machine).

    Raises ConfigError for anything else.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > _HIGHEST_PORT:
        raise ConfigError(f"{address!r} lacks its port: write such as 127.0.0.1:9464 or [::1]:9464")
    if ":" in host and not bracketed:
        raise ConfigError(f"{address!r}: put an IPv6 address into brackets, such as [::1]:9464")
    return (host[1:-1] if bracketed else host), int(port)


def token_required(address: str) -> bool:
    """Tell whether an address can be reached from other machines, so that what it offers needs a token.

    Names other than ``localhost`` count as reachable: what they mean is not ours to say. Raises
    ConfigError as ``split_address`` does.
    """
    host, _ = split_address(address)
    if host == "localhost":
        return False
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        return True
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped:
        number = number.ipv4_mapped
    return not number.is_loopback
