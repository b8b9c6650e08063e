"""Sound cards of the kernel, inputs of PortAudio, the selectors by which users name them, and the microphone.

A card's number changes whenever cards are found in another order, so it is never stored: a device is
identified by its USB ids, its USB port, or its name. The microphone looks the selected device up among those that are
present at each opening.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector.audio import portaudio
from detector.audio.capture import Stream, StreamFormat
from detector.audio.captured_source import CapturedSource
from detector.audio.live_source import Channel, Mixing
from detector.audio.portaudio import Input, within
from detector.config.sections import Audio
from detector.errors import ConfigError, DeviceError

_log = logging.getLogger(__name__)
_START_S: Final = 3.0
"""Time for a sound system to start; signals are not handled while waiting for one that hangs."""
_warned: set[tuple[str, int]] = set()
PROC: Final = Path("/proc/asound")
SYS: Final = Path("/sys/class/sound")

_CARD: Final = re.compile(r"card(\d+)$")
_TITLE: Final = re.compile(r"^ *(\d+) \[[^\]]*\]: \S+ - (.*)\n *(.*)", re.MULTILINE)
_AT_USB: Final = re.compile(r" at usb-(\S+?),")
_SERIAL: Final = re.compile(r"[A-Za-z0-9._-]{4,}")
_COUNTED: Final = ("0123456789ABCDEF", "123456789ABCDEF", "1234567890", "ABCDEFGH")


@dataclass(frozen=True, slots=True)
class Card:
    """A sound card; the number is valid until cards are connected or disconnected."""

    number: int
    name: str
    """ALSA's short name, as in ``hw:CARD=name``."""
    title: str
    """The title of the card, for users."""
    usb_id: str | None = None
    """``vid:pid`` in hexadecimal, with ``:serial`` where the device has a real one; None: not on USB."""
    usb_path: str | None = None
    """Controller and ports, such as ``0000:01:00.0-1.3``."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids that select the card, the most specific one first."""
        usb = [f"usb-id:{self.usb_id}"] if self.usb_id else []
        path = [f"usb-path:{self.usb_path}"] if self.usb_path else []
        return (*usb, *path, f"hw:CARD={self.name}")


def read_cards(proc: Path = PROC, sysfs: Path = SYS) -> list[Card]:
    """Return the cards, sorted by number; one of the two trees is enough (a container hides ``proc``)."""
    numbers = {int(m[1]) for tree in (proc, sysfs) for entry in _entries(tree) if (m := _CARD.match(entry.name))}
    titles = {int(m[1]): (m[2].strip(), m[3].strip()) for m in _TITLE.finditer(_text(proc / "cards"))}
    return [_card(n, proc / f"card{n}", sysfs / f"card{n}", *titles.get(n, ("", ""))) for n in sorted(numbers)]


def is_real_serial(serial: str) -> bool:
    """Return whether a serial number is unique: many devices have none, zeros, or consecutive digits."""
    text = serial.upper()
    return bool(_SERIAL.fullmatch(serial)) and len(set(text)) > 1 and not any(c.startswith(text) for c in _COUNTED)


def _card(number: int, proc: Path, sysfs: Path, title: str, long_title: str) -> Card:
    name = _text(sysfs / "id") or _text(proc / "id") or str(number)
    usb = _usb_device(sysfs / "device")
    if usb is None:
        at = _AT_USB.search(long_title)
        return Card(number, name, title or name, _text(proc / "usbid") or None, at[1] if at else None)
    vid_pid = f"{_text(usb / 'idVendor')}:{_text(usb / 'idProduct')}"
    serial = _text(usb / "serial")
    usb_id = f"{vid_pid}:{serial}" if is_real_serial(serial) else vid_pid
    # The folder of the bus (usb1) is in the one of its controller; the numbers of buses change at each start.
    bus = next((p for p in usb.parents if re.fullmatch(r"usb\d+", p.name)), None)
    path = f"{bus.parent.name}-{_text(usb / 'devpath')}" if bus is not None else None
    return Card(number, name, title or _text(usb / "product") or name, usb_id, path)


