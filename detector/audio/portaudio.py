"""The one place that talks to PortAudio: which inputs it knows, and streams that are read without ever waiting.

PortAudio is one for the whole process, and frozen when it is initialised: cards that come later are
seen only behind a new start, which would pull the floor from under a stream that is open. ``renew``
and streams therefore keep out of each other's way, also where a call never comes back.

Who is inside PortAudio: it cannot be started anew under somebody's feet.

Calls into a sound system that may not come back.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from detector.errors import ConfigError, DeviceError


class Users:
    """Who is inside PortAudio: any number of users, or one that starts it anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._renewing = False

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Be inside for the length of a call; raises DeviceError as ``enter`` does."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Go inside; raises DeviceError where PortAudio is just being started anew."""
        with self._lock:
            if self._renewing:
                raise DeviceError("the sound system has not answered yet to the question for its devices")
            self._count += 1

    def leave(self) -> None:
        """Go out."""
        with self._lock:
            self._count -= 1

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield whether nobody is inside; if so, nobody gets in until the end. Raises DeviceError as ``enter`` does."""
        with self._lock:
            if self._renewing:
                raise DeviceError("the sound system has not answered yet to the question for its devices")
            alone = self._renewing = self._count == 0
        try:
            yield alone
        finally:
            if alone:
                with self._lock:
                    self._renewing = False


PERIOD_S: Final = 0.02
"""How often the device hands over what it has."""
_PERIODS: Final = 25
"""Periods that the device's buffer holds: half a second, for a thread that gets no turn."""
_INVALID_RATE: Final = -9997
_HOST_ERROR: Final = -9999
_CODE_AT: Final = 1
_HOST_AT: Final = 2
"""Where sounddevice's errors have PortAudio's code, and what the sound system said."""
_TALKATIVE: Final = (
    ("libasound.so.2", "snd_lib_error_set_handler"),
    ("libjack.so.0", "jack_set_error_function"),
    ("libjack.so.0", "jack_set_info_function"),
)


class UnfitRateError(DeviceError):
    """A device cannot be opened at this rate; at another one, perhaps."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input as PortAudio lists it; the number holds until ``renew``."""

    number: int
    name: str
    channels: int
    rate_hz: int
    is_default: bool


_users: Final = Users()


def load() -> Any:
    """Return the module ``sounddevice``.

    Raises ConfigError where PortAudio is missing, DeviceError where it does not start.
    """
    try:
        return _load()
    except OSError as error:
        raise ConfigError(f"PortAudio is missing ({_line(error)}): install the Debian package libportaudio2") from error
    except ImportError as error:
        raise ConfigError(f"sounddevice cannot be imported ({_line(error)}): install snn-detect again") from error
    except Exception as error:  # the class of its errors is in the module that did not load
        raise DeviceError(f"PortAudio does not start: {_line(error)}") from error


def renew() -> None:
    """Start PortAudio anew, so that it sees the cards of now; nothing happens while a stream is open.

    Raises ConfigError and DeviceError as ``load`` does.
    """
    module = load()
    with _users.alone() as alone:
        if not alone:
            return
        try:
            # Private, but there is no other way. Starts are counted, and one that failed is made up for.
            # Its _initialize() would lead standard error, everybody's log, to nowhere as long as it takes.
            while module._initialized:  # noqa: SLF001
                module._terminate()  # noqa: SLF001
            module._check(module._lib.Pa_Initialize())  # noqa: SLF001
            module._initialized += 1  # noqa: SLF001
        except module.PortAudioError as error:
            raise DeviceError(f"PortAudio does not start: {_line(error)}") from error


def inputs() -> list[Input]:
    """Return the inputs that PortAudio knows; raises ConfigError and DeviceError as ``load`` does."""
    module = load()
    with _users.using():
        try:
            apis = module.query_hostapis()
            default = apis[module.default.hostapi]["default_input_device"] if apis else -1
            found = module.query_devices()
        except module.PortAudioError as error:
            raise DeviceError(f"PortAudio: {_line(error)}") from error
    return [
        Input(d["index"], d["name"], d["max_input_channels"], round(d["default_samplerate"]), d["index"] == default)
        for d in found
        if d["max_input_channels"] > 0
    ]


