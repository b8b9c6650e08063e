"""Records: keys, their order and their types, on standard output, in files, and as others get them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.live import ROOT, SCENE, TOKEN, Live
from tests.contracts.programs import DETECT, clean_environment, detect, json_output, output
from tests.contracts.snapshots import check, shape
from tests.service import service
from tests.sound_server import SoundServer, sound_server  # noqa: F401

MACHINE = ("temperature_c", "under_voltage", "clock_synced")
"""Keys whose values depend on the machine."""


def numbers_hidden(text: str) -> str:
    """Return a text with # in place of each number."""
    return re.sub(r"\d+(?:\.\d+)?", "#", text)


@pytest.fixture(scope="module")
def replayed() -> list[str]:
    return output("replay", "--json", "--only", "guitar", SCENE).splitlines()


def test_records_of_replay(replayed: list[str]) -> None:
    records = [json.loads(line) for line in replayed]
    assert [r["type"] for r in records] == ["onset", "offset"] * 2
    check("records-replay.json", {r["type"]: shape(r) for r in records[:2]})
    assert all(line == json.dumps(r, separators=(",", ":")) for line, r in zip(replayed, records, strict=True))
    assert records[0]["v"] == 1
    assert records[0]["id"] == records[1]["id"]
    assert [r["seq"] for r in records] == [1, 2, 3, 4]
    assert {r["reason"] for r in records[1::2]} == {"ended"}
    timed = output("replay", "--only", "guitar", "--start-time", "2026-11-23T18:00:00+01:00", SCENE).splitlines()
    moments = [json.loads(line)["time"] for line in timed]
    assert all(re.fullmatch(r"2026-11-23T18:00:\d\d\.\d{3}\+01:00", m) for m in moments)


def test_records_of_the_service(running: Live) -> None:
    found = {kind: shape(running.of(kind)[-1], *MACHINE) for kind in ("onset", "offset", "status", "health", "clip")}
    check("records-live.json", found)


def test_standard_output_and_the_file_get_the_same_lines(running: Live) -> None:
    lines = (running.folder / "events.jsonl").read_text().splitlines()
    common = min(len(lines), len(running.child.lines))
    assert common > 10
    assert lines[:common] == running.child.lines[:common]


def test_what_a_webhook_gets(running: Live) -> None:
    posted = running.receiver.posted
    onsets, offsets = running.of("onset"), running.of("offset")
    sent = [json.loads(p.body) for p in posted]
    assert sent == [r for r in running.lines() if r["type"] in {"onset", "offset"}][: len(sent)]
    assert len(sent) == len(onsets) + len(offsets)
    first = posted[0]
    volatile = {"Content-Length", "Host"}
    headers = {key: value for key, value in sorted(first.headers.items()) if key not in volatile}
    assert headers.pop("Idempotency-Key") == f"{sent[0]['id']}-onset"
    assert headers.pop("Authorization") == f"Bearer {TOKEN}"
    check("webhook-headers.json", headers)


def test_what_a_command_gets(running: Live) -> None:
    record = json.loads((running.folder / "stdin").read_text())
    lines = (running.folder / "environment").read_text().splitlines()
    variables = dict(line.partition("=")[::2] for line in lines if line.startswith("SNN_DETECT_RECORD_"))
    assert record["type"] == "onset"
    assert record in running.of("onset")
    assert variables.keys() == {f"SNN_DETECT_RECORD_{key.upper()}" for key in record}
    assert variables["SNN_DETECT_RECORD_LABEL"] == record["label"]
    assert variables["SNN_DETECT_RECORD_SCORE"] == str(record["score"])


def test_names_of_clips(running: Live) -> None:
    for clip in running.of("clip"):
        assert Path(clip["path"]).stat().st_size == clip["bytes"]
        assert re.fullmatch(rf"\d{{8}}T\d{{6}}\.\d{{3}}Z_{clip['label']}_{clip['id']}\.flac", Path(clip["path"]).name)


def test_label_files_of_replay(tmp_path: Path) -> None:
    tsv, audacity, scores = tmp_path / "events.tsv", tmp_path / "labels.txt", tmp_path / "scores.npz"
    output("replay", "--only", "guitar", "--tsv", tsv, "--audacity", audacity, "--scores", scores, SCENE)
    check("label-files.txt", numbers_hidden(f"--tsv\n{tsv.read_text()}\n--audacity\n{audacity.read_text()}"))
    assert tsv.read_text().splitlines()[0] == "filename\tonset\toffset\tevent_label"


def test_keys_of_scores(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "scores.npz"
    output("replay", "--scores", path, SCENE)
    with np.load(path) as found:
        check("scores-file.json", {name: f"{found[name].dtype.kind}, {found[name].ndim} axes" for name in found})


def test_lines_on_a_terminal() -> None:
    reader, terminal = pty.openpty()
    command = [*DETECT, "replay", "--quiet", "--only", "guitar", str(SCENE.relative_to(ROOT))]
    environment = clean_environment(TERM="dumb", NO_COLOR="1", COLUMNS="120")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, env=environment, cwd=ROOT
    ) as process:
        os.close(terminal)
        text = b""
        try:
            while data := os.read(reader, 65536):
                text += data
        except OSError:
            pass  # the end of a terminal
    os.close(reader)
    assert process.returncode == 0
    check("terminal-lines.txt", numbers_hidden(text.decode().replace("\r\n", "\n")))


def documents(tmp_path: Path) -> dict[str, Any]:
    """Return the JSON documents that commands print."""
    homes = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path)}
    doctor = detect("doctor", "--json", **homes)
    return {
        "model info": json_output("model", "info", "--json"),
        "model verify": json_output("model", "verify", "--json"),
        "doctor": json.loads(doctor.stdout),
    }


def test_documents_that_commands_print(tmp_path: Path) -> None:
    check("documents.json", {name: shape(value) for name, value in documents(tmp_path).items()})


def test_a_gap_in_the_sound_of_a_microphone(sound_server: SoundServer, tmp_path: Path) -> None:  # noqa: F811
    """A service that stands still for longer than its buffers hold has lost sound, and says so."""
    path = tmp_path / "config.toml"
    path.write_text(
        '[audio]\ndevice = "mic"\nbuffer_s = 0.5\n[stdout]\nformat = "json"\ntypes = ["onset", "gap", "status"]\n'
    )
    with service(path, environment=sound_server.env) as child:
        child.wait_for_records(lambda rs: any(r.get("state") == "listening" for r in rs), "a microphone")
        time.sleep(0.5)
        child.signal(signal.SIGSTOP)
        time.sleep(2.5)
        child.signal(signal.SIGCONT)
        child.wait_for_records(lambda rs: any(r["type"] == "gap" for r in rs), "a gap")
        gap = child.of("gap")[0]
    check("records-gap.json", shape(gap, *MACHINE))
    assert gap["lost_s"] > 1
