"""The operator's wishes: device, sinks, thresholds. Nothing in here is bound to a model's weights.

Each section of the configuration file is one class; a key that no class knows is an error. Where
the wishes come from (file, environment, command line), ``detector.config.loading`` knows.

What settings are made of: tables, names, paths.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

RecordType = Literal["onset", "offset", "gap", "status", "health", "clip"]
Slug = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
Labels = tuple[str, ...]
"""Labels of sounds; an empty tuple stands for all."""


def _user_path(path: Path) -> Path:
    """Put the user's home where ``~`` stands, and refuse the empty path, which would stand for any folder."""
    if path == Path():
        raise ValueError("must be the path of a file or folder")
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for users without a home


def none_for_zero(value: Any) -> Any:
    """Take 0 for "without a bound": TOML has no word for None."""
    return None if value in (0, "0") else value


UserPath = Annotated[Path, AfterValidator(_user_path)]
"""A path as users write it."""


def slug(text: str) -> str:
    """Return a text in letters, digits, ``_`` and ``-`` alone, at most 64 of them."""
    return re.sub(r"[^a-zA-Z0-9_-]+", "_", text).strip("_")[:64] or "unnamed"


class Section(BaseModel):
    """A table of the configuration: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


class Audio(Section):
    """The sound source."""

    device: str = Field("mic", min_length=1, description="mic, a number, (part of) a name, hw:CARD=..., usb-id:..., -")
    source: Slug = Field("mic", description="Short name of the source in records and topics.")
    channel: Literal["mean", "left", "right"] | Annotated[int, Field(ge=1, le=64)] = Field(
        "mean", description="Which channel to hear: mean, left, right, or a number from 1."
    )
    rate_hz: Annotated[int, Field(ge=4000, le=384000)] | None = Field(
        None, description="Samples per second to open the device with; left out: the device's own."
    )
    buffer_s: float = Field(5.0, gt=0, le=60, description="Sound that may wait for the detector before it is dropped.")


class Listening(Section):
    """The model and what of it is reported."""

    path: UserPath | None = Field(None, description="Model file; left out: the one that ships.")
    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=dict, description="On-thresholds by label, in place of the model's own."
    )
    only: Labels = Field((), description="Labels to report; empty: all.")


class Stdout(Section):
    """Records on standard output."""

    enabled: bool = True
    format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, JSON elsewhere.")
    types: tuple[RecordType, ...] = ("onset", "offset", "gap", "status")


class JsonFile(Section):
    """JSON lines in a file; SIGUSR1 opens it anew."""

    path: UserPath
    types: tuple[RecordType, ...] = ("onset", "offset", "gap", "status", "health")


class Database(Section):
    """Events in SQLite, for ``snn-detect events``."""

    path: UserPath | None = Field(None, description="Left out: events.db in the state directory.")
    commit_s: float = Field(5.0, ge=0, le=300, description="Longest time between an event and its commit.")
    retention_days: float | None = Field(None, gt=0, description="Events older than this are deleted; left out: never.")


class Mqtt(Section):
    """An MQTT broker, with discovery for Home Assistant."""

    host: str = Field(min_length=1)
    port: int = Field(1883, ge=1, le=65535, description="Left out: 1883, with TLS 8883.")
    username: str | None = None
    password_file: UserPath | None = Field(None, description="File whose first line is the password.")
    tls: bool = False
    ca_file: UserPath | None = Field(None, description="Certificates to trust; left out: the system's.")
    certificate_file: UserPath | None = Field(None, description="Certificate of this client, with key_file.")
    key_file: UserPath | None = None
    prefix: str = Field("snn-detect", pattern=r"^[^#+\x00]+$", description="First part of all topics.")
    discovery_prefix: str | None = Field("homeassistant", description="Empty: no discovery.")
    level_s: float = Field(30.0, ge=1, le=3600, description="Seconds between two levels.")
    queue: int = Field(1000, ge=1, le=100_000, description="Messages kept while the broker is away.")

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, value: Any) -> Any:
        has_tls = isinstance(value, dict) and value.get("tls") in (True, "true", "1", 1)
        return {"port": 8883, **value} if has_tls else value

    @model_validator(mode="after")
    def _whole(self) -> Mqtt:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together")
        if not self.tls and (self.ca_file or self.certificate_file):
            raise ValueError("ca_file, certificate_file and key_file need tls = true")
        if self.password_file and not self.username:
            raise ValueError("password_file needs username")
        return self


class Metrics(Section):
    """Figures for Prometheus."""

    address: str = Field("127.0.0.1:9464", description="Address and port to listen on.")
    token_file: UserPath | None = Field(None, description="File with the bearer token; needed beyond loopback.")
    scores: bool = Field(False, description="Also each class's score.")


class Web(Section):
    """A page that shows what the detector hears, and its JSON API."""

    address: str = Field("127.0.0.1:8765", description="Address and port to listen on.")
    token_file: UserPath | None = Field(None, description="File with the token to be shown; needed beyond loopback.")
    hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")], ...] = Field(
        (), description="Names by which browsers call this machine, beside its own; IP addresses always work."
    )


class Webhook(Section):
    """HTTP POST of each record as JSON."""

    url: str = Field(pattern=r"^https?://[^\s]+$")
    types: tuple[RecordType, ...] = ("onset", "offset")
    labels: Labels = ()
    token_file: UserPath | None = Field(None, description="File with a bearer token to send.")
    ca_file: UserPath | None = Field(None, description="Certificates to trust; left out: the system's.")
    timeout_s: float = Field(5.0, gt=0, le=60)
    tries: int = Field(5, ge=1, le=100, description="Tries for one record before it is given up.")


class Command(Section):
    """A program that is run for each record; never a shell."""

    argv: tuple[str, ...] = Field(min_length=1)
    types: tuple[RecordType, ...] = ("onset",)
    labels: Labels = ()
    timeout_s: float = Field(10.0, gt=0, le=3600)


class Clips(Section):
    """Sound around events, as FLAC files; off unless this section is there."""

    directory: UserPath | None = Field(None, description="Left out: clips in the state directory.")
    labels: Labels = ()
    pre_roll_s: float = Field(2.0, ge=0, le=30)
    post_roll_s: float = Field(2.0, ge=0, le=30)
    longest_s: float = Field(30.0, gt=0, le=300)
    most_bytes: int = Field(1_000_000_000, gt=0)
    most_files: int = Field(10_000, gt=0)
    most_days: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(none_for_zero)] = Field(
        30.0, description="0: kept for ever, as far as the other bounds let them."
    )
    least_free_bytes: int = Field(200_000_000, ge=0, description="Free space of the disk below which none is written.")


class Health(Section):
    """How often the service says how it is."""

    interval_s: float = Field(60.0, ge=1, le=3600)


class Calibration(Section):
    """What ``snn-detect calibrate`` measured the thresholds with; another device or model makes them guesses."""

    date: str = Field(min_length=1, description="When the thresholds were chosen, by RFC 3339.")
    hours: float = Field(gt=0, description="Length of the background that they were chosen on.")
    rate_per_hour: float = Field(gt=0, description="False alarms per hour that were asked for, of each class.")
    promise_per_hour: float = Field(
        gt=0, description="False alarms per hour that those hours can promise at 95 %: no less than was asked for."
    )
    rule: str = Field("", description="How the thresholds were chosen.")
    device: str | None = Field(None, description="Id of the microphone; left out: recordings, from any.")
    model: str = Field(min_length=1, description="Name and version of the model.")
    model_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the model's file.")

    def mismatch(self, device: str | None, model: str, model_sha256: str) -> str | None:
        """Return in words how a model and an open device (None: none is open) are others than those; None: they fit."""
        what = []
        if model_sha256 != self.model_sha256:
            what.append(f"the model {self.model}, not for {model} ({model_sha256[:12]})")
        if device is not None and self.device is not None and device.lower() != self.device.lower():
            what.append(f"the device {self.device}, not for {device}")
        if not what:
            return None
        return f"the thresholds of {self.date[:10]} were calibrated for {' and '.join(what)}: run snn-detect calibrate"


class Settings(Section):
    """All wishes; what is left out takes the values here."""

    node: Slug = Field(default_factory=lambda: slug(socket.gethostname()), description="Name of this machine.")
    audio: Audio = Audio()
    listening: Listening = Listening()
    calibration: Calibration | None = None
    health: Health = Health()
    stdout: Stdout = Stdout()
    file: tuple[JsonFile, ...] = ()
    database: Database | None = None
    mqtt: tuple[Mqtt, ...] = ()
    metrics: Metrics | None = None
    web: Web | None = None
    webhook: tuple[Webhook, ...] = ()
    command: tuple[Command, ...] = ()
    clips: Clips | None = None

    @field_validator("file", "mqtt", "webhook", "command", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """Take one table ``[mqtt]`` as well as several ``[[mqtt]]``."""
        return [value] if isinstance(value, dict) else value

    @field_validator("file")
    @classmethod
    def _own_file(cls, value: tuple[JsonFile, ...]) -> tuple[JsonFile, ...]:
        if twice := _twice(file.path for file in value):
            raise ValueError(f"two sections write {twice[0]}; give each its own path, or let one name all the types")
        return value

    @field_validator("mqtt")
    @classmethod
    def _own_broker(cls, value: tuple[Mqtt, ...]) -> tuple[Mqtt, ...]:
        if twice := _twice(f"{broker.host}:{broker.port}" for broker in value):
            raise ValueError(f"two sections name the broker {twice[0]}, where each would drive the other out; keep one")
        return value


def _twice(values: Iterable[object]) -> list[object]:
    return [value for value, times in Counter(values).items() if times > 1]
