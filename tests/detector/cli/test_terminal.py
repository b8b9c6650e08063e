"""The view in a pseudo-terminal: its content, and that the terminal is restored at the end."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyte
import pytest
from rich.console import Console

from detector.cli.terminal import Screen, bar, raster
from detector.pipeline import Detector
from detector.sinks.base import NodeInfo
from detector.web.schema import describe_model
from tests.service import COMMAND, DEADLINE_S, Child, wait_until
from tests.web_service import SCENE, url_of

WIDTH, HEIGHT = 120, 40
REASONS = (
    "a token is required",
    "no page of snn-detect answers",
    "is not that of snn-detect's page",
    "cannot be opened",
    "is a pipe",
    "name one of them",
    "lacks its port",
)


class Terminal:
    """A program in a pseudo-terminal, and what its screen shows."""

    def __init__(self, *arguments: str | Path, **environment: str) -> None:
        self._own, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        # COLUMNS and LINES, where a shell exports them, would override the size of this terminal.
        clean = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"}}
        self.process = subprocess.Popen(
            [*COMMAND, "watch", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=clean | {"TERM": "xterm-256color", "COLORTERM": "truecolor"} | environment,
        )
        os.close(theirs)
        self._screen = pyte.Screen(WIDTH, HEIGHT)
        self._stream = pyte.ByteStream(self._screen)
        self.data = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        os.close(self._own)

    @property
    def text(self) -> str:
        return "\n".join(self._screen.display)

    def read(self, timeout_s: float) -> bool:
        """Read what the program has written; False at its end."""
        if not select.select([self._own], [], [], timeout_s)[0]:
            return True
        with contextlib.suppress(OSError):
            if data := os.read(self._own, 65536):
                self.data += data
                self._stream.feed(data)
                return True
        return False

    def wait_for(self, holds: Callable[[str], object], what: str) -> None:
        until = time.monotonic() + DEADLINE_S
        while not holds(self.text):
            assert self.read(0.2), f"{what} did not appear before the end:\n{self.text}"
            assert time.monotonic() < until, f"{what} did not appear:\n{self.text}"

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        while self.read(DEADLINE_S):
            pass
        return self.process.wait(DEADLINE_S)


def braille(text: str) -> int:
    return sum(0x2800 < ord(c) <= 0x28FF for c in text)


def test_a_file_is_shown_until_a_signal() -> None:
    with Terminal("--device", SCENE, "--loop") as terminal:
        terminal.wait_for(lambda t: "guitar" in t and "detected" in t, "a guitar")
        words = ("log mel", "encoder", "conv1", "dense", "dBFS", "bowed strings")
        terminal.wait_for(lambda t: all(word in t for word in words), "all of the picture")
        text = terminal.text
        assert text.count("▀") > 500
        assert braille(text) > 100
        terminal.wait_for(lambda t: t != text and braille(t) > 100, "a change")
        assert terminal.end(signal.SIGINT) == 130
        for shown, gone in (
            (b"\x1b[?25h", b"\x1b[?25l"),
            (b"\x1b[?1049l", b"\x1b[?1049h"),
        ):  # cursor and screen are restored
            assert terminal.data.rfind(shown) > terminal.data.rfind(gone)


def test_without_colours_characters_show_the_levels() -> None:
    with Terminal("--device", SCENE, NO_COLOR="1") as terminal:
        terminal.wait_for(lambda t: braille(t) > 100 and sum(t.count(c) for c in ":-=+*") > 200, "bands and spikes")
        assert "▀" not in terminal.text
        assert terminal.end(signal.SIGTERM) == 143


def test_in_a_narrow_terminal_the_level_stays_and_the_name_is_cut(tmp_path: Path) -> None:
    far = tmp_path / ("a" * 100) / SCENE.name
    far.parent.mkdir()
    far.symlink_to(SCENE)
    with Terminal("--device", far, COLUMNS="80", LINES="24") as terminal:
        terminal.wait_for(lambda t: braille(t) > 100 and "dBFS" in t, "the level")


def test_a_service_is_shown_through_its_page_and_its_end_is_reported(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sesame\n")
    options = ("--web", "127.0.0.1:0", "--web-token-file", tmp_path / "token")
    with Child("--device", SCENE, "--loop", *options) as child:
        address = url_of(child)
        assert run("--connect", address) == (69, "a token is required")
        with Terminal("--connect", address, "--token-file", tmp_path / "token") as terminal:
            terminal.wait_for(lambda t: braille(t) > 100 and "dBFS" in t, "spikes")
            child.process.kill()
            terminal.wait_for(lambda t: "no connection" in t, "the loss")
            assert terminal.end(signal.SIGINT) == 130
    assert run("--connect", address) == (69, "no page of snn-detect answers")


def test_a_signal_ends_the_wait_for_a_server_that_does_not_answer() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Terminal("--connect", f"127.0.0.1:{server.getsockname()[1]}") as terminal,
    ):
        server.settimeout(DEADLINE_S)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(3) == b"GET"
            assert terminal.end(signal.SIGINT) == 130  # and not 69, the code of no answer


def test_what_another_program_answers_is_an_error_in_one_line() -> None:
    endless = b"data: " + b"x" * 65536
    for page, body in (
        (b"<p>It works!</p>", b""),
        (b"[1, 2]", b""),
        (b"{}", b""),
        (b"[" * 100_000, b""),
        (b"9" * 100_000, b""),
        (b"", endless),
        (json.dumps(model_of(neurons=10**12)).encode(), b""),
    ):
        with answering(page, body) as (address, _):
            assert run("--connect", address) == (69, "is not that of snn-detect's page"), page[:80]


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
def test_a_host_that_is_none_is_an_error_in_one_line(host: str) -> None:
    assert run("--connect", f"{host}:80") == (69, "no page of snn-detect answers")


def test_a_stream_without_an_end_of_line_takes_no_memory() -> None:
    page = json.dumps(model_of()).encode()
    with answering(page, b"data: " + b"x" * 65536) as (address, sent), Terminal("--connect", address) as terminal:
        terminal.wait_for(lambda t: "a line without an end" in t, "what is wrong with the stream")
        wait_until(lambda: sent[0] > 100_000_000 or "no connection" in terminal.text, "some of it")
        status = Path(f"/proc/{terminal.process.pid}/status").read_text()
        assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 300_000  # type: ignore[index]
        assert terminal.end(signal.SIGINT) == 130


def test_messages_that_are_none_of_snn_detect_are_an_error_in_one_line() -> None:
    page = json.dumps(model_of()).encode()
    for body in (b'event: record\ndata: {"no": "type"}\n\n', b'event: frames\ndata: {"frames": "many"}\n\n'):
        with answering(page, body) as (address, _):
            assert run("--connect", address) == (69, "is not that of snn-detect's page"), body


def test_what_a_service_sends_is_not_obeyed_by_the_terminal() -> None:
    model = model_of()
    model["source"] = model["classes"][0]["label"] = "evil\x1b]0;x\x07\x9b"
    screen = Screen(model)
    sound = {"type": "offset", "id": "1", "time": "2026-11-23T18:04:05\x1b[2J", "label": "a\x1b[2Jb"}
    screen.handle(("record", sound | {"duration_s": 1.0, "peak": 0.5}))
    screen.handle(("connection", {"detail": "no connection: \x1b[2J"}))
    out = io.StringIO()
    Console(file=out, width=WIDTH, height=HEIGHT, color_system=None).print(screen)
    assert "evil" in out.getvalue()
    assert out.getvalue().replace("\n", "").isprintable()


def model_of(**layer: Any) -> dict[str, Any]:
    """Return what ``/api/model`` answers for the model that ships, with a layer that is changed."""
    found = asdict(describe_model(Detector.load(), NodeInfo("n", "s", "d", (), "m", "a", "1")))
    found["layers"][0] |= layer
    return found


@contextlib.contextmanager
def answering(page: bytes, body: bytes) -> Iterator[tuple[str, list[int]]]:
    """Answer each request but that of the stream with ``page``, or without end with ``body`` where it is empty."""
    sent = [0]

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            asked = connection.recv(65536)
            if page and b"/api/stream" not in asked:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page))
                return
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                sent[0] += connection.send(body)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}", sent
        server.shutdown(socket.SHUT_RDWR)


def run(*arguments: str | Path) -> tuple[int, str]:
    """Run it to its end in a terminal; return its code and the reason that it printed."""
    with Terminal(*arguments) as terminal:
        while terminal.read(DEADLINE_S):
            pass
        return terminal.process.wait(), next((r for r in REASONS if r in terminal.text), terminal.text)


def test_impossible_options_are_one_line(tmp_path: Path) -> None:
    assert run("--device", tmp_path / "none.wav") == (66, "cannot be opened")
    os.mkfifo(tmp_path / "pipe.wav")
    assert run("--device", tmp_path / "pipe.wav") == (66, "is a pipe")
    assert run("--device", SCENE, "--connect", "127.0.0.1:1") == (2, "name one of them")
    assert run("--connect", "") == (2, "lacks its port")
    done = subprocess.run([sys.executable, "-m", "detector", "watch"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no terminal to draw on" in done.stderr


@pytest.mark.parametrize(("share", "text"), [(0.0, "·" * 8), (1.0, "█" * 8), (0.5, "████····"), (2.0, "█" * 8)])
def test_bars(share: float, text: str) -> None:
    assert bar(share, 8) == text
    assert bar(share, 8, 0.75)[6] == "│"


def test_each_dot_is_a_neuron() -> None:
    spikes = np.zeros((4, 8), np.bool_)
    spikes[0, 7] = spikes[3, 0] = True
    assert list(raster(spikes, 2)) == [chr(0x2801) + chr(0x2800), chr(0x2800) + chr(0x2880)]
