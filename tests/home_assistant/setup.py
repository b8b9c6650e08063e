"""Home Assistant, a broker and the service together: what is announced, what is shown, and what differs."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import soundfile
import soxr

from detector.messages import Samples
from tests.broker import HOST, Broker, retained
from tests.check_processor import CheckError
from tests.home_assistant.instance import HomeAssistant, wait
from tests.home_assistant.microphone import Microphone
from tests.service import RATE

Part = Literal["home_assistant", "broker", "service"]
NODE: Final = "board"
SOURCE: Final = "kitchen"
GUITAR: Final = f"binary_sensor.{NODE}_{SOURCE}_guitar"
EVENT: Final = f"event.{NODE}_{SOURCE}_event"
LEVEL: Final = f"sensor.{NODE}_{SOURCE}_level"
STATUS: Final = f"binary_sensor.{NODE}_status"
MIN_DBFS: Final = -80.0
"""No level is lower, since that of the noise is -70 dBFS."""
_QUIET_S: Final = 5.0
"""Pause before a sound, so that it does not belong to the one before."""
_QUIET: Final = {"sound": "off", "problem": "off", "connectivity": "on"}
"""States of binary sensors while nothing sounds, by their class."""
# The broker has all that is retained on its disk, also what is out of date when it is killed.
_PERSISTENCE: Final = ("persistence true", "autosave_on_changes true", "autosave_interval 1")
_CONFIG: Final = """
node = "{node}"
[audio]
device = "-"
source = "{source}"
[[mqtt]]
host = "{host}"
port = {port}
area = "Music room"
page_url = "http://192.0.2.4:8765/"
"""


def read_sound(path: Path) -> Samples:
    """Return the samples (n,) of a recording at the rate of the microphone."""
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise CheckError(f"{path}: {error}; name a recording of one guitar with GUITAR=") from error
    found: Samples = soxr.resample(samples.mean(axis=1), rate_hz, RATE).astype(np.float32)
    return found


class Setup:
    """The three parts, each of which can be killed and started."""

    def __init__(self, root: Path, folder: Path, sound: Samples) -> None:
        """Prepare; ``sound`` holds one guitar."""
        # The broker would remember the announcement of the last run, and Home Assistant suggests an area only once.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._sound = sound
        self.broker = Broker(folder, *_PERSISTENCE, f"persistence_location {folder.resolve()}/")
        config = folder / "config.toml"
        text = _CONFIG.format(node=NODE, source=SOURCE, host=HOST, port=self.broker.port)
        config.write_text(text, encoding="utf-8")
        self.home = HomeAssistant(root, folder)
        self.service = Microphone(config, folder)
        self.parts: dict[Part, Any] = {
            "home_assistant": self.home,
            "broker": self.broker,
            "service": self.service,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for part in self.parts.values():
            part.kill()

    def announcements(self) -> list[dict[str, Any]]:
        """Return what the broker has of announcements."""
        found = retained(self.broker.port)
        return [json.loads(payload) for topic, payload in found.items() if topic.startswith("homeassistant/device/")]

    def states(self) -> dict[str, dict[str, Any]]:
        """Return the states of all entities that came by MQTT."""
        own = set(self.home.render("integration_entities('mqtt')"))
        return {state["entity_id"]: state for state in self.home.get("/api/states") if state["entity_id"] in own}

    def state(self, entity: str) -> str:
        """Return the state of an entity."""
        with contextlib.suppress(CheckError):
            return str(self.home.get(f"/api/states/{entity}")["state"])
        return "absent"

    def mismatches(self) -> list[str]:
        """Return what Home Assistant shows that is not so while all parts run and nothing sounds."""
        announced = {c["default_entity_id"]: c for one in self.announcements() for c in one["cmps"].values()}
        shown = self.states()
        found = [f"{entity} is missing" for entity in announced.keys() - shown.keys()]
        found += [f"{entity} is not announced" for entity in shown.keys() - announced.keys()]
        found += [] if announced else ["nothing is announced"]
        for entity in announced.keys() & shown.keys():
            state, wanted = shown[entity]["state"], _QUIET.get(announced[entity].get("device_class", ""))
            is_known = state != "unavailable" and (state != "unknown" or entity == EVENT)
            if not is_known or shown[entity]["attributes"].get("restored") or state != (wanted or state):
                found.append(f"{entity} is {state}")
        if not found and float(shown[LEVEL]["state"]) < MIN_DBFS:
            found.append(f"{LEVEL} is {shown[LEVEL]['state']}")
        return sorted(found)

    def settle(self) -> float:
        """Wait until there are no mismatches, and return for how many seconds."""
        last: list[str] = []

        def fits() -> bool:
            last[:] = self.mismatches()
            return not last

        try:
            return wait(fits, "the states of a quiet place", 120)
        except CheckError as error:
            raise CheckError(f"{error}: {'; '.join(last)}") from error

    def start_guitar(self, times: int = 1) -> None:
        """Play the sound, and wait until Home Assistant shows a guitar and its event."""
        wait(lambda: self.service.quiet_s >= _QUIET_S, "quiet")
        before = self.state(EVENT)
        self.service.play(np.tile(self._sound, times))
        wait(lambda: self.state(GUITAR) == "on", "the guitar")
        wait(lambda: self.state(EVENT) != before, "its event")

    def play_guitar(self) -> dict[str, list[str]]:
        """Play the sound to its end; return the states that the guitar's sensor has taken, and the events."""
        changes = self.home.changes[-1]
        marks = {entity: len(changes.of(entity)) for entity in (GUITAR, EVENT)}
        self.start_guitar()
        wait(lambda: not self.service.is_playing and self.state(GUITAR) == "off", "the guitar's end")
        self.settle()
        states, events = (changes.of(entity)[marks[entity] :] for entity in (GUITAR, EVENT))
        if states != ["on", "off"] or len(events) != 1:
            raise CheckError(f"one guitar gave the states {states} and {len(events)} events")
        return {"states": states, "events": events}
