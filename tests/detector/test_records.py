"""Records: their keys, their times, their ids."""

from __future__ import annotations

import dataclasses
import json
import uuid
from datetime import datetime

import numpy as np
import pytest

from detector.messages import Event
from detector.records import StreamInfo, as_dict, event_id, event_record

ORIGIN = StreamInfo("a.wav", "/sounds/a.wav", 16000, "household-0.1.0", "ab" * 32)
ONSET = Event("onset", 3, "guitar", "music", 19840, 25279, 0.8312345, 0.6)
OFFSET = Event("offset", 3, "guitar", "music", 19840, 80959, 0.2, 0.6, 74560, 0.97, 0.9, "ended")


def test_onset_record() -> None:
    assert as_dict(event_record(ONSET, ORIGIN, 7)) == {
        "v": 1,
        "type": "onset",
        "id": event_id(ONSET, ORIGIN),
        "seq": 7,
        "source": "a.wav",
        "label": "guitar",
        "category": "music",
        "onset_s": 1.24,
        "time": None,
        "score": 0.8312,
        "threshold": 0.6,
        "latency_s": 0.34,
        "model": "household-0.1.0",
        "model_sha256": "abababababab",
    }


def test_offset_record() -> None:
    assert as_dict(event_record(OFFSET, ORIGIN, 8)) == {
        "v": 1,
        "type": "offset",
        "id": event_id(ONSET, ORIGIN),
        "seq": 8,
        "source": "a.wav",
        "label": "guitar",
        "category": "music",
        "onset_s": 1.24,
        "offset_s": 4.66,
        "duration_s": 3.42,
        "peak": 0.97,
        "mean": 0.9,
        "reason": "ended",
        "time": None,
        "latency_s": 0.4,
        "model": "household-0.1.0",
    }


def test_time_of_day_is_that_of_the_change() -> None:
    origin = dataclasses.replace(ORIGIN, started=datetime.fromisoformat("2026-11-23T23:59:59.500+01:00"))
    assert event_record(ONSET, origin, 1).time == "2026-11-24T00:00:00.740+01:00"
    assert event_record(OFFSET, origin, 2).time == "2026-11-24T00:00:04.160+01:00"


def test_numpy_numbers_become_json() -> None:
    event = dataclasses.replace(ONSET, score=np.float32(0.5), threshold=np.float64(0.25))  # type: ignore[arg-type]
    record = json.loads(json.dumps(as_dict(event_record(event, ORIGIN, 1))))
    assert (record["score"], record["threshold"]) == (0.5, 0.25)


def test_ids_are_lasting_and_shared_by_onset_and_offset() -> None:
    found = event_id(ONSET, ORIGIN)
    assert found == event_id(OFFSET, ORIGIN) == "7849c8a4-1eff-5cfd-b824-3e77ab067e42"
    assert uuid.UUID(found).version == 5


@pytest.mark.parametrize(
    "other",
    [
        event_id(dataclasses.replace(ONSET, index=4), ORIGIN),
        event_id(dataclasses.replace(ONSET, label="speech"), ORIGIN),
        event_id(dataclasses.replace(ONSET, onset_sample=0), ORIGIN),
        event_id(ONSET, dataclasses.replace(ORIGIN, stream="/sounds/b.wav")),
        event_id(ONSET, dataclasses.replace(ORIGIN, model_sha256="cd" * 32)),
    ],
)
def test_ids_differ_where_anything_does(other: str) -> None:
    assert other != event_id(ONSET, ORIGIN)


def test_the_name_a_user_gives_does_not_change_the_id() -> None:
    assert event_id(ONSET, dataclasses.replace(ORIGIN, source="./a.wav")) == event_id(ONSET, ORIGIN)


def test_names_that_are_no_text_have_ids_of_their_own() -> None:
    names = ("/caf\udce9.wav", "/caf\u00e9.wav", "/caf?.wav")
    assert len({event_id(ONSET, dataclasses.replace(ORIGIN, stream=name)) for name in names}) == len(names)
