"""Selecting a microphone: by default, number, name or id, and the errors where a selector is ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.audio.devices import (
    Card,
    Device,
    check_selector,
    choose_channels,
    find,
    identify,
    rates_of,
    rates_to_try,
    read_cards,
)
from detector.audio.live_source import Channel
from detector.audio.portaudio import Input
from detector.errors import ConfigError, DeviceError
from tests.detector.audio.trees import BUILT_IN, CHEAP_LEFT, CHEAP_RIGHT, LOGITECH, FakeCard, build

CARDS = {0: BUILT_IN, 1: LOGITECH, 2: CHEAP_LEFT}


def inputs(cards: dict[int, FakeCard]) -> list[Input]:
    """Return what PortAudio makes of cards, with a server's plug-ins behind them."""
    names = [f"{card.title}: USB Audio (hw:{number},0)" for number, card in cards.items()]
    found = [Input(2 * i, name, 1, 44100, is_default=False) for i, name in enumerate(names)]
    last = 2 * len(names)
    return [*found, Input(last, "pulse", 32, 44100, is_default=False), Input(last + 1, "default", 32, 44100, True)]


def plugged_in(root: Path, cards: dict[int, FakeCard]) -> tuple[list[Device], list[Card]]:
    known = read_cards(*build(root, cards))
    return identify(inputs(cards), known), known


def test_the_default() -> None:
    devices = identify(inputs({}), [])
    assert find("mic", devices).name == "default"


@pytest.mark.parametrize(
    "selector",
    [
        "usb-id:046d:082d:A1B2C3D4",
        "usb-id:046D:082D",
        "usb-path:0000:01:00.0-1.1",
        "hw:CARD=C920",
        "hw:CARD=C920,DEV=0",
        "plughw:CARD=C920",
        "CARD=C920",
        "HD Pro Webcam C920: USB Audio",
        "webcam",
    ],
)
def test_a_device_is_found_whatever_number_its_card_has(tmp_path: Path, selector: str) -> None:
    check_selector(selector)
    for i, numbers in enumerate(((0, 1, 2), (2, 0, 1), (7, 5, 6))):
        order = dict(sorted(zip(numbers, CARDS.values(), strict=True)))
        devices, cards = plugged_in(tmp_path / str(i), order)
        found = find(selector, devices, cards)
        assert found.id == "usb-id:046d:082d:A1B2C3D4"
        assert found.name == "HD Pro Webcam C920: USB Audio"
        assert found.number == 2 * list(order).index(next(n for n, c in order.items() if c is LOGITECH))


def test_a_number_is_portaudios_number(tmp_path: Path) -> None:
    devices, _ = plugged_in(tmp_path, CARDS)
    assert find("4", devices).id == "usb-id:0d8c:0014"
    with pytest.raises(
        DeviceError, match=r"device '3' is not there; there are hw:CARD=PCH \(HDA Intel PCH: USB Audio\),"
    ):
        find("3", devices)


def test_two_of_a_make_without_serial_numbers_are_distinguished_by_their_usb_port(tmp_path: Path) -> None:
    devices, cards = plugged_in(tmp_path, {0: CHEAP_LEFT, 1: CHEAP_RIGHT})
    assert [d.id for d in devices[:2]] == ["usb-path:0000:01:00.0-1.3", "usb-path:0000:01:00.0-1.4"]
    for selector in ("usb-id:0d8c:0014", "USB PnP"):
        with pytest.raises(DeviceError) as caught:
            find(selector, devices, cards)
        text = str(caught.value)
        assert text.startswith(
            f"device '{selector}' could be usb-path:0000:01:00.0-1.3 (USB PnP Sound Device: USB Audio) or"
        )
        assert text.endswith("name one of them")
        assert "\n" not in text
    assert find("usb-path:0000:01:00.0-1.4", devices, cards).number == 2


def test_a_name_in_full_is_not_ambiguous() -> None:
    names = ["mic", "mic b", "Mic a"]
    devices = identify([Input(i, name, 1, 48000, is_default=False) for i, name in enumerate(names)], [])
    assert find("mic b", devices).number == 1
    assert find("mic A", devices).number == 2
    with pytest.raises(DeviceError, match=r"device 'ic' could be mic or mic b or Mic a; name one of them"):
        find("ic", devices)