def takes_rate(number: int, rate_hz: int, channels: int) -> bool:
    """Say whether an input can be opened at a rate, as far as PortAudio tells."""
    module = load()
    with _users.using():
        try:
            module.check_input_settings(device=number, channels=channels, dtype="float32", samplerate=rate_hz)
        except module.PortAudioError:
            return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what C libraries write on standard error from the user, and everybody else's lines with it."""
    with Path(os.devnull).open("wb") as nowhere:
        before = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


class InputStream:
    """An input that is open and running; float samples, interleaved.

    There is no callback: libffi would need memory that is writable and executable for one, which a
    hardened service forbids. All methods but ``close`` raise DeviceError where the device is lost.
    """

    def __init__(self, number: int, name: str, rate_hz: int, channels: int) -> None:
        """Open and start; raises DeviceError where that cannot be, UnfitRateError where the rate is why."""
        self._name = name
        self._module = load()
        _users.enter()
        try:
            self._stream = self._module.RawInputStream(
                samplerate=rate_hz, device=number, channels=channels, dtype="float32", latency=PERIOD_S * _PERIODS
            )
            try:
                self._stream.start()
            except BaseException:
                self._stream.close()
                raise
        except BaseException as error:
            _users.leave()
            if not isinstance(error, self._module.PortAudioError):
                raise
            kind = UnfitRateError if error.args[_CODE_AT:_HOST_AT] == (_INVALID_RATE,) else DeviceError
            raise kind(f"{name} cannot be opened: {_line(error)}") from error

    def available(self) -> int:
        """Return how many frames can be read without waiting."""
        with self._notified():
            return int(self._stream.read_available)

    def read(self, frames: int) -> tuple[memoryview, bool]:
        """Return frames that are available, and whether some were lost before them."""
        with self._notified():
            data, lost = self._stream.read(frames)
            return memoryview(data), bool(lost)

    def restart(self) -> None:
        """Throw away what waits, and go on with the sound of now."""
        with self._notified():
            self._stream.abort()
            self._stream.start()

    def close(self) -> None:
        """Close; a device that hangs may keep this from coming back."""
        try:
            self._stream.abort()
            self._stream.close()
        finally:
            _users.leave()

    @contextlib.contextmanager
    def _notified(self) -> Iterator[None]:
        try:
            yield
        except self._module.PortAudioError as error:
            raise DeviceError(f"{self._name} is lost: {_line(error)}") from error


@functools.cache
def _load() -> Any:
    module: Any = importlib.import_module("sounddevice")
    # At its exit the process gives everything back anyway; a device that hangs would hold it up there.
    atexit.unregister(module._exit_handler)  # noqa: SLF001
    with contextlib.suppress(OSError, AttributeError):
        # Four periods are PortAudio's choice: much delay, or a buffer that soon runs over.
        ctypes.CDLL(module._libname).PaAlsa_SetNumPeriods(_PERIODS)  # noqa: SLF001
    # They write lines on standard error whenever they look for what is away. Any C function that takes
    # no notice of its arguments silences them; one of Python's would need memory as above.
    silence = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
    for library, function in _TALKATIVE:
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(library, mode=os.RTLD_LAZY | os.RTLD_NOLOAD), function)(silence)
    _silence_stderr()
    return module


def _silence_stderr() -> None:
    """Lead what C libraries print on their standard error to nowhere, and nobody else's lines.

    Debian's PortAudio prints each step at which it fails, some lines for every microphone that is
    unplugged; the errors that it returns say the same. Python and crashes write to the descriptor
    itself, which stays as it is.
    """
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with contextlib.suppress(ValueError):  # a C library that has no such variable
        stream = ctypes.c_void_p.in_dll(libc, "stderr")
        stream.value = libc.fopen(os.fsencode(os.devnull), b"we") or stream.value


def _line(error: BaseException) -> str:
    """Return an error's text in one line; of what PortAudio says, what the sound system had said."""
    text = str(error.args[0]) if error.args else str(error)
    if error.args[_CODE_AT:_HOST_AT] == (_HOST_ERROR,) and len(error.args) > _HOST_AT:
        text = error.args[_HOST_AT][-1]
    return " ".join(text.removeprefix("Error opening RawInputStream: ").split())


_T = TypeVar("_T")


def within(seconds: float, call: Callable[[], _T], what: str) -> _T:
    """Return what a call returns, or raise what it raises; DeviceError where that takes too long.

    The call goes on in a thread that nobody waits for.
    """
    results: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.put((None, error))

    threading.Thread(target=run, name="patience", daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise DeviceError(f"{what} does not answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # without an error there is a result
