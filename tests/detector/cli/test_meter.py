"""The meter: levels, scores, clipping and faults, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from detector.audio.live_source import AudioBlock, AudioGap, SourceCondition, SourceEvent, SourceStats
from detector.audio.sources import read_sound
from detector.cli.meter import LOWEST_DBFS, Meter, PeakHold, watch
from detector.messages import AudioChunk
from detector.pipeline import Detector
from detector.service.process import SignalHandler

ROOT = Path(__file__).resolve().parents[3]


class ScriptedSource:
    """Emits events from a list, one entry at each call, and then none."""

    def __init__(self, *script: list[SourceEvent], clipped: int = 0, is_open: bool = True) -> None:
        self._script = list(script)
        self.clipped = clipped
        self.is_open = is_open

    @property
    def stats(self) -> SourceStats:
        return SourceStats("usb-id:0d8c:0014", -30.5, -12.25, 48000, 1, self.is_open, clipped_samples=self.clipped)

    def take(self, timeout_s: float) -> list[SourceEvent] | None:
        assert timeout_s < 1
        return self._script.pop(0) if self._script else []

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def loaded() -> Detector:
    return Detector.load()


@pytest.fixture
def detector(loaded: Detector) -> Detector:
    loaded.reset()
    return loaded


def sound(samples: np.ndarray, first_sample: int = 0) -> AudioBlock:
    return AudioBlock(AudioChunk(samples.astype(np.float32), first_sample), 0.0)


def turn(meter: Meter, *events: SourceEvent) -> list[str]:
    """Return the lines of some events."""
    return [line for event in events if (line := meter.handle(event)) is not None]


def shown(meter: Meter, now_s: float = 100.0) -> str:
    return meter.show(now_s).plain


def test_the_length_of_the_bar_follows_the_level(detector: Detector) -> None:
    full = []
    for amplitude in (0.0, 0.001, 0.03, 0.5, 1.0):
        meter = Meter(ScriptedSource(), detector)
        turn(meter, sound(np.full(1600, amplitude)))
        full.append(shown(meter).count("█"))
    assert full == [0, 0, 24, 43, 48]


def test_the_peak_is_held_and_then_falls() -> None:
    hold = PeakHold()
    assert hold.push(-10.0, 5.0) == -10
    assert hold.push(-50.0, 6.4) == -10
    assert hold.push(-50.0, 7.5) == pytest.approx(-30)
    assert hold.push(-20.0, 7.6) == -20
    assert hold.push(LOWEST_DBFS, 1000.0) == LOWEST_DBFS


def test_clipping_is_shown_for_two_seconds(detector: Detector) -> None:
    source = ScriptedSource()
    meter = Meter(source, detector)
    assert "clip " in shown(meter, 10.0)
    source.clipped = 17
    assert "CLIP" in shown(meter, 11.0)
    assert "CLIP" in shown(meter, 12.9)
    assert "CLIP" not in shown(meter, 13.1)


def test_the_highest_scores_are_shown(detector: Detector) -> None:
    scene = read_sound(ROOT / "models" / "demo" / "scene.flac", detector.sample_rate_hz)
    chunks: list[SourceEvent] = [sound(scene[at : at + 640], at) for at in range(0, len(scene), 640)]
    meter = Meter(ScriptedSource(), detector)
    turn(meter, *chunks)
    lines = shown(meter).splitlines()
    assert lines[0] == "usb-id:0d8c:0014"
    found = {m[1]: float(m[2]) for line in lines if (m := re.match(r"(\w+) +(\d\.\d\d)", line))}
    assert len(found) == 5
    assert found["guitar"] > 0.9
    assert list(found.values()) == sorted(found.values(), reverse=True)
    # Each picture has the scores since the last one.
    assert "guitar" not in shown(meter) or "guitar           0.00" in shown(meter)


def test_conditions_are_shown_while_they_are_active(detector: Detector) -> None:
    begin = SourceCondition("silent", active=True, detail="only zeros arrive")
    end = SourceCondition("silent", active=False, detail="there is sound again")
    meter = Meter(ScriptedSource(), detector)
    assert turn(meter, begin) == ["only zeros arrive"]
    assert "only zeros arrive" in shown(meter)
    assert turn(meter, end) == ["there is sound again"]
    assert "sound" not in shown(meter)


def test_a_gap_separates_the_sound_before_and_behind_it(detector: Detector) -> None:
    rng = np.random.default_rng(0)
    before, behind = rng.normal(0, 0.1, 16000), rng.normal(0, 0.1, 16000)
    alone = Meter(ScriptedSource(), detector)
    turn(alone, sound(behind, 48000))
    expected = alone.line(0.0)
    detector.reset()
    lost = AudioGap(16000, 32000, "queue")
    meter = Meter(ScriptedSource(), detector)
    turn(meter, sound(before))
    meter.line(0.0)
    assert turn(meter, lost, sound(behind, 48000)) == ["2.00 s of sound lost (queue)"]
    assert meter.line(0.0) == expected


def test_the_line_has_levels_and_scores(detector: Detector) -> None:
    source = ScriptedSource()
    meter = Meter(source, detector)
    text = meter.line(10.0)
    assert text.startswith("rms  -30.5 dBFS  peak  -12.2 dBFS  ")
    assert "CLIPPING" not in text
    source.clipped = 1
    assert "CLIPPING" in meter.line(11.0)
    source.is_open = False
    assert meter.line(12.0) == "no sound"


def run(source: ScriptedSource, detector: Detector, *, terminal: bool, seconds: float) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, _environ={"TERM": "xterm" if terminal else "dumb"})
    with SignalHandler() as signals:
        watch(Meter(source, detector), source, console, signals, seconds)
    return out.getvalue()


def test_without_a_terminal_a_line_a_second_is_printed(detector: Detector) -> None:
    waiting = SourceCondition("waiting", active=True, detail="waiting for [the] microphone")
    text = run(ScriptedSource([waiting]), detector, terminal=False, seconds=2.5)
    lines = text.splitlines()
    assert lines[0] == "waiting for [the] microphone"
    assert [line[:4] for line in lines[1:]] == ["rms ", "rms "]
    assert "\x1b" not in text


def test_on_a_terminal_the_picture_is_redrawn(detector: Detector) -> None:
    text = run(ScriptedSource([sound(np.full(1600, 0.5))]), detector, terminal=True, seconds=0.5)
    assert "█" in text
    assert "\x1b[2K" in text
    assert text.endswith("\x1b[?25h")  # the cursor is shown again


def test_a_signal_ends_the_meter_and_restores_the_terminal(detector: Detector) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, _environ={"TERM": "xterm"})
    signals, source = SignalHandler(), ScriptedSource()
    signals.number = signal.SIGINT
    watch(Meter(source, detector), source, console, signals, None)
    assert out.getvalue().endswith("\x1b[?25h")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_signal_in_the_middle_of_a_turn_waits_for_its_end(detector: Detector, *, terminal: bool) -> None:
    """It arrives while locks are held and modules are imported: an exception there would break them."""

    class Interrupted(ScriptedSource):
        is_whole = False

        def take(self, timeout_s: float) -> list[SourceEvent] | None:
            os.kill(os.getpid(), signal.SIGINT)
            self.is_whole = True
            return super().take(timeout_s)

    source = Interrupted([sound(np.full(1600, 0.5))])
    begin = time.monotonic()
    run(source, detector, terminal=terminal, seconds=60)
    assert source.is_whole
    assert time.monotonic() - begin < 30
