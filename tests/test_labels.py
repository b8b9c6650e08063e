"""A label that is not known is answered with the one that may be meant, in every place that takes one.

The places are found by walking commands and settings, so that a new one fails here until it has a case.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector import Detector, detect_file
from detector.cli.main import cli as snn_detect
from detector.config.loading import known_keys
from detector.errors import ConfigError
from detector.network import load_model
from detector.sinks.database import Database, DatabaseSink
from models import RECIPES
from models.cli.main import cli as snn_train
from models.recipe import load_recipe
from tests.detector.sinks.live_records import onset

PROGRAMS: Final[dict[str, click.Command]] = {"snn-detect": snn_detect, "snn-train": snn_train}
NAMES: Final = {"--only", "--threshold", "--label", "--target", "--weight", "--add", "--add-class", "--class"}
"""Options that take labels of sounds."""
OWN: Final = {
    "snn-train adapt --add-class",  # the model must not have it yet
    "snn-train manifest --class",  # of recordings of one's own
}
"""Options whose labels are made by the user."""
ANSWER: Final = "did you mean 'person_sneeze'?"
SETTINGS: Final = {
    "listening.only": "[listening]\nonly = ['sneeze']",
    "listening.thresholds": "[listening]\nthresholds = { sneeze = 0.5 }",
    "clips.labels": "[clips]\nlabels = ['sneeze']",
    "command.labels": "[[command]]\nargv = ['true']\nlabels = ['sneeze']",
    "webhook.labels": "[[webhook]]\nurl = 'http://127.0.0.1:9/'\nlabels = ['sneeze']",
}


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Give a folder with a second of noise, in which a command may write nothing."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(folder / "a.wav", noise, 16000)
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path / "etc"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Yield every command below one, with all its names."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from commands(found, f"{name} {part}")


def cases(sounds: Path) -> dict[str, list[str]]:
    """Return the arguments of each command and option, with a label that is not known."""
    wav, database = str(sounds / "a.wav"), str(sounds.parent / "stored" / "events.db")
    scenes = ["make-scenes", str(sounds.parent / "scenes"), "--for", str(load_model().path), "--rendered", "none"]
    scenes += ["--hours", "0.01", "--add", f"guitar={sounds}"]
    listening = {"--only": "sneeze", "--threshold": "sneeze=0.5"}
    given = {
        "snn-detect": ["--device", wav],
        "snn-detect run": ["run", "--device", wav],
        "snn-detect replay": ["replay", wav],
        "snn-detect archive": ["archive", str(sounds), "--out", str(sounds.parent / "archive")],
    }
    found = {f"{name} {o}": [*arguments, o, v] for name, arguments in given.items() for o, v in listening.items()}
    calibrate = ["calibrate", wav, "--scores", str(sounds.parent / "s.scores")]
    found["snn-detect calibrate --only"] = [*calibrate, "--only", "sneeze"]
    found["snn-detect calibrate --target"] = [*calibrate, "--target", f"sneeze={sounds}"]
    for part in ("query", "tail", "export"):
        found[f"snn-detect events {part} --label"] = ["events", part, "--database", database, "--label", "sneeze"]
    found["snn-train make-scenes --add"] = [*scenes, "--add", f"sneeze={sounds}"]
    found["snn-train make-scenes --only"] = [*scenes, "--only", "sneeze"]
    found["snn-train make-scenes --weight"] = [*scenes, "--weight", "sneeze=2"]
    return found


def taking() -> list[str]:
    """Return each command and option that takes labels of a model."""
    found = [
        f"{path} {name}"
        for program, group in PROGRAMS.items()
        for path, command in commands(group, program)
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name in NAMES
    ]
    return [name for name in found if name not in OWN]


@pytest.mark.parametrize("place", taking())
def test_an_option_that_takes_labels_names_the_one_that_may_be_meant(place: str, sounds: Path) -> None:
    database = sounds.parent / "stored" / "events.db"
    database.parent.mkdir()
    with closing(DatabaseSink(Database(commit_s=0), database)) as sink:
        sink.write(onset("guitar"))  # the model's labels are known where there are no such events yet
    group = PROGRAMS[place.partition(" ")[0]]
    done = CliRunner().invoke(group, cases(sounds)[place], catch_exceptions=False)
    assert ANSWER in done.stderr, done.output
    assert done.exit_code == (0 if " events " in place else 2)
    assert {p.name for p in sounds.parent.iterdir()} <= {"stored", "sounds", "state"}


def test_every_setting_that_takes_labels_has_a_case() -> None:
    known = {key for key in known_keys() if key.rpartition(".")[2] in {"labels", "only", "thresholds"}}
    assert known == SETTINGS.keys()


@pytest.mark.parametrize("key", SETTINGS)
def test_a_setting_that_takes_labels_names_the_one_that_may_be_meant(key: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(SETTINGS[key])
    for arguments in (["config", "check", str(config)], ["run", "--config", str(config), "--device", "-"]):
        done = CliRunner().invoke(snn_detect, arguments, catch_exceptions=False)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"the model knows no 'sneeze'; {ANSWER}" in done.stderr
        assert arguments[0] == "run" or f"{key}: " in done.stderr


def test_python_and_recipes_name_the_label_that_may_be_meant(sounds: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'person_sneeze'"):
        detect_file(sounds / "a.wav", only=["sneeze"])
    with pytest.raises(ConfigError, match="did you mean 'person_sneeze'"):
        Detector.load(thresholds={"sneeze": 0.5})
    recipe = (RECIPES / "household.toml").read_text(encoding="utf-8")
    (line,) = [text for text in recipe.splitlines() if text.startswith("noise_like = ")]
    (tmp_path / "recipe.toml").write_text(recipe.replace(line, 'noise_like = ["sneeze"]'), encoding="utf-8")
    with pytest.raises(ConfigError, match="the recipe knows no 'sneeze'; did you mean 'person_sneeze'"):
        load_recipe(tmp_path / "recipe.toml")
