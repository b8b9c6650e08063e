"""Commands on network streams: events from a camera that is killed and restarted, and what they say of it."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

import pytest

from tests.service import COMMAND, wait_until
from tests.streams import AAC, TICKS, Camera, HttpServer, sound

ROOT = Path(__file__).resolve().parents[3]
SCENE = (
    f"filesrc location={ROOT}/models/demo/scene.flac ! flacparse ! flacdec ! audioconvert ! audioresample ! "
    f"audio/x-raw,rate=16000,channels=1 ! {AAC}"
)
PASSWORD = "not-to-be-shown"  # noqa: S105 - of a test


@pytest.fixture
def credentials(tmp_path: Path) -> Path:
    file = tmp_path / "credentials"
    file.write_text(f"viewer:{PASSWORD}\n")
    file.chmod(0o600)
    return file


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=600)


class Running:
    """A command that runs, and the records that it has printed."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL
        )
        self.lines: list[str] = []
        self.log: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self.lines), daemon=True),
            threading.Thread(target=self._read, args=(self.process.stderr, self.log), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def count(self, kind: str, **values: Any) -> int:
        records = [json.loads(line) for line in self.lines]
        return sum(r["type"] == kind and all(r[k] == v for k, v in values.items()) for r in records)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        for reader in self._readers:
            reader.join(10)

    @staticmethod
    def _read(stream: IO[str], lines: list[str]) -> None:
        with stream:
            lines.extend(stream)


def test_events_flow_from_a_camera_that_is_killed_and_started_again(credentials: Path) -> None:
    with Camera(SCENE, user="viewer", password=PASSWORD) as camera:
        running = Running("--device", camera.url, "--credentials-file", str(credentials), "--json")
        try:
            wait_until(lambda: running.count("onset"), "an onset")
            camera.kill()
            wait_until(lambda: running.count("status", state="waiting", active=True), "the loss")
            before = running.count("onset")
            camera.start()
            wait_until(lambda: running.count("status", state="waiting", active=False), "the return")
            wait_until(lambda: running.count("gap", cause="network"), "the gap")
            wait_until(lambda: running.count("onset") > before, "another onset")
            command = Path(f"/proc/{running.process.pid}/cmdline").read_text()
        finally:
            running.end()
    text = "".join((*running.lines, *running.log, command))
    assert PASSWORD not in text
    assert {json.loads(line)["device"] for line in running.lines} == {f"rtsp://127.0.0.1:{camera.port}/..."}
    assert {json.loads(line)["source"] for line in running.lines} == {"stream"}


def test_the_doctor_receives_from_a_stream_and_names_what_is_wrong(credentials: Path) -> None:
    with Camera(f"{sound(16000, what=TICKS)} ! {AAC}", user="viewer", password=PASSWORD) as camera:
        right = run("doctor", "--device", camera.url, "--credentials-file", str(credentials), "--json")
        wrong = run("doctor", "--device", camera.url, "--json")
    found = {f["name"]: f for f in json.loads(right.stdout)["findings"]}
    assert (found["stream"]["state"], found["stream"]["found"].partition(";")[0]) == (
        "ok",
        f"rtsp://127.0.0.1:{camera.port}/...: 16000 Hz, 1 channel",
    )
    assert "microphone" not in found
    found = {f["name"]: f for f in json.loads(wrong.stdout)["findings"]}
    assert found["stream"]["state"] == "problem"
    assert "(401)" in found["stream"]["found"]
    assert wrong.returncode == 69
    assert PASSWORD not in right.stdout + right.stderr


def test_a_stream_that_is_absent_ends_the_command_with_69_where_it_shall_not_wait() -> None:
    done = run("--device", "rtsp://127.0.0.1:9/cam", "--no-wait")
    assert done.returncode == 69
    assert done.stderr.splitlines()[-1] == "snn-detect: error: rtsp://127.0.0.1:9/...: Connection refused"


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    for arguments in (("--device",), ("meter", "--device"), ("doctor", "--device"), ("calibrate", "--device")):
        done = run(*arguments, f"rtsp://viewer:{PASSWORD}@127.0.0.1/cam")
        assert done.returncode == 2
        assert PASSWORD not in done.stdout + done.stderr
    assert "write user:password into the first line of a file" in done.stderr


def test_raw_samples_of_a_url_are_described_as_those_of_standard_input() -> None:
    data = bytes(2 * 22050 * 3)
    with HttpServer(lambda _path, write: write(data)) as server:
        options = ("--format", "s16le", "--sample-rate", "22050", "--channels", "1")
        done = run("--device", f"{server.url}/raw", *options, "--no-wait", "--json")
    assert done.returncode == 69
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert "listening" in {record.get("state") for record in records}
    assert "the server has ended the stream" in done.stderr


def test_the_configuration_shows_no_more_of_a_url_than_its_host(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[audio]\ndevice = "http://127.0.0.1:9/{PASSWORD}"\nhours = ["06:00 to 22:00"]\n')
    done = run("config", "show", "--config", str(config))
    assert 'device = "http://127.0.0.1:9/..."' in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
