"""Nothing is stored or sent that was not asked for: by this program, or by a library that it loads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
MODEL = Path(str(resources.files("models") / "pretrained" / "household.onnx"))
ROOT = Path(__file__).resolve().parents[2]
_SOCKET = re.compile(r"socket\(AF_(\w+)")
_CONNECT = re.compile(r'connect\(\d+, \{sa_family=AF_UNIX, sun_path=@?"([^"]*)"')
_OPENED = re.compile(r'open(?:at)?\([^"]*"([^"]*)", [^)]*O_(?:WRONLY|RDWR|CREAT|TMPFILE)[^)]*\) = \d')
_MADE = re.compile(r'(?:creat|mkdir|mkdirat|mknod|mknodat|symlink|symlinkat)\([^"]*"([^"]*)".*\) = \d')
_SEMAPHORE = "/dev/shm/sem."  # noqa: S108 - it has no name any more once it is made
_DEVICES = ("/dev/null", "/dev/tty", "/dev/pts/", "/dev/snd/", "/proc/self/", "/proc/thread-self/", _SEMAPHORE)
_OPTIONS = ("-f", "--seccomp-bpf", "-qq")
"""With the filter, the many calls that are not traced take no longer than without strace."""
_CALLS = "socket,connect,open,openat,creat,mkdir,mkdirat,mknod,mknodat,symlink,symlinkat"


class Seen(NamedTuple):
    """What a command did, by the kernel's account."""

    code: int
    text: str
    families: set[str]
    """Families of its sockets."""
    peers: set[str]
    """Paths of the Unix sockets that it called."""
    written: set[str]
    """Files and folders that it created or opened for writing."""


@pytest.fixture(scope="module")
def isolated() -> list[str]:
    """Give the command that runs another one without a network; skip where the system permits none, except in CI."""
    isolating = [*_program("unshare"), "-rn", "--"]
    tracing = [*_program("strace"), *_OPTIONS, "-e", "trace=openat"]
    done = subprocess.run([*isolating, *tracing, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no network namespace, or no tracing, is permitted: {done.stderr.strip()[-200:]}")
    return isolating


def _program(name: str) -> list[str]:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"no {name}") if os.environ.get("CI") == "true" else pytest.skip(f"no {name}")
    return [str(found)]


class Place(NamedTuple):
    """Folders of a user who has nothing yet."""

    home: Path
    work: Path
    temporary: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "home", tmp_path / "work", tmp_path / "temporary")
    for folder in made:
        folder.mkdir()
    wave, rate_hz = soundfile.read(SCENE, dtype="float32", frames=9 * 16000)
    soundfile.write(made.work / "a.wav", wave, rate_hz)
    (made.work / "quiet.raw").write_bytes(np.zeros(48000, "<i2").tobytes())
    (made.work / "service.toml").write_text(
        f'[audio]\ndevice = "-"\n[[file]]\npath = "{made.work}/out.jsonl"\n[database]\npath = "{made.work}/e.db"\n'
        f'[clips]\ndirectory = "{made.work}/clips"\n'
    )
    return made


def seen(isolated: list[str], place: Place, module: str, *arguments: str) -> Seen:
    """Run a command without a network and return what it did."""
    trace = place.temporary.parent / "trace"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "ORT_", "SNN_", "MPL", "NUMBA_"))}
    environment = kept | {"HOME": str(place.home), "TMPDIR": str(place.temporary), "PYTHONPATH": str(ROOT)}
    environment |= {"STATE_DIRECTORY": str(place.home / "state"), "CACHE_DIRECTORY": str(place.home / "cache")}
    words = [a.replace("WORK", str(place.work)).replace("MODEL", str(MODEL)) for a in arguments]
    tracing = [
        *isolated,
        *_program("strace"),
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-y",
        "-e",
        f"trace={_CALLS}",
        "-o",
        str(trace),
    ]
    done = subprocess.run(
        [*tracing, sys.executable, "-B", "-m", module, *words],
        cwd=place.work,
        env=environment,
        input=(place.work / "quiet.raw").read_bytes(),
        capture_output=True,
        check=False,
        timeout=300,
    )
    lines = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    written = {m[1] for line in lines for pattern in (_OPENED, _MADE) if (m := pattern.search(line))}
    return Seen(
        code=done.returncode,
        text=(done.stdout + done.stderr).decode(errors="replace"),
        families={m[1] for line in lines if (m := _SOCKET.search(line))},
        peers={m[1] for line in lines if (m := _CONNECT.search(line))},
        written={str(Path(place.work, path)) for path in written if not path.startswith(_DEVICES)},
    )


