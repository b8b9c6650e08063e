"""What the operating system gives: files, streams of bytes, locks, flags, sockets; pauses; texts safe to print."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import select
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

from detector.errors import ConfigError

_WordT = TypeVar("_WordT", bound=str)

_HEAD_BYTES: Final = 4096
_PIECE: Final = 1 << 16
_POLL_MS: Final = 200
_LONGEST_VIEW: Final = 1 << 24
_RESERVED_DESCRIPTORS: Final = 128
"""Descriptors of the process that are not for clients, but for sound, outputs and files."""
_MIN_CLIENTS: Final = 8
_FORMULA: Final = ("=", "+", "-", "@")
_EXHAUSTED_S: Final = 0.05
_MALLOPT: Final = ((-3, 128 * 1024), (-8, 1))
"""M_MMAP_THRESHOLD, which glibc would raise to the size of the model's file, and M_ARENA_MAX of malloc.h."""
_DISTRIBUTION: Final = "snn-detect"
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def limit_heap() -> None:
    """Have freed memory returned to the system, and threads share one heap: they allocate little."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):  # a C library other than glibc
        for option, value in _MALLOPT:
            ctypes.CDLL(None).mallopt(option, value)


class FileKind(NamedTuple):
    """A kind of file that commands write, recognised by its first bytes."""

    name: str
    """With its article, for messages."""
    head: re.Pattern[bytes]


class Output(NamedTuple):
    """A file that a command will write."""

    option: str
    """The option that names it."""
    path: Path | None
    """None: it is not written."""
    kind: FileKind


def table_kind(name: str, columns: Iterable[str], separator: str) -> FileKind:
    """Return the kind of tables that begin with these names of columns."""
    return FileKind(name, re.compile(re.escape(separator.join(columns).encode()) + rb"\r?\n"))


JSON: Final = FileKind("a JSON document", re.compile(rb"\s*[{\[]"))
PNG: Final = FileKind("a PNG picture", re.compile(rb"\x89PNG\r\n\x1a\n"))
PICTURE: Final = FileKind("a picture", re.compile(rb"\x89PNG\r\n\x1a\n|%PDF-|\s*<(\?xml|!DOCTYPE svg|svg)[\s>]"))
WAV: Final = FileKind("a WAV file", re.compile(rb"(RIFF|RF64).{4}WAVE", re.DOTALL))
MODEL: Final = FileKind(
    "an ONNX model", re.compile(rb"\x08[\x01-\x20]\x12.[\x20-\x7e]+[\x1a\x22\x28\x32\x3a]", re.DOTALL)
)
"""The protocol buffer of ONNX: version, name of the producer, and then one of its other fields."""


def check_outputs(
    outputs: Iterable[Output],
    inputs: Iterable[str | Path | None] = (),
    *,
    force: bool = False,
    makes_folders: bool = False,
) -> None:
    """Raise ConfigError, before any work, where a file cannot be written or would replace what it must not.

    It never replaces one of the ``inputs``, another output, or a file of another kind; a file of its own kind only
    with ``force``. ``makes_folders``: its folder need not exist.
    """
    read = [Path(given) for given in inputs if given is not None and os.path.exists(given)]  # noqa: PTH110 - never raises
    written: dict[str, Output] = {}
    for output in outputs:
        if output.path is None:
            continue
        where = f"{output.option} {output.path}"
        _check_place(where, output.path, makes_folders=makes_folders)
        other = written.setdefault(os.path.realpath(output.path), output)
        if other is not output:
            raise ConfigError(f"{where}: {other.option} writes the same file; name another one")
        if not output.path.exists():
            continue
        if any(path.samefile(output.path) for path in read):
            raise ConfigError(f"{where}: is read by this command and is not replaced; name another file")
        if not is_of_kind(output.path, output.kind):
            raise ConfigError(f"{where}: exists, is not {output.kind.name} and is not replaced; name another file")
        if not force:
            raise ConfigError(f"{where}: exists already; name another file, or replace this one with --force")


def _check_place(where: str, path: Path, *, makes_folders: bool) -> None:
    """Raise ConfigError where there can be no file of that name."""
    try:
        mode = path.stat().st_mode if path.exists() else stat.S_IFREG
        folder = Path(os.path.realpath(path)).parent
        while makes_folders and not folder.exists():
            folder = folder.parent
    except (OSError, ValueError) as error:  # too long, or with a null character
        raise ConfigError(f"{where}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{where}: is a directory; name the file to write")
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{where}: is a device or a pipe, not a file; name the file to write")
    if not folder.is_dir():
        shown = folder if path.is_symlink() else path.parent
        raise ConfigError(f"{where}: cannot be written: there is no folder {shown}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{where}: cannot be written: {folder} is not writable; name another folder")


def is_of_kind(path: Path, kind: FileKind) -> bool:
    """Return whether a file is of a kind, or empty."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False  # what cannot be read may be anything
    return not head or kind.head.match(head) is not None


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield the name of a new file beside ``path``, with its suffix; at the end it is synced and takes its place.

    Where the block raises, ``path`` stays as it was and the new file is removed. Raises OSError where the file
    cannot be synced or renamed. The folder must exist; access rights are those that the block gives the new file.
    Where ``path`` is a symbolic link, the file that it leads to is replaced.
    """
    path = Path(os.path.realpath(path))
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file (UTF-8), complete or not at all; raises OSError. ``errors``: as for ``open``."""
    with replace_file(path) as part:
        part.write_text(text, encoding="utf-8", errors=errors)


