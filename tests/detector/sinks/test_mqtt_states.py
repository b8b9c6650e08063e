"""From records to messages: the contract of topics, payloads and flags."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any, get_args

import pytest

from detector.messages import ConditionName
from detector.sinks.base import NodeInfo
from detector.sinks.mqtt_topics import _CONDITIONS, Message, NodeStates, Topics, class_ids, client_id
from tests.detector.sinks.live_records import STATION, clip, gap, health, offset, onset, shown, status

TOPICS = Topics("snn-detect", "pi4", "mic")


def states(node_info: NodeInfo = STATION, level_interval_s: float = 30.0, *, switch: bool = True) -> NodeStates:
    return NodeStates((node_info,), TOPICS.prefix, level_interval_s, switch=switch)


def by_topic(messages: list[Message]) -> dict[str, Message]:
    return {m.topic.removeprefix("snn-detect/pi4/"): m for m in messages}


def payload(messages: list[Message], topic: str) -> Any:
    return json.loads(by_topic(messages)[topic].payload)


def flags(message: Message) -> tuple[int, bool, bool]:
    return message.qos, message.retain, message.durable


def test_topics_are_those_of_the_contract() -> None:
    names = [getattr(TOPICS, name) for name in ("status", "source_status", "event", "level", "health")]
    assert [n.removeprefix("snn-detect/pi4/") for n in names] == [
        "status",
        "mic/status",
        "mic/event",
        "mic/level",
        "health",
    ]
    assert (TOPICS.state("guitar"), TOPICS.attributes("guitar")) == (
        "snn-detect/pi4/mic/guitar/state",
        "snn-detect/pi4/mic/guitar/attributes",
    )
    assert (TOPICS.listening_set, TOPICS.listening_state) == (
        "snn-detect/pi4/listening/set",
        "snn-detect/pi4/listening/state",
    )
    assert client_id("pi4") == "snn-detect-pi4"
    assert Topics("home/ears/", "pi4", "mic").status == "home/ears/pi4/status"


def test_everything_is_off_at_the_start() -> None:
    assert {t: m.payload for t, m in by_topic(states().present()).items()} == {
        "mic/status": "offline",
        "listening/state": "ON",
        "mic/problem/state": "OFF",
        "mic/guitar/state": "OFF",
        "mic/speech/state": "OFF",
    }
    assert all(m.qos == 1 and m.retain for m in states().present())
    assert "listening/state" not in by_topic(states(switch=False).present())


def test_onset() -> None:
    messages = states().take(onset())
    found = by_topic(messages)
    assert list(found) == ["mic/status", "mic/guitar/attributes", "mic/guitar/state", "mic/event"]
    assert (found["mic/guitar/state"].payload, flags(found["mic/guitar/state"])) == ("ON", (1, True, False))
    assert flags(found["mic/guitar/attributes"]) == (1, True, True)
    assert flags(found["mic/event"]) == (1, False, True)
    assert payload(messages, "mic/guitar/attributes") == {
        "score": 0.91,
        "peak": None,
        "start": "2026-11-23T18:04:05.120+01:00",
        "end": None,
        "duration_s": None,
        "event_id": "id-1",
        "clip": None,
    }
    assert payload(messages, "mic/event") == {
        "event_type": "guitar",
        "event_id": "id-1",
        "category": "music",
        "source": "mic",
        "time": "2026-11-23T18:04:05.120+01:00",
        "onset_s": 5123.44,
        "score": 0.91,
        "threshold": 0.6,
        "latency_s": 0.24,
        "level_dbfs": -31.2,
        "clock_synced": True,
        "model": "household-1.2.0",
    }


def test_offset_and_clip() -> None:
    s = states()
    s.take(onset())
    messages = s.take(offset())
    assert by_topic(messages)["mic/guitar/state"].payload == "OFF"
    assert payload(messages, "mic/guitar/attributes") == {
        "score": 0.91,
        "peak": 0.97,
        "start": "2026-11-23T18:04:05.120+01:00",
        "end": "2026-11-23T18:04:08.540+01:00",
        "duration_s": 3.42,
        "event_id": "id-1",
        "clip": None,
    }
    assert payload(s.take(clip(1)), "mic/guitar/attributes")["clip"] == "/clips/a.flac"
    assert s.take(clip(2)) == []


def test_an_offset_without_its_onset_says_what_it_knows() -> None:
    s = states()
    s.take(onset(number=1))
    attributes = payload(s.take(offset(number=2)), "mic/guitar/attributes")
    assert (attributes["event_id"], attributes["score"], attributes["start"]) == ("id-2", None, None)
    assert attributes["duration_s"] == 3.42


def test_the_present_is_what_was_said_last() -> None:
    s = states()
    s.take(onset())
    s.take(onset("speech", 2))
    s.take(offset("speech", 2))
    found = by_topic(s.present())
    assert (found["mic/guitar/state"].payload, found["mic/speech/state"].payload) == ("ON", "OFF")
    assert json.loads(found["mic/speech/attributes"].payload)["end"] is not None
    assert "mic/event" not in found


def test_the_source_is_online_while_sound_arrives() -> None:
    s = states()
    said = [
        [m.payload for m in s.take(record) if m.topic == TOPICS.source_status]
        for record in (
            status("listening"),
            status("listening"),
            status("waiting"),
            health(up=False),
            status("waiting", active=False),
            health(),
            status("silent"),
            status("stopping"),
        )
    ]
    assert said == [["online"], [], ["offline"], [], ["online"], [], [], ["offline"]]


def test_a_pause_takes_the_source_away_and_its_troubles() -> None:
    s = states()
    s.take(status("listening"))
    s.take(status("clipping"))
    paused = by_topic(s.take(status("listening", active=False)))
    assert {t: paused[t].payload for t in ("listening/state", "mic/status", "mic/problem/state")} == {
        "listening/state": "OFF",
        "mic/status": "offline",
        "mic/problem/state": "OFF",
    }
    assert json.loads(paused["mic/problem/attributes"].payload) == {"conditions": [], "detail": ""}
    s.take(health())  # standard input stays open
    assert by_topic(s.present())["mic/status"].payload == "offline"
    resumed = by_topic(s.take(status("listening")))
    assert (resumed["listening/state"].payload, resumed["mic/status"].payload) == ("ON", "online")
    assert "listening/state" not in by_topic(states(switch=False).take(status("listening", active=False)))


def test_health_ends_conditions_whose_end_was_not_published() -> None:
    s = states()
    for condition in ("waiting", "silent", "clipping"):
        s.take(status(condition))
    assert payload(s.take(health()), "mic/problem/attributes")["conditions"] == ["clipping"]
    s.take(status("silent"))
    assert "mic/problem/state" not in by_topic(s.take(health(silent=True)))


def test_the_text_of_a_problem_is_that_of_one_that_lasts() -> None:
    s = states()
    s.take(status("clipping", detail="too loud"))
    s.take(status("silent", detail="only zeros"))
    found = payload(s.take(status("silent", active=False, detail="sound again")), "mic/problem/attributes")
    assert found == {"conditions": ["clipping"], "detail": "too loud"}
    s.take(status("waiting", detail="no device"))
    assert payload(s.take(health()), "mic/problem/attributes") == {"conditions": ["clipping"], "detail": "too loud"}
    s.take(status("clipping", active=False, detail="not too loud"))
    s.take(status("waiting", detail="no device"))
    assert payload(s.take(health()), "mic/problem/attributes") == {"conditions": [], "detail": ""}


@pytest.mark.parametrize("condition", sorted(_CONDITIONS))
def test_problems_are_a_state_of_their_own(condition: ConditionName) -> None:
    s = states()
    began = s.take(status(condition, detail="turn it up"))
    assert by_topic(began)["mic/problem/state"].payload == "ON"
    assert payload(began, "mic/problem/attributes") == {"conditions": [condition], "detail": "turn it up"}
    s.take(status("clock", active=True))
    over = s.take(status(condition, active=False, detail="over"))
    assert by_topic(over)["mic/problem/state"].payload == "OFF"
    assert payload(over, "mic/problem/attributes") == {"conditions": [], "detail": "over"}


def test_conditions_are_those_of_the_sources() -> None:
    assert frozenset(get_args(ConditionName)) - {"off_hours"} == _CONDITIONS  # which is as the settings want it


def test_health_and_level() -> None:
    messages = states().take(health())
    assert payload(messages, "health") == {
        "rtf": 0.11,
        "xruns": 2,
        "dropped_s": 0.5,
        "rss": 80_000_000,
        "temp_c": 51.5,
        "uptime_s": 60.0,
        "model": "household-1.2.0",
        "version": "1.2.0",
        "time": "2026-11-23T18:05:00.000+01:00",
    }
    assert payload(messages, "mic/level") == {"rms_dbfs": -48.2, "peak_dbfs": -31.0, "clipped": 7}
    assert flags(by_topic(messages)["health"]) == (0, True, False)
    assert flags(by_topic(messages)["mic/level"]) == (0, False, False)


def test_levels_keep_their_distance_and_count_what_was_clipped_in_between() -> None:
    s = states(level_interval_s=30)
    said = [
        payload(messages, "mic/level")["clipped"]
        for t, clipped in ((10, 1), (20, 2), (39.8, 5), (50, 9), (70, 9), (1, 3), (40, 2))
        if "mic/level" in by_topic(messages := s.take(health(t, clipped_samples=clipped)))
    ]
    assert said == [1, 4, 4, 3, 2]
    assert "mic/level" not in by_topic(s.take(health(500, up=False)))


def test_silence_is_json() -> None:
    level = payload(states().take(health(rms_dbfs=-math.inf, silent=True)), "mic/level")
    assert level["rms_dbfs"] == -200.0


def test_a_level_that_is_not_known_yet_is_not_published() -> None:
    s = states()
    assert "mic/level" not in by_topic(s.take(health(1, rms_dbfs=-120.0)))
    assert payload(s.take(health(2, rms_dbfs=-30.0)), "mic/level")["rms_dbfs"] == -30.0


def test_a_level_is_wanted_from_when_the_source_is_online_until_one_was_given() -> None:
    s = states()
    assert not s.wants_levels
    s.take(status("listening"))
    assert s.wants_levels
    s.take(health(1, rms_dbfs=-40.0))
    assert s.wants_levels  # it may have come before the subscription
    assert s.levels([shown(2, rms_dbfs=-120.0)]) == []
    assert s.wants_levels
    assert payload(s.levels([shown(2, rms_dbfs=-41.0)]), "mic/level")["rms_dbfs"] == -41.0
    assert not s.wants_levels
    assert s.levels([shown(3, rms_dbfs=-42.0)]) == []
    s.expect_subscribers()
    assert s.wants_levels
    s.take(status("waiting"))
    assert not s.wants_levels
    s.take(status("waiting", active=False))
    assert s.wants_levels


def test_offline_messages_take_all_states_back() -> None:
    s = states()
    s.take(onset())
    assert [(t, m.payload) for t, m in by_topic(s.offline_messages()).items()] == [
        ("mic/guitar/state", "OFF"),
        ("mic/speech/state", "OFF"),
        ("mic/status", "offline"),
        ("status", "offline"),
    ]
    assert by_topic(s.present())["mic/guitar/state"].payload == "OFF"


def test_what_is_unknown() -> None:
    assert states().take(gap()) == []
    with pytest.raises(ValueError, match="unknown label 'drum'; the node reports guitar, speech"):
        states().take(onset("drum"))


def test_labels_share_no_topic() -> None:
    ids = class_ids(("dog bark", "dog_bark", "flûte", "event", "problem", "guitar", "x" * 80, "x" * 81))
    assert ids["guitar"] == "guitar"
    assert ids["flûte"] == "fl_te"
    assert len(set(ids.values())) == len(ids)
    assert not {"event", "problem", "dog_bark"} & set(ids.values())
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", i) for i in ids.values())
    assert class_ids(("problem",))["problem"] == ids["problem"]


def test_labels_keep_their_names_in_events() -> None:
    node_info = dataclasses.replace(STATION, classes=(("dog bark", "animal"),))
    messages = states(node_info).take(onset("dog bark"))
    assert payload(messages, "mic/event")["event_type"] == "dog bark"
    assert by_topic(messages)["mic/dog_bark/state"].payload == "ON"
