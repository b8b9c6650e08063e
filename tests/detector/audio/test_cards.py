"""Cards as the kernel lists them: ids that stay the same when the numbers change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from detector.audio.devices import is_real_serial, read_cards
from tests.detector.audio.trees import BUILT_IN, CHEAP_LEFT, CHEAP_RIGHT, LOGITECH, build


def test_ids_of_all_kinds_of_cards(tmp_path: Path) -> None:
    cards = read_cards(*build(tmp_path, {0: BUILT_IN, 1: LOGITECH, 2: CHEAP_LEFT}))
    assert [card.ids for card in cards] == [
        ("hw:CARD=PCH",),
        ("usb-id:046d:082d:A1B2C3D4", "usb-path:0000:01:00.0-1.1", "hw:CARD=C920"),
        ("usb-id:0d8c:0014", "usb-path:0000:01:00.0-1.3", "hw:CARD=Device"),
    ]
    assert [(card.number, card.title) for card in cards] == [
        (0, "HDA Intel PCH"),
        (1, "HD Pro Webcam C920"),
        (2, "USB PnP Sound Device"),
    ]


def test_ids_do_not_depend_on_the_numbers(tmp_path: Path) -> None:
    before = read_cards(*build(tmp_path / "before", {0: BUILT_IN, 1: LOGITECH, 2: CHEAP_LEFT}))
    after = read_cards(*build(tmp_path / "after", {0: CHEAP_LEFT, 3: BUILT_IN, 4: LOGITECH}))
    assert {card.ids for card in before} == {card.ids for card in after}
    assert {card.number for card in before} != {card.number for card in after}


@pytest.mark.parametrize("missing", ["proc", "sys"])
def test_either_tree_suffices(tmp_path: Path, missing: str) -> None:
    """A container may hide /proc/asound; without sysfs only the serial number is not known."""
    proc, sysfs = build(tmp_path, {0: BUILT_IN, 1: LOGITECH, 5: CHEAP_RIGHT})
    shutil.rmtree(proc if missing == "proc" else sysfs)
    cards = read_cards(proc, sysfs)
    serial = ":A1B2C3D4" if missing == "proc" else ""
    assert [(card.number, card.ids[0]) for card in cards] == [
        (0, "hw:CARD=PCH"),
        (1, f"usb-id:046d:082d{serial}"),
        (5, "usb-id:0d8c:0014"),
    ]
    assert [card.usb_path for card in cards] == [None, "0000:01:00.0-1.1", "0000:01:00.0-1.4"]


def test_no_cards_at_all(tmp_path: Path) -> None:
    assert read_cards(tmp_path / "proc", tmp_path / "sys") == []
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cards").write_text("--- no soundcards ---\n")
    assert read_cards(tmp_path / "proc", tmp_path / "sys") == []


@pytest.mark.parametrize("serial", ["A1B2C3D4", "201805170042", "00000001", "REV-8.1_x"])
def test_serial_numbers_that_distinguish_devices(serial: str) -> None:
    assert is_real_serial(serial)


@pytest.mark.parametrize(
    "serial",
    ["", "0", "000000000000", "FFFF", "123", "1234", "123456789", "0123456789ABCDEF", "abcd", "a b c d", "a:bcd"],
)
def test_serial_numbers_that_all_devices_of_a_make_share(serial: str) -> None:
    assert not is_real_serial(serial)
