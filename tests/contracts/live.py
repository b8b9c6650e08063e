"""A real run of the service with every sink, for the tests of this folder."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import soundfile

from tests.broker import Broker, Watcher, free_port
from tests.service import Child, service, wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
SCENE: Final = ROOT / "models" / "demo" / "scene.flac"
THRESHOLD: Final = 0.6
"""Of guitars: those of the demo scene score more with any model that ships."""
RATE: Final = 16000
NODE: Final = "contracts"
BASE: Final = f"snn-detect/{NODE}"
TOKEN: Final = "correct-horse"  # noqa: S105 - of these tests
PASSWORD: Final = "battery-staple"  # noqa: S105 - of these tests
USER: Final = "detector"
TYPES: Final = '["onset", "offset", "gap", "status", "health", "clip"]'
Record = dict[str, Any]


def scene(seconds: float | None = None) -> Any:
    """Return the demo scene, or its beginning, and a second of silence."""
    wave, rate = soundfile.read(SCENE, dtype="float32")
    assert rate == RATE
    end = None if seconds is None else round(seconds * RATE)
    return np.concatenate([wave[:end], np.zeros(RATE, np.float32)])


def faint() -> Any:
    """Return two seconds of faint noise: zeros of less than two seconds are neither a level nor silence."""
    return np.random.default_rng(1).normal(0, 0.001, 2 * RATE).astype(np.float32)


@dataclass
class Posted:
    """A request that a webhook has had."""

    method: str
    path: str
    headers: dict[str, str]
    body: str


class Receiver:
    """An HTTP server that takes what a webhook sends."""

    def __init__(self) -> None:
        """Listen on a free port of this machine."""
        self.posted: list[Posted] = []
        posted = self.posted

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                posted.append(Posted(self.command, self.path, dict(self.headers), body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Stream:
    """The page's stream of events: the first message of each kind."""

    client: httpx.Client
    first: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, name="sse", daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(httpx.HTTPError), self.client.stream("GET", "/api/stream") as answer:
            self.first["content-type"] = answer.headers["content-type"]
            name = ""
            for line in answer.iter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data":
                    data = json.loads(value)
                    self.first.setdefault(f"{name} {data['type']}" if name == "record" else name, data)


@dataclass
class Live:
    """The service as it runs, and all that listens to it."""

    folder: Path
    config: Path
    child: Child
    broker: Broker
    guarded_broker: Broker
    watcher: Watcher
    receiver: Receiver
    client: httpx.Client
    metrics_url: str
    stream: Stream

    @property
    def database(self) -> Path:
        """The database that it writes."""
        return self.folder / "events.db"

    def lines(self) -> list[Record]:
        """Return the records in the JSON file."""
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]

    def of(self, kind: str) -> list[Record]:
        """Return the records of a type in the JSON file."""
        return [r for r in self.lines() if r["type"] == kind]


def configuration(folder: Path, *sections: str) -> Path:
    """Write a configuration with what every run here has: raw sound on standard input, records of all types."""
    head = f"""
        node = "{NODE}"
        [audio]
        device = "-"
        source = "pipe"
        [listening]
        thresholds = {{ guitar = {THRESHOLD} }}
        [health]
        interval_s = 1
        [stdout]
        format = "json"
        types = {TYPES}
    """
    path = folder / "config.toml"
    path.write_text("\n".join([head, *sections]), encoding="utf-8")
    return path


def mqtt_section(broker: Broker, more: str = "") -> str:
    """Return the section of a broker."""
    return f'[[mqtt]]\nhost = "127.0.0.1"\nport = {broker.port}\n{more}\n'


def secret(folder: Path, name: str, text: str) -> Path:
    """Write a file with a secret."""
    path = folder / name
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


