"""Servers of network streams for tests: an RTSP camera, Icecast, plain HTTP; and what receives from them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pytest

from detector.audio.live_source import AudioBlock, AudioGap, AudioSource, SourceCondition, SourceEvent
from detector.audio.network_stream import NetworkStream
from detector.config.sections import Audio
from detector.messages import Samples
from tests.broker import HOST, free_port, program, wait_until
from tests.sound_server import require_programs

RATE: Final = 16000
TICKS: Final = "audiotestsrc is-live=true wave=ticks tick-interval=1000000000"
AAC: Final = "voaacenc ! rtpmp4gpay pt=97"
VIDEO: Final = (
    "videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=5/1 ! jpegenc ! "
    "rtpjpegpay pt=26"
)
_SYSTEM_PYTHON: Final = "/usr/bin/python3"
_CAMERA: Final = Path(__file__).parent / "detector" / "audio" / "rtsp_camera.py"
_ELEMENTS: Final = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
_BINDINGS: Final = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import Gst, GstRtspServer"
_NEEDED: Final = "Gst.init(None); assert all(map(Gst.ElementFactory.find, ('voaacenc', 'rtpmp4gpay', 'jpegenc')))"


def sound(rate_hz: int = 48000, channels: int = 1, what: str = TICKS) -> str:
    return f"{what} ! audio/x-raw,rate={rate_hz},channels={channels}"


def require_camera() -> None:
    """Skip where GStreamer's server is missing, except in CI, where that is a failure."""
    done = subprocess.run([_SYSTEM_PYTHON, "-c", f"{_BINDINGS}; {_NEEDED}"], capture_output=True, check=False)
    require_programs((), _ELEMENTS, ["GStreamer's RTSP server"] if done.returncode else [])


class Process:
    """A program that is started, killed, frozen, and started again."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            if self._process.stdout:
                self._process.stdout.close()
        self._process = None

    def freeze(self) -> None:
        """Stop it without closing its sockets."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class Camera(Process):
    """An RTSP camera that counts the requests of its clients."""

    def __init__(self, *tracks: str, **options: Any) -> None:
        """Take the pipeline of each track, up to its payloader; ``options``: user and password, digest."""
        require_camera()
        self.port = free_port()
        self.url = f"rtsp://{HOST}:{self.port}/cam"
        launch = " ".join(f"{track} name=pay{number}" for number, track in enumerate(tracks))
        values = {"port": self.port, "launch": f"( {launch} )", **options}
        super().__init__([_SYSTEM_PYTHON, str(_CAMERA), json.dumps(values)])
        self.requests: list[tuple[str, str]] = []
        self._ready = threading.Event()

    def start(self) -> None:
        self._ready.clear()
        super().start()
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        if not self._ready.wait(30):
            pytest.fail("the camera does not start")

    def uris(self, method: str) -> list[str]:
        """Return the addresses of the requests of one kind, in order."""
        return [uri for name, uri in self.requests if name == method]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # closed meanwhile
            for line in process.stdout:
                values = json.loads(line)
                if "ready" in values:
                    self._ready.set()
                else:
                    self.requests.append((values["request"], values["uri"]))


_ICECAST: Final = """<icecast>
  <limits><clients>20</clients><sources>4</sources><burst-size>32768</burst-size></limits>
  <authentication><source-password>source</source-password><admin-user>a</admin-user><admin-password>b</admin-password>
  </authentication>
  <hostname>127.0.0.1</hostname>
  <listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
  <fileserve>0</fileserve>
  <mount><mount-name>/closed.mp3</mount-name><authentication type="htpasswd">
    <option name="filename" value="{folder}/users"/></authentication></mount>
  <paths><basedir>{folder}</basedir><logdir>{folder}</logdir><webroot>{folder}</webroot><adminroot>{folder}</adminroot>
  </paths>
  <logging><accesslog>access.log</accesslog><errorlog>error.log</errorlog><loglevel>3</loglevel></logging>
  <security><chroot>0</chroot>{user}</security>
</icecast>
"""


