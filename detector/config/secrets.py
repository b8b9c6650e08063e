"""Secrets: from a file, or from a credential that systemd hands over; never from a setting or a command line.

Addresses to listen on, and whether they can be reached from elsewhere.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detector.errors import ConfigError

if TYPE_CHECKING:
    from detector.config.settings import Mqtt

_log = logging.getLogger(__name__)
BROKER_PASSWORD: Final = "mqtt-password"  # noqa: S105 - its name
"""Credential with the password for all brokers whose section names no file."""
_OF_THE_SERVICE: Final = "/run/credentials/snn-detect.service"
_MOST_BYTES: Final = 65536
_RANDOM_BYTES: Final = 24
_notified: set[Path] = set()


def credential(name: str) -> Path | None:
    """Return the file of the credential that the service was started with under this name; None without one.

    Root finds those of the running service, so that what it tries by hand is what the service does. A
    blank one counts as none: the unit sets it where there is no file to load.
    """
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY") or _OF_THE_SERVICE, name)
    return path if os.access(path, os.R_OK) and path.is_file() and path.read_bytes().strip() else None


def read_secret(source: Path | str) -> str:
    """Return the first line of a file (a Path) or of a credential (its name), and tell once if others can read it.

    Raises ConfigError where there is none, it cannot be read, or it is empty.
    """
    path = source if isinstance(source, Path) else credential(source)
    if path is None:
        raise ConfigError(f"no credential {str(source)!r}: the service needs LoadCredential={source}:/PATH/OF/THE/FILE")
    try:
        with path.open("rb") as file:
            readable_by_all = os.fstat(file.fileno()).st_mode & stat.S_IROTH
            text = file.read(_MOST_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{path}: the secret cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the secret is not UTF-8 text") from error
    secret = text.partition("\n")[0].rstrip("\r")
    if not secret:
        raise ConfigError(f"{path}: the secret is empty; its first line must be it")
    if readable_by_all and path not in _notified:
        _notified.add(path)
        _log.warning("%s: everybody can read this secret; run: chmod o= %s", path, path)
    return secret


def make_secret(path: Path) -> None:
    """Write a new secret that only its owner can read, where there is no file yet; raises ConfigError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123 - a descriptor
            file.write(f"{secrets.token_urlsafe(_RANDOM_BYTES)}\n")
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"{path}: no token can be written there: {error.strerror}; name a --web-token-file"
        ) from error


def broker_password(broker: Mqtt, besides: Path | None = None) -> str | None:
    """Return the password for a broker: from its file, else the credential, else the file ``besides``; None without.

    A broker that wants no user name is given no password. Raises ConfigError where it cannot be read.
    """
    if broker.password_file is not None:
        return read_secret(broker.password_file)
    if not broker.username:
        return None
    if credential(BROKER_PASSWORD):
        return read_secret(BROKER_PASSWORD)
    has_one = besides is not None and os.access(besides, os.R_OK) and besides.read_bytes().strip()
    return read_secret(besides) if besides is not None and has_one else None


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
