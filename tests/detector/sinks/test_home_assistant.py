"""Discovery for Home Assistant: the announcement, key by key, and how entities are removed."""

from __future__ import annotations

import dataclasses
import json
import socket
from typing import Any

import pytest
from pydantic import ValidationError

from detector.errors import ConfigError
from detector.sinks.base import SinkContext
from detector.sinks.home_assistant import Discovery, config_topic
from detector.sinks.mqtt import Mqtt
from detector.sinks.mqtt_topics import Message, Topics
from detector.web.sink import Web
from tests.detector.sinks.live_records import STATION

NOW = Discovery("homeassistant", (STATION,), Topics("snn-detect", "pi4", "mic"), 30.0, switch=True)


def test_sources_whose_entities_would_be_one_are_refused() -> None:
    garden = dataclasses.replace(STATION, source="garden", classes=(("dog_bark", "animal"),))
    dog = dataclasses.replace(STATION, source="garden_dog", classes=(("bark", "animal"),))
    with pytest.raises(ConfigError, match=r"rename it \(garden_dog_bark\)"):
        dataclasses.replace(NOW, node_infos=(garden, dog)).messages()
    assert dataclasses.replace(NOW, node_infos=(garden, dataclasses.replace(dog, source="yard"))).messages()


def with_classes(*labels: str) -> Discovery:
    return dataclasses.replace(
        NOW, node_infos=(dataclasses.replace(STATION, classes=tuple((x, "any") for x in labels)),)
    )


def config(discovery: Discovery) -> Any:
    (message,) = discovery.messages()
    return json.loads(message.payload)


def earlier(discovery: Discovery) -> bytes:
    return discovery.messages()[0].payload.encode()


def test_announcement() -> None:
    (message,) = NOW.messages()
    assert message.topic == "homeassistant/device/snn_detect_pi4/config"
    assert (message.qos, message.retain) == (1, True)
    found = json.loads(message.payload)
    components = found.pop("cmps")
    assert found == {
        "dev": {
            "ids": ["snn_detect_pi4"],
            "name": "SNN detect pi4",
            "mf": "snn-detect",
            "mdl": "conv-SNN",
            "sw": "1.2.0",
        },
        "o": {"name": "snn-detect", "sw": "1.2.0"},
        "availability": [{"topic": "snn-detect/pi4/status"}, {"topic": "snn-detect/pi4/mic/status"}],
        "availability_mode": "all",
        "qos": 1,
    }
    assert list(components) == [
        "mic_guitar",
        "mic_speech",
        "mic_event",
        "mic_level",
        "mic_problem",
        "status",
        "listening",
    ]


def test_area_and_page_of_the_device_are_announced_where_they_are_known() -> None:
    placed = dataclasses.replace(NOW, area="Music room", page_url="http://pi4:8765/")
    assert config(placed)["dev"] == config(NOW)["dev"] | {"sa": "Music room", "cu": "http://pi4:8765/"}


@pytest.mark.parametrize(
    ("web", "url"),
    [
        ({"address": "127.0.0.1:8765"}, None),
        ({"address": "[::1]:8765"}, None),
        ({"address": "192.0.2.4:8765"}, "http://192.0.2.4:8765/"),
        ({"address": "[2001:db8::4]:80"}, "http://[2001:db8::4]:80/"),
        ({"address": "0.0.0.0:8765"}, f"http://{socket.gethostname()}:8765/"),
        ({"address": ":8765"}, f"http://{socket.gethostname()}:8765/"),
        ({"address": "[::]:8765", "hosts": ("pi4.local", "pi4")}, "http://pi4.local:8765/"),
    ],
)
def test_the_page_is_known_where_other_machines_can_reach_it(web: dict[str, Any], url: str | None) -> None:
    sections = (Mqtt(host="broker"), Web(**web))
    assert SinkContext((), None, lambda _: None, sections=sections).page_url == url


@pytest.mark.parametrize("url", ["pi4:8765", "javascript:alert(1)", "http://pi4/ and more", "http://", ""])
def test_an_address_that_is_none_of_a_page_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="page_url"):
        Mqtt(host="broker", page_url=url)


def test_entities_of_sounds() -> None:
    components = config(NOW)["cmps"]
    assert components["mic_guitar"] == {
        "p": "binary_sensor",
        "unique_id": "snn_detect_pi4_mic_guitar",
        "default_entity_id": "binary_sensor.pi4_mic_guitar",
        "name": "Guitar",
        "device_class": "sound",
        "state_topic": "snn-detect/pi4/mic/guitar/state",
        "json_attributes_topic": "snn-detect/pi4/mic/guitar/attributes",
    }
    assert components["mic_event"] == {
        "p": "event",
        "unique_id": "snn_detect_pi4_mic_event",
        "default_entity_id": "event.pi4_mic_event",
        "name": "Sound event",
        "state_topic": "snn-detect/pi4/mic/event",
        "event_types": ["guitar", "speech"],
        "icon": "mdi:ear-hearing",
    }


