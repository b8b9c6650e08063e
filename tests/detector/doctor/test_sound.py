"""Checks of recorded sound, through the microphone's own threads and a synthetic device."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.audio.capture import StreamFormat
from detector.audio.devices import Device, Microphone
from detector.config.sections import Audio
from detector.doctor.audio import Recording, check_levels, check_microphone, listen
from detector.errors import DeviceError

RATE = 48000
SPEEDUP = 6
"""How many times faster than real time the device gives its sound; its pace is not checked then."""
DEVICE = Device(3, "USB Microphone", ("usb-id:1234:5678",), 2, RATE, is_default=False, is_hardware=True)
Wave = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class SyntheticDevice:
    """A device whose sound is a function of time."""

    def __init__(self, wave: Wave, speedup: float = SPEEDUP, overrun_at_s: float = -1.0) -> None:
        self.format = StreamFormat(DEVICE.id, RATE, 2, None)
        self._wave, self._speedup, self._overrun_at = wave, speedup, overrun_at_s * RATE
        self._begin_s, self._read = time.monotonic(), 0

    def available(self) -> int:
        return int((time.monotonic() - self._begin_s) * RATE * self._speedup) - self._read

    def read(self, frames: int) -> tuple[memoryview, bool]:
        at = np.arange(self._read, self._read + frames)
        lost = bool(at[0] <= self._overrun_at <= at[-1])
        self._read += frames
        mono = self._wave(at / RATE).astype(np.float32)
        return memoryview(np.stack([mono, mono], axis=1).tobytes()), lost

    def restart(self) -> None:
        """Continue."""

    def close(self) -> None:
        """Nothing is open."""


def recorded(wave: Wave, **options: float) -> Recording:
    with closing(Microphone(Audio(), 16000, lambda: SyntheticDevice(wave, **options))) as source:
        return listen(source, 16000)


def background(at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return faint noise with a tone."""
    return 0.05 * np.sin(2 * np.pi * 440 * at) + 0.001 * np.sin(12345.6 * at**2)


def test_a_working_microphone() -> None:
    found = recorded(background, speedup=1)
    microphone = check_microphone(found, DEVICE)
    assert microphone.state == "ok", microphone
    assert "opened at 48000 Hz, its native rate, 2 channels" in microphone.found
    levels = check_levels(found)
    assert levels.state == "ok", levels
    assert "rms -29 dBFS, peak -26 dBFS" in levels.found


def test_another_rate_is_not_called_native() -> None:
    found = recorded(background)
    other = Device(3, "x", ("x",), 2, 44100, is_default=False, is_hardware=True)
    assert "native" not in check_microphone(found, other).found


def test_sound_at_a_wrong_pace_is_a_warning() -> None:
    found = check_microphone(recorded(background, speedup=2), DEVICE)
    assert found.state == "warning"
    assert "audio.rate_hz" in found.advice


def test_lost_sound_is_a_warning() -> None:
    found = check_microphone(recorded(background, overrun_at_s=1.5), DEVICE)
    assert found.state == "warning"
    assert "1 overruns" in found.found


def test_a_device_that_cannot_be_opened_is_reported_at_once() -> None:
    def refuse() -> SyntheticDevice:
        raise DeviceError("usb-id:1234:5678 cannot be opened: Device or resource busy")

    with closing(Microphone(Audio(), 16000, refuse)) as source:
        begin = time.monotonic()
        found = check_microphone(listen(source, 16000), DEVICE)
    assert time.monotonic() - begin < 10, "the service would wait longer"
    assert (found.state, found.exit_code) == ("problem", 69)
    assert found.found == "usb-id:1234:5678 cannot be opened: Device or resource busy"


def test_nothing_but_zeros_is_a_problem() -> None:
    found = check_levels(recorded(np.zeros_like))
    assert (found.state, found.exit_code) == ("problem", 69)
    assert "alsactl store" in found.advice


def clipped(at: NDArray[np.float64]) -> NDArray[np.float64]:
    wave: NDArray[np.float64] = np.clip(3 * np.sin(2 * np.pi * 100 * at), -1, 1)
    return wave


def offset(at: NDArray[np.float64]) -> NDArray[np.float64]:
    return background(at) + 0.1


def faint(at: NDArray[np.float64]) -> NDArray[np.float64]:
    return background(at) * 1e-4


def holed(at: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(at % 1.0 < 0.2, 0.0, background(at))


@pytest.mark.parametrize(
    ("wave", "words", "advice"),
    [
        (clipped, "of the samples are clipped", "lower its volume"),
        (offset, "the mean is +0.100 of full scale", "power supply"),
        (faint, "quieter than any real place", "raise its volume"),
        (holed, "zeros for 0.", "another port"),
    ],
)
def test_bad_sound_is_a_warning_with_advice(wave: Wave, words: str, advice: str) -> None:
    found = check_levels(recorded(wave))
    assert found.state == "warning"
    assert words in found.found
    assert advice in found.advice


def test_a_peak_that_just_fits_is_not_clipped() -> None:
    """Full scale is touched once in a while: less than a thousandth is accepted."""
    assert check_levels(recorded(lambda at: np.where(at % 1.0 < 0.0005, 1.0, background(at)))).state == "ok"
