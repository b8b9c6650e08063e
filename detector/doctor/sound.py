"""What some seconds of listening tell of the microphone: how it was opened, and how it sounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from detector.doctor.finding import UNAVAILABLE, Finding, ok, problem, warning
from detector.doctor.listening import Heard
from detector.microphone.devices import Device
from detector.microphone.levels import FLOOR_DBFS

MICROPHONE: Final = "microphone"
LEVELS: Final = "levels"
_OFF_PACE: Final = 0.2
"""How far from the device's rate sound may seem to come in a few seconds; the service looks closer, for longer."""
_LOST_S: Final = 0.05
_CLIPPED_SHARE: Final = 1e-3
_DC: Final = 0.02
_QUIET_DBFS: Final = -90.0
_ZEROS_S: Final = 0.05
"""A stretch of zeros that no sound of a room has."""
_SILENT_S: Final = 2.0
_Trouble = tuple[str, str]
"""What is the matter, and what to do."""


def check_microphone(heard: Heard, device: Device) -> Finding:
    """Say how the device was opened, and how its sound came."""
    if heard.trouble is not None:
        advice = "see who holds it, and whether this user may open it; then unplug it and plug it in again"
        return problem(MICROPHONE, heard.trouble, advice, UNAVAILABLE)
    f = heard.figures
    plural = "" if f.device_channels == 1 else "s"
    own = ", its own rate" if device.is_hardware and f.device_rate_hz == device.rate_hz else ""
    found = f"opened at {f.device_rate_hz} Hz{own}, {f.device_channels} channel{plural}; {heard.seconds:.1f} s heard"
    if heard.lost_s > _LOST_S or f.overruns:
        advice = "the machine is too busy, or the USB port or its power is weak: try another port, without a hub"
        return warning(MICROPHONE, f"{found}, and {heard.lost_s:.2f} s lost ({f.overruns} overruns)", advice)
    pace = heard.pace
    if pace is not None and abs(pace - 1) > _OFF_PACE:
        advice = "set audio.rate_hz to a rate that snn-detect devices lists, or use another device"
        return warning(MICROPHONE, f"{found}; {pace:.2f} s of sound come in a second", advice)
    return ok(MICROPHONE, found)


def check_levels(heard: Heard) -> Finding:
    """Say how the sound is: silent, clipped, off centre, with holes, or good."""
    rms_dbfs = max((level.rms_dbfs for level in heard.levels), default=FLOOR_DBFS)
    peak_dbfs = max((level.peak_dbfs for level in heard.levels), default=FLOOR_DBFS)
    if not heard.levels or "silent" in heard.figures.conditions or heard.longest_zeros_s > _SILENT_S:
        advice = (
            "unmute it and raise its volume (alsamixer -V capture), then sudo alsactl store; "
            "only a source that can fall silent, such as a null sink or a loopback, may be so"
        )
        return problem(LEVELS, "only zeros come: the microphone is muted, or not connected", advice, UNAVAILABLE)
    found = f"rms {rms_dbfs:.0f} dBFS, peak {peak_dbfs:.0f} dBFS"
    troubles = list(_troubles(heard, rms_dbfs))
    if not troubles:
        return ok(LEVELS, f"{found}, no clipping, no offset, no holes")
    return warning(LEVELS, f"{found}; {'; '.join(what for what, _ in troubles)}", "; ".join(do for _, do in troubles))


def _troubles(heard: Heard, rms_dbfs: float) -> Iterator[_Trouble]:
    frames = heard.seconds * heard.figures.device_rate_hz
    share = heard.figures.clipped_samples / frames if frames else 0.0
    if share > _CLIPPED_SHARE:
        yield f"{share:.1%} of the samples are clipped", "lower its volume: alsamixer -V capture, then alsactl store"
    dc = max((level.dc for level in heard.levels), key=abs)
    if abs(dc) > _DC:
        yield f"the mean is {dc:+.3f} of full scale", "the microphone or its power supply is at fault: try another one"
    if rms_dbfs < _QUIET_DBFS:
        yield "that is less than any room has", "raise its volume: alsamixer -V capture, then alsactl store"
    if heard.longest_zeros_s > _ZEROS_S:
        what = f"zeros for {heard.longest_zeros_s:.2f} s"
        yield what, "a noise gate in the microphone, or a weak USB port: switch it off, try another port"
