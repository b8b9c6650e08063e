"""Several sound sources in one configuration: what each has of its own, and what it takes from the general sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.config.loading import load_configuration, load_settings
from detector.config.settings import Settings
from detector.errors import ConfigError
from tests.detector.config.test_loading import run

CALIBRATION = f"""
date = "2026-11-24"
hours = 8
rate_per_hour = 1
promise_per_hour = 1
model = "m-1"
model_sha256 = "{64 * "a"}"
"""
FILE = f"""
[audio]
rate_hz = 48000
hours = ["06:00 to 22:00"]
[model]
path = "/general.onnx"
[listening]
sensitivity = "low"
only = ["guitar"]
thresholds = {{ guitar = 0.7, speech = 0.8 }}
[calibration]
{CALIBRATION}
[sources.kitchen]
device = "rtsp://camera/1"
[sources.garden]
channel = "left"
rate_hz = 16000
model = "/own.onnx"
sensitivity = "high"
only = []
hours = []
thresholds = {{ speech = 0.5 }}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    return path


def test_without_sources_the_settings_are_those_of_the_only_one() -> None:
    settings = Settings.model_validate({"audio": {"source": "hall"}})
    assert settings.each() == (settings,)


def test_a_source_has_its_own_values_and_else_the_general_ones(file: Path) -> None:
    kitchen, garden = load_settings(file).each()
    assert [s.audio.source for s in (kitchen, garden)] == ["kitchen", "garden"]
    assert (kitchen.audio.device, kitchen.audio.channel, kitchen.audio.rate_hz) == ("rtsp://camera/1", "mean", 48000)
    assert (garden.audio.device, garden.audio.channel, garden.audio.rate_hz) == ("mic", "left", 16000)
    assert (kitchen.audio.hours, garden.audio.hours) == (("06:00 to 22:00",), ())
    assert (kitchen.model.path, garden.model.path) == (Path("/general.onnx"), Path("/own.onnx"))
    assert (kitchen.listening.sensitivity, garden.listening.sensitivity) == ("low", "high")
    assert (kitchen.listening.only, garden.listening.only) == (("guitar",), ())
    assert kitchen.listening.thresholds == {"guitar": 0.7, "speech": 0.8}
    assert garden.listening.thresholds == {"speech": 0.5}  # another model need not know the sounds of the general one
    file.write_text(FILE.replace('model = "/own.onnx"\n', ""))
    assert load_settings(file).each()[1].listening.thresholds == {"guitar": 0.7, "speech": 0.5}


def test_thresholds_of_a_source_are_not_those_of_the_general_calibration(file: Path) -> None:
    kitchen, garden = load_settings(file).each()
    assert kitchen.calibration is not None
    assert kitchen.calibration.model == "m-1"
    assert garden.calibration is None
    beside = file.with_name("config.d")
    beside.mkdir()
    (beside / "50-garden.toml").write_text(f"[sources.garden.calibration]\n{CALIBRATION.replace('m-1', 'm-2')}")
    _, garden = load_settings(file).each()
    assert garden.calibration is not None
    assert garden.calibration.model == "m-2"


def test_a_source_can_be_changed_by_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SNN_DETECT_SOURCES__KITCHEN__CHANNEL", "2")
    assert [s.audio.channel for s in load_settings(file).each()] == [2, "left"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sources.all]\n", "no source can be called all"),
        ('[sources."the kitchen"]\n', "must be 1 to 64 letters"),
        ('[audio]\nsource = "mic"\n[sources.a]\n', "audio.source names the only source"),
        ('[audio]\ndevice = "-"\n[sources.a]\n[sources.b]\n', "a and b both read standard input"),
        ('[sources.a]\nhours = ["sunrise to sunset"]\n', "hours by sunrise or sunset need audio.latitude"),
        ('[sources.a]\ndevise = "x"\n', "did you mean sources.a.device?"),
        ('[sources.a]\nsource = "x"\n', "sources.a.source: no such key"),
        ("[sources.a]\nrate_hz = 1\n", "sources.a.rate_hz: must be at least 4000"),
        ("".join(f"[sources.s{n}]\n" for n in range(25)), "there are 25 of them, one service has at most 24"),
    ],
)
def test_what_is_wrong_with_a_source_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert str(caught.value).startswith(f"{path}: sources")
    assert words in str(caught.value)


def test_a_device_of_the_command_line_is_refused_where_each_source_has_its_own(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"command line: --device: .*\(kitchen, garden\)"):
        load_configuration(file, {"audio.device": "mic"})


def test_the_place_of_a_wrong_label_is_that_of_the_source_or_the_general_one(file: Path) -> None:
    known = [("speech",), ("speech",)]
    found = dict(load_settings(file).mistakes(known))
    assert found.keys() == {("listening", "only"), ("listening", "thresholds")}
    file.write_text(FILE.replace("only = []", 'only = ["sneeze"]'))
    assert ("sources", "garden", "only") in dict(load_settings(file).mistakes(known))


def test_show_says_of_a_source_what_it_has_of_its_own(file: Path) -> None:
    shown = run("show", file).stdout
    kitchen = shown[shown.index("[sources.kitchen]") : shown.index("[sources.garden]")]
    assert kitchen.split()[1:4] == ["device", "=", '"rtsp://camera/..."']
    assert "channel" not in kitchen
    assert "thresholds = { speech = 0.5 }" in shown[shown.index("[sources.garden]") :]
