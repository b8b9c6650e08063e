"""The service: what systemd, logrotate and Prometheus say to its files, and what is installed where."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from detector.sinks.prometheus import _FAMILIES

ROOT = Path(__file__).resolve().parents[1]
SYSTEMD = ROOT / "systemd"
NOT_SOURCES = shutil.ignore_patterns(".*cache*", ".git", ".venv*", ".hypothesis", "build", "runs", "__pycache__")


SHELL_FILES = {
    "/usr/share/man/man1/snn-detect.1.gz",
    "/usr/share/bash-completion/completions/snn-detect",
    "/usr/share/zsh/vendor-completions/_snn-detect",
    "/usr/share/fish/vendor_completions.d/snn-detect.fish",
}


def missing(reason: str) -> None:
    """Skip, except in CI, where all that tests need is there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def need(program: str) -> None:
    if shutil.which(program) is None:
        missing(f"{program} is not installed")


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as a user does, not as a part of the make that may run the tests."""
    environment = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VIRTUAL_ENV"}}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=1800
    )


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=300
    )


def values(unit: Path, key: str) -> list[str]:
    """Return what a unit says for a key, in order."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def units(tmp_path: Path) -> dict[str, Path]:
    """Install the service below a folder where its program is one that systemd can find."""
    need("make")
    prefix, root = tmp_path / "prefix", tmp_path / "root"
    done = make("install-service", f"DESTDIR={root}", f"PREFIX={prefix}")
    assert done.returncode == 0, done.stderr
    program = root / prefix.relative_to("/") / "bin" / "snn-detect"
    (prefix / "bin").mkdir(parents=True)
    shutil.copy("/bin/true", prefix / "bin" / "snn-detect")
    assert program.is_symlink()
    folder = root / "usr" / "local" / "lib" / "systemd"
    return {kind: folder / kind / "snn-detect.service" for kind in ("system", "user")}


def test_systemd_has_nothing_to_say_about_the_units(units: dict[str, Path], tmp_path: Path) -> None:
    need("systemd-analyze")
    for kind, unit in units.items():
        done = run("systemd-analyze", f"--{kind}", "verify", unit, XDG_RUNTIME_DIR=str(tmp_path))
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), kind


@pytest.mark.parametrize(("kind", "bound"), [("system", 2.0), ("user", 5.2)])
def test_the_service_is_confined(units: dict[str, Path], tmp_path: Path, kind: str, bound: float) -> None:
    """A user's manager has no privilege to take capabilities away, nor what implies that."""
    need("systemd-analyze")
    command = ("systemd-analyze", f"--{kind}", "security", "--offline=true", "--no-pager", units[kind])
    done = run(*command, XDG_RUNTIME_DIR=str(tmp_path))
    (level,) = re.findall(r"Overall exposure level for snn-detect.service: ([\d.]+)", done.stdout)
    assert float(level) <= bound


def test_each_limit_is_set_once(units: dict[str, Path]) -> None:
    """The last one would be in force without a word."""
    lists = {"After", "Environment", "LoadCredential", "SetCredential", "SystemCallFilter", "DeviceAllow"}
    for unit in units.values():
        keys = re.findall(r"^(\w+)=", unit.read_text(encoding="utf-8"), re.MULTILINE)
        assert [key for key in dict.fromkeys(keys) if keys.count(key) > 1 and key not in lists] == []
        assert int(values(unit, "LimitNOFILE")[0]) >= 4096


def test_the_service_is_watched_and_comes_back(units: dict[str, Path]) -> None:
    for unit in units.values():
        assert values(unit, "Type") == ["notify"]
        assert values(unit, "Restart") == ["always"]
        assert int(values(unit, "WatchdogSec")[0]) > 0
        assert values(unit, "RestartPreventExitStatus") == ["2"]


@pytest.mark.parametrize(
    ("prefix", "library"), [("/usr", "/usr"), ("/usr/local", "/usr/local"), ("/opt/x", "/usr/local")]
)
def test_units_start_what_is_installed(tmp_path: Path, prefix: str, library: str) -> None:
    need("make")
    assert make("install-service", f"DESTDIR={tmp_path}", f"PREFIX={prefix}").returncode == 0
    unit = tmp_path / library[1:] / "lib" / "systemd" / "system" / "snn-detect.service"
    program, command, option, settings = values(unit, "ExecStart")[0].split()
    assert (program, command, option) == (f"{prefix}/bin/snn-detect", "run", "--config")
    assert (tmp_path / program[1:]).readlink() == Path("../lib/snn-detect/bin/snn-detect")
    assert (tmp_path / settings[1:]).read_text(encoding="utf-8") == (SYSTEMD / "config.toml").read_text("utf-8")
    (document,) = values(unit, "Documentation")
    readme = tmp_path / document.removeprefix("file:/")
    assert readme.read_text("utf-8") == (SYSTEMD / "README.md").read_text("utf-8")
    recipes = [p.relative_to(SYSTEMD) for p in (SYSTEMD / "RECIPES.md", *(SYSTEMD / "recipes").iterdir())]
    assert [p for p in recipes if (readme.parent / p).read_bytes() != (SYSTEMD / p).read_bytes()] == []


