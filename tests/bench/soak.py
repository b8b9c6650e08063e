"""Hours of sound in minutes, through all parts of the service, to see whether anything grows or drifts away.

    python -m tests.bench.soak --hours 24       or: make soak, which writes tests/bench/soak.json

The demo scene is written to a pipe again and again, as fast as it is taken; events go to a database
and to a file in a folder that is removed at the end, to a broker (mosquitto) and to a page with a
browser's streams open. The exit code is 1 where a limit is missed.

Scores at the end are compared with those of detectors that began a minute or two before. They are
not the same bits: as long as there is sound, an encoder that sends changes keeps the phase of its
steps, so that single spikes differ for good between any two beginnings. But hours must not part a
detector further from fresh ones than these are from each other.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import re
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click
import httpx
import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from detector import __version__
from detector.audio.sources import read_sound
from detector.config.paths import STDIN
from detector.config.sections import Audio, Model
from detector.config.settings import Settings
from detector.messages import Samples
from detector.pipeline import Detector
from detector.service.engine import rss_bytes
from detector.service.runtime import ServiceRuntime
from detector.service.source import RunOptions
from detector.sinks.database import Database
from detector.sinks.json_file import JsonFile
from detector.sinks.mqtt import Mqtt
from detector.sinks.stdout import Stdout
from detector.system import limit_heap
from detector.web.sink import Web
from tests.broker import HOST, Broker, free_port

MOST_GROWTH_BYTES: Final = 5_000_000
_SPREADS: Final = 2
"""How much further than fresh detectors are from each other, on average, the old one may be from them."""
_FIRST_S: Final = 60
_FRESH_S: Final = (60, 75, 90, 105)
"""How long before the end the detectors begin that the old one is compared with."""
_COMPARED_S: Final = 30
_STEP_S: Final = 0.025
_STEP_PAUSE_S: Final = 0.005
"""The sound that is compared comes in small steps with pauses, so that the scores of nearly every frame are seen."""
_TURN_S: Final = 0.2
_LOOK_S: Final = 0.002
_END_S: Final = 60.0
_NODE: Final = "soak"
_STATUS: Final = f"snn-detect/{_NODE}/status"


@dataclass(frozen=True, slots=True)
class _Look:
    """How the process is at one moment."""

    heard_s: float
    rss_bytes: int
    descriptors: Counter[str]
    """How many are open of each path, or of each kind where there is no path (``socket``, ``pipe``)."""
    threads: int


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[re.sub(r":\[\d+\]$", "", str(entry.readlink()))] += 1
    return found


def _threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


class _Subscriber:
    """Counts the events that a broker gets, and keeps nothing of them: a day's would look like a leak."""

    def __init__(self, port: int) -> None:
        """Subscribe to the events, and to what says that the service is connected."""
        self.events = 0
        self.is_online = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2)
        topics = [(f"snn-detect/{_NODE}/+/event", 1), (_STATUS, 1)]
        self._client.on_connect = lambda client, *_: client.subscribe(topics)
        self._client.on_message = self._count
        self._client.connect(HOST, port)
        self._client.loop_start()

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()

    def _count(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        if message.topic == _STATUS:
            self.is_online.set()
        else:
            self.events += 1


class _Browser:
    """Follows the page's stream, as a browser does, and counts its messages by kind."""

    def __init__(self, port: int) -> None:
        """Open the stream as soon as the page answers."""
        self.messages: Counter[str] = Counter()
        self.is_open = threading.Event()
        self._url = f"http://{HOST}:{port}/api/stream"
        threading.Thread(target=self._run, name="soak-browser", daemon=True).start()

    def _run(self) -> None:
        while not self.is_open.is_set():
            with contextlib.suppress(httpx.HTTPError):
                self._follow()
            time.sleep(_TURN_S)

    def _follow(self) -> None:
        with httpx.stream("GET", self._url, timeout=None) as answer:  # noqa: S113 - it has no end
            answer.raise_for_status()
            self.is_open.set()
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    self.messages[line.removeprefix("event: ")] += 1


class Soak:
    """One run."""

    def __init__(self, hours: float, model: Path | None, folder: Path, broker: Broker) -> None:
        """Prepare; the parts live in ``folder``, and the broker runs."""
        self._database = folder / "events.db"
        web = free_port()
        self._subscriber, self._browser = _Subscriber(broker.port), _Browser(web)
        self._settings = Settings(
            node=_NODE,
            audio=Audio(device=STDIN),
            model=Model(path=model),
            stdout=Stdout(enabled=False),
            file=(JsonFile(path=folder / "events.jsonl"),),
            database=Database(path=self._database),
            mqtt=(Mqtt(host=HOST, port=broker.port),),
            web=Web(address=f"{HOST}:{web}"),
        )
        self._work = ServiceRuntime(self._settings, RunOptions())
        (self._source,) = self._work.sources
        self._counters = self._source.counters
        self._rate_hz = self._source.detector.sample_rate_hz
        scene = read_sound(str(resources.files("models") / "demo" / "scene.flac"), self._rate_hz)
        self._pcm = np.round(scene * 32767).astype("<i2")
        self._seconds = round(hours * 3600)
        self._model_info: list[_Look] = []
        self._scores: list[tuple[int, dict[str, float]]] = []
        """Of the sound that is compared, and no more: a day's would look like a leak."""

    def run(self) -> dict[str, Any]:
        """Work off all sound and return the figures."""
        begin, cpu = time.perf_counter(), time.process_time()
        reader, writer = os.pipe()
        os.dup2(reader, 0)
        os.close(reader)
        threading.Thread(target=self._write, args=(writer,), name="soak-writer", daemon=True).start()
        self._work.listen()
        # The last look comes while there is still sound: at its end threads and descriptors go. And it comes before the
        # scores are remembered, which take megabytes.
        last_s = self._seconds - _COMPARED_S
        due = sorted({_FIRST_S, *range(3600, self._seconds, 3600), self._seconds // 2, last_s})

        while not self._work.has_ended:
            time.sleep(_LOOK_S)
            self._remember()
            if due and self._counters.heard_s >= due[0]:
                self._check()
                del due[0]
        wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        self._source.release("end_of_stream")
        while any(s["waiting"] for s in self._work.outputs.stats.values()):
            time.sleep(_TURN_S)
        sinks = self._work.outputs.stats
        self._work.end("end_of_stream", None, _END_S)
        self._await_messages()
        return self._stats(wall_s, cpu_s, sinks)

    def _write(self, writer: int) -> None:
        """Write the scene again and again, for as long as is wanted, once all parts are at work."""
        for connected in (self._subscriber.is_online, self._browser.is_open):
            connected.wait(_END_S)
        deadline = time.monotonic() + _END_S
        while not Path(f"{self._database}-wal").exists() and time.monotonic() < deadline:
            time.sleep(_TURN_S)
        left = total = self._seconds * self._rate_hz
        with contextlib.suppress(OSError), os.fdopen(writer, "wb") as pipe:
            while left > 0:
                slowly = left <= _COMPARED_S * self._rate_hz
                size = round(_STEP_S * self._rate_hz) if slowly else left - _COMPARED_S * self._rate_hz
                part = self._part(total - left, min(left, size))
                pipe.write(part.tobytes())
                left -= len(part)
                if slowly:
                    pipe.flush()
                    time.sleep(_STEP_PAUSE_S)

    def _part(self, first: int, most: int) -> NDArray[np.int16]:
        """Return the scene from a sample of the sound on, so many samples and to its end at most."""
        at = first % len(self._pcm)
        return self._pcm[at : at + most]

    def _check(self) -> None:
        self._work.publish_health()
        self._model_info.append(_Look(self._counters.heard_s, rss_bytes(), _descriptors(), _threads()))

    def _remember(self) -> None:
        if self._counters.heard_s < self._seconds - _COMPARED_S:
            return
        with self._source.held():
            if self._source.engine is not None:
                self._scores.append((self._counters.samples[self._rate_hz], self._source.engine.scores))

    def _await_messages(self) -> None:
        """Wait for what the broker still has to hand on."""
        deadline = time.monotonic() + _END_S
        while self._subscriber.events < self._counters.sounds and time.monotonic() < deadline:
            time.sleep(_TURN_S)
        self._subscriber.close()

    def _stats(self, wall_s: float, cpu_s: float, sinks: dict[str, Any]) -> dict[str, Any]:
        first, last = self._model_info[0], self._model_info[-1]
        compared, difference, spread = self._compare()
        # By the middle of a day the page has as many events and pictures in memory as it keeps.
        middle = next(look for look in self._model_info if look.heard_s >= self._seconds // 2)
        growth = last.rss_bytes - middle.rss_bytes
        after_an_hour = next((look for look in self._model_info if look.heard_s >= 3600), last)
        stats = {
            "hours": self._counters.heard_s / 3600,
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "times_real_time": self._counters.heard_s / wall_s,
            "events": self._counters.sounds,
            "events_stored": self._stored(),
            "events_published": self._subscriber.events,
            "page_messages": dict(self._browser.messages),
            "repairs": self._counters.repairs,
            "rss_first_minute_mb": first.rss_bytes / 1e6,
            "rss_end_mb": last.rss_bytes / 1e6,
            "rss_most_mb": max(check.rss_bytes for check in self._model_info) / 1e6,
            "rss_growth_after_first_hour_mb": (last.rss_bytes - after_an_hour.rss_bytes) / 1e6,
            "rss_growth_in_the_second_half_mb": growth / 1e6,
            "rss_by_hour_mb": [check.rss_bytes / 1e6 for check in self._model_info],
            "descriptors": [first.descriptors.total(), last.descriptors.total()],
            "descriptors_more": dict(last.descriptors - first.descriptors),
            "threads": [first.threads, last.threads],
            "compared_frames": compared,
            "mean_difference": difference,
            "mean_difference_of_fresh": spread,
            "sinks": sinks,
        }
        arrived = stats["events_stored"] == stats["events_published"] == stats["events"]
        lost = sum(s["dropped"] + s["failed"] for s in sinks.values())
        stats["good"] = {
            "memory": growth < MOST_GROWTH_BYTES,
            # A connection of the start may still be there at the first look: fewer at the end are no fault.
            "descriptors": not stats["descriptors_more"],
            "threads": last.threads == first.threads,
            "scores": compared > 0 and difference <= _SPREADS * spread,
            "sinks": arrived and not lost and bool(self._browser.messages),
        }
        return stats

    def _stored(self) -> int:
        """Return how many events of the database have both their ends."""
        with contextlib.closing(sqlite3.connect(self._database)) as connection:
            query = "SELECT count(*) FROM events WHERE offset_s IS NOT NULL"
            return int(connection.execute(query).fetchone()[0])

    def _compare(self) -> tuple[int, float, float]:
        """Compare the scores of the end: how many frames, the mean difference from fresh detectors, and among these."""
        detector = Detector.load(self._settings.model.path)
        f = detector.manifest.features
        total = self._seconds * self._rate_hz
        since = total - _COMPARED_S * self._rate_hz
        old = {p: np.array(list(scores.values())) for p, scores in self._scores if p >= since and scores}
        fresh = []
        for before_s in _FRESH_S:
            # From a frame's beginning on, so that all see the same frames.
            start = max(0, total - before_s * self._rate_hz) // f.hop_length * f.hop_length
            scores = detector.score(self._sound(start, total))
            fresh.append(np.stack([scores[(p - start - f.frame_length) // f.hop_length] for p in old]))
        among = [np.abs(a - b).mean() for a, b in itertools.combinations(fresh, 2)]
        apart = [np.abs(np.stack([*old.values()]) - a).mean() for a in fresh]
        return len(old), float(np.mean(apart)), float(np.mean(among))

    def _sound(self, first: int, end: int) -> Samples:
        positions = np.arange(first, end) % len(self._pcm)
        return self._pcm[positions].astype(np.float32) / np.float32(32768)


@click.command()
@click.option("--hours", type=click.FloatRange(min=0.05), default=24.0, show_default=True, help="Hours of sound.")
@click.option("--model", type=click.Path(path_type=Path), help="Model file; default: the one that ships.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--result", type=click.Path(path_type=Path), help="Write the figures and what they are of to this file.")
def main(hours: float, model: Path | None, result: Path | None, *, as_json: bool) -> None:
    """Listen to hours of sound as fast as can be, and look whether anything grows."""
    with tempfile.TemporaryDirectory(prefix="snn-soak-") as folder, Broker(Path(folder)) as broker:
        limit_heap()  # as the service does
        stats = Soak(hours, model, Path(folder), broker).run()
    if result is not None:
        result.write_text(f"{json.dumps(_origin() | rounded(stats), indent=2, allow_nan=False)}\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(stats, indent=2, allow_nan=False))
    else:
        _print_table(stats)
    sys.exit(0 if all(stats["good"].values()) else 1)


def _origin() -> dict[str, Any]:
    """Return of what, when and where the figures are; no names of the machine or of its user."""
    processor = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "command": "make soak",
        "date": datetime.now(UTC).date().isoformat(),
        "snn_detect": __version__,
        "machine": {
            "processor": processor[1] if processor else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(int(memory[1]) / 1e6, 1) if memory else None,
            "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
            "python": platform.python_version(),
        },
    }


def rounded(value: Any) -> Any:
    """Return figures for people to compare: four decimals, no more."""
    if isinstance(value, dict):
        return {name: rounded(member) for name, member in value.items()}
    if isinstance(value, list):
        return [rounded(member) for member in value]
    return round(value, 4) if isinstance(value, float) else value


def _print_table(stats: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    f, good = stats, stats["good"]
    table = Table("measure", "value", "", title=f"{f['hours']:.2f} hours of sound")
    rows = (
        ("time", f"{f['wall_s']:.0f} s, {f['cpu_s']:.0f} CPU s: {f['times_real_time']:.0f} times real time", None),
        ("sounds", f"{f['events']}, the network was reset {f['repairs']} times", None),
        ("memory after a minute / at the end", f"{f['rss_first_minute_mb']:.1f} / {f['rss_end_mb']:.1f} MB", None),
        ("growth of memory in the second half", f"{f['rss_growth_in_the_second_half_mb']:.1f} MB", "memory"),
        ("descriptors", " / ".join(map(str, f["descriptors"])), "descriptors"),
        ("threads", " / ".join(map(str, f["threads"])), "threads"),
        ("scores apart from fresh starts", f"{f['mean_difference']:.4f} in {f['compared_frames']} frames", "scores"),
        ("fresh starts apart from each other", f"{f['mean_difference_of_fresh']:.4f}", None),
        ("sounds in the database / from the broker", f"{f['events_stored']} / {f['events_published']}", "sinks"),
        ("records lost", ", ".join(f"{n} {s['dropped'] + s['failed']}" for n, s in f["sinks"].items()), "sinks"),
    )
    for name, value, limit in rows:
        table.add_row(name, value, "" if limit is None else "good" if good[limit] else "MISSED")
    Console().print(table)


if __name__ == "__main__":
    main()