def _usb_device(device: Path) -> Path | None:
    """Return the folder of the USB device that a card is an interface of, or None."""
    with contextlib.suppress(OSError, RuntimeError):
        interface = device.resolve(strict=True)
        return next((p for p in (interface, interface.parent) if (p / "idVendor").is_file()), None)
    return None


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(folder.iterdir())
    return []


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip("\n ")
    return ""


NO_INPUT_ADVICE: Final = (
    "connect a microphone, or start the sound server (PulseAudio also needs Debian's package libasound2-plugins, "
    "PipeWire pipewire-alsa)"
)
DEFAULT: Final = "mic"
RATES_HZ: Final = (48000, 44100, 32000, 16000, 8000, 96000)
"""Tried in this order where the device has no rate of its own, or cannot be opened at that."""
USUAL_RATES_HZ: Final = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000)
_SERVER_CHANNELS: Final = 2
"""Channels that a sound server is opened with: microphones have two at most."""
MAX_CHANNELS: Final = 8
"""Maximum number of channels that are averaged."""

_HARDWARE: Final = re.compile(r" \(hw:(\d+),(\d+)(?:,\d+)?\)(?: \{.*\})?$")
_USB_ID: Final = re.compile(r"usb-id:[0-9a-f]{4}:[0-9a-f]{4}(:[A-Za-z0-9._-]+)?", re.IGNORECASE)
_USB_PATH: Final = re.compile(r"usb-path:\S+-[\d.]+")
_ALSA: Final = re.compile(r"(?:(?:plug)?hw:)?CARD=[^,\s]+(?:,DEV=\d+)?")


