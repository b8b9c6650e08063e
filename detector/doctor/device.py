"""The sound system and the device that is asked for."""

from __future__ import annotations

from typing import Final

from detector.doctor.finding import SETTINGS, UNAVAILABLE, Finding, ok, problem, skipped, warning
from detector.errors import ConfigError, DetectorError
from detector.microphone import portaudio
from detector.microphone.cards import Card
from detector.microphone.devices import Device, check_wish, choose_channels, rates_of
from detector.microphone.open_device import find_device
from detector.microphone.patience import within
from detector.settings import Audio

SYSTEM: Final = "PortAudio"
DEVICE: Final = "device"
_ANSWER_S: Final = 10.0
_STDIN: Final = "-"


def is_pipe(audio: Audio) -> bool:
    """Tell whether the sound is to come from standard input, and from no device."""
    return audio.device == _STDIN


def check_system() -> Finding:
    """Look whether PortAudio is there and starts."""
    try:
        module = within(_ANSWER_S, portaudio.load, "PortAudio")
        version = module.get_portaudio_version()[1].partition(",")[0]
        inputs = within(_ANSWER_S, portaudio.inputs, "the sound system")
    except DetectorError as error:
        advice = "apt-get install libportaudio2, where it is missing; else restart the sound server"
        return problem(SYSTEM, str(error), advice, UNAVAILABLE)
    plural = "" if len(inputs) == 1 else "s"
    return ok(SYSTEM, f"{version}, which knows {len(inputs)} input{plural}")


def check_device(audio: Audio) -> tuple[Device | None, Finding]:
    """Return the device that the settings ask for, and what is to be said of it; None: it is not there."""
    try:
        check_wish(audio.device)
        device = within(_ANSWER_S, lambda: find_device(audio.device), "the sound system")
        choose_channels(audio.channel, device)
        rates = within(_ANSWER_S, lambda: rates_of(device, portaudio.takes_rate), "the device")
    except ConfigError as error:
        return None, problem(DEVICE, str(error), "mend audio.device", SETTINGS)
    except DetectorError as error:
        advice = "snn-detect devices lists what there is; take one of them for audio.device, or connect it"
        return None, problem(DEVICE, str(error), advice, UNAVAILABLE)
    found = _described(device, rates)
    if audio.device.isdecimal():
        advice = f'numbers change when cards come and go: set audio.device = "{device.id}"'
        return device, warning(DEVICE, f"{found}; asked for by its number", advice)
    if audio.rate_hz is not None and audio.rate_hz not in rates:
        advice = f"leave audio.rate_hz out, for the device's own {device.rate_hz} Hz"
        return device, warning(DEVICE, f"{found}; not {audio.rate_hz} Hz, which is asked for", advice)
    return device, ok(DEVICE, found)


def card_of(device: Device | None, cards: list[Card]) -> Card | None:
    """Return the card that a device is; None for a sound server's."""
    ids = set() if device is None or not device.is_hardware else set(device.ids)
    names = {id_.partition(",")[0] for id_ in ids}
    return next((card for card in cards if names.intersection(card.ids)), None)


def no_device(name: str) -> Finding:
    """Return that something cannot be looked at for want of a device."""
    return skipped(name, "there is no device to listen to")


def _described(device: Device, rates: list[int]) -> str:
    plural = "" if device.channels == 1 else "s"
    if not device.is_hardware:
        return f"{device.id}: a sound server or plug-in, which takes any rate"
    name = "" if device.name == device.id else f" ({device.name})"
    own = f"{device.channels} channel{plural}, {device.rate_hz} Hz of its own"
    return f"{device.id}{name}: {own}, takes {', '.join(map(str, rates))} Hz" if rates else f"{device.id}{name}: {own}"
