"""A real MQTT broker for tests: mosquitto on a port of its own, which can be stopped, killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

DEADLINE_S = 30.0
"""Long enough for a busy machine; nothing waits for it when all is well."""
HOST = "127.0.0.1"


def wait_until(holds: Callable[[], object], what: str = "it") -> None:
    """Wait until something holds; fail after a generous time."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {DEADLINE_S:g} s")
        time.sleep(0.02)


def program(name: str) -> str:
    """Return the path of a program; without it, skip, except in CI, where that is a failure."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        reason = f"no {name}; on Debian: apt install {name}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def plugin(name: str) -> Path:
    """Return the path of one of mosquitto's plugins; without it, skip, except in CI, where that is a failure."""
    found = sorted(Path("/usr").glob(f"lib*/**/{name}"))
    return found[0] if found else Path(program(name))


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


class Broker:
    """mosquitto with a configuration of its own."""

    def __init__(self, directory: Path, *lines: str, users: dict[str, str] | None = None) -> None:
        """Prepare; ``lines`` are added to the configuration, with ``users`` (passwords by name) others are refused."""
        self._program = program("mosquitto")
        self.port = free_port()
        self._config = directory / "mosquitto.conf"
        self._log = directory / "mosquitto.log"
        access = ["allow_anonymous true"]
        if users is not None:
            access = ["allow_anonymous false", f"password_file {self._passwords(directory, users)}"]
        user = "user root" if os.geteuid() == 0 else ""
        text = "\n".join([f"listener {self.port} {HOST}", user, "log_type all", *access, *lines])
        self._config.write_text(f"{text}\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """What the broker has said so far."""
        return self._log.read_text(errors="replace")

    def start(self) -> None:
        """Start and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", self._config], stdout=log, stderr=log)
        wait_until(self._listens, f"mosquitto's start ({self._log})")

    def kill(self) -> None:
        """End it at once, without a word to its clients."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have it neither read nor write for a while."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        yield
        self._process.send_signal(signal.SIGCONT)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
            return True
        return False

    def _passwords(self, directory: Path, users: dict[str, str]) -> Path:
        path = directory / "passwords"
        path.touch()
        for name, password in users.items():
            subprocess.run([program("mosquitto_passwd"), "-b", path, name, password], check=True, capture_output=True)
        return path


@dataclass
class Seen:
    """A message as a subscriber gets it."""

    topic: str
    payload: str
    retained: bool
    qos: int


@dataclass
class Watcher:
    """A client that notes all messages of a broker, and comes back when the broker does.

    With QoS 0 the broker hands each message on before it acknowledges it, so that none dies with the broker.
    """

    port: int
    topic: str = "#"
    qos: int = 1
    messages: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._subscribed = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_disconnect = lambda *_: self._subscribed.clear()
        self.client.on_message = self._on_message
        self.client.reconnect_delay_set(1, 1)

    def __enter__(self) -> Self:
        self.client.connect(HOST, self.port)
        self.client.loop_start()
        self.ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def ready(self) -> None:
        """Wait until it is connected and gets messages."""
        wait_until(self._subscribed.is_set, "the watcher's subscription")

    def payloads(self, topic: str) -> list[str]:
        """Return what has come on a topic, in order."""
        return [m.payload for m in list(self.messages) if m.topic == topic]

    def last(self, topic: str) -> str | None:
        """Return what came last on a topic."""
        found = self.payloads(topic)
        return found[-1] if found else None

    def wait_for(self, topic: str, payload: str) -> None:
        """Wait until a payload is the last on a topic."""
        wait_until(lambda: self.last(topic) == payload, f"{payload!r} on {topic}, which had {self.payloads(topic)},")

    def publish(self, topic: str, payload: str, *, retain: bool = False) -> None:
        """Publish and wait until the broker has it."""
        self.client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(DEADLINE_S)

    def _on_connect(self, *_: Any) -> None:
        self.client.subscribe(self.topic, qos=self.qos)

    def _on_message(self, _client: Client, _data: object, message: Any) -> None:
        self.messages.append(Seen(message.topic, message.payload.decode(), message.retain, message.qos))


def retained(port: int) -> dict[str, str]:
    """Return all that a fresh subscriber is given at once."""
    with Watcher(port) as watcher:
        # The broker answers in order: when this one is back, all retained ones have come.
        watcher.publish("marker", "here")
        watcher.wait_for("marker", "here")
        return {m.topic: m.payload for m in watcher.messages if m.retained}


class Relay:
    """A way to a port that can be closed and opened, so that a test decides when a client gets through."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Let clients through."""
        self._listener = socket.create_server((HOST, self.port))
        threading.Thread(target=self._accept, args=(self._listener,), name="relay", daemon=True).start()

    def close(self) -> None:
        """Refuse new connections, and cut those there are."""
        assert self._listener is not None
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection((HOST, self._target))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=pair, name="relay-pump", daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for sock in (source, target):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