@dataclass(frozen=True, slots=True)
class Device:
    """An input that can be opened; the number is valid until PortAudio is initialised again."""

    number: int
    name: str
    ids: tuple[str, ...]
    """Stable ids that select it; the first one is unique on this machine."""
    channels: int
    rate_hz: int
    is_default: bool
    is_hardware: bool
    """Whether it is a sound card; else it is a sound server or plug-in, which takes any rate and number of channels."""

    @property
    def id(self) -> str:
        """The id that is unique on this machine."""
        return self.ids[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """How to open a device: number of channels, and which of them to use; None: all."""

    channels: int
    column: int | None


def check_selector(selector: str) -> None:
    """Raise ConfigError for a selector that can never fit a device."""
    forms = (("usb-id:", _USB_ID), ("usb-path:", _USB_PATH), ("hw:", _ALSA), ("plughw:", _ALSA), ("card=", _ALSA))
    for prefix, form in forms:
        if selector.lower().startswith(prefix) and not form.fullmatch(selector):
            raise ConfigError(
                f"device {selector!r}: expected usb-id:vid:pid[:serial], usb-path:controller-ports or hw:CARD=name "
                "(numbers of cards change); snn-detect devices lists them"
            )


def identify(inputs: Sequence[Input], cards: Sequence[Card]) -> list[Device]:
    """Return PortAudio's inputs with the ids of their cards."""
    by_number = {card.number: card for card in cards}
    found = [_identified(i, by_number) for i in inputs]
    shared = [id_ for device in found for id_ in device.ids]
    return [_with_unique_id_first(device, shared) for device in found]


def find(selector: str, devices: Sequence[Device], cards: Sequence[Card] = ()) -> Device:
    """Return the device for a selector: ``mic``, a number, an id, a name or part of one.

    Raises DeviceError, with the candidates, where none or several fit.
    """
    if selector == DEFAULT:
        matches = [d for d in devices if d.is_default]
    elif selector.isdecimal():
        matches = [d for d in devices if d.number == int(selector)]
    else:
        matches = _by_id(selector, devices) or _by_name(selector, devices)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise DeviceError(f"device {selector!r} could be {_listed(matches, ' or ')}; name one of them")
    raise DeviceError(_absent(selector, devices, cards))


def choose_channels(channel: Channel, device: Device) -> Choice:
    """Return how to open a device for one channel or the mean of all; raises DeviceError where it has too few."""
    if channel == "mean":
        return Choice(min(device.channels, MAX_CHANNELS if device.is_hardware else _SERVER_CHANNELS), None)
    column = Mixing(channel).column or 0
    if column >= device.channels:
        plural = "" if device.channels == 1 else "s"
        raise DeviceError(f"{device.name} has {device.channels} channel{plural}; channel = {channel} is not there")
    if column >= _SERVER_CHANNELS and not device.is_hardware and (device.id, column) not in _warned:
        _warned.add((device.id, column))
        _log.warning(
            "%s takes any number of channels: channel %d is silent if the source has fewer; an id such as hw:CARD=... "
            "(snn-detect devices) opens the card itself",
            device.id,
            column + 1,
        )
    # A sound server opened with one channel gives the mean of two: left has to be one of two.
    return Choice(min(device.channels, max(2, column + 1)), column)


def rates_to_try(rate_hz: int | None, device: Device) -> tuple[int, ...]:
    """Return the rates to open a device with, the best one first; a rate of the settings is the only one."""
    if rate_hz is not None:
        return (rate_hz,)
    own = (device.rate_hz,) if device.is_hardware else ()
    return tuple(dict.fromkeys(own + RATES_HZ))


def rates_of(device: Device, takes_rate: Callable[[int, int, int], bool]) -> list[int]:
    """Return the usual rates that a device takes; ``takes_rate`` tests number, rate and channels."""
    if not device.is_hardware:
        return list(USUAL_RATES_HZ)  # a sound server converts; testing it takes long
    channels = choose_channels("mean", device).channels
    return [rate_hz for rate_hz in USUAL_RATES_HZ if takes_rate(device.number, rate_hz, channels)]


def _identified(entry: Input, cards: dict[int, Card]) -> Device:
    at = _HARDWARE.search(entry.name)
    card = cards.get(int(at[1])) if at else None
    name = entry.name[: at.start()] if at else entry.name
    if card is None or at is None:
        ids: tuple[str, ...] = (name,)
    elif at[2] == "0":
        ids = card.ids
    else:  # a further device of the card: its USB id would mean the first one
        ids = (f"hw:CARD={card.name},DEV={at[2]}",)
    return Device(entry.number, name, ids, entry.channels, entry.rate_hz, entry.is_default, at is not None)


def _with_unique_id_first(device: Device, shared: Sequence[str]) -> Device:
    ids = sorted(device.ids, key=lambda id_: shared.count(id_) > 1)
    return Device(
        device.number, device.name, tuple(ids), device.channels, device.rate_hz, device.is_default, device.is_hardware
    )


def _by_id(selector: str, devices: Sequence[Device]) -> list[Device]:
    asked = selector.lower().removesuffix(",dev=0").removeprefix("plug")
    asked = f"hw:{asked}" if asked.startswith("card=") else asked
    exact = [d for d in devices if asked in (id_.lower() for id_ in d.ids)]
    if exact or not asked.startswith("usb-id:"):
        return exact
    # Without a serial number, any device of that make.
    return [d for d in devices if any(id_.lower().startswith(f"{asked}:") for id_ in d.ids)]


def _by_name(selector: str, devices: Sequence[Device]) -> list[Device]:
    asked = selector.lower()
    exact = [d for d in devices if d.name.lower() == asked]
    return exact or [d for d in devices if asked in d.name.lower()]


def _absent(selector: str, devices: Sequence[Device], cards: Sequence[Card]) -> str:
    what = "there is no default input" if selector == DEFAULT else f"device {selector!r} is not there"
    asked = selector.lower().removesuffix(",dev=0").removeprefix("plug")
    named = [c for c in cards if any(id_.lower() in (asked, f"hw:{asked}") for id_ in c.ids)]
    if named:
        return (
            f"device {selector!r} ({named[0].title}) is there but cannot be opened: another program uses it "
            "(fuser -v /dev/snd/* names it), or this user is not in the group audio"
        )
    if devices:
        return f"{what}; there are {_listed(devices)}"
    if cards:
        titles = ", ".join(f"{c.title} ({c.ids[0]})" for c in cards)
        return (
            f"{what}, and no input can be opened, though there are the cards {titles}: "
            "another program uses them, or this user is not in the group audio"
        )
    return f"{what}, nor any other input: {NO_INPUT_ADVICE}"


def _listed(devices: Sequence[Device], link: str = ", ") -> str:
    return link.join(d.id if d.id == d.name else f"{d.id} ({d.name})" for d in devices)


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
