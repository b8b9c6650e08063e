"""Each recipe of ``systemd/RECIPES.md`` as it stands there, with addresses and paths of this test in place of its own.

One service takes a camera's sound and has the outputs of all recipes; what arrives is what the recipes say.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import jinja2
import numpy as np
import pytest
import soundfile
import yaml  # type: ignore[import-untyped]
from click.testing import CliRunner

from detector.cli.main import cli as snn_detect
from detector.config.settings import Settings
from firmware_export.cli import cli as snn_export
from tests.broker import Broker, Watcher
from tests.contracts.live import Posted, Receiver
from tests.service import Child, service, wait_until
from tests.sound_server import require_programs
from tests.streams import AAC, VIDEO, Camera
from tests.test_documents import blocks
from tests.web_service import SCENE, scene

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = "systemd/RECIPES.md"
FOLDER: Final = ROOT / "systemd" / "recipes"
BASE: Final = "snn-detect/home/studio"
CONFIG: Final = "homeassistant/device/snn_detect_home/config"
PASSWORD: Final = "viewer:not-to-be-shown"  # noqa: S105 - of this test


def chapter(title: str, language: str) -> list[str]:
    """Return the code blocks of one recipe in a language."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    (part,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```", part, re.DOTALL | re.MULTILINE)


@dataclass
class Home:
    """What one run of the service with all recipes has left."""

    watcher: Watcher
    child: Child
    posted: list[Posted]
    database: Path

    def entities(self) -> dict[str, dict[str, Any]]:
        """Return the announced components by the id that Home Assistant gives the entity."""
        components = json.loads(self.watcher.last(CONFIG) or "{}")["cmps"].values()
        return {c["default_entity_id"]: c for c in components}

    def json(self, topic: str) -> dict[str, Any]:
        """Return the first payload of a topic."""
        found: dict[str, Any] = json.loads(self.watcher.payloads(topic)[0])
        return found


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    """Give a camera with a picture, which plays some of the scene and a silence."""
    file = tmp_path_factory.mktemp("camera") / "scene.wav"
    soundfile.write(
        file, np.concatenate([scene()[392000:472000], np.zeros(48000, np.float32)]), 16000, subtype="PCM_16"
    )
    user, _, password = PASSWORD.partition(":")
    launch = f"filesrc location={file} ! wavparse ! audioconvert ! audioresample ! audio/x-raw,rate=16000 ! {AAC}"
    with Camera(VIDEO, launch, user=user, password=password) as running:
        yield running