class ProcessLock:
    """A folder that one process uses at a time; the lock ends with the process, however that ends."""

    def __init__(self, folder: Path) -> None:
        """Take the folder, making it where it is missing.

        Raises ConfigError where another process has it, OSError where it cannot be made or written.
        """
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = _process(os.pread(self._descriptor, _HEAD_BYTES, 0).decode(errors="replace").strip())
            self.close()
            raise ConfigError(
                f"{folder} is in use by {other}; end it, or give this one a folder of its own with STATE_DIRECTORY"
            ) from None
        except BaseException:
            self.close()
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Release the folder."""
        os.close(self._descriptor)


def _process(number: str) -> str:
    """Return how a process is named in messages: its number and, where that can be read, its command."""
    with contextlib.suppress(OSError, ValueError):
        words = Path("/proc", str(int(number)), "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
        return f"process {number} ({' '.join(words).strip()[:200]})"
    return f"process {number}" if number.isdigit() else "another process"


class LastingFlag:
    """A flag that survives power failures: a file that is there while it is set, with the time since when."""

    def __init__(self, path: Path) -> None:
        """Read the flag; raises nothing: one that cannot be read counts as set."""
        self._path = path
        self.is_set = os.path.lexists(path)

    @property
    def since(self) -> str:
        """When it was set, as far as that is known."""
        with contextlib.suppress(OSError, ValueError):
            return datetime.fromisoformat(self._path.read_text(encoding="ascii").strip()).isoformat(sep=" ")
        return "an unknown time"

    def set(self, *, wanted: bool) -> None:
        """Set or remove the flag, and have that on the disk; raises OSError, with the flag as wanted until the end."""
        if wanted == self.is_set:
            return
        self.is_set = wanted
        if wanted:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            write_text(self._path, f"{datetime.now().astimezone().isoformat(timespec='seconds')}\n")
        else:
            self._path.unlink(missing_ok=True)
        sync(self._path.parent)


class LastingChoice(Generic[_WordT]):
    """One of several words that survives power failures: a file that holds it; without the file there is none."""

    def __init__(self, path: Path, words: Sequence[_WordT]) -> None:
        """Read the choice; raises nothing: a file that cannot be read, or holds another word, counts as none."""
        self._path = path
        text = ""
        with contextlib.suppress(OSError, ValueError):
            text = path.read_text(encoding="ascii").strip()
        self.word: _WordT | None = next((word for word in words if word == text), None)

    def set(self, word: _WordT | None) -> None:
        """Keep a word, or none, and have that on the disk; raises OSError, with the word as wanted until the end."""
        if word == self.word and (word is None) != self._path.exists():
            return
        self.word = word
        if word is None:
            self._path.unlink(missing_ok=True)
        else:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            write_text(self._path, f"{word}\n")
        sync(self._path.parent)


class Backoff:
    """Exponential backoff: each pause is twice the one before, between two bounds (in seconds)."""

    def __init__(self, shortest_s: float, longest_s: float, *, first_s: float | None = None) -> None:
        """Take the bounds; ``first_s``: the first pause, until ``reset`` (default: the shortest)."""
        self._shortest_s, self._longest_s = min(shortest_s, longest_s), longest_s
        self._pause_s = self._shortest_s if first_s is None else min(first_s, longest_s)

    def next_s(self) -> float:
        """Return the pause before the next attempt, in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the shortest pause: an attempt has succeeded."""
        self._pause_s = self._shortest_s


class ByteStream:
    """The bytes of a file or pipe, read once from the beginning to the end, with a view of those that come next."""

    def __init__(self, descriptor: int) -> None:
        """Take an open descriptor, which ``close`` closes."""
        self._descriptor = descriptor
        status = os.fstat(descriptor)
        self.size: int | None = status.st_size if stat.S_ISREG(status.st_mode) else None
        """Bytes in the file; None for a pipe."""
        self.position = 0
        """Bytes that have been read."""
        self._ahead = b""
        self._closed = threading.Event()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def peek(self, count: int) -> bytes:
        """Return the next bytes without reading them: ``count``, fewer at the end."""
        while len(self._ahead) < count and (data := self._next(max(count - len(self._ahead), _PIECE))):
            self._ahead += data
        return self._ahead[:count]

    def at(self, offset: int, count: int) -> bytes:
        """Return ``count`` bytes that begin ``offset`` bytes ahead, fewer at the end; a pipe is kept up to there."""
        if self.size is not None:
            start = self.position + offset
            return os.pread(self._descriptor, count, start) if start < self.size else b""
        self.peek(min(offset + count, _LONGEST_VIEW))
        return self._ahead[offset : offset + count]

    def view(self, least: int) -> bytes:
        """Return what comes next as far as it has arrived, at least so many bytes; fewer at the end."""
        self.peek(least)
        return self._ahead[: max(least, 2 * _PIECE)]

    def read(self, count: int) -> bytes:
        """Read ``count`` bytes, fewer at the end."""
        data = self.peek(count)
        self._ahead = self._ahead[len(data) :]
        self.position += len(data)
        return data

    def put_back(self, data: bytes) -> None:
        """Have the bytes that were read last be read again."""
        self._ahead = data + self._ahead
        self.position -= len(data)

    def skip(self, count: int) -> None:
        """Read bytes and discard them; those of a file are passed over."""
        within = min(count, len(self._ahead))
        self._ahead = self._ahead[within:]
        self.position += within
        rest = count - within
        if self.size is not None and rest:
            rest = max(0, min(rest, self.size - self.position))
            self.position = os.lseek(self._descriptor, self.position + rest, os.SEEK_SET)
            return
        while rest and (data := self.read(min(rest, _PIECE))):
            rest -= len(data)

    def interrupt(self) -> None:
        """End a read that waits for a pipe, within a moment, as at the end."""
        self._closed.set()

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1

    def _next(self, count: int) -> bytes:
        while self.size is None and not self._closed.is_set() and not self._poll.poll(_POLL_MS):
            pass
        return b"" if self._closed.is_set() else os.read(self._descriptor, count)


def sync(path: Path) -> None:
    """Have a file or a folder on the disk: after a power failure a new name must not lead to nothing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def client_bound(wanted: int) -> int:
    """Return how many clients a server may have at a time: ``wanted``, or fewer where descriptors are few."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else max(_MIN_CLIENTS, min(wanted, limit - _RESERVED_DESCRIPTORS))


class BoundedListener(socket.socket):
    """A socket to listen on that has at most so many accepted connections open at a time.

    One beyond them is closed at once, and so is one for which the process has no descriptor left: for that, one is
    kept in reserve. ``accept`` then raises BlockingIOError, as where no connection waits.
    """

    def __init__(self, family: int, kind: int, protocol: int = 0, *, bound: int) -> None:
        """Create the socket; raises OSError."""
        super().__init__(family, kind, protocol)
        self._bound = bound
        self._accepted: list[socket.socket] = []
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._discard()
                raise BlockingIOError from error
            raise
        self._accepted = [s for s in self._accepted if s.fileno() >= 0]
        if len(self._accepted) >= self._bound:
            connection.close()
            raise BlockingIOError
        self._accepted.append(connection)
        return connection, address

    def close(self) -> None:
        """Close the socket; accepted connections stay open."""
        reserve, self._reserve = self._reserve, -1
        if reserve >= 0:
            os.close(reserve)
        super().close()

    def _discard(self) -> None:
        """Close a connection that cannot be accepted; while it waited, the socket would stay readable."""
        if self._reserve >= 0:
            os.close(self._reserve)
        self._reserve = -1
        try:
            super().accept()[0].close()
        except OSError:
            time.sleep(_EXHAUSTED_S)  # the limit is below what is open: leave the processor to others
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def install_command(extra: str) -> str:
    """Return the command that adds an extra of this project to this installation.

    The project is in no index, so it names the clone or the wheel that was installed; where neither is known any more,
    the packages of the extra, which are in one.
    """
    import shlex

    clone, origin, pip = Path(__file__).resolve().parents[1], _installed_from(), _pip()
    if (clone / "pyproject.toml").is_file():
        return f"{pip or 'pip'} install -e '{clone}[{extra}]'"
    if origin is not None:
        return f"{pip or 'pip'} install '{origin}[{extra}]'"
    if pip is None:  # as make leaves an environment
        extras = dict.fromkeys(("mqtt", "metrics", "web", extra))
        return f"make install EXTRAS={','.join(extras)} LOCK="
    return f"{pip} install {shlex.join(_requirements(extra))}"


def _pip() -> str | None:
    """Return what to call for pip in this environment; None where it has none."""
    import shutil
    import sys

    own = Path(sys.prefix) / "bin" / "pip"
    if own.exists():
        return "pip" if shutil.which("pip") == str(own) else str(own)
    with contextlib.suppress(OSError):
        if re.search(r"^uv\b", (Path(sys.prefix) / "pyvenv.cfg").read_text(encoding="utf-8"), re.MULTILINE):
            return "uv pip"
    return None


def _installed_from() -> Path | None:
    """Return the folder or wheel that was given to pip (PEP 610); None where that is not known, or not there."""
    import json
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    try:
        origin = json.loads(metadata.distribution(_DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    url = urlsplit(origin.get("url", ""))
    path = Path(unquote(url.path))
    return path if url.scheme == "file" and path.exists() else None


def _requirements(extra: str) -> list[str]:
    """Return what an extra requires, without its environment markers."""
    from importlib import metadata

    try:
        listed = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        listed = []
    pairs = (line.partition(";") for line in listed)
    return [name.strip() for name, _, marker in pairs if re.search(rf"extra == ['\"]{extra}['\"]", marker)]


def printable(text: str) -> str:
    """Return a text for a terminal or a log: what would control it, or cannot be shown, is replaced; lines stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def all_printable(value: Any) -> Any:
    """Return what JSON has decoded, with all its texts made printable, in one line each."""
    if isinstance(value, str):
        return printable(value).replace("\n", " ")
    if isinstance(value, Mapping):
        return {all_printable(name): all_printable(member) for name, member in value.items()}
    return [all_printable(member) for member in value] if isinstance(value, list | tuple) else value


def csv_cell(value: Any) -> Any:
    """Return a value for a cell of a table: a text that a spreadsheet would take for a formula begins with a quote."""
    return f"'{value}" if isinstance(value, str) and value.lstrip()[:1] in _FORMULA else value