COMMANDS: tuple[tuple[str, tuple[str, ...], set[str]], ...] = (
    ("detector", ("--help",), set()),
    ("detector", ("replay", "a.wav"), set()),
    ("detector", ("replay", "a.wav", "--tsv", "a.tsv", "--audacity", "a.txt"), {"work/a.tsv", "work/a.txt"}),
    ("detector", ("replay", "a.wav", "--scores", "a.npz", "--picture", "a.png"), {"work/a.npz", "work/a.png"}),
    ("detector", ("--device", "-", "--tee", "tee.wav"), {"work/tee.wav"}),
    ("detector", ("run", "--config", "service.toml"), {"work/out.jsonl", "work/e.db", "work/clips", "home/state/lock"}),
    ("detector", ("calibrate", "a.wav", "--out", "50.toml", "--scores", "s"), {"work/50.toml", "work/s"}),
    ("detector", ("model", "info"), set()),
    ("detector", ("model", "verify"), set()),
    ("detector", ("bench",), set()),
    ("detector", ("config", "check", "service.toml"), set()),
    ("detector", ("config", "show", "service.toml"), set()),
    ("detector", ("config", "init", "own.toml"), {"work/own.toml"}),
    ("detector", ("config", "schema"), set()),
    ("detector", ("events", "query", "--database", "none.db"), set()),
    ("detector", ("mqtt", "test", "--config", "service.toml"), set()),
    ("models.cli.main", ("--help",), set()),
    ("models.cli.main", ("show-neuron", "--out", "n.png"), {"work/n.png"}),
    ("models.cli.main", ("gather", "--packages", "debian"), set()),
    ("firmware_export.cli", ("int8", "MODEL", "--out", "i.onnx"), {"work/i.onnx"}),
    ("firmware_export.cli", ("c", "MODEL", "--out", "c"), {"work/c"}),
    ("firmware_export.cli", ("nir", "MODEL", "--out", "g.nir"), {"work/g.nir", "work/g.md"}),
)


@pytest.mark.parametrize(("module", "arguments", "made"), COMMANDS, ids=[" ".join(c[1][:2]) for c in COMMANDS])
def test_a_command_opens_no_socket_and_writes_to_its_own_folders_alone(
    isolated: list[str], place: Place, module: str, arguments: tuple[str, ...], made: set[str]
) -> None:
    found = seen(isolated, place, module, *arguments)
    assert "Traceback" not in found.text
    assert found.code in (0, 2, 66), found.text
    assert (found.families - {"UNIX"}, found.peers) == (set(), set())
    base = place.work.parent
    own = {str(base / part) for part in ("work", "temporary", "home/state", "home/cache")}
    packages = (str(ROOT / "models"), str(ROOT / "detector"))  # where numba keeps what it has compiled
    outside = {p for p in found.written if not p.startswith((*own, *packages))}
    assert outside == set()
    before = {"work/a.wav", "work/quiet.raw", "work/service.toml"}
    files = {str(p.relative_to(base)) for p in base.rglob("*") if p.is_file() and p.name != "trace"}
    allowed = made | before | {"home/cache/matplotlib"}
    assert {f for f in files if not any(f == a or f.startswith(f"{a}/") for a in allowed)} == set()
    assert {m for m in made if not (base / m).exists()} == set()
    assert list(place.temporary.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("devices",), ("meter", "--seconds", "1"), ("doctor",), ("doctor", "--device", "-")]
)
def test_commands_on_microphones_speak_to_the_sound_system_of_this_machine_alone(
    isolated: list[str], place: Place, arguments: tuple[str, ...]
) -> None:
    found = seen(isolated, place, "detector", *arguments)
    assert "Traceback" not in found.text
    assert found.families <= {"UNIX", "NETLINK"}  # the kernel's messages on devices
    local = re.compile(r"pulse|pipewire|jack|nscd|/run/(user|dbus|systemd|udev)/|/tmp/")
    assert {peer for peer in found.peers if not local.search(peer)} == set()
    shared = r"/dev/shm/(jack|sem\.|pulse)|/tmp/pulse-"  # noqa: S108 - of JACK and PulseAudio
    own = re.compile(rf"{shared}|{place.home}/\.config(/pulse.*)?$|{place.temporary}/")
    assert {path for path in found.written if not own.match(path)} == set()


def test_the_network_is_used_where_it_is_asked_for(isolated: list[str], place: Place) -> None:
    """The check itself would see a socket."""
    (place.work / "service.toml").write_text('[audio]\ndevice = "-"\n[mqtt]\nhost = "192.0.2.1"\n')
    found = seen(isolated, place, "detector", "mqtt", "test", "--config", "service.toml")
    assert "INET" in found.families
    assert found.code == 69


def test_telemetry_is_off_in_this_process() -> None:
    import detector.network  # noqa: F401

    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
