"""Parts of the check that need no Home Assistant; the rest is for ``make check-home-assistant`` itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.check_processor import CheckError
from tests.home_assistant.check import table
from tests.home_assistant.instance import wait
from tests.home_assistant.setup import read_sound
from tests.service import RATE


def test_a_recording_is_read_at_the_rate_of_the_microphone(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    tone = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    soundfile.write(path, np.stack([tone, tone], axis=1), 44100)
    found = read_sound(path)
    assert found.shape == (RATE,)
    assert found.dtype == np.float32
    middle = slice(RATE // 4, 3 * RATE // 4)
    np.testing.assert_allclose(found[middle], np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[middle], atol=1e-3)


def test_a_recording_that_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=r"none\.wav: .*; name a recording of one guitar with GUITAR="):
        read_sound(tmp_path / "none.wav")


def test_what_does_not_happen_is_an_error_that_names_it() -> None:
    with pytest.raises(CheckError, match="the guitar did not happen within 0 s"):
        wait(lambda: False, "the guitar", 0)


def test_the_table_has_a_line_for_each_order() -> None:
    steps = [{"settled_after_s": seconds} for seconds in (9.5, 2.1, 4.0, 14.2)]
    order = {"order": ["home_assistant", "broker", "service"], "steps": steps}
    result = {
        "command": "make check-home-assistant",
        "date": "2026-11-30",
        "home_assistant": "1",
        "debian": "trixie",
        "mosquitto": "2",
        "snn_detect": "0.1.0",
        "entities": {"a.b": "B"},
        "known_after_first_start_s": 4.9,
        "orders": [order | {"guitar_after": ["on", "off"], "events_after": 1}],
    }
    assert table(result).splitlines()[-1] == (
        "| home assistant, broker, service | 9.5 | 2.1 | 4.0 | 14.2 | on, off; 1 event |"
    )
