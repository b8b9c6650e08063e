"""Opening what the settings ask for: the device that is meant, at a rate and with channels that it has."""

from __future__ import annotations

from detector.errors import DeviceError
from detector.microphone import portaudio
from detector.microphone.blocks import StreamFormat
from detector.microphone.cards import read_cards
from detector.microphone.devices import Device, check_wish, choose_channels, find, identify, rates_to_try
from detector.settings import Audio


class Opener:
    """Opens the device that is asked for, each time anew among those that are there."""

    def __init__(self, audio: Audio) -> None:
        """Take the settings; raises ConfigError for a device that can never be."""
        check_wish(audio.device)
        self._audio = audio
        self._wish = audio.device

    def __call__(self) -> DeviceStream:
        """Open the device; raises DeviceError where it is away, taken, or not as asked for."""
        portaudio.renew()
        device = find_device(self._wish)
        choice = choose_channels(self._audio.channel, device)
        for rate_hz in (rates := rates_to_try(self._audio.rate_hz, device)):
            try:
                stream = DeviceStream(device, rate_hz, choice.channels, choice.column)
            except portaudio.UnfitRateError:
                continue
            if self._wish.isdecimal():
                self._wish = device.id  # its number may be another one's next time
            return stream
        raise DeviceError(
            f"{device.id} cannot be opened at {' or '.join(map(str, rates))} Hz; try without audio.rate_hz"
        )


class DeviceStream(portaudio.InputStream):
    """A device that is open and running, and what it delivers."""

    def __init__(self, device: Device, rate_hz: int, channels: int, column: int | None) -> None:
        """Open and start; raises DeviceError where that cannot be."""
        super().__init__(device.number, device.id, rate_hz, channels)
        self.format = StreamFormat(device.id, rate_hz, channels, column)


def list_devices() -> list[Device]:
    """Return the inputs that can be opened now; raises ConfigError and DeviceError where PortAudio does not work."""
    return identify(portaudio.inputs(), read_cards())


def find_device(wish: str) -> Device:
    """Return the device that is asked for; raises DeviceError where there is none, or several could be meant."""
    cards = read_cards()
    return find(wish, identify(portaudio.inputs(), cards), cards)
