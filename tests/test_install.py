"""What pip installs, from a wheel and from the clone: the model, types, manual pages and completion in shells."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.test_systemd import NOT_SOURCES, ROOT, need

PROGRAM = """
from detector import Detector, detect_file
import models

assert models.OWN == "of the program", models
found = Detector.load()
assert found.path.name == "household.onnx"
print(found.path, detect_file(found.path.parents[1] / "demo" / "scene.flac")[0].label)
"""
TYPED = """
from detector import Detector, Event, detect_file, listen

reveal_type([found.onset_s for found in detect_file("a.wav")])
Detector.load(5)

async def main() -> None:
    async for event in listen("mic"):
        reveal_type(event)
"""
ZSH = """
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "fpath=($1 \\$fpath); autoload -U compinit; compinit -u -D; print loaded"
repeat 300 { zpty -r -t z part && all+=$part || sleep 0.1; [[ $all == *$'\\n'loaded* ]] && break }
zpty -w -n z $'snn-detect calib\\t'
repeat 300 { zpty -r -t z part && all+=$part || sleep 0.1; [[ $all == *calib*rate* ]] && break }
print -r -- $all
zpty -d z
"""
OPTIONS = ("-qq", "--disable-pip-version-check", "--no-build-isolation", "--no-deps", "--no-index")


class Installation:
    """A virtual environment with the project and what the tests have of its requirements."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV", "MYPYPATH"}}
        self.environment["CC"] = "no-such-compiler"  # the C core is tested with the wheels
        self.environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"

    def run(self, *command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, check=False, timeout=300
        )

    def pip(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the tests' pip for this environment, which has none."""
        pip = (sys.executable, "-m", "pip", "--python", self.python)
        return self.run(*pip, *arguments, cwd=self.folder)

    def install_command(self, extra: str) -> str:
        """Return what messages name as the command for an extra."""
        program = f"from detector.system import install_command; print(install_command({extra!r}))"
        return self.run(self.python, "-c", program, cwd=self.folder).stdout.strip()


def install(kind: str, folder: Path) -> Installation:
    """Install a copy of the sources as a wheel, or editable."""
    sources, made = folder / "clone", Installation(folder / "venv")
    shutil.copytree(ROOT, sources, symlinks=True, ignore=NOT_SOURCES)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made.folder], check=True)
    packages = made.folder / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    what: list[str | Path] = ["--editable", sources]
    if kind == "wheel":
        done = made.run(sys.executable, "-m", "pip", "wheel", *OPTIONS, "-w", folder, sources, cwd=folder)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(sources)  # nothing may come from there
        what = [*folder.glob("*.whl")]
    done = made.pip("install", *OPTIONS, *what)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return install("editable", tmp_path_factory.mktemp("editable"))


@pytest.fixture(params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest) -> Installation:
    found: Installation = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give the folder of a program that has a package ``models`` of its own."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text('OWN = "of the program"\n')
    return tmp_path


def test_the_model_is_found_beside_a_package_models_of_the_program(installed: Installation, project: Path) -> None:
    (project / "program.py").write_text(PROGRAM)
    done = installed.run(installed.python, "program.py", cwd=project)
    assert (done.returncode, done.stderr) == (0, "")
    path, label = done.stdout.split()
    assert label == "guitar"
    assert Path(path).is_relative_to(installed.folder.parent)
    verified = installed.run(installed.python, "-m", "detector", "model", "info", "--json", cwd=project)
    assert json.loads(verified.stdout)["path"] == path


def test_a_type_checker_sees_the_types(editable: Installation, project: Path) -> None:
    (project / "typed.py").write_text(TYPED)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", editable.python, "typed.py")
    lines = editable.run(*mypy, "--cache-dir", project / "cache", cwd=project).stdout.splitlines()
    shown = [line.partition(": ")[2] for line in lines[:3]]
    assert shown == [
        'note: Revealed type is "list[float]"',
        (
            'error: Argument 1 to "load" of "Detector" has incompatible type "int"; '
            'expected "Path | str | None"  [arg-type]'
        ),
        'note: Revealed type is "detector.messages.Event"',
    ]


@pytest.mark.parametrize("program", ["snn-detect", "snn-train", "snn-export"])
def test_man_finds_the_page_of_an_environment_in_use(wheel: Installation, program: str) -> None:
    need("man")
    done = wheel.run("man", "-w", program, cwd=wheel.folder)
    assert Path(done.stdout.strip()) == wheel.folder / "share" / "man" / "man1" / f"{program}.1"


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("snn-detect repl", ["replay"]),
        ("snn-detect replay --sco", ["--scores"]),
        ("snn-detect replay --only guitar,spe", ["guitar,speech"]),
        ("snn-detect events q", ["query"]),
    ],
)
def test_bash_completes(wheel: Installation, words: str, wanted: list[str]) -> None:
    script = (
        f"source {wheel.folder}/share/bash-completion/completions/snn-detect\n"
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "_snn_detect_completion snn-detect; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = wheel.run("bash", "-c", script, cwd=wheel.folder)
    assert (done.stdout.splitlines(), done.stderr) == (wanted, "")


def test_fish_completes(wheel: Installation) -> None:
    need("fish")
    source = f"source {wheel.folder}/share/fish/vendor_completions.d/snn-detect.fish"
    done = wheel.run("fish", "--no-config", "-c", f"{source}; complete -C 'snn-detect calib'", cwd=wheel.folder)
    assert done.stdout == "calibrate\tFit the thresholds to a place.\n"


def test_zsh_completes(wheel: Installation) -> None:
    need("zsh")
    wheel.environment["TERM"] = "dumb"
    done = wheel.run("zsh", "-f", "-c", ZSH, "zsh", wheel.folder / "share" / "zsh" / "site-functions", cwd=wheel.folder)
    assert "calibrate" in done.stdout


def test_the_command_for_an_extra_is_one_that_pip_can_run(installed: Installation) -> None:
    command = installed.install_command("mqtt")
    program, *arguments = shlex.split(command)
    assert (program, arguments[0]) == ("pip", "install")
    assert arguments[-1].endswith("[mqtt]")
    done = installed.pip(*arguments, "--dry-run", "--force-reinstall", *OPTIONS[1:])
    assert done.returncode == 0, done.stderr
    assert "Would install snn-detect" in done.stdout


def test_where_the_wheel_is_gone_the_packages_of_an_extra_are_named(wheel: Installation) -> None:
    (origin,) = wheel.folder.glob("lib/python3.*/site-packages/snn_detect-*/direct_url.json")
    kept, pip = origin.read_text(), wheel.folder / "bin" / "pip"
    origin.write_text('{"url": "file:///no/such.whl", "archive_info": {}}')
    try:
        assert wheel.install_command("plot") == "make install EXTRAS=mqtt,metrics,web,plot LOCK="  # it has no pip
        pip.touch(0o755)
        assert wheel.install_command("mqtt") == "pip install 'paho-mqtt>=2.1'"
    finally:
        origin.write_text(kept)
        pip.unlink(missing_ok=True)
