"""The interface to PortAudio: its inputs, and streams that are read without blocking.

PortAudio has one state for the whole process, fixed when it is initialised: cards that are connected
later are found only after another initialisation, which would invalidate open streams. ``renew`` and
streams therefore exclude each other, also where a call never returns.
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

_RENEWAL_S: Final = 3.0
"""How long one source waits for another, which initialises PortAudio; a sound server may need two seconds to begin."""


class Users:
    """A lock on PortAudio: any number of users, or one that initialises it again."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._count = 0
        self._renewing = False

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Be a user for the duration of a call; raises DeviceError as ``enter`` does."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Become a user, once PortAudio is initialised; raises DeviceError where that takes long."""
        with self._lock:
            self._wait()
            self._count += 1

    def leave(self) -> None:
        """Cease to be a user."""
        with self._lock:
            self._count -= 1

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield whether there are no users; if so, there are none until the end. Raises DeviceError as ``enter``."""
        with self._lock:
            self._wait()
            alone = self._renewing = self._count == 0
        try:
            yield alone
        finally:
            if alone:
                with self._lock:
                    self._renewing = False
                    self._lock.notify_all()

    def _wait(self) -> None:
        """Wait until no other thread initialises PortAudio; the lock is held."""
        if not self._lock.wait_for(lambda: not self._renewing, _RENEWAL_S):
            raise DeviceError("the sound system has not listed its devices yet")


PERIOD_S: Final = 0.02
"""How often the device delivers."""
_PERIODS: Final = 25
"""Periods that the device's buffer holds: half a second, for a thread that is not scheduled meanwhile."""
_INVALID_RATE: Final = -9997
_HOST_ERROR: Final = -9999
_CODE_AT: Final = 1
_HOST_AT: Final = 2
"""Where sounddevice's errors hold PortAudio's code, and the message of the sound system."""
_ALSA: Final = "libasound.so.2"
_ENCODER: Final = b"pcm.a52"
"""An output of ALSA that encodes sound. Opening it loads a hundred libraries, 15 MB, only to find it is no input."""
_TALKATIVE: Final = (
    (_ALSA, "snd_lib_error_set_handler"),
    ("libjack.so.0", "jack_set_error_function"),
    ("libjack.so.0", "jack_set_info_function"),
)


class UnfitRateError(DeviceError):
    """A device cannot be opened at this rate; at another one, perhaps."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input as PortAudio lists it; the number is valid until ``renew``."""

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
    """Initialise PortAudio again, so that it finds the present cards; does nothing while a stream is open.

    Raises ConfigError and DeviceError as ``load`` does.
    """
    module = load()
    with _users.alone() as alone:
        if not alone:
            return
        try:
            # Private, but there is no other way. Initialisations are counted, also after one that failed.
            # Its _initialize() would redirect standard error, the log of the process, for as long as it takes.
            while module._initialized:  # noqa: SLF001
                module._terminate()  # noqa: SLF001
            _hide_encoder()
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
    """Return whether an input can be opened at a rate, as far as PortAudio knows."""
    module = load()
    with _users.using():
        try:
            module.check_input_settings(device=number, channels=channels, dtype="float32", samplerate=rate_hz)
        except module.PortAudioError:
            return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discard everything that is written to standard error meanwhile, such as messages of C libraries."""
    with Path(os.devnull).open("wb") as nowhere:
        before = os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


class InputStream:
    """An open and running input; float samples, interleaved.

    There is no callback: libffi would need memory that is writable and executable for one, which a
    hardened service forbids. All methods but ``close`` raise DeviceError where the device is lost.
    """

    def __init__(self, number: int, name: str, rate_hz: int, channels: int) -> None:
        """Open and start; raises DeviceError where that fails, UnfitRateError where the rate is the cause."""
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
        """Return how many frames can be read without blocking."""
        try:
            return int(self._stream.read_available)
        except self._module.PortAudioError as error:
            raise self._lost(error) from error

    def read(self, frames: int) -> tuple[memoryview, bool]:
        """Return frames that are available, and whether some were lost before them."""
        try:
            data, overrun = self._stream.read(frames)
        except self._module.PortAudioError as error:
            raise self._lost(error) from error
        return memoryview(data), bool(overrun)

    def restart(self) -> None:
        """Discard what is buffered, and continue with present sound."""
        try:
            self._stream.abort()
            self._stream.start()
        except self._module.PortAudioError as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """Close; with a device that hangs, this may never return."""
        try:
            self._stream.abort()
            self._stream.close()
        finally:
            _users.leave()

    def _lost(self, error: BaseException) -> DeviceError:
        return DeviceError(f"{self._name} is lost: {_line(error)}")


@functools.cache
def _load() -> Any:
    _hide_encoder()
    module: Any = importlib.import_module("sounddevice")
    # The system releases everything at the exit of the process; a device that hangs would block it there.
    atexit.unregister(module._exit_handler)  # noqa: SLF001
    with contextlib.suppress(OSError, AttributeError):
        # PortAudio's default is four periods: much delay, or a buffer that soon overruns.
        ctypes.CDLL(module._libname).PaAlsa_SetNumPeriods(_PERIODS)  # noqa: SLF001
    _silence_libraries()
    _silence_stderr()
    return module


def _hide_encoder() -> None:
    """Read ALSA's configuration before PortAudio does, and remove what it would open in vain.

    Only while nothing else uses ALSA; it is read again after PortAudio was terminated.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):  # a PortAudio without ALSA
        alsa = ctypes.CDLL(_ALSA)
        _silence_libraries()
        alsa.snd_config_update()
        node = ctypes.c_void_p()
        if alsa.snd_config_search(ctypes.c_void_p.in_dll(alsa, "snd_config"), _ENCODER, ctypes.byref(node)) == 0:
            alsa.snd_config_delete(node)


def _silence_libraries() -> None:
    """Discard the messages of libraries that write to standard error whenever they look for an absent device.

    Any C function that ignores its arguments does so; a Python function would need memory that is executable.
    """
    silence = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
    for library, function in _TALKATIVE:
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(library, mode=os.RTLD_LAZY | os.RTLD_NOLOAD), function)(silence)


def _silence_stderr() -> None:
    """Discard what C libraries print through their ``stderr``, and nothing else.

    Debian's PortAudio prints each step that fails, several lines for every microphone that is disconnected; the
    errors that it returns say the same. Python and crash handlers write to the descriptor itself, which stays.
    """
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with contextlib.suppress(ValueError):  # a C library that has no such variable
        stream = ctypes.c_void_p.in_dll(libc, "stderr")
        stream.value = libc.fopen(os.fsencode(os.devnull), b"we") or stream.value


def _line(error: BaseException) -> str:
    """Return an error's text in one line; for an error of the sound system, its own message."""
    text = str(error.args[0]) if error.args else str(error)
    if error.args[_CODE_AT:_HOST_AT] == (_HOST_ERROR,) and len(error.args) > _HOST_AT:
        text = error.args[_HOST_AT][-1]
    return " ".join(text.removeprefix("Error opening RawInputStream: ").split())


_T = TypeVar("_T")


def within(seconds: float, call: Callable[[], _T], what: str) -> _T:
    """Return what a call returns, or raise what it raises; DeviceError where that takes too long.

    The call continues in a daemon thread, which is abandoned.
    """
    results: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.put((None, error))

    threading.Thread(target=run, name="deadline", daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise DeviceError(f"{what} does not answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # without an error there is a result
