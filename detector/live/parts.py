"""What the settings make of the service: its model, its source, and what it is called."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector import __version__
from detector.errors import ConfigError
from detector.live.pcm import PcmStream, RawFormat
from detector.live.played import PlayedFile
from detector.microphone.news import LiveSource
from detector.pipeline import Detector
from detector.settings import Audio, Settings
from detector.sinks.sink import Station

STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What one run is asked for beyond the settings."""

    raw: RawFormat | None = None
    """How raw samples on standard input are written; None: mono, 16 bits, at the rate of the settings."""
    wait: bool = True
    """Whether to wait for a device that is not there."""
    tee: Path | None = None
    """File to keep the sound in as it is heard."""
    plays_file: bool = False
    """Whether the device is a sound file, which is heard at its own pace."""
    loop: bool = False
    """Whether that file begins anew at its end."""
    is_filter: bool = False
    """Whether to end when nobody reads standard output any more."""


def make_detector(settings: Settings) -> Detector:
    """Load the model; raises ManifestError for a wrong one, ConfigError for labels or thresholds it cannot have."""
    listening = settings.listening
    detector = Detector.load(listening.path, listening.thresholds)
    for label in listening.only:
        if label not in detector.labels:
            raise ConfigError(f"only: unknown label {label!r}; the model knows {', '.join(detector.labels)}")
    return detector


def is_current(detector: Detector, before: Settings, after: Settings) -> bool:
    """Tell whether a detector made of settings before would be made again of those after; its file may have changed."""
    if before.listening != after.listening:
        return False
    try:
        return hashlib.sha256(detector.path.read_bytes()).hexdigest() == detector.sha256
    except OSError:
        return False


def make_station(settings: Settings, detector: Detector) -> Station:
    """Return who is listening, to what, with which model."""
    only = settings.listening.only or detector.labels
    manifest = detector.manifest
    return Station(
        node=settings.node,
        source=settings.audio.source,
        device=settings.audio.device,
        classes=tuple((c.label, c.category) for c in manifest.classes if c.label in only),
        model=f"{manifest.name}-{manifest.version}",
        model_sha256=detector.sha256,
        version=__version__,
    )


def open_source(audio: Audio, model_rate_hz: int, wishes: Wishes) -> LiveSource:
    """Begin to listen; a device that is absent is waited for.

    Raises ConfigError for settings that cannot be, DeviceError where PortAudio is missing, SourceError for a file
    that is missing or no sound.
    """
    if wishes.plays_file:
        return PlayedFile(audio.device, model_rate_hz, loop=wishes.loop)
    if audio.device == STDIN:
        if os.isatty(0):
            raise ConfigError("standard input is a terminal; pipe raw samples into it, or name another device")
        if audio.channel != "mean":
            raise ConfigError("audio.channel: of raw sound on standard input, the mean of its channels is heard")
        raw = wishes.raw or RawFormat(audio.rate_hz or model_rate_hz)
        return PcmStream(0, raw, model_rate_hz)
    if os.sep in audio.device and Path(audio.device).is_file():
        raise ConfigError(f"{audio.device} is a file, not a device; hear it with snn-detect replay")
    from detector.microphone.source import Microphone

    return Microphone(audio, model_rate_hz)


def is_same_pipe(before: Audio, after: Audio) -> bool:
    """Tell whether both hear standard input, which cannot be begun anew in its middle.

    Raises ConfigError where it would have to be.
    """
    if not before.device == after.device == STDIN:
        return False
    if before.rate_hz != after.rate_hz:
        raise ConfigError("audio.rate_hz: raw sound on standard input cannot change its rate; restart to change it")
    return True
