"""Notifications to systemd, read from a real socket as systemd would."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.service.process import Notifier


class Listener:
    """Systemd's end of the socket."""

    def __init__(self, name: str, environment: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(name)
        self.socket.settimeout(0)
        self.environment = {"NOTIFY_SOCKET": environment}

    def received(self) -> list[str]:
        """Return all that has arrived; a datagram that was sent is there."""
        found = []
        try:
            while True:
                found.append(self.socket.recv(4096).decode())
        except BlockingIOError:
            return found


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    if request.param == "path":
        listener = Listener(str(tmp_path / "notify"), str(tmp_path / "notify"))
    else:
        name = f"snn-detect-test-{os.getpid()}"
        listener = Listener(f"\0{name}", f"@{name}")
    with listener.socket:
        yield listener


def test_each_message_is_a_datagram(systemd: Listener) -> None:
    notifier = Notifier(systemd.environment)
    notifier.status("loading\nthe model\udcff")
    notifier.ready()
    notifier.stopping()
    assert systemd.received() == ["STATUS=loading the model?", "READY=1", "STOPPING=1"]


def test_a_reload_has_the_time_of_its_start(systemd: Listener) -> None:
    """Without the time in the same datagram, systemd 253 and later wait without end."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    Notifier(systemd.environment).reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    (message,) = systemd.received()
    first, second = message.split("\n")
    assert first == "RELOADING=1"
    name, _, at = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(at) <= after


def test_the_same_status_is_sent_once(systemd: Listener) -> None:
    notifier = Notifier(systemd.environment)
    for text in ("a", "a", "b", "a"):
        notifier.status(text)
    assert systemd.received() == ["STATUS=a", "STATUS=b", "STATUS=a"]


def test_the_watchdog_is_fed_twice_a_period_at_most(systemd: Listener) -> None:
    notifier = Notifier(systemd.environment | {"WATCHDOG_USEC": "600000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.watchdog_s == 0.6
    for _ in range(100):
        notifier.watchdog()
    assert systemd.received() == ["WATCHDOG=1"]
    time.sleep(0.31)
    notifier.watchdog()
    assert systemd.received() == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "watchdog",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_PID": str(os.getpid())},
    ],
)
def test_a_watchdog_of_another_process_is_not_fed(systemd: Listener, watchdog: dict[str, str]) -> None:
    notifier = Notifier(systemd.environment | watchdog)
    assert notifier.watchdog_s is None
    notifier.watchdog()
    assert systemd.received() == []


def test_a_watchdog_without_a_number_is_logged(systemd: Listener, caplog: pytest.LogCaptureFixture) -> None:
    assert Notifier(systemd.environment | {"WATCHDOG_USEC": "soon"}).watchdog_s is None
    assert caplog.messages == ["WATCHDOG_USEC=soon is not a number; the watchdog is not fed"]


def test_the_environment_is_that_of_the_process(systemd: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.environment["NOTIFY_SOCKET"])
    Notifier().ready()
    assert systemd.received() == ["READY=1"]


def test_nothing_happens_without_systemd(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000"})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_s is None
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["/nonexistent/socket", "@snn-detect-no-listener", "vsock:2:1234", "relative"])
def test_an_error_is_logged_once_and_not_raised(name: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "1000000"})
    with caplog.at_level(logging.WARNING):
        notifier.ready()
        notifier.status("x")
        notifier.watchdog()
    (message,) = caplog.messages
    assert name in message


def test_what_was_not_sent_is_sent_again(tmp_path: Path) -> None:
    """While systemd's queue is full, no call blocks, and no message counts as sent."""
    listener = Listener(str(tmp_path / "notify"), str(tmp_path / "notify"))
    with listener.socket, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                other.sendto(b"X", str(tmp_path / "notify"))
        notifier = Notifier(listener.environment | {"WATCHDOG_USEC": "60000000"})
        notifier.watchdog()
        notifier.status("a")
        assert set(listener.received()) == {"X"}
        notifier.watchdog()
        notifier.status("a")
        assert listener.received() == ["WATCHDOG=1", "STATUS=a"]