def test_settings_survive_an_update_and_the_end(tmp_path: Path) -> None:
    need("make")
    where = (f"DESTDIR={tmp_path}", "PREFIX=/usr")
    assert make("install-service", *where).returncode == 0
    settings = tmp_path / "etc" / "snn-detect" / "config.toml"
    settings.write_text("mine", encoding="utf-8")
    assert make("install-service", *where).returncode == 0
    assert settings.read_text(encoding="utf-8") == "mine"
    assert make("uninstall", *where).returncode == 0
    assert [p.name for p in tmp_path.rglob("*") if not p.is_dir()] == ["config.toml"]


def test_the_services_user() -> None:
    need("systemd-sysusers")
    done = run("systemd-sysusers", "--dry-run", SYSTEMD / "snn-detect.sysusers.conf")
    assert done.returncode == 0, done.stderr


def test_rotated_lines_are_kept(tmp_path: Path) -> None:
    need("logrotate")
    lines, state = tmp_path / "events.jsonl", tmp_path / "state"
    lines.write_text('{"v":1}\n', encoding="utf-8")
    snippet = (SYSTEMD / "snn-detect.logrotate").read_text(encoding="utf-8")
    changed = snippet.replace("/var/lib/snn-detect", str(tmp_path)).replace("    su snn-detect snn-detect\n", "")
    (tmp_path / "conf").write_text(changed, encoding="utf-8")
    (tmp_path / "conf").chmod(0o644)
    done = run("logrotate", "--force", "--state", state, tmp_path / "conf")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "events.jsonl.1").read_text(encoding="utf-8") == '{"v":1}\n'


