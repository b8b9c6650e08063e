"""Levels in dBFS, and the conditions that follow from them: reported once at the beginning, once at the end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from detector.audio.levels import FLOOR_DBFS, Checks, Debounce, Levels, RateWatch
from detector.audio.live_source import SourceCondition

RATE = 8000
Frames = NDArray[np.float32]


def noise(seconds: float, amplitude: float = 0.1, channels: int = 1, seed: int = 0) -> Frames:
    shape = (round(seconds * RATE), channels)
    return np.random.default_rng(seed).uniform(-amplitude, amplitude, shape).astype(np.float32)


def zeros(seconds: float) -> Frames:
    return np.zeros((round(seconds * RATE), 1), np.float32)


def changes(levels: Levels, frames: Frames, block: int = 320) -> list[tuple[float, str, bool]]:
    """Push frames in blocks and return at which second which condition began or ended."""
    found: list[tuple[float, str, bool]] = []
    for at in range(0, len(frames), block):
        for c in levels.push(frames[at : at + block]):
            found.append((min(at + block, len(frames)) / RATE, c.name, c.active))
            assert "\n" not in c.detail
    return found


def test_levels_of_a_tone() -> None:
    levels = Levels(RATE)
    t = np.arange(3 * RATE) / RATE
    tone = 0.5 * np.sin(2 * np.pi * 440 * t) + 0.125
    assert changes(levels, tone.astype(np.float32)[:, None])[:0] == []
    assert levels.level.rms_dbfs == pytest.approx(10 * np.log10(0.125 + 0.125**2), abs=0.01)
    assert levels.level.peak_dbfs == pytest.approx(20 * np.log10(0.625), abs=0.01)
    assert levels.level.dc == pytest.approx(0.125, abs=1e-4)


def test_the_level_is_that_of_the_last_second() -> None:
    levels = Levels(RATE)
    levels.push(noise(1, 0.9))
    loud = levels.level
    levels.push(noise(1, 0.01))
    assert loud.peak_dbfs > -1
    assert levels.level.peak_dbfs < -39


def test_a_quiet_place_causes_no_condition() -> None:
    assert changes(Levels(RATE), noise(60, 1e-3)) == []
    assert Levels(RATE).level.rms_dbfs == FLOOR_DBFS


def test_zeros_are_silence_after_two_seconds_until_there_is_sound() -> None:
    levels = Levels(RATE)
    found = changes(levels, np.concatenate([noise(3), zeros(10), noise(5)]))
    assert [(name, active) for _, name, active in found] == [("silent", True), ("silent", False)]
    assert 5 < found[0][0] <= 6.05
    assert 13 <= found[1][0] <= 14.05
    assert levels.level.rms_dbfs > -40


def test_short_runs_of_zeros_are_not_silence() -> None:
    parts = [part for _ in range(10) for part in (noise(2), zeros(1.9))]
    assert changes(Levels(RATE), np.concatenate(parts)) == []


def test_a_level_below_minus_90_dbfs_is_silence_too() -> None:
    found = changes(Levels(RATE), np.concatenate([noise(3), noise(20, 2e-5), noise(3)]))
    assert [(name, active) for _, name, active in found] == [("silent", True), ("silent", False)]
    assert 7 <= found[0][0] <= 9.05
    assert changes(Levels(RATE), noise(20, 1e-4)) == []


def test_a_dc_offset_does_not_hide_silence() -> None:
    found = changes(Levels(RATE), noise(20, 2e-5) + np.float32(0.25))
    assert {name for _, name, _ in found} == {"silent", "dc_offset"}


def test_silence_that_comes_and_goes_is_reported_less_and_less_often() -> None:
    pattern = np.concatenate([part for _ in range(60) for part in (noise(3), zeros(7))])
    found = changes(Levels(RATE), pattern)
    assert 2 <= len(found) <= 8  # 120 if each one were reported


def test_clipping_is_reported_from_a_tenth_of_a_percent_in_ten_seconds() -> None:
    clean, clipped = noise(20), noise(20)
    for at in range(0, len(clipped), RATE // 4):
        clipped[at : at + 8] = 1.0  # 32 of 8000 a second: 0.4 %
    levels = Levels(RATE)
    found = changes(levels, np.concatenate([clean, clipped, clean]))
    assert [(name, active) for _, name, active in found] == [("clipping", True), ("clipping", False)]
    assert 22 < found[0][0] < 25
    assert 46 < found[1][0] < 51
    assert levels.clipped_samples == 20 * 32


def test_single_peaks_at_full_scale_are_not_clipped() -> None:
    """Two consecutive samples at full scale may be a peak that just fits."""
    peaks = noise(20)
    peaks[::100] = 1.0
    peaks[1::100] = -1.0
    levels = Levels(RATE)
    assert changes(levels, peaks) == []
    assert levels.clipped_samples == 0


def test_clipping_of_one_channel_is_reported() -> None:
    frames = noise(12, channels=2)
    for at, value in ((0, -1.0), (20, 1.0)):
        for i in range(3):
            frames[at + i :: 40, 1] = value
    levels = Levels(RATE)
    assert [name for _, name, _ in changes(levels, frames)] == ["clipping"]
    assert levels.clipped_samples == 3 * 12 * RATE // 20


@given(st.lists(st.integers(0, 6), min_size=1, max_size=20), st.integers(1, 17))
def test_runs_at_full_scale_are_counted_whatever_the_blocks(runs: list[int], block: int) -> None:
    levels = Levels(200)
    frames = np.concatenate([np.concatenate(([0.0], np.ones(length))) for length in runs] + [np.zeros(200)])
    for at in range(0, len(frames), block):
        levels.push(frames[at : at + block, None].astype(np.float32))
    assert levels.clipped_samples == sum(length for length in runs if length >= 3)


def test_a_dc_offset_is_reported() -> None:
    centred, shifted = noise(15), noise(30) + np.float32(0.05)
    found = changes(Levels(RATE), np.concatenate([centred, shifted, centred, centred]))
    assert [(name, active) for _, name, active in found] == [("dc_offset", True), ("dc_offset", False)]
    assert 15 < found[0][0] < 26


def test_blocks_of_any_length_give_the_same() -> None:
    frames = np.concatenate([noise(1), zeros(3), noise(1) + np.float32(0.1), np.clip(noise(3, 9.0), -1, 1)])
    runs = []
    for block in (11, 137, 8000, 20000):
        levels = Levels(RATE)
        found = [(name, active) for _, name, active in changes(levels, frames, block)]
        runs.append((found, levels.clipped_samples, round(levels.level.rms_dbfs, 6)))
    assert runs[1:] == runs[:-1]


def test_debounce_reports_each_change_once() -> None:
    debounce = Debounce(2, 3)
    checks = [True, True, True, False, False, True, False, False, False, False]
    changed = [(i, debounce.active) for i, bad in enumerate(checks) if debounce.check(begins=bad, ends=not bad)]
    assert changed == [(1, True), (8, False)]


def test_between_the_two_limits_a_condition_does_not_change() -> None:
    debounce = Debounce(1, 1)
    assert not debounce.check(begins=False, ends=False)
    assert debounce.check(begins=True, ends=False)
    assert not debounce.check(begins=False, ends=False)
    assert debounce.active


def rates(paces: list[float]) -> list[SourceCondition]:
    watch = RateWatch(48000)
    return [c for pace in paces for c in watch.push(pace)]


def test_a_wrong_rate_and_its_end_are_reported_once() -> None:
    found = rates([1.0, 1.001, 0.92, 0.92, 0.9187, 0.9188, 0.9186, 1.001, 0.999])
    assert [(c.name, c.active) for c in found] == [("wrong_rate", True), ("wrong_rate", False)]
    assert "44" in found[0].detail
    assert "48000" in found[0].detail


def test_a_stall_or_the_tolerance_of_a_crystal_is_not_a_wrong_rate() -> None:
    assert rates([1.0, 1.0002, 0.7, 1.3, 1.0003, 0.9997]) == []


def test_the_conditions_of_a_device_end_when_it_is_lost() -> None:
    checks = Checks(RATE)
    for _ in range(4):
        checks.push(zeros(1), 1.0)
    assert checks.active == ("silent",)
    assert [(c.name, c.active) for c in checks.end()] == [("silent", False)]
