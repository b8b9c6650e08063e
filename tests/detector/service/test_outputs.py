"""The sinks in service, and what a change of the settings does to them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from detector.config.loading import section_of
from detector.config.settings import Settings
from detector.errors import ConfigError
from detector.pipeline import Detector
from detector.records import Record
from detector.service.outputs import SinkManager, specs
from detector.sinks.base import LiveSink, NodeInfo, SinkContext, SinkSection, SinkSpec, SourceContext
from detector.sinks.clips import Clips
from detector.sinks.database import Database
from detector.sinks.json_file import JsonFile
from detector.sinks.mqtt import Mqtt
from detector.sinks.stdout import Stdout
from detector.sinks.webhook import Webhook
from tests.detector.sinks import live_records
from tests.service import wait_until

STATION = NodeInfo("pi", "mic", "mic", (("guitar", "music"),), "household-1", "ab12", "0.1.0")
SILENT = Stdout(enabled=False)


def wiring(node_info: NodeInfo = STATION) -> SinkContext:
    return SinkContext((SourceContext(node_info, Detector.load()),), lambda _: None, lambda _: None)


def settings(*files: Path, **others: Any) -> Settings:
    return Settings(stdout=SILENT, file=tuple(JsonFile(path=f) for f in files), **others)


def gap(seq: int) -> Record:
    return live_records.gap("device", seq=seq)


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines()]


def test_only_sinks_whose_settings_change_are_made_again(tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    outputs = SinkManager()
    assert [w.name for w in outputs.prepare(settings(a), wiring())()] == ["file"]
    (first,) = outputs.sinks
    outputs.submit(gap(1))
    assert [w.name for w in outputs.prepare(settings(a, b), wiring())()] == ["file-2"]
    assert outputs.sinks[0] is first
    outputs.submit(gap(2))
    assert outputs.prepare(settings(b), wiring())() == ()
    outputs.submit(gap(3))
    assert list(outputs.stats) == ["file-2"]
    assert outputs.close(30)
    assert (numbers(a), numbers(b)) == ([1, 2], [2, 3])
    outputs.submit(gap(4))
    assert numbers(b) == [2, 3]


def test_what_cannot_be_changes_nothing(tmp_path: Path) -> None:
    a = tmp_path / "a.jsonl"
    outputs = SinkManager()
    outputs.prepare(settings(a), wiring())()
    before = outputs.sinks
    secret = Mqtt(host="x", username="u", password_file=tmp_path / "none")
    for wrong in (settings(mqtt=(secret,)), settings(webhook=(Webhook(url="https://x", ca_file=tmp_path / "none"),))):
        with pytest.raises(ConfigError, match="none"):
            outputs.prepare(wrong, wiring())
    assert outputs.sinks == before
    outputs.submit(gap(1))
    assert outputs.close(30)
    assert numbers(a) == [1]


def test_a_secret_that_has_changed_makes_the_sink_again(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("one\n")
    wanted = settings(webhook=(Webhook(url="http://127.0.0.1:1/", token_file=token),))
    outputs = SinkManager()
    outputs.prepare(wanted, wiring())()
    assert outputs.prepare(wanted, wiring())() == ()
    token.write_text("two\n")
    assert [w.name for w in outputs.prepare(wanted, wiring())()] == ["webhook"]
    outputs.close(5)


def test_a_secret_is_never_shown(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("opensesame\n")
    ((_, spec),) = specs(settings(webhook=(Webhook(url="http://127.0.0.1:1/", token_file=token),)), wiring())
    assert "opensesame" not in repr(spec)


def test_another_node_makes_the_sinks_again_that_name_it(tmp_path: Path) -> None:
    wanted = settings(tmp_path / "a.jsonl", mqtt=(Mqtt(host="127.0.0.1", port=1),))
    outputs = SinkManager()
    outputs.prepare(wanted, wiring())()
    other = NodeInfo("pi", "mic", "mic", (("speech", "people"),), "household-2", "cd34", "0.1.0")
    assert [w.name for w in outputs.prepare(wanted, wiring(other))()] == ["mqtt"]
    outputs.close(5)


class Hanging(LiveSink):
    """A sink that never comes back from its first record."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def write(self, record: Record) -> None:
        del record
        self.let_go.wait(300)


def test_a_sink_that_hangs_delays_neither_a_change_nor_the_end(tmp_path: Path) -> None:
    hanging = Hanging()
    outputs = SinkManager()
    outputs._change([], [("hanging", SinkSpec((), lambda: hanging), hanging)])
    outputs.submit(gap(1))
    a = tmp_path / "a.jsonl"
    outputs.prepare(settings(a), wiring())()
    outputs.submit(gap(2))
    assert list(outputs.stats) == ["file"]
    wait_until(lambda: outputs.stats["file"]["written"] == 1, "the file's line")
    begin = time.monotonic()
    assert not outputs.close(0.5)
    assert time.monotonic() - begin < 30
    assert numbers(a) == [2]
    hanging.let_go.set()


def test_every_sink_section_makes_its_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    kinds = [
        name
        for name, field in Settings.model_fields.items()
        if (section := section_of(field.annotation)) and issubclass(section, SinkSection)
    ]
    needed = {"file": {"path": "/x"}, "mqtt": {"host": "x"}, "webhook": {"url": "http://x"}, "command": {"argv": ["x"]}}
    everything = Settings.model_validate({kind: needed.get(kind, {}) for kind in kinds})
    found = list(specs(everything, wiring()))
    assert [kind for kind, _ in found] == kinds
    assert len(kinds) == 9
    assert len({spec.identity for _, spec in found}) == len(found)
    assert all(isinstance(spec.make(), LiveSink) for _, spec in found)


def test_sinks_that_make_records_are_finished_first(tmp_path: Path) -> None:
    outputs = SinkManager()
    clips = Clips(directory=tmp_path / "clips")
    outputs.prepare(settings(tmp_path / "a.jsonl", clips=clips), wiring())()
    outputs.finish_makers(30)
    assert outputs.stats["clips"]["working"]
    assert [sink.makes_records for sink in outputs.sinks] == [False, True]
    outputs.submit(gap(1))
    assert outputs.close(30)
    assert numbers(tmp_path / "a.jsonl") == [1]


def test_files_and_databases_have_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    found = {kind: spec.identity for kind, spec in specs(settings(database=Database()), wiring())}
    assert found["database"][2] == tmp_path / "events.db"