def test_alerts_ask_for_figures_that_there_are() -> None:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        missing("PyYAML is not installed")
    path = SYSTEMD / "prometheus-alerts.yml"
    (group,) = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    asked = {name for rule in group["rules"] for name in re.findall(r"snn_detect_(\w+)", rule["expr"])}
    assert len(group["rules"]) == len({rule["alert"] for rule in group["rules"]})
    assert len(asked) >= 5
    assert asked <= set(_FAMILIES)
    assert all({"expr", "for", "annotations"} <= set(rule) for rule in group["rules"])
    if shutil.which("promtool"):
        assert run("promtool", "check", "rules", path).returncode == 0


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the Debian package from a copy of the sources."""
    need("dpkg-deb")
    if run("/usr/bin/python3", "-c", "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))").returncode:
        missing("/usr/bin/python3 is too old or lacks python3-venv")
    sources = tmp_path_factory.mktemp("package") / "sources"
    shutil.copytree(ROOT, sources, symlinks=True, ignore=NOT_SOURCES)
    done = make("deb", "DEB_PACKING=-Znone", cwd=sources)
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        missing(f"no packages of Python can be had here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    (found,) = (sources / "build").glob("*.deb")
    return found


def test_the_lock_file_has_releases_and_hashes_for_all_that_is_installed() -> None:
    """Whether they still are what pyproject.toml asks for, ``make check-lock`` finds out, which needs an index."""
    text = (SYSTEMD / "requirements.txt").read_text(encoding="utf-8")
    entries = [e for e in re.split(r"\n(?=\S)", text) if not e.startswith("#")]
    assert {e.split("==")[0] for e in entries if "==" not in e or "--hash=sha256:" not in e} == set()
    locked = {e.split("==")[0]: e.split("==")[1].split()[0] for e in entries}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["mqtt"], *extras["metrics"], *extras["web"]]
    for requirement in map(Requirement, wanted + project["build-system"]["requires"]):
        assert requirement.specifier.contains(locked[requirement.name]), requirement
    assert not re.search(r"://|index-url|find-links", text)


def test_a_package_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    """A wheel that was changed stops the installation."""
    sources = tmp_path / "sources"
    shutil.copytree(ROOT, sources, symlinks=True, ignore=NOT_SOURCES)
    lock = sources / "systemd" / "requirements.txt"
    text = lock.read_text(encoding="utf-8")
    lock.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", text), encoding="utf-8")
    done = make("install-runtime", f"DESTDIR={tmp_path / 'root'}", cwd=sources)
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        missing(f"no packages of Python can be had here: {done.stderr[-300:]}")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "root").exists()


def test_the_package_is_whole(package: Path) -> None:
    listing = run("dpkg-deb", "--contents", package).stdout.splitlines()
    assert {line.split()[1] for line in listing} == {"root/root"}
    names = {line.split()[5].removeprefix(".") for line in listing}
    files = {"/usr/bin/snn-detect", "/usr/lib/systemd/system/snn-detect.service", "/usr/lib/sysusers.d/snn-detect.conf"}
    assert files | set((SYSTEMD / "debian" / "conffiles").read_text(encoding="utf-8").split()) <= names
    documents = {f"/usr/share/doc/snn-detect/{name}" for name in ("README.md", "copyright", "changelog.gz")}
    assert documents | SHELL_FILES <= names
    control = run("dpkg-deb", "--field", package).stdout
    assert not re.search(r"@[A-Z_]+@", control)
    depends = r"python3 \(>= 3\.\d+~\), python3 \(<< 3\.\d+~\), libportaudio2, systemd \| systemd-standalone-sysusers"
    assert re.search(rf"^Depends: {depends}$", control, re.MULTILINE)
    assert re.search(r"^Maintainer: .+ <.+@.+>$", control, re.MULTILINE)
    assert " It is no alarm." in control


PURGE = """
mount -t tmpfs none "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$2/upper,workdir=$2/work" "$2/root" || exit 77
mount --bind /dev "$2/root/dev"
mount -t proc proc "$2/root/proc"
rm -rf "$2/root/var/lib/snn-detect" "$2/root/etc/snn-detect"  # of a service that this system may have
cp "$1" "$2/root/package.deb"
inside="chroot $2/root"
$inside dpkg --force-depends --install /package.deb >&2
$inside id -un snn-detect
$inside snn-detect --version
mkdir -p "$2/root/var/lib/snn-detect" "$2/root/run/snn-detect" "$2/root/usr/lib/snn-detect/lib/__pycache__"
touch "$2/root/var/lib/snn-detect/events.db" "$2/root/etc/snn-detect/config.d/mine.toml"
touch "$2/root/usr/lib/snn-detect/lib/__pycache__/later.pyc"
$inside dpkg --remove snn-detect >&2
ls "$2/root/var/lib/snn-detect" "$2/root/etc/snn-detect/config.d"
$inside dpkg --purge snn-detect >&2
rm "$2/root/package.deb"
find "$2/upper" -name '*snn?detect*' ! -type c
grep snn-detect "$2/root/etc/passwd" "$2/root/etc/group" "$2/root/etc/shadow"
echo purged
"""


def test_what_installing_and_running_made_is_gone_behind_a_purge(package: Path, tmp_path: Path) -> None:
    """Installed in a view of this system that ends with the test."""
    if os.geteuid() != 0:
        missing("only root can install packages")
    done = run("unshare", "--mount", "sh", "-c", PURGE, "sh", package, tmp_path)
    if done.returncode == 77:
        missing("the file systems of this machine take no overlay")
    lines = [line for line in done.stdout.split("\n") if line and not line.endswith(":")]
    version = re.search(r'__version__ = "(.*)"', (ROOT / "detector" / "__init__.py").read_text(encoding="utf-8"))
    assert version is not None
    assert lines == ["snn-detect", f"snn-detect {version[1]}", "mine.toml", "events.db", "purged"], done.stderr


def test_what_the_package_unpacks_runs(package: Path, tmp_path: Path) -> None:
    """Run where nothing else is installed, by the environment's Python: its scripts name the place where it belongs."""
    assert run("dpkg-deb", "--extract", package, tmp_path).returncode == 0
    installed = tmp_path / "usr" / "lib" / "snn-detect"
    script = (installed / "bin" / "snn-detect").read_text(encoding="utf-8")
    assert script.startswith("#!/usr/lib/snn-detect/bin/python\n")
    traces = run("grep", "-rlI", "--exclude-dir=__pycache__", str(package.parent), tmp_path).stdout
    assert traces == ""
    assert all(p.stat().st_mode & stat.S_IROTH for p in tmp_path.rglob("*") if not p.is_symlink())

    def detect(*arguments: str | Path) -> str:
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        command = [installed / "bin" / "python", "-m", "detector", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert json.loads(detect("model", "info", "--json"))["engine"] == "core"
    assert '"type":"onset"' in detect("replay", ROOT / "models" / "demo" / "scene.flac")
    assert detect("config", "init", "-") == (SYSTEMD / "config.toml").read_text(encoding="utf-8")
    for module in ("paho.mqtt.client", "prometheus_client", "sounddevice"):
        run(installed / "bin" / "python", "-c", f"import {module}").check_returncode()
