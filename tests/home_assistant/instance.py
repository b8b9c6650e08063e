"""Home Assistant of one release, in a root of its own: installed, started, killed, and asked over its HTTP API."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx

from tests.broker import HOST, free_port
from tests.check_processor import CheckError, run
from tests.debian_root import environment, in_root, make_root

VERSION: Final = "2026.2.3"
PACKAGES: Final = (
    f"homeassistant=={VERSION}",
    "PyTurboJPEG==1.8.0",
    "ha-ffmpeg==3.2.2",
    "hassil==3.5.0",
    "home-assistant-frontend==20260128.6",
    "home-assistant-intents==2026.1.28",
    "mutagen==1.47.0",
    "paho-mqtt==2.1.0",
    "pymicro-vad==1.0.1",
    "pyspeex-noise==1.0.2",
)
"""That release, and what its pages and MQTT need by the manifests of its integrations."""
SUITE: Final = "trixie"
"""The release of Debian whose Python this release of Home Assistant needs."""
DEBIAN_PACKAGES: Final = ("python3", "python3-dev", "python3-venv", "g++", "ca-certificates")
DEADLINE_S: Final = 300.0
"""Long enough for a busy machine; nothing waits for it when all is well."""
_ENVIRONMENT: Final = "/srv/home-assistant"
_CONFIG: Final = "/srv/config"
_CONFIGURATION: Final = """
homeassistant:
  name: Check
  unit_system: metric
  time_zone: UTC
  latitude: 0
  longitude: 0
  elevation: 0
http:
  server_host: {host}
  server_port: {port}
frontend:
"""
_OWNER: Final = {"name": "Check", "username": "check", "password": "only-for-this-check", "language": "en"}


def wait(holds: Callable[[], object], what: str, seconds: float = DEADLINE_S) -> float:
    """Wait until something holds, and return for how many seconds; raises CheckError when it never does."""
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > seconds:
            raise CheckError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.1)
    return round(time.monotonic() - begin, 1)


def prepare(folder: Path) -> Path:
    """Make the root below a folder, unless it is there, and return it; raises CheckError where that fails."""
    root, made = folder / "root", folder / f"home-assistant-{VERSION}"
    if made.exists():
        return root
    make_root(root, SUITE, DEBIAN_PACKAGES, run("dpkg", "--print-architecture").strip())
    in_root(root, "python3", "-m", "venv", _ENVIRONMENT)
    pip = (f"{_ENVIRONMENT}/bin/pip", "install", "--quiet", "--no-cache-dir", "--prefer-binary")
    in_root(root, *pip, *PACKAGES)
    made.touch()
    return root


class Changes:
    """Each change of a state, in order, as Home Assistant reports it while it runs."""

    def __init__(self, url: str, token: str) -> None:
        self.states: list[tuple[str, str]] = []
        """Entity and new state."""
        self.is_open = threading.Event()
        arguments = (f"{url}/api/stream?restrict=state_changed", {"Authorization": f"Bearer {token}"})
        threading.Thread(target=self._read, args=arguments, name="changes", daemon=True).start()

    def of(self, entity: str) -> list[str]:
        """Return the states that an entity has taken."""
        return [state for name, state in list(self.states) if name == entity]

    def _read(self, url: str, headers: dict[str, str]) -> None:
        with contextlib.suppress(httpx.HTTPError), httpx.stream("GET", url, headers=headers, timeout=3600) as answer:
            for line in answer.iter_lines():
                self.is_open.set()  # the first line is a ping
                if line.startswith("data: {"):
                    data = json.loads(line.removeprefix("data: "))["data"]
                    new, old = data["new_state"], data["old_state"]
                    if new is not None and (old is None or old["state"] != new["state"]):
                        self.states.append((data["entity_id"], new["state"]))


class HomeAssistant:
    """A process of Home Assistant with an owner, reached over HTTP."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Start from an empty configuration; what it logs goes below ``folder``."""
        self._root, self._log = root, folder / "home-assistant.log"
        config = root / _CONFIG.lstrip("/")
        shutil.rmtree(config, ignore_errors=True)
        config.mkdir(parents=True)
        port = free_port()
        (config / "configuration.yaml").write_text(_CONFIGURATION.format(host=HOST, port=port), encoding="ascii")
        self.url = f"http://{HOST}:{port}"
        self._client_id = f"{self.url}/"
        self.tokens: dict[str, Any] = {}
        self.changes: list[Changes] = []
        """Of each start."""
        self._client = httpx.Client(base_url=self.url, timeout=60)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it runs; changes of states are noted from then on."""
        command = ("chroot", self._root, f"{_ENVIRONMENT}/bin/hass", "--config", _CONFIG)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment(), start_new_session=True
            )
        wait(self._answers, f"the start of Home Assistant ({self._log})")
        if self.tokens:
            self._log_in(grant_type="refresh_token", refresh_token=self.tokens["refresh_token"])
        else:
            self._onboard()
        wait(lambda: self.get("/api/config")["state"] == "RUNNING", "the end of its start")
        self.changes.append(Changes(self.url, self.tokens["access_token"]))
        wait(self.changes[-1].is_open.is_set, "the stream of changes")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def get(self, path: str) -> Any:
        """Return the answer to a request."""
        return self._answer(self._client.get(path))

    def post(self, path: str, **data: Any) -> Any:
        """Return the answer to a request with JSON."""
        return self._answer(self._client.post(path, json=data))

    def render(self, template: str) -> Any:
        """Return the value of a template, which gives JSON."""
        answer = self._client.post("/api/template", json={"template": f"{{{{ ({template}) | to_json }}}}"})
        return json.loads(answer.raise_for_status().text)

    def add_broker(self, port: int) -> None:
        """Set up the MQTT integration, as a user does in the dialogue."""
        flow = self.post("/api/config/config_entries/flow", handler="mqtt", show_advanced_options=False)
        path = f"/api/config/config_entries/flow/{flow['flow_id']}"
        if flow["type"] == "menu":
            flow = self.post(path, next_step_id="broker")
        done = self.post(path, broker=HOST, port=port)
        if done["type"] != "create_entry":
            raise CheckError(f"Home Assistant does not accept the broker: {done}")

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise CheckError(f"Home Assistant has ended; see {self._log}")
        with contextlib.suppress(httpx.HTTPError):
            return self._client.get("/manifest.json").is_success
        return False

    def _onboard(self) -> None:
        """Create the owner, log in, and answer the questions of the first start."""
        code = self.post("/api/onboarding/users", client_id=self._client_id, **_OWNER)["auth_code"]
        self._log_in(grant_type="authorization_code", code=code)
        self.post("/api/onboarding/core_config")
        self.post("/api/onboarding/analytics")
        redirect = f"{self._client_id}?auth_callback=1"
        self.post("/api/onboarding/integration", client_id=self._client_id, redirect_uri=redirect)

    def _log_in(self, **form: str) -> None:
        """Get a token, which is valid for half an hour."""
        self._client.headers.pop("Authorization", None)
        self.tokens |= self._answer(self._client.post("/auth/token", data=form | {"client_id": self._client_id}))
        self._client.headers["Authorization"] = f"Bearer {self.tokens['access_token']}"

    @staticmethod
    def _answer(answer: httpx.Response) -> Any:
        if not answer.is_success:
            raise CheckError(f"Home Assistant: {answer.request.url.path}: {answer.status_code} {answer.text[:200]}")
        return answer.json()
