"""The settings: one field a section of the configuration file, and the sections of the sinks.

``detector.config.loading`` knows where the values come from: files, environment, command line.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from detector.config.secrets import redacted_arguments, redacted_url
from detector.config.sections import (
    RECORD_TYPES,
    Audio,
    Calibration,
    Health,
    Labels,
    LimitInDays,
    Listening,
    Model,
    RecordType,
    SecretFile,
    Section,
    ServerSection,
    Slug,
    UserPath,
    is_secret,
    slug,
)


class Stdout(Section):
    """Records on standard output, which under systemd is the journal."""

    enabled: bool = Field(True, description="Whether records are written there.")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description='"json", "text" for people, or "auto": text on a terminal, JSON elsewhere.'
    )
    types: tuple[RecordType, ...] = Field(
        ("onset", "offset", "gap", "status"), description=f"Types of records to write, {RECORD_TYPES}."
    )


class JsonFile(Section):
    """JSON lines in a file, one object a line.

    For logrotate there is systemd/snn-detect.logrotate; SIGUSR1 reopens the file.
    """

    path: UserPath = Field(description="The file.", examples=["/var/lib/snn-detect/events.jsonl"])
    types: tuple[RecordType, ...] = Field(
        ("onset", "offset", "gap", "status", "health"), description=f"Types of records to write, {RECORD_TYPES}."
    )


class Database(Section):
    """Events in an SQLite file, for `snn-detect events`. Without this section: none."""

    in_example: ClassVar[bool] = True
    path: UserPath | None = Field(
        None,
        description="The file. Left out: events.db in the state directory, /var/lib/snn-detect for the system's "
        "service.",
        examples=["/var/lib/snn-detect/events.db"],
    )
    commit_s: float = Field(
        5.0,
        ge=0,
        le=300,
        description="Longest time in seconds between an event and its commit to disk: longer is kinder to SD cards.",
    )
    retention_days: float | None = Field(
        None, gt=0, description="Days after which an event is deleted. Left out: never.", examples=[365.0]
    )


class Mqtt(Section):
    """An MQTT broker, with discovery for Home Assistant."""

    host: str = Field(min_length=1, description="Name or address of the broker.", examples=["homeassistant.local"])
    port: int = Field(1883, ge=1, le=65535, description="Its port. Left out: 1883, with TLS 8883.")
    username: str | None = Field(
        None, description="User name. Left out: none, and no password either.", examples=["snn-detect"]
    )
    password_file: SecretFile | None = Field(
        None,
        description="File whose first line is the password, which is never in here. Left out: the credential "
        "mqtt-password, which the system's service gets from /etc/snn-detect/mqtt.password, even where only root can "
        "read that.",
        examples=["/etc/snn-detect/mqtt.password"],
    )
    tls: bool = Field(False, description="Whether to use TLS.")
    ca_file: UserPath | None = Field(
        None,
        description="Certificates to trust, where they are not the system's.",
        examples=["/etc/snn-detect/ca.pem"],
    )
    certificate_file: UserPath | None = Field(
        None,
        description="Certificate of this machine, for brokers that require one, with key_file.",
        examples=["/etc/snn-detect/client.pem"],
    )
    key_file: SecretFile | None = Field(
        None, description="Private key of that certificate.", examples=["/etc/snn-detect/client.key"]
    )
    prefix: str = Field("snn-detect", pattern=r"^[^#+\x00]+$", description="First part of all topics.")
    discovery_prefix: str | None = Field(
        "homeassistant", description='First part of the topics of discovery. "": no discovery.'
    )
    level_interval_s: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="Seconds between two levels; they come with the health records, so not more often than those.",
    )
    queue: int = Field(
        1000, ge=1, le=100_000, description="Messages kept while the broker is away; beyond, the oldest are dropped."
    )

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


class Metrics(ServerSection):
    """Metrics for Prometheus, at http://ADDRESS/metrics."""

    address: str = Field(
        "127.0.0.1:9464",
        description="Address and port to listen on. One that other machines can reach needs token_file.",
    )
    token_file: SecretFile | None = Field(
        None, description="File with the bearer token to require.", examples=["/etc/snn-detect/metrics.token"]
    )
    scores: bool = Field(False, description="Whether to add the score of each class.")


class Web(ServerSection):
    """A page for browsers, at http://ADDRESS/, that shows what is detected as it happens, and its JSON API."""

    address: str = Field(
        "127.0.0.1:8765",
        description="Address and port to listen on. One that other machines can reach needs token_file.",
    )
    token_file: SecretFile | None = Field(
        None, description="File with the token that the page asks for once.", examples=["/etc/snn-detect/web.token"]
    )
    hosts: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")], ...] = Field(
        (),
        description="Names by which browsers call this machine, beside localhost and its own; IP addresses always "
        "work.",
    )


