"""Whether this machine computes as fast as sound comes."""

from __future__ import annotations

import time
from typing import Final

from detector.bench import bench_sound
from detector.doctor.finding import SETTINGS, Finding, ok, problem, warning
from detector.pipeline import Detector

SPEED: Final = "speed"
_WARM_S: Final = 1
_SECONDS: Final = 5
_CHUNK_S: Final = 0.04
_TIGHT: Final = 0.5
_SLOW: Final = 0.9
"""Seconds of computing for one of sound that are much, and too much."""


def check_speed(detector: Detector) -> Finding:
    """Measure how long some seconds of sound take, in chunks as a microphone gives them."""
    return judge(*_measure(detector))


def judge(busy: float, cpu: float) -> Finding:
    """Say what seconds of computing, and of one core, for each second of sound mean."""
    found = f"a second of sound takes {busy:.3f} s, {cpu:.3f} s of them computing: {1 / busy:.0f} times real time"
    if busy > _SLOW:
        advice = "the machine is too slow or too busy: end other programs (top names them), or use a smaller model"
        return problem(SPEED, found, advice, SETTINGS)
    if busy > _TIGHT:
        return warning(SPEED, found, "little is left for other programs: look with top what else is running")
    return ok(SPEED, found)


def _measure(detector: Detector) -> tuple[float, float]:
    rate_hz = detector.sample_rate_hz
    sound = bench_sound(rate_hz)[: (_WARM_S + _SECONDS) * rate_hz]
    length = round(_CHUNK_S * rate_hz)
    detector.reset()
    detector.push(sound[: _WARM_S * rate_hz])
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for at in range(_WARM_S * rate_hz, len(sound), length):
        detector.push(sound[at : at + length])
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    detector.reset()
    return wall_s / _SECONDS, cpu_s / _SECONDS