def test_further_devices_of_a_card_have_ids_of_their_own(tmp_path: Path) -> None:
    cards = read_cards(*build(tmp_path, {3: LOGITECH}))
    names = ["C920: a (hw:3,0)", "C920: b (hw:3,1)", "C920: c (hw:3,2,4) {subdevice #4}"]
    devices = identify([Input(i, name, 2, 48000, is_default=False) for i, name in enumerate(names)], cards)
    assert [d.id for d in devices] == ["usb-id:046d:082d:A1B2C3D4", "hw:CARD=C920,DEV=1", "hw:CARD=C920,DEV=2"]
    assert [d.name for d in devices] == ["C920: a", "C920: b", "C920: c"]
    assert find("hw:CARD=C920,DEV=1", devices).number == 1


def test_no_id_holds_a_cards_number(tmp_path: Path) -> None:
    devices, _ = plugged_in(tmp_path, {4: LOGITECH, 9: BUILT_IN})
    for device in devices:
        for id_ in (device.name, *device.ids):
            assert "hw:4" not in id_
            assert "hw:9" not in id_


@pytest.mark.parametrize(
    "selector", ["hw:1,0", "hw:1", "plughw:0", "usb-id:46d:82d", "usb-id:", "usb-path:", "hw:CARD="]
)
def test_an_impossible_selector_is_an_error(selector: str) -> None:
    with pytest.raises(ConfigError, match="snn-detect devices lists them"):
        check_selector(selector)


def test_a_card_that_another_program_uses_is_reported_as_present(tmp_path: Path) -> None:
    """PortAudio does not list an input that it could not open."""
    cards = read_cards(*build(tmp_path, {1: LOGITECH}))
    for selector in ("usb-id:046d:082d:A1B2C3D4", "hw:CARD=C920", "CARD=C920"):
        with pytest.raises(DeviceError, match=r"HD Pro Webcam C920\) is there but cannot be opened: another program"):
            find(selector, identify(inputs({}), cards), cards)
    with pytest.raises(
        DeviceError, match=r"no default input, and no input can be opened, though there are the cards HD"
    ):
        find("mic", [], cards)
    with pytest.raises(DeviceError, match="connect a microphone, or start the sound server"):
        find("mic", [], [])


def device(channels: int, *, is_hardware: bool, rate_hz: int = 44100) -> Device:
    return Device(0, "thing", ("thing",), channels, rate_hz, is_default=False, is_hardware=is_hardware)


@pytest.mark.parametrize(
    ("channel", "channels", "is_hardware", "expected"),
    [
        ("mean", 1, True, (1, None)),
        ("mean", 4, True, (4, None)),
        ("mean", 32, True, (8, None)),
        ("mean", 32, False, (2, None)),
        ("left", 1, True, (1, 0)),
        ("left", 32, False, (2, 0)),  # a server asked for one channel would give the mean
        ("right", 2, True, (2, 1)),
        (1, 2, True, (2, 0)),
        (3, 4, True, (3, 2)),
    ],
)
def test_channels(channel: Channel, channels: int, *, is_hardware: bool, expected: tuple[int, int | None]) -> None:
    choice = choose_channels(channel, device(channels, is_hardware=is_hardware))
    assert (choice.channels, choice.column) == expected


@pytest.mark.parametrize("channel", ["right", 2, 64])
def test_a_missing_channel_is_an_error(channel: Channel) -> None:
    with pytest.raises(DeviceError, match=f"thing has 1 channel; channel = {channel} is not there"):
        choose_channels(channel, device(1, is_hardware=True))


def test_rates() -> None:
    assert rates_to_try(22050, device(1, is_hardware=True)) == (22050,)
    assert rates_to_try(None, device(1, is_hardware=True, rate_hz=8000))[:3] == (8000, 48000, 44100)
    assert rates_to_try(None, device(2, is_hardware=False))[0] == 48000
    assert rates_of(device(2, is_hardware=True), lambda _n, rate, _c: rate in (16000, 48000)) == [16000, 48000]
    assert 44100 in rates_of(device(2, is_hardware=False), lambda *_: pytest.fail("a server is not asked"))


def test_a_channel_that_a_sound_server_may_not_have_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """It gives silence for channels that its source has not."""
    server = Device(0, "five", ("five",), 32, 44100, is_default=False, is_hardware=False)
    for _ in range(3):
        assert choose_channels(5, server).column == 4
    assert choose_channels(2, server).column == 1
    (line,) = caplog.messages
    assert "channel 5 is silent if the source has fewer" in line
