"""What the settings are made of: the base of a section, the types of its fields, and the sections of the detector.

A section is a table of the configuration file. Its docstring and the descriptions of its fields are what
``snn-detect config init`` and ``config schema`` show. The sections of sinks are in the files of the sinks.
"""

from __future__ import annotations

import os
import re
import typing
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from detector.config.secrets import redacted_url
from detector.manifest import Sensitivity

RecordType = Literal["onset", "offset", "gap", "status", "health", "clip"]
Slug = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Labels = tuple[str, ...]
"""Labels of sounds; an empty tuple stands for all."""
RECORD_TYPES: Final = f"any of {', '.join(typing.get_args(RecordType))}"


class _Secret:
    """Marks the type of a field that names a file with a secret."""


def _user_path(path: Path) -> Path:
    """Replace ``~`` with the user's home; raises ValueError for the empty path, which would stand for any folder."""
    if path == Path():
        raise ValueError("must be the path of a file or folder")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for users without a home


_CLOCK: Final = r"(?:[01]?\d|2[0-3]):[0-5]\d"
_MOMENT: Final = rf"(?:{_CLOCK}|24:00|(?:sunrise|sunset)(?:[+-]{_CLOCK})?)"
_HOURS: Final = re.compile(rf"{_MOMENT} to {_MOMENT}")


def _hours(text: str) -> str:
    """Raise ValueError for what are no hours of the day."""
    if not _HOURS.fullmatch(text):
        raise ValueError(f'must be such as "06:30 to 22:00" or "sunrise-00:30 to sunset+01:00", not {text!r}')
    begin, end = text.split(" to ")
    if begin == end:
        raise ValueError(f"{text!r} begins where it ends; leave hours out for the whole day")
    return text


def _none_for_zero(value: Any) -> Any:
    """Return None for 0, which stands for "no limit": TOML has no null."""
    return None if value in (0, "0") else value


UserPath = Annotated[Path, AfterValidator(_user_path)]
"""A path as users write it."""
SecretFile = Annotated[Path, AfterValidator(_user_path), _Secret()]
"""Path of a file whose first line is a secret."""
Hours = Annotated[str, AfterValidator(_hours)]
"""Hours of the day, such as ``06:30 to 22:00`` or ``sunrise-00:30 to sunset+01:00``."""
LimitInDays = Annotated[Annotated[float, Field(gt=0, le=36500)] | None, BeforeValidator(_none_for_zero)]
"""A limit in days; 0 is no limit."""


def is_secret(annotation: Any) -> bool:
    """Return whether the type of a field is, or may be, a file with a secret."""
    if any(isinstance(mark, _Secret) for mark in getattr(annotation, "__metadata__", ())):
        return True
    return any(map(is_secret, typing.get_args(annotation)))


def slug(text: str) -> str:
    """Return a text in letters, digits, ``_`` and ``-`` alone, at most 64 of them."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")[:64] or "unnamed"


class Section(BaseModel):
    """A table of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True, protected_namespaces=()
    )
    in_example: ClassVar[bool] = False
    """Whether the example of a configuration has the section although it is absent by default."""
    example_keys: ClassVar[tuple[str, ...]] = ()
    """The keys that the example shows of a section whose other keys are explained elsewhere; empty for all."""

    def shown(self) -> dict[str, Any]:
        """Return the values as JSON has them, without what may be secret."""
        return self.model_dump(mode="json")


class ServerSection(Section):
    """A section of a sink that listens for connections."""

    serves_metrics: ClassVar[bool] = False
    """Whether the sink serves the metrics, too, where they have the same address."""
    address: str
    token_file: SecretFile | None = None