class Icecast(Process):
    """icecast2 on a port of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        # It gives up root's rights, and could not reach pytest's folders then.
        self._folder = tempfile.TemporaryDirectory(prefix="icecast-")
        folder = Path(self._folder.name)
        folder.chmod(0o777)
        config = folder / "icecast.xml"
        user = "<changeowner><user>icecast2</user><group>icecast</group></changeowner>" if os.geteuid() == 0 else ""
        config.write_text(_ICECAST.format(port=self.port, folder=folder, user=user))
        super().__init__([program("icecast2"), "-c", str(config)])

    def url(self, mount: str) -> str:
        return f"http://{HOST}:{self.port}/{mount}"

    def start(self) -> None:
        super().start()

        def answers() -> bool:
            try:
                urllib.request.urlopen(f"http://{HOST}:{self.port}/none", timeout=1)
            except urllib.error.HTTPError as error:
                error.close()
                return True
            except OSError:
                return False
            return True

        try:
            wait_until(answers, "icecast2's start")
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._folder.cleanup()

    def feed(self, mount: str, *arguments: str) -> Process:
        """Return what sends to a mount in real time: ffmpeg with these arguments, a loop that survives the server."""
        target = f"icecast://source:source@{HOST}:{self.port}/{mount}"
        command = " ".join(f"'{a}'" for a in (program("ffmpeg"), "-v", "quiet", "-re", *arguments, target))
        return Group(["sh", "-c", f"while :; do {command}; sleep 0.2; done"])


class Group(Process):
    """A shell with what it starts."""

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        super().kill()


class HttpServer:
    """A server of one stream: ``send`` writes to each client; requests are kept as path and headers."""

    def __init__(
        self,
        send: Callable[[str, Callable[[bytes], object]], object],
        certificate: Path | None = None,
        key: Path | None = None,
        port: int = 0,
    ) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.needs_password = False
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.requests.append((self.path, dict(self.headers)))
                if server.needs_password and "Authorization" not in self.headers:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="stream"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(200)
                self.end_headers()
                with contextlib.suppress(OSError):
                    send(self.path, self.wfile.write)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://localhost:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def paced(data: bytes, bytes_per_s: int, write: Callable[[bytes], object], piece_s: float = 0.05) -> None:
    """Write data at the pace of a live source."""
    piece, begin_s = max(1, round(bytes_per_s * piece_s)), time.monotonic()
    for number, at in enumerate(range(0, len(data), piece)):
        time.sleep(max(0.0, begin_s + number * piece_s - time.monotonic()))
        write(data[at : at + piece])


class Listener:
    """Drains a source in a thread, and keeps all that it emits."""

    def __init__(self, source: AudioSource) -> None:
        self.source = source
        self.events: list[SourceEvent] = []
        self.error: BaseException | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join(10)
        self.source.close()
        if self.error is not None:
            raise self.error

    @property
    def blocks(self) -> list[AudioBlock]:
        return [event for event in self.events if isinstance(event, AudioBlock)]

    @property
    def gaps(self) -> list[AudioGap]:
        return [event for event in self.events if isinstance(event, AudioGap)]

    @property
    def conditions(self) -> list[SourceCondition]:
        return [event for event in self.events if isinstance(event, SourceCondition)]

    @property
    def seconds(self) -> float:
        return sum(len(block.chunk.samples) for block in self.blocks) / RATE

    def receive(self, seconds: float) -> None:
        """Wait until so much more sound has come."""
        wanted = self.seconds + seconds
        wait_until(lambda: self.seconds >= wanted or self.error, f"{seconds} s of sound")

    def wait_for(self, name: str, *, active: bool) -> SourceCondition:
        """Wait for a condition among those that have not been waited for, and return it."""
        seen = self._seen = getattr(self, "_seen", 0)

        def found() -> SourceCondition | None:
            later = enumerate(self.conditions[seen:], seen + 1)
            return next((self._note(n, c) for n, c in later if (c.name, c.active) == (name, active)), None)

        result: list[SourceCondition] = []
        wait_until(lambda: (c := found()) and not result.append(c), f"{name} {active}")  # type: ignore[func-returns-value]
        return result[0]

    def _note(self, number: int, condition: SourceCondition) -> SourceCondition:
        self._seen = number
        return condition

    def samples(self) -> tuple[Samples, int]:
        """Return all samples with silence for what was lost, and the position of the first one."""
        first = self.blocks[0].chunk.first_sample
        chunks = [block.chunk for block in self.blocks]
        found = np.zeros(max(c.first_sample + len(c.samples) for c in chunks) - first, np.float32)
        for chunk in chunks:
            at = chunk.first_sample - first
            assert not found[at : at + len(chunk.samples)].any()
            found[at : at + len(chunk.samples)] = chunk.samples
        return found, first

    def _drain(self) -> None:
        try:
            while not self._stopped and (events := self.source.take(0.1)) is not None:
                self.events += events
        except BaseException as error:  # noqa: BLE001 - raised again in the test
            self.error = error


def listen(device: str, **settings: Any) -> Listener:
    return Listener(NetworkStream(Audio(device=device, **settings), RATE))


def ticks_s(samples: Samples, level: float = 0.1) -> list[float]:
    """Return when each tick, a burst of some milliseconds, begins."""
    loud = np.flatnonzero(np.abs(samples) > level)
    begins = loud[np.concatenate(([True], np.diff(loud) > RATE // 4))] if loud.size else loud
    return [float(at) / RATE for at in begins]