@contextlib.contextmanager
def live(folder: Path) -> Iterator[Live]:
    """Run the service with every sink on the demo scene, pause it once, and give it as it goes on."""
    token, password = secret(folder, "token", TOKEN), secret(folder, "password", PASSWORD)
    web, metrics = free_port(), free_port()
    (folder / "clips").mkdir()
    for name in ("a", "b"):
        (folder / name).mkdir()
    with contextlib.ExitStack() as stack:
        receiver = Receiver()
        stack.callback(receiver.close)
        broker = stack.enter_context(Broker(folder / "a"))
        guarded = stack.enter_context(Broker(folder / "b", users={USER: PASSWORD}))
        watcher = stack.enter_context(Watcher(broker.port, qos=2))
        config = configuration(
            folder,
            mqtt_section(broker),
            mqtt_section(guarded, f'username = "{USER}"\npassword_file = "{password}"'),
            f'[[file]]\npath = "{folder / "events.jsonl"}"\ntypes = {TYPES}',
            f'[database]\npath = "{folder / "events.db"}"\ncommit_s = 0',
            f'[metrics]\naddress = "127.0.0.1:{metrics}"\ntoken_file = "{token}"\nscores = true',
            f'[web]\naddress = "127.0.0.1:{web}"\ntoken_file = "{token}"',
            f'[[webhook]]\nurl = "http://127.0.0.1:{receiver.server.server_port}/hook"\ntoken_file = "{token}"',
            f'[[command]]\nargv = ["sh", "-c", "cat > {folder / "stdin"}; env > {folder / "environment"}.new; '
            f'mv {folder / "environment"}.new {folder / "environment"}"]',
            f'[clips]\ndirectory = "{folder / "clips"}"\npost_roll_s = 1\nlabels = ["guitar"]',
        )
        child = stack.enter_context(service(config))
        base, authorization = f"http://127.0.0.1:{web}", {"Authorization": f"Bearer {TOKEN}"}
        client = stack.enter_context(httpx.Client(base_url=base, headers=authorization, timeout=60))
        wait_until(lambda: _answers(client, child), "the page")
        url = f"http://127.0.0.1:{metrics}/metrics"
        running = Live(folder, config, child, broker, guarded, watcher, receiver, client, url, Stream(client))
        _play_the_scene(running)
        _pause_and_go_on(running)
        yield running


def _answers(client: httpx.Client, child: Child) -> bool:
    assert child.process.poll() is None, child.errors
    try:
        return client.get("/api/health").status_code == 200
    except httpx.TransportError:
        return False


def _play_the_scene(running: Live) -> None:
    running.child.play(np.concatenate([scene(), faint()]))
    running.child.wait_for_records(lambda rs: sum(r["type"] == "clip" for r in rs) >= 2, "two clips")
    onsets = len(running.child.of("onset"))
    wait_until(lambda: len(running.receiver.posted) >= 2 * onsets, "the webhook's records")
    wait_until((running.folder / "environment").exists, "the command's run")
    wait_until(lambda: {"frames", "state", "record offset"} <= running.stream.first.keys(), "the stream's messages")
    wait_until(lambda: running.watcher.last(f"{BASE}/pipe/level"), "a level")


def _pause_and_go_on(running: Live) -> None:
    running.watcher.wait_for(f"{BASE}/listening/state", "ON")
    running.watcher.publish(f"{BASE}/listening/set", "OFF")
    # The switch is acknowledged before the service acts on it; turned on again at once, nothing would be paused.
    for topic, payload in (("listening/state", "OFF"), ("pipe/status", "offline")):
        running.watcher.wait_for(f"{BASE}/{topic}", payload)
    running.watcher.publish(f"{BASE}/listening/set", "ON")
    running.watcher.wait_for(f"{BASE}/listening/state", "ON")
    running.child.play(faint())  # the source is back with its first sound
    running.watcher.wait_for(f"{BASE}/pipe/status", "online")
    running.child.wait_for_records(lambda rs: any(r["type"] == "health" for r in rs), "a health record")
