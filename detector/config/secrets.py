"""Secrets, read from files or from credentials of systemd and hidden in what is shown; addresses that need one.

A secret is never a setting and never on a command line.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from detector.errors import ConfigError

_log = logging.getLogger(__name__)
_OF_THE_SERVICE: Final = "/run/credentials/snn-detect.service"
_MAX_BYTES: Final = 65536
_RANDOM_BYTES: Final = 24
_MAX_PORT: Final = 65535
_PORT_DIGITS: Final = 5
_HIDDEN: Final = "..."
_OPTION: Final = re.compile(r"-[A-Za-z]|--[a-z][a-z-]*")
_warned: set[Path] = set()


def credential(name: str) -> Path | None:
    """Return the file of the credential that the service was started with under this name; None without one.

    Root gets those of the running service, so that commands try what the service uses. A blank one counts as none:
    the unit sets it where there is no file to load.
    """
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY") or _OF_THE_SERVICE, name)
    return path if os.access(path, os.R_OK) and path.is_file() and path.read_bytes().strip() else None


def read_secret(source: Path | str) -> str:
    """Return the first line of a file (a Path) or of a credential (its name); warn once if all users can read it.

    Raises ConfigError where there is none, it cannot be read, or it is empty.
    """
    path = source if isinstance(source, Path) else credential(source)
    if path is None:
        raise ConfigError(f"no credential {str(source)!r}: the service needs LoadCredential={source}:/PATH/OF/THE/FILE")
    try:
        with path.open("rb") as file:
            readable_by_all = os.fstat(file.fileno()).st_mode & stat.S_IROTH
            text = file.read(_MAX_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{path}: the secret cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the secret is not UTF-8 text") from error
    secret = text.partition("\n")[0].rstrip("\r")
    if not secret:
        raise ConfigError(f"{path}: the secret is empty; write it into the first line")
    if readable_by_all and path not in _warned:
        _warned.add(path)
        _log.warning("%s: every user can read this secret; run: chmod o= %s", path, path)
    return secret


def read_optional_secret(file: Path | None) -> str | None:
    """Return the secret in a file, None without a file; raises ConfigError as ``read_secret`` does."""
    return None if file is None else read_secret(file)


def make_secret(path: Path) -> None:
    """Write a new secret that only its owner can read, where there is no file yet; raises ConfigError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
            file.write(f"{secrets.token_urlsafe(_RANDOM_BYTES)}\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"{path}: the token cannot be written: {error.strerror}; name a --web-token-file") from error


def redacted_url(url: str) -> str:
    """Return scheme, host and port of a URL, or of what was meant as one: user, path and query often hold a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return _HIDDEN
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}/{_HIDDEN if url != f'{parts.scheme}://{host}/' else ''}"


def redacted_arguments(arguments: list[str]) -> Iterator[str]:
    """Yield the program and the names of its options; every other argument may be secret and is hidden."""
    for number, argument in enumerate(arguments):
        name, equals, _ = argument.partition("=")
        if not number or _OPTION.fullmatch(argument):
            yield argument
        else:
            yield f"{name}={_HIDDEN}" if equals and _OPTION.fullmatch(name) else _HIDDEN


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``[IPv6]:port`` or ``:port`` (every address of this machine).

    Raises ConfigError for anything else.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not (port.isascii() and port.isdigit()):
        raise ConfigError(f"{address!r} lacks its port: write such as 127.0.0.1:9464 or [::1]:9464")
    if len(port) > _PORT_DIGITS or int(port) > _MAX_PORT:
        raise ConfigError(f"{address[:40]!r}: there is no such port; the highest is {_MAX_PORT}")
    if ":" in host and not bracketed:
        raise ConfigError(f"{address!r}: put an IPv6 address into brackets, such as [::1]:9464")
    return (host[1:-1] if bracketed else host), int(port)


def token_required(address: str) -> bool:
    """Return whether other machines can reach an address, so that what it serves needs a token.

    Names other than ``localhost`` count as reachable, since only the resolver knows what they mean. Raises
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