class Webhook(Section):
    """HTTP POST of each record as JSON."""

    url: str = Field(pattern=r"^https?://[^\s]+$", description="Where to post.", examples=["https://example.org/hook"])
    types: tuple[RecordType, ...] = Field(("onset", "offset"), description=f"Types of records to post, {RECORD_TYPES}.")
    labels: Labels = Field((), description="Labels to post. Empty: all.")
    token_file: SecretFile | None = Field(
        None,
        description='File with a token for the header "Authorization: Bearer".',
        examples=["/etc/snn-detect/hook.token"],
    )
    ca_file: UserPath | None = Field(
        None,
        description="Certificates to trust, where they are not the system's.",
        examples=["/etc/snn-detect/ca.pem"],
    )
    timeout_s: float = Field(5.0, gt=0, le=60, description="Seconds to wait for an answer.")
    max_attempts: int = Field(5, ge=1, le=100, description="Attempts for one record before it is given up.")

    def shown(self) -> dict[str, Any]:
        """Return the values without the URL's path, which often is the permission to post."""
        return super().shown() | {"url": redacted_url(self.url)}


class Command(Section):
    """A program that is run for each record, with the record on its standard input and in its environment."""

    argv: tuple[str, ...] = Field(
        min_length=1,
        description="The program and its arguments, as a list: there is no shell.",
        examples=[["/usr/local/bin/on-sound", "--quiet"]],
    )
    types: tuple[RecordType, ...] = Field(("onset",), description=f"Types of records to run it for, {RECORD_TYPES}.")
    labels: Labels = Field((), description="Labels to run it for. Empty: all.")
    timeout_s: float = Field(10.0, gt=0, le=3600, description="Seconds after which it is killed.")

    def shown(self) -> dict[str, Any]:
        """Return the values without arguments that may be secret."""
        return super().shown() | {"argv": list(redacted_arguments(list(self.argv)))}


class Clips(Section):
    """Recordings of the sounds, as FLAC files: off unless this section is there. They may hold what people say."""

    directory: UserPath | None = Field(
        None,
        description="The folder. Left out: clips in the state directory.",
        examples=["/var/lib/snn-detect/clips"],
    )
    labels: Labels = Field((), description="Labels to record. Empty: all.")
    pre_roll_s: float = Field(2.0, ge=0, le=30, description="Seconds to record before the onset.")
    post_roll_s: float = Field(2.0, ge=0, le=30, description="Seconds to record after the offset.")
    max_s: float = Field(30.0, gt=0, le=300, description="Longest sound in seconds; the clip of a longer one is cut.")
    max_bytes: int = Field(
        1_000_000_000, gt=0, description="Bytes of all clips; the oldest are deleted where there are more."
    )
    max_files: int = Field(10_000, gt=0, description="Number of clips; the oldest are deleted where there are more.")
    max_days: LimitInDays = Field(30.0, description="Days after which a clip is deleted. 0: never for its age.")
    min_free_bytes: int = Field(
        200_000_000, ge=0, description="Bytes that stay free on the disk: below that nothing is recorded."
    )


class Settings(Section):
    """All settings; what is left out has the defaults here."""

    node: Slug = Field(
        default_factory=lambda: slug(socket.gethostname()),
        description="Name of this machine in topics: letters, digits, _ and -. Left out: the host name.",
        examples=["kitchen"],
    )
    audio: Audio = Audio()
    model: Model = Model()
    listening: Listening = Listening()
    calibration: Calibration | None = None
    health: Health = Health()
    stdout: Stdout = Stdout()
    database: Database | None = None
    file: tuple[JsonFile, ...] = ()
    mqtt: tuple[Mqtt, ...] = ()
    metrics: Metrics | None = None
    web: Web | None = None
    webhook: tuple[Webhook, ...] = ()
    command: tuple[Command, ...] = ()
    clips: Clips | None = None

    @field_validator("file", "mqtt", "webhook", "command", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        """Accept one table ``[mqtt]`` as well as several ``[[mqtt]]``."""
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
            raise ValueError(f"two sections name the broker {twice[0]}, where each disconnects the other; keep one")
        return value

    def shown(self) -> dict[str, Any]:
        """Return all values as JSON has them, without what may be secret."""
        values = super().shown()
        for (name, *position), section in self.sections():
            if position:
                values[name][position[0]] = section.shown()
            else:
                values[name] = section.shown()
        return values

    def secret_files(self) -> Iterator[tuple[tuple[Any, ...], Path]]:
        """Yield key and path of every file of a secret that a section names."""
        for key, section in self.sections():
            for name, field in type(section).model_fields.items():
                if is_secret(field.annotation) and (path := getattr(section, name)) is not None:
                    yield (*key, name), path

    def sections(self) -> Iterator[tuple[tuple[Any, ...], Section]]:
        """Yield every section that is present, with its key; of several under one name, each with its position."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section):
                yield (name,), value
            elif isinstance(value, tuple):
                yield from (((name, number), section) for number, section in enumerate(value))


def _twice(values: Iterable[object]) -> list[object]:
    return [value for value, times in Counter(values).items() if times > 1]