class _Selector(Section):
    """Which device."""

    device: str = Field(
        "mic",
        min_length=1,
        description='The device: "mic" (the default of the system), or as `snn-detect devices` lists them: a stable '
        "id, which stays the same when cards change their numbers, an ALSA name, a part of the name, a number. "
        '"-" is raw samples on standard input. Or a stream, with the extra [streams]: rtsp://, rtsps://, http://, '
        "https://, udp://, or the name of an SDP file for RTP. User name and password are never in here.",
        examples=["rtsp://192.0.2.7/stream1"],
    )

    @property
    def name(self) -> str:
        """The device as it is shown; of a URL no more than its host, since user, path and query often hold a secret."""
        scheme, is_url, rest = self.device.partition("://")
        if not is_url:
            return self.device
        # A password may hold any character, and then end behind what looks like the host.
        return f"{scheme}://..." if "@" in rest else redacted_url(self.device)

    def shown(self) -> dict[str, Any]:
        """Return the values, with no more of a URL than its host."""
        return super().shown() | {"device": self.name}


class _Named(Section):
    """What the source is called."""

    source: Slug = Field("mic", description="Short name of the source in records and topics: letters, digits, _ and -.")


class _Capture(Section):
    """How the sound of the device is captured."""

    channel: Literal["mean", "left", "right"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "mean", description='Channel to use: "mean" of all, "left", "right", or a number from 1.'
    )
    rate_hz: Annotated[int, Field(ge=4000, le=384000)] | None = Field(
        None,
        description="Sample rate to open the device with, 4000 to 384000 Hz; that of raw samples. Left out: the "
        "device's own rate.",
        examples=[48000],
    )
    buffer_s: float = Field(
        5.0,
        gt=0,
        le=60,
        description="Seconds of sound that may wait for the detector; beyond that the oldest is dropped and a gap "
        "reported.",
    )
    sample_format: Literal["s16le", "s16be", "s24le", "s32le", "f32le"] | None = Field(
        None,
        description="A stream of raw samples of this format, at rate_hz. Left out: a stream that describes itself.",
        examples=["s16le"],
    )
    channels: int = Field(1, ge=1, le=64, description="Interleaved channels of a stream of raw samples.")
    credentials_file: SecretFile | None = Field(
        None,
        description="File whose first line is user:password for a stream; {user} and {password} in its URL stand for "
        "them. Left out: the credential stream-credentials, which the system's service gets from "
        "/etc/snn-detect/stream.credentials, even where only root can read that.",
        examples=["/etc/snn-detect/stream.credentials"],
    )
    ca_file: UserPath | None = Field(
        None,
        description="Certificates to trust for rtsps:// and https://, where they are not the system's; a camera "
        "that signs its own has one.",
        examples=["/etc/snn-detect/camera.pem"],
    )
    transport: Literal["tcp", "udp"] = Field("tcp", description="How an RTSP server sends the sound.")
    track: str | None = Field(
        None,
        min_length=1,
        description="Sound track of a stream or film: a number from 1, or a language as the stream names it. Left "
        "out: the first.",
        examples=["1", "eng"],
    )
    stall_s: float = Field(
        5.0,
        ge=1,
        le=60,
        description="Seconds without sound after which a stream is lost and opened again; for HLS 4 times as many.",
    )
    hours: tuple[Hours, ...] = Field(
        (),
        description="Hours of the day in which sound is processed, by the local time; outside them the device stays "
        "open and its sound is dropped. Empty: always.",
        examples=[["06:30 to 22:00", "sunset-00:30 to sunrise+00:30"]],
    )
    latitude: Annotated[float, Field(ge=-90, le=90)] | None = Field(
        None, description="Degrees north, for sunrise and sunset.", examples=[52.52]
    )
    longitude: Annotated[float, Field(ge=-180, le=180)] | None = Field(
        None, description="Degrees east, for sunrise and sunset.", examples=[13.4]
    )


