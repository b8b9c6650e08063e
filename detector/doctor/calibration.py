"""The calibration: whether device and model are those that the thresholds were measured with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from detector.doctor.finding import Finding, ok, warning
from detector.live.parts import make_station
from detector.microphone.devices import Device
from detector.pipeline import Detector
from detector.settings import Settings

CALIBRATION: Final = "calibration"


def check_calibration(settings: Settings, detector: Detector | None, found: Device | None) -> Iterator[Finding]:
    """Yield what is to be said of the calibration; nothing where there is none, or no model to compare it with."""
    calibration = settings.calibration
    if calibration is None or detector is None:
        return
    station = make_station(settings, detector)
    device = None if found is None else found.id
    if trouble := calibration.mismatch(device, station.model, station.model_sha256):
        advice = "calibrate again, or remove the old fragment from config.d; snn-detect config show names it"
        yield warning(CALIBRATION, trouble, advice)
        return
    text = (
        f"thresholds of {calibration.date[:10]}, from {calibration.hours:g} h: of each class at most "
        f"{calibration.promise_per_hour:g} false alarms an hour (95 %)"
    )
    if calibration.device is not None and device is None:
        text = f"{text}; for {calibration.device}, which could not be compared with the device"
    yield ok(CALIBRATION, text)
