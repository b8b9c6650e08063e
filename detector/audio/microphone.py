"""A microphone as an audio source: the selected device is looked up among those that are present at each opening."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from detector.audio import portaudio
from detector.audio.capture import Stream, StreamFormat
from detector.audio.captured_source import CapturedSource
from detector.audio.devices import Device, check_selector, choose_channels, find, identify, rates_to_try, read_cards
from detector.audio.portaudio import within
from detector.config.sections import Audio
from detector.errors import DeviceError

_START_S: Final = 3.0
"""Time for a sound system to start; signals are not handled while waiting for one that hangs."""


def list_devices() -> list[Device]:
    """Return the inputs that can be opened; raises ConfigError and DeviceError where PortAudio does not work."""
    return identify(portaudio.inputs(), read_cards())


def find_device(selector: str) -> Device:
    """Return the selected device; raises DeviceError where there is none, or the selector fits several."""
    cards = read_cards()
    return find(selector, identify(portaudio.inputs(), cards), cards)


class Microphone(CapturedSource):
    """An audio source that records from the device of the settings, and waits for it where it is absent."""

    def __init__(self, audio: Audio, model_rate_hz: int, opener: Callable[[], Stream] | None = None) -> None:
        """Start recording in a thread; ``opener`` opens another device than that of the settings.

        Raises ConfigError where PortAudio is missing, or the selector can never fit a device.
        """
        if opener is None:
            opener = Opener(audio)
            with contextlib.suppress(DeviceError):  # a sound system that does not start is waited for
                within(_START_S, portaudio.load, "the sound system")
        super().__init__(audio.device, audio, model_rate_hz, opener)


class Opener:
    """Opens the selected device, each time looking it up among those that are present."""

    def __init__(self, audio: Audio) -> None:
        """Take the settings; raises ConfigError for a selector that can never fit a device."""
        check_selector(audio.device)
        self._audio = audio
        self._selector = audio.device

    def __call__(self) -> DeviceStream:
        """Open the device; raises DeviceError where it is absent, busy, or lacks the rate or channel."""
        portaudio.renew()
        device = find_device(self._selector)
        choice = choose_channels(self._audio.channel, device)
        for rate_hz in (rates := rates_to_try(self._audio.rate_hz, device)):
            try:
                stream = DeviceStream(device, rate_hz, choice.channels, choice.column)
            except portaudio.UnfitRateError:
                continue
            if self._selector.isdecimal():
                self._selector = device.id  # its number may belong to another device next time
            return stream
        raise DeviceError(
            f"{device.id} cannot be opened at {' or '.join(map(str, rates))} Hz; try without audio.rate_hz"
        )


class DeviceStream(portaudio.InputStream):
    """An open and running device, with its format."""

    def __init__(self, device: Device, rate_hz: int, channels: int, column: int | None) -> None:
        """Open and start; raises DeviceError where that fails."""
        super().__init__(device.number, device.id, rate_hz, channels)
        self.format = StreamFormat(device.id, rate_hz, channels, column)