def test_diagnostic_entities() -> None:
    components = config(NOW)["cmps"]
    assert components["mic_level"] == {
        "p": "sensor",
        "unique_id": "snn_detect_pi4_mic_level",
        "default_entity_id": "sensor.pi4_mic_level",
        "name": "Level",
        "unit_of_measurement": "dB",
        "state_class": "measurement",
        "entity_category": "diagnostic",
        "expire_after": 180,
        "state_topic": "snn-detect/pi4/mic/level",
        "value_template": "{{ value_json.rms_dbfs }}",
    }
    assert components["mic_problem"]["device_class"] == "problem"
    assert components["mic_problem"]["availability"] == [{"topic": "snn-detect/pi4/status"}]
    assert components["status"] == {
        "p": "binary_sensor",
        "unique_id": "snn_detect_pi4_status",
        "default_entity_id": "binary_sensor.pi4_status",
        "name": "Status",
        "device_class": "connectivity",
        "entity_category": "diagnostic",
        "state_topic": "snn-detect/pi4/status",
        "payload_on": "online",
        "payload_off": "offline",
        "availability": [],
    }


def test_the_switch_is_there_where_listening_can_be_turned_off() -> None:
    switch = config(NOW)["cmps"]["listening"]
    assert (switch["p"], switch["command_topic"], switch["state_topic"]) == (
        "switch",
        "snn-detect/pi4/listening/set",
        "snn-detect/pi4/listening/state",
    )
    assert "listening" not in config(dataclasses.replace(NOW, switch=False))["cmps"]


def test_every_entity_has_its_own_id_and_none_the_old_key() -> None:
    components = config(with_classes("event", "level", "problem", "dog bark", "dog_bark"))["cmps"]
    assert len({c["unique_id"] for c in components.values()}) == len(components) == 10
    assert not any("object_id" in c for c in components.values())


def test_entity_ids_are_such_as_home_assistant_has() -> None:
    node_info = dataclasses.replace(STATION, node="Pi-4")
    discovery = dataclasses.replace(NOW, node_infos=(node_info,), topics=Topics("snn-detect", "Pi-4", "mic"))
    assert config(discovery)["cmps"]["mic_guitar"]["default_entity_id"] == "binary_sensor.pi_4_mic_guitar"
    assert discovery.topic == "homeassistant/device/snn_detect_Pi-4/config"


def test_a_slow_level_expires_later() -> None:
    assert config(dataclasses.replace(NOW, level_interval_s=600))["cmps"]["mic_level"]["expire_after"] == 1800


def test_entities_that_are_gone_are_taken_back_and_their_topics_emptied() -> None:
    step, last, *emptied = with_classes("speech").messages(earlier(NOW))
    assert json.loads(step.payload)["cmps"]["mic_guitar"] == {"p": "binary_sensor"}
    assert json.loads(step.payload)["cmps"]["mic_speech"] == json.loads(last.payload)["cmps"]["mic_speech"]
    assert "mic_guitar" not in json.loads(last.payload)["cmps"]
    assert emptied == [
        Message("snn-detect/pi4/mic/guitar/state", "", retain=True),
        Message("snn-detect/pi4/mic/guitar/attributes", "", retain=True),
    ]


def test_other_peoples_topics_are_left_alone() -> None:
    before = json.dumps(
        {
            "cmps": {
                n: {"p": "binary_sensor", "state_topic": t}
                for n, t in enumerate(("other/topic", "snn-detect/pi4/#", "snn-detect/pi4/status", "snn-detect/pi42/x"))
            }
        }
    )
    _, _, *emptied = NOW.messages(before.encode())
    assert emptied == []


def test_an_earlier_announcement_that_is_none_changes_nothing() -> None:
    for before in (b"", b"{", b"[]", b"null", b'{"cmps": 3}', b'{"cmps": {"a": 3, "b": {}}}', b"\xff", earlier(NOW)):
        assert NOW.messages(before) == NOW.messages()


def test_birth_is_received_under_the_usual_name_and_the_chosen_one() -> None:
    assert NOW.birth_topics == ("homeassistant/status",)
    assert dataclasses.replace(NOW, prefix="ha").birth_topics == ("homeassistant/status", "ha/status")
    assert config_topic("ha", "pi4") == "ha/device/snn_detect_pi4/config"


def test_the_select_is_there_where_operating_points_can_be_chosen() -> None:
    found = config(dataclasses.replace(NOW, sensitivities=("low", "balanced", "high")))["cmps"]["sensitivity"]
    assert found == {
        "p": "select",
        "unique_id": "snn_detect_pi4_sensitivity",
        "default_entity_id": "select.pi4_sensitivity",
        "name": "Sensitivity",
        "icon": "mdi:tune-vertical",
        "entity_category": "config",
        "options": ["low", "balanced", "high"],
        "state_topic": "snn-detect/pi4/sensitivity/state",
        "command_topic": "snn-detect/pi4/sensitivity/set",
        "availability": [{"topic": "snn-detect/pi4/status"}],
    }
    assert "sensitivity" not in config(NOW)["cmps"]