@pytest.fixture(scope="module")
def home(camera: Camera, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Run the service on the page's configuration until a guitar has ended."""
    require_programs(("curl",), "curl")
    folder, receiver = tmp_path_factory.mktemp("home"), Receiver()
    server = f"http://127.0.0.1:{receiver.server.server_port}"
    (folder / "credentials").write_text(f"{PASSWORD}\n")
    (folder / "credentials").chmod(0o600)
    with Broker(folder) as broker, Watcher(broker.port) as watcher:
        places = {
            "rtsp://192.0.2.7/stream1": camera.url,
            "/etc/snn-detect/stream.credentials": str(folder / "credentials"),
            '"homeassistant.local"': f'"127.0.0.1"\nport = {broker.port}\ntls = false',
            "https://ntfy.sh/TOPIC": f"{server}/TOPIC",
            "https://example.org/hook": f"{server}/hook",
        }
        text = "\n".join(blocks(PAGE, "toml"))
        assert [place for place in places if text.count(place) != 1] == []
        for place, here in places.items():
            text = text.replace(place, here)
        config = folder / "config.toml"
        config.write_text(f'{text}\n[database]\npath = "{folder / "events.db"}"\ncommit_s = 0\n')
        with service(config) as child:
            found = Home(watcher, child, receiver.posted, folder / "events.db")
            child.wait_for_records(
                lambda rs: ("offset", "guitar") in {(r["type"], r.get("label")) for r in rs}, "its end"
            )
            wait_until(lambda: watcher.payloads(f"{BASE}/guitar/state")[-1:] == ["OFF"], "the guitar's end by MQTT")
            wait_until(lambda: {p.path for p in found.posted} == {"/TOPIC", "/hook"}, "both messages")
            yield found
    receiver.close()


def first(home: Home) -> dict[str, Any]:
    """Return the record of the first guitar's onset."""
    return next(record for record in home.child.of("onset") if record["label"] == "guitar")


def test_the_configuration_of_each_recipe_is_valid_by_itself() -> None:
    for block in blocks(PAGE, "toml"):
        Settings.model_validate(tomllib.loads(block))


def test_the_camera_s_sound_is_detected_and_only_its_sound_is_fetched(home: Home, camera: Camera) -> None:
    onset = first(home)
    assert (onset["label"], onset["source"]) == ("guitar", "studio")
    assert onset["device"] == f"rtsp://127.0.0.1:{camera.port}/..."
    assert len(camera.uris("setup")) == len(camera.uris("play")) > 0  # one track each time, of two


class _Input(str):
    """The name of a blueprint's input."""

    __slots__ = ()


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """YAML with Home Assistant's tag for the inputs of a blueprint."""


_Loader.add_constructor("!input", lambda loader, node: _Input(loader.construct_scalar(node)))


def strings(value: Any) -> Iterator[str]:
    """Yield every string in what YAML holds."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def attributes(home: Home, entity: str) -> dict[str, Any]:
    """Return the attributes of an entity while its sound lasts, from its own topic."""
    return home.json(home.entities()[entity]["json_attributes_topic"])


def test_the_automation_s_entities_exist_and_change_as_it_expects(home: Home) -> None:
    ((automation,),) = (
        yaml.safe_load(block)["automation"] for block in chapter("An automation in Home Assistant", "yaml")
    )
    (trigger,) = automation["triggers"]
    entity = home.entities()[trigger["entity_id"]]
    assert (trigger["trigger"], trigger["to"]) == ("state", "on")
    assert (entity["p"], entity["device_class"]) == ("binary_sensor", "sound")
    states = [state for state, _ in itertools.groupby(home.watcher.payloads(entity["state_topic"]))]
    assert states[:3] == ["OFF", "ON", "OFF"]  # off and on, by default
    for action in automation["actions"]:
        assert re.fullmatch(r"[a-z_]+\.[a-z_]+", action["action"])
    own = [text for text in strings(automation) if "home_studio" in text]
    assert set(re.findall(r"\w+\.home_studio_\w+", " ".join(own))) <= home.entities().keys()
    template = automation["actions"][1]["data"]["message"]
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - text
    environment.globals["state_attr"] = lambda entity, name: attributes(home, entity)[name]
    onset = first(home)
    message = environment.from_string(template).render()
    assert message == f"A guitar since {onset['time']}, score {onset['score']}"


def test_the_blueprint_takes_the_sounds_that_are_announced(home: Home) -> None:
    blueprint = yaml.load((FOLDER / "home-assistant-blueprint.yaml").read_text(encoding="utf-8"), _Loader)  # noqa: S506
    head = blueprint.pop("blueprint")
    assert {"name", "domain", "input"} <= head.keys()
    assert head["domain"] == "automation"
    used = {str(text) for text in strings(blueprint) if isinstance(text, _Input)}
    assert used == head["input"].keys()
    (wanted,) = head["input"]["sounds"]["selector"]["entity"]["filter"]
    chosen = {
        entity
        for entity, c in home.entities().items()
        if (wanted["domain"], wanted["device_class"]) == (c["p"], c.get("device_class"))
    }
    assert "binary_sensor.home_studio_guitar" in chosen
    assert len(chosen) == len(json.loads(home.watcher.last(CONFIG) or "{}")["cmps"]["studio_event"]["event_types"])


@pytest.mark.parametrize(("min_score", "passes"), [(0, True), (1.0, False)])
def test_the_blueprint_s_templates_give_name_score_and_start(home: Home, min_score: float, *, passes: bool) -> None:
    blueprint = yaml.load((FOLDER / "home-assistant-blueprint.yaml").read_text(encoding="utf-8"), _Loader)  # noqa: S506
    entity = "binary_sensor.home_studio_guitar"
    device = json.loads(home.watcher.last(CONFIG) or "{}")["dev"]["name"]
    name = f"{device} {home.entities()[entity]['name']}"  # as Home Assistant names the entity of a device
    state = SimpleNamespace(name=name, attributes=attributes(home, entity))
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - text
    environment.filters["float"] = lambda value, default: float(value if value is not None else default)
    trigger = SimpleNamespace(entity_id=entity, to_state=state)
    known: dict[str, Any] = {"min_score": min_score}
    for key in ("sound", "score", "start"):
        known[key] = environment.from_string(blueprint["variables"][key]).render(trigger=trigger)
    onset = first(home)
    expected = ("SNN detect home Guitar", str(onset["score"]), onset["time"])
    assert (known["sound"], known["score"], known["start"]) == expected
    known["score"] = float(known["score"])  # Home Assistant makes numbers of what looks like one
    (condition,) = blueprint["conditions"]
    assert environment.from_string(condition["value_template"]).render(known) == str(passes)


def test_attributes_are_there_before_the_state_that_starts_an_automation(home: Home) -> None:
    topics = [m.topic for m in home.watcher.messages]
    states = [i for i, m in enumerate(home.watcher.messages) if (m.topic, m.payload) == (f"{BASE}/guitar/state", "ON")]
    assert topics.index(f"{BASE}/guitar/attributes") < states[0]


def test_a_message_arrives_as_ntfy_takes_it(home: Home) -> None:
    onset, message = first(home), next(p for p in home.posted if p.path == "/TOPIC")
    assert message.method == "POST"
    assert (message.headers["Title"], message.headers["Tags"]) == ("guitar", "musical_note")
    assert message.body == f"score {onset['score']} at {onset['time']}"


def test_a_webhook_gets_the_record(home: Home) -> None:
    message = next(p for p in home.posted if p.path == "/hook")
    assert json.loads(message.body) == first(home)


def matches(pattern: str, topic: str) -> bool:
    """Return whether a topic is one of a subscription, with + for one level (MQTT 3.1.1, 4.7)."""
    return re.fullmatch(pattern.replace("+", "[^/]+"), topic) is not None


def test_the_flow_of_node_red_gets_what_it_asks_for(home: Home) -> None:
    nodes = json.loads((FOLDER / "node-red-flow.json").read_text(encoding="utf-8"))
    by_type = {node["type"]: node for node in nodes}
    assert len({node["id"] for node in nodes}) == len(nodes)
    wired = {target for node in nodes for wire in node.get("wires", ()) for target in wire}
    assert wired <= {node["id"] for node in nodes}
    source, switch, change, out = (by_type[kind] for kind in ("mqtt in", "switch", "change", "mqtt out"))
    assert [n["wires"][0] for n in (source, switch, change)] == [[n["id"]] for n in (switch, change, out)]
    assert {source["broker"], out["broker"]} == {by_type["mqtt-broker"]["id"]}
    found = [m for m in home.watcher.messages if matches(source["topic"], m.topic)]
    assert {m.topic for m in found} == {f"{BASE}/event"}
    (rule,) = switch["rules"]
    assert (switch["property"], rule["t"]) == ("payload.event_type", "eq")
    payload = next(p for p in (json.loads(m.payload) for m in found) if p["event_type"] == rule["v"])
    names = re.findall(r"payload\.(\w+)", change["rules"][0]["to"])
    assert names == ["event_type", "source", "score"]
    assert [name for name in names if name not in payload] == []
    assert payload["source"] == "studio"
    assert not matches(source["topic"], out["topic"])  # it does not feed itself


def test_a_day_s_table_is_that_of_the_stored_events(home: Home, tmp_path: Path) -> None:
    (shell,) = chapter("A day's table with DuckDB", "sh")
    (code,) = chapter("A day's table with DuckDB", "python")
    words, _, file = shell.strip().partition(" > ")
    program, *arguments = shlex.split(words)
    assert (program, file) == ("snn-detect", "day.csv")
    exported = CliRunner().invoke(snn_detect, [*arguments, "--database", str(home.database)])
    assert exported.exit_code == 0
    (tmp_path / file).write_text(exported.stdout, encoding="utf-8")
    code = code.replace(
        "print(table)", "import json; print(json.dumps([table.columns, *map(list, table.fetchall())], default=str))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    columns, row = json.loads(done.stdout)[:2]
    assert columns == ["label", "sounds", "seconds", "first", "last", "peak"]
    with (tmp_path / file).open(newline="", encoding="utf-8") as table:
        events = [event for event in csv.DictReader(table) if event["label"] == "guitar"]
    assert events
    lasted = sum(float(event["duration_s"]) for event in events if event["duration_s"])
    assert row[:3] == ["guitar", len(events), pytest.approx(lasted, abs=0.06)]


def test_label_files_have_the_scene_s_sounds(tmp_path: Path) -> None:
    (shell,) = chapter("Labels for Audacity and Raven", "sh")
    for line in shell.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "snn-detect"
        here = {"recording.wav": str(SCENE), "labels.txt": str(tmp_path / "labels.txt")}
        here |= {"selections.txt": str(tmp_path / "selections.txt")}
        done = CliRunner().invoke(snn_detect, [here.get(word, word) for word in arguments])
        assert done.exit_code == 0, done.output
    with SCENE.with_suffix(".tsv").open(newline="", encoding="utf-8") as file:
        truth = [
            (r["event_label"], float(r["onset"]), float(r["offset"])) for r in csv.DictReader(file, delimiter="\t")
        ]
    track = [row.split("\t") for row in (tmp_path / "labels.txt").read_text().splitlines()]
    found = {
        i
        for b, e, label in track
        for i, (x, at, to) in enumerate(truth)
        if x == label and float(b) < to and float(e) > at
    }
    assert "guitar" in {truth[i][0] for i in found}
    with (tmp_path / "selections.txt").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    names = ("Begin Time (s)", "End Time (s)")
    assert [[float(row[name]) for name in names] for row in rows] == [[float(x) for x in row[:2]] for row in track]


def test_the_library_for_arduino_is_made_by_its_command(tmp_path: Path) -> None:
    (shell,) = chapter("A library for Arduino", "sh")
    program, *arguments = shlex.split(shell.replace("~", str(tmp_path)))
    assert program == "snn-export"
    done = CliRunner().invoke(snn_export, [str(ROOT / w) if w.endswith(".onnx") else w for w in arguments])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "Arduino" / "libraries" / "snn_detect_household" / "library.properties").is_file()


def test_every_recipe_is_run_here() -> None:
    titles = re.findall(r"^## (.+)$", (ROOT / PAGE).read_text(encoding="utf-8"), re.MULTILINE)
    assert titles == [
        "The sound of a camera",
        "An automation in Home Assistant",
        "A message on the phone",
        "Node-RED",
        "A day's table with DuckDB",
        "Labels for Audacity and Raven",
        "A library for Arduino",
    ]
    assert sorted(p.name for p in FOLDER.iterdir()) == ["home-assistant-blueprint.yaml", "node-red-flow.json"]
