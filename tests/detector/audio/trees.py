"""Sound cards as the kernel lists them, in folders where a test can renumber them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FakeCard:
    name: str
    title: str
    usb: str | None = None
    """vid:pid."""
    serial: str | None = None
    port: str | None = None
    """Controller and ports, as in 0000:01:00.0-1.3."""


BUILT_IN = FakeCard("PCH", "HDA Intel PCH")
LOGITECH = FakeCard("C920", "HD Pro Webcam C920", "046d:082d", "A1B2C3D4", "0000:01:00.0-1.1")
CHEAP_LEFT = FakeCard("Device", "USB PnP Sound Device", "0d8c:0014", None, "0000:01:00.0-1.3")
CHEAP_RIGHT = FakeCard("Device_1", "USB PnP Sound Device", "0d8c:0014", None, "0000:01:00.0-1.4")


def build(root: Path, cards: dict[int, FakeCard]) -> tuple[Path, Path]:
    """Write /proc/asound and /sys/class/sound for cards by number; return both."""
    proc, sysfs = root / "proc", root / "sys" / "class" / "sound"
    proc.mkdir(parents=True)
    sysfs.mkdir(parents=True)
    lines = []
    for number, card in cards.items():
        at = f" at usb-{card.port}, full speed" if card.port else " at 0xf7f10000 irq 32"
        driver = "USB-Audio" if card.usb else "HDA-Intel"
        lines.append(f"{number:2d} [{card.name:<15}]: {driver} - {card.title}\n")
        lines.append(f"                      Maker {card.title}{at}\n")
        folder = proc / f"card{number}"
        folder.mkdir()
        write(folder / "id", card.name)
        if card.usb:
            write(folder / "usbid", card.usb)
        entry = sysfs / f"card{number}"
        entry.mkdir()
        write(entry / "id", card.name)
        (entry / "device").symlink_to(interface(root, card))
        (sysfs / f"controlC{number}").mkdir()
    write(proc / "cards", "".join(lines).rstrip("\n"))
    return proc, sysfs


def interface(root: Path, card: FakeCard) -> Path:
    """Write the folder of the device that a card belongs to, as in sysfs."""
    if card.usb is None or card.port is None:
        folder = root / "sys" / "devices" / "pci0000:00" / card.name
        folder.mkdir(parents=True)
        return folder
    controller, ports = card.port.rsplit("-", 1)
    device = root / "sys" / "devices" / "platform" / controller / "usb1" / "1-1" / f"1-{ports}"
    folder = device / f"1-{ports}:1.0"
    folder.mkdir(parents=True)
    vid, pid = card.usb.split(":")
    write(device / "idVendor", vid)
    write(device / "idProduct", pid)
    write(device / "devpath", ports)
    write(device / "product", card.title)
    if card.serial:
        write(device / "serial", card.serial)
    return folder


def write(path: Path, text: str) -> None:
    path.write_text(f"{text}\n", encoding="utf-8")
