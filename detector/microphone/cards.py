"""The sound cards as the kernel shows them: names and USB identities that outlive a change of number."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc/asound")
SYS: Final = Path("/sys/class/sound")

_CARD: Final = re.compile(r"card(\d+)$")
_TITLE: Final = re.compile(r"^ *(\d+) \[[^\]]*\]: \S+ - (.*)\n *(.*)", re.MULTILINE)
_AT_USB: Final = re.compile(r" at usb-(\S+?),")
_SERIAL: Final = re.compile(r"[A-Za-z0-9._-]{4,}")
_COUNTED: Final = ("0123456789ABCDEF", "123456789ABCDEF", "1234567890", "ABCDEFGH")


@dataclass(frozen=True, slots=True)
class Card:
    """A sound card; the number holds until the next time that cards come or go."""

    number: int
    name: str
    """ALSA's short name, as in ``hw:CARD=name``."""
    title: str
    """For people."""
    usb_id: str | None = None
    """``vid:pid`` in hexadecimal, with ``:serial`` where the device has a real one; None: not on USB."""
    usb_path: str | None = None
    """Controller and ports, such as ``0000:01:00.0-1.3``."""

    @property
    def ids(self) -> tuple[str, ...]:
        """What the card can be asked for by, that which says most first."""
        usb = [f"usb-id:{self.usb_id}"] if self.usb_id else []
        path = [f"usb-path:{self.usb_path}"] if self.usb_path else []
        return (*usb, *path, f"hw:CARD={self.name}")


def read_cards(proc: Path = PROC, sysfs: Path = SYS) -> list[Card]:
    """Return the cards there are, by number; either of the two trees suffices (a container hides ``proc``)."""
    numbers = {int(m[1]) for tree in (proc, sysfs) for entry in _entries(tree) if (m := _CARD.match(entry.name))}
    titles = {int(m[1]): (m[2].strip(), m[3].strip()) for m in _TITLE.finditer(_text(proc / "cards"))}
    return [_card(n, proc / f"card{n}", sysfs / f"card{n}", *titles.get(n, ("", ""))) for n in sorted(numbers)]


def is_real_serial(serial: str) -> bool:
    """Say whether a serial number tells one device from the next: many carry none, zeros, or digits in order."""
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
    # The folder of the bus (usb1) stands in the one of its controller; buses are numbered anew at each start.
    bus = next((p for p in usb.parents if re.fullmatch(r"usb\d+", p.name)), None)
    path = f"{bus.parent.name}-{_text(usb / 'devpath')}" if bus is not None else None
    return Card(number, name, title or _text(usb / "product") or name, usb_id, path)


def _usb_device(device: Path) -> Path | None:
    """Return the folder of the USB device whose interface a card is, or None."""
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
