"""What a broker gets: topics, QoS, which messages stay, the announcement for Home Assistant, the last will."""

from __future__ import annotations

import itertools
import json
import re
import signal
from pathlib import Path
from typing import Any

from tests.broker import Broker, Watcher, retained, wait_until
from tests.contracts.live import BASE, NODE, RATE, USER, Live, configuration, mqtt_section, scene
from tests.contracts.programs import detect, json_output
from tests.contracts.snapshots import check, shape
from tests.service import service

ANNOUNCEMENT = f"homeassistant/device/snn_detect_{NODE}/config"


def announced(running: Live) -> dict[str, Any]:
    """Return the announcement for Home Assistant."""
    wait_until(lambda: running.watcher.last(ANNOUNCEMENT), "the announcement")
    found: dict[str, Any] = json.loads(running.watcher.last(ANNOUNCEMENT) or "")
    return found


def general(topic: str, labels: list[str]) -> str:
    """Return a topic with a word in place of a label."""
    return re.sub(rf"/({'|'.join(labels)})/", "/<label>/", topic)


def test_the_announcement(running: Live) -> None:
    version = json_output("model", "info", "--json") and detect("--version").stdout.split()[-1]
    check("mqtt-home-assistant.json", json.loads(json.dumps(announced(running)).replace(f'"{version}"', '"<version>"')))


def test_topics_qos_payloads_and_what_is_retained(running: Live) -> None:
    labels = announced(running)["cmps"]["pipe_event"]["event_types"]
    wait_until(lambda: running.watcher.last(f"{BASE}/pipe/level"), "a level")
    kept = set(retained(running.broker.port))
    found: dict[str, Any] = {}
    for message in list(running.watcher.messages):
        if message.topic.endswith(("/set", "/get")) or not message.topic.startswith(BASE):
            continue
        payload = message.payload
        what = shape(json.loads(payload), "temp_c") if payload.startswith("{") else f"text, such as {payload}"
        name = general(message.topic, labels)
        if message.topic.endswith(("guitar/attributes", "guitar/state")) or name == message.topic:
            found[name] = {"qos": message.qos, "retained": message.topic in kept, "payload": what}
    problem = found.pop(f"{BASE}/pipe/problem/attributes", None)  # of a machine that was too slow for a moment
    assert problem is None or problem["payload"].keys() == {"conditions", "detail"}
    kept -= {f"{BASE}/pipe/problem/attributes"}
    check("mqtt-topics.json", dict(sorted(found.items())))
    assert {general(topic, labels) for topic in kept} == {t for t, m in found.items() if m["retained"]} | {ANNOUNCEMENT}
    assert {f"{BASE}/pipe/{label}/state" for label in labels} <= kept


def test_the_switch_is_obeyed(running: Live) -> None:
    states = running.watcher.payloads(f"{BASE}/listening/state")
    assert states[0] == "ON"
    assert [state for state, _ in itertools.groupby(states)][-2:] == ["OFF", "ON"], "some may come twice"


def test_the_connection(running: Live) -> None:
    """The broker's log says how the service came: id, clean session, keep-alive, user, will, subscriptions."""
    log = running.guarded_broker.log
    look, who = re.findall(r"New client connected from \S+ as (snn-detect-\S+ \(.*\))\.", log)
    assert who == f"snn-detect-{NODE} (p2, c1, k30, u'{USER}')"
    assert re.fullmatch(rf"snn-detect-{NODE}-[0-9a-f]{{16}} \(p2, c1, k30, u'{USER}'\)", look), (
        "whether the name is free"
    )
    asked = sorted(set(re.findall(rf"^\d+: snn-detect-{NODE} (\d \S+)$", log, re.MULTILINE)))
    assert asked == [
        f"1 {ANNOUNCEMENT}",
        "1 homeassistant/status",
        f"1 {BASE}/listening/set",
        f"1 {BASE}/node/get",
        f"1 {BASE}/sensitivity/set",
    ]
    assert re.search(
        rf"Will message specified \(7 bytes\) \(r1, q1\)\.\n\d+: \t{re.escape(BASE)}/status$", log, re.MULTILINE
    )


def test_an_orderly_end_and_the_last_will(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Watcher(broker.port) as watcher:
        config = configuration(tmp_path, mqtt_section(broker))
        for number in (signal.SIGTERM, signal.SIGKILL):
            with service(config) as child:
                watcher.wait_for(f"{BASE}/status", "online")
                child.play(scene(7)[:-RATE])  # the guitar goes on
                watcher.wait_for(f"{BASE}/pipe/guitar/state", "ON")
                watcher.wait_for(f"{BASE}/pipe/status", "online")
                child.signal(number)
                watcher.wait_for(f"{BASE}/status", "offline")
                if number == signal.SIGTERM:
                    assert child.wait() == 0
                    kept = retained(broker.port)
                    assert kept[f"{BASE}/status"] == kept[f"{BASE}/pipe/status"] == "offline"
                    assert kept[f"{BASE}/pipe/guitar/state"] == "OFF"
        assert retained(broker.port)[f"{BASE}/status"] == "offline"
        assert json_output("mqtt", "test", "--config", config, "--json")[0].keys() == {"host", "port", "stages"}
        listed = json_output("mqtt", "list", "--config", config, "--json")
        check("mqtt-list.json", shape(listed))
        assert listed[0]["nodes"][0]["state"] == "offline"
        assert detect("mqtt", "purge", "--config", config).returncode == 0
        assert retained(broker.port) == {}