class Audio(_Capture, _Named, _Selector):  # in this order: the keys of the last base come first
    """The sound source."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if trouble := self.lacks_place():
            raise ValueError(trouble)
        return self

    def lacks_place(self) -> str | None:
        """Return what hours by the sun lack; None where they lack nothing."""
        if any("sun" in hours for hours in self.hours) and None in (self.latitude, self.longitude):
            return "hours by sunrise or sunset need audio.latitude and audio.longitude"
        return None


class Model(Section):
    """The model."""

    path: UserPath | None = Field(
        None,
        description="Model file. Left out: the one that ships.",
        examples=["/usr/share/snn-detect/models/household.onnx"],
    )


class Listening(Section):
    """Which sounds are reported, and from which score."""

    sensitivity: Sensitivity = Field(
        "balanced",
        description='Operating point of the model: "low" (few false events), "balanced" or "high" (few missed sounds), '
        "as `snn-detect model info` lists them. What was chosen by MQTT takes its place until the configured one is "
        "chosen again.",
    )
    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict,
        description="Scores from which a sound is reported, above 0 and below 1, in place of the model's own at any "
        "sensitivity: higher is stricter.",
        examples=[{"guitar": 0.7, "speech": 0.8}],
    )
    only: Labels = Field(
        (), description="Labels to report, as `snn-detect model info` lists them. Empty: all that are not on trial."
    )
    all_classes: bool = Field(
        False, description="Whether classes on trial, which the model does not find reliably, are reported as well."
    )


class Health(Section):
    """Health records: speed, level, losses, temperature, sinks."""

    interval_s: float = Field(60.0, ge=1, le=3600, description="Seconds between two health records.")


class Calibration(Section):
    """How the thresholds were measured, as `snn-detect calibrate` writes it into config.d/50-calibration.toml.

    The service warns where the device or the model is another one. Not to be written by hand.
    """

    date: str = Field(
        min_length=1, description="When the thresholds were chosen (RFC 3339).", examples=["2026-11-24T07:00:00+01:00"]
    )
    hours: float = Field(gt=0, description="Hours of background that they were chosen on.", examples=[8.0])
    rate_per_hour: float = Field(
        gt=0, description="False alarms per hour that were asked for, of each class.", examples=[1.0]
    )
    promise_per_hour: float = Field(
        gt=0,
        description="False alarms per hour that those hours can promise at 95 %: no less than was asked for.",
        examples=[1.0],
    )
    rule: str = Field("", description="How the thresholds were chosen.")
    device: str | None = Field(
        None, description="Id of the microphone. Left out: recordings, from any.", examples=["usb-id:0d8c:0014"]
    )
    model: str = Field(min_length=1, description="Name and version of the model.", examples=["household-0.1.0"])
    model_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256 of the model file.",
        examples=["57be0e64f5a0bd2dd0f6b1e1d6e0a0f0fb3a1f9e6a5b7a6c1b2e0d9c8f7a6b5c"],
    )

    def mismatch(self, device: str | None, model: str, model_sha256: str) -> str | None:
        """Return how a model and an open device (None: none is open) differ from those; None where they do not."""
        what = []
        if model_sha256 != self.model_sha256:
            what.append(f"the model {self.model}, not for {model} ({model_sha256[:12]})")
        if device is not None and self.device is not None and device.lower() != self.device.lower():
            what.append(f"the device {self.device}, not for {device}")
        if not what:
            return None
        return f"the thresholds of {self.date[:10]} were calibrated for {' and '.join(what)}: run snn-detect calibrate"


class Source(Listening, _Capture, _Selector):  # in this order: the keys of the last base come first
    """One of several sound sources, in place of the one in [audio]; the name of the table is its name in records.

    It may have all keys of [audio] but source, and all of [listening]; those that it leaves out are as there.
    """

    example_keys: ClassVar[tuple[str, ...]] = ("device", "model")
    model: UserPath | None = Field(
        None,
        description="Model file of this source. Left out: that of [model].",
        examples=["/usr/share/snn-detect/models/household.onnx"],
    )
    calibration: Calibration | None = Field(
        None,
        description="How its thresholds were measured: a table with the keys of [calibration].",
    )

    def given(self, kind: type[Section]) -> dict[str, Any]:
        """Return the values of a section of the file that this source has in place of those there."""
        return {name: getattr(self, name) for name in kind.model_fields if name in self.model_fields_set}

    def shown(self) -> dict[str, Any]:
        """Return the values that are given: what is left out has no default, but the value of another section."""
        values = super().shown()
        return {name: value for name, value in values.items() if name in self.model_fields_set}
