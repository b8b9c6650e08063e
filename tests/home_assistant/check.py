"""Check what a real Home Assistant shows of the service, through restarts of each part in every order.

For ``make check-home-assistant``: Home Assistant of a pinned release in a root of its own, mosquitto, and the service
on raw samples at the pace of a microphone. All states are read back over Home Assistant's HTTP API. Needs root,
debootstrap and Chromium; takes a quarter of an hour. It ends with 1 where something differs, in one line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from detector import __version__
from tests.broker import program
from tests.check_processor import CheckError
from tests.home_assistant.instance import SUITE, VERSION, prepare, wait
from tests.home_assistant.pictures import take_pictures
from tests.home_assistant.setup import EVENT, GUITAR, LEVEL, MIN_DBFS, STATUS, Part, Setup, read_sound

PARTS: Final[tuple[Part, ...]] = ("home_assistant", "broker", "service")
_DEVICE: Final = {"name": "name", "manufacturer": "mf", "model": "mdl", "sw_version": "sw", "configuration_url": "cu"}
"""Attributes of a device, and where the announcement has them."""


def check_devices(setup: Setup) -> list[dict[str, Any]]:
    """Return the devices that Home Assistant shows; raises CheckError where one is not as announced, or extra."""
    found = []
    for announced in setup.announcements():
        entities = sorted(c["default_entity_id"] for c in announced["cmps"].values())
        ids = {setup.home.render(f"device_id('{entity}')") for entity in entities}
        if len(ids) != 1 or None in ids:
            raise CheckError(f"the entities of one announcement belong to the devices {ids}")
        (device,) = ids
        own = setup.home.render(f"device_entities('{device}')")
        shown = {name: setup.home.render(f"device_attr('{device}', '{name}')") for name in _DEVICE}
        shown["area"] = setup.home.render(f"area_name('{device}')")
        wanted = {name: announced["dev"].get(key) for name, key in _DEVICE.items()}
        wanted["area"] = announced["dev"].get("sa")
        if shown != wanted or sorted(own) != entities:
            raise CheckError(f"the device is {shown} with {own}, but {wanted} with {entities} is announced")
        found.append({"id": device, **shown, "entities": len(entities)})
    devices = setup.home.render("integration_entities('mqtt') | map('device_id') | unique | list")
    if len(devices) != len(found):
        raise CheckError(f"{len(devices)} devices are shown, and {len(found)} announced")
    return found


def interrupt(setup: Setup, part: Part) -> dict[str, Any]:
    """Kill a part while a guitar sounds, and start it again after that; all states have to be right again."""
    setup.start_guitar()
    fired = setup.state(EVENT)
    setup.parts[part].kill()
    meanwhile = {} if part == "home_assistant" else seen_without(setup, part)
    wait(lambda: not setup.service.is_playing, "the end of the sound")
    setup.parts[part].start()
    settled_s = setup.settle()
    check_event(setup, fired)
    return {"killed": part, "meanwhile": meanwhile, "settled_after_s": settled_s}


def seen_without(setup: Setup, part: Part) -> dict[str, str]:
    """Return the states while the broker or the service is away; nothing may seem to be known then."""
    wanted = {GUITAR: "unavailable", LEVEL: "unavailable", STATUS: "off" if part == "service" else "unavailable"}
    for entity, state in wanted.items():
        wait(lambda entity=entity, state=state: setup.state(entity) == state, f"{entity} {state} without {part}")  # type: ignore[misc]
    return {entity: setup.state(entity) for entity in wanted}


def interrupt_all(setup: Setup, order: tuple[Part, ...]) -> dict[str, Any]:
    """Kill all parts in an order while a guitar sounds, and start them in it."""
    setup.start_guitar()
    fired = setup.state(EVENT)
    for part in order:
        setup.parts[part].kill()
    for part in order:
        setup.parts[part].start()
    settled_s = setup.settle()
    check_event(setup, fired)
    return {"killed": "all", "settled_after_s": settled_s}


def check_event(setup: Setup, fired: str) -> None:
    """Raise CheckError where an event that was fired before is fired again; a killed Home Assistant forgets it."""
    if (state := setup.state(EVENT)) not in (fired, "unknown"):
        raise CheckError(f"the event of {fired} was fired again, {state}")


def check_order(setup: Setup, order: tuple[Part, ...]) -> dict[str, Any]:
    """Kill and start the parts one at a time in an order, then all of them; then one guitar is one event."""
    print(f"order: {', '.join(order)}", flush=True)
    steps = [interrupt(setup, part) for part in order]
    steps.append(interrupt_all(setup, order))
    after = setup.play_guitar()
    check_devices(setup)
    return {"order": order, "steps": steps, "guitar_after": after["states"], "events_after": len(after["events"])}


def check_levels(setup: Setup) -> dict[str, float]:
    """Return the lowest and the highest level that were ever shown; raises CheckError for one that cannot be."""
    values = [state for changes in setup.home.changes for state in changes.of(LEVEL)]
    found = [float(value) for value in values if value not in ("unknown", "unavailable")]
    if not found or min(found) < MIN_DBFS:
        raise CheckError(f"the level was {min(found, default=None)} dB while there was sound")
    return {"lowest_dbfs": min(found), "highest_dbfs": max(found), "shown": len(found)}


def check(root: Path, folder: Path, sound: Path, orders: int) -> dict[str, Any]:
    """Do all checks; return the result."""
    with Setup(root, folder / "run", read_sound(sound)) as setup:
        setup.broker.start()
        setup.home.start()
        setup.home.add_broker(setup.broker.port)
        setup.service.start()
        first_s = setup.settle()
        devices = check_devices(setup)
        guitar = setup.play_guitar()
        pictures = folder / "pictures"
        taken = take_pictures(setup, pictures, devices[0]["id"])
        found = [check_order(setup, order) for order in itertools.islice(itertools.permutations(PARTS), orders)]
        entities = {name: s["attributes"]["friendly_name"] for name, s in sorted(setup.states().items())}
        levels = check_levels(setup)
    return {
        "command": "make check-home-assistant",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "home_assistant": VERSION,
        "debian": SUITE,
        "mosquitto": mosquitto_version(),
        "snn_detect": __version__,
        "sound": sound.name,
        "devices": [{k: v for k, v in device.items() if k != "id"} for device in devices],
        "entities": entities,
        "known_after_first_start_s": first_s,
        "guitar": {"states": guitar["states"], "events": len(guitar["events"])},
        "level": levels,
        "orders": found,
        "pictures": taken,
        "outcome": "passed",
    }


def mosquitto_version() -> str:
    """Return the version of the broker."""
    done = subprocess.run([program("mosquitto"), "-h"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].split()[-1]


def table(result: dict[str, Any]) -> str:
    """Return the result as a table in Markdown."""
    r = result
    head = (
        f"`{r['command']}`, {r['date']}: Home Assistant {r['home_assistant']} on Debian {r['debian']}, mosquitto "
        f"{r['mosquitto']}, snn-detect {r['snn_detect']};\n{len(r['entities'])} entities, all right "
        f"{r['known_after_first_start_s']} s after the first start. Below: seconds from the start of what was killed\n"
        "while a guitar sounded to right states everywhere.\n\n"
    )
    rows = [
        "killed, one at a time | first | second | third | all three | then one guitar",
        "--- | --- | --- | --- | --- | ---",
    ]
    for order in result["orders"]:
        seconds = [str(step["settled_after_s"]) for step in order["steps"]]
        states = f"{', '.join(order['guitar_after'])}; {order['events_after']} event"
        rows.append(" | ".join((", ".join(order["order"]).replace("_", " "), *seconds, states)))
    return head + "".join(f"| {row} |\n" for row in rows)


def main() -> None:
    """Check, and write the result."""
    parser = argparse.ArgumentParser(description="Check what a real Home Assistant shows of the service.")
    parser.add_argument("--folder", type=Path, required=True, help="where the root, logs and pictures go")
    parser.add_argument("--sound", type=Path, required=True, help="a recording of one guitar")
    parser.add_argument("--result", type=Path, help="JSON file of the result; a table goes beside it")
    parser.add_argument("--orders", type=int, default=6, help="how many of the six orders of restarts to try")
    arguments = parser.parse_args()
    try:
        result = check(prepare(arguments.folder), arguments.folder, arguments.sound, arguments.orders)
    except (CheckError, pytest.fail.Exception, pytest.skip.Exception) as error:
        sys.exit(f"check: {error}")
    text = json.dumps(result, indent=2) + "\n"
    if arguments.result:
        arguments.result.write_text(text, encoding="utf-8")
        arguments.result.with_suffix(".md").write_text(table(result), encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
