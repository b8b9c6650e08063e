"""The settings: one field a section of the configuration file.

A sink is added by its section here, with a field and an import: ``config show|schema|init``, the service and the
doctor follow from the fields. ``detector.config.loading`` knows where the values come from.
"""

from __future__ import annotations

import os
import re
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationInfo, field_validator

from detector.config.paths import STDIN
from detector.config.sections import (
    Audio,
    Calibration,
    Health,
    Listening,
    Model,
    Section,
    Slug,
    Source,
    is_secret,
    slug,
)
from detector.errors import unknown_label
from detector.records import ALL_SOURCES
from detector.sinks.clips import Clips
from detector.sinks.command import Command
from detector.sinks.database import Database
from detector.sinks.json_file import JsonFile
from detector.sinks.mqtt import Mqtt
from detector.sinks.prometheus import Metrics
from detector.sinks.stdout import Stdout
from detector.sinks.webhook import Webhook
from detector.system import FileKind, is_of_kind
from detector.web.sink import Web

__all__ = ["Settings"]

_MAX_SOURCES: Final = 24
"""Each has two threads, and the units in systemd/ allow 64 tasks."""
JSON_LINES: Final = FileKind("a file of JSON lines", re.compile(rb"\{"))
DATABASE: Final = FileKind("an SQLite database", re.compile(rb"SQLite format 3\0"))


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
    sources: dict[Slug, Source] = Field(default_factory=dict)
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
        if twice := _twice(f"{broker.host.lower()}:{broker.port}" for broker in value):
            raise ValueError(f"two sections name the broker {twice[0]}, where each disconnects the other; keep one")
        return value

    @field_validator("sources")
    @classmethod
    def _apart(cls, value: dict[str, Source], info: ValidationInfo) -> dict[str, Source]:
        """Refuse sources without a name or a device of their own, or without what they need of [audio]."""
        general = info.data.get("audio", Audio())
        if value and "source" in general.model_fields_set:
            raise ValueError("audio.source names the only source; with [sources.NAME] each has its own name: remove it")
        if ALL_SOURCES in value:
            raise ValueError(f"no source can be called {ALL_SOURCES}, which stands for all of them")
        if len(value) > _MAX_SOURCES:
            raise ValueError(f"there are {len(value)} of them, one service has at most {_MAX_SOURCES}")
        audios = {name: _overlaid(general, source, name) for name, source in value.items()}
        if len(pipes := [name for name, audio in audios.items() if audio.device == STDIN]) > 1:
            raise ValueError(f"{' and '.join(pipes)} both read standard input; only one source can")
        for name, audio in audios.items():
            if trouble := audio.lacks_place():
                raise ValueError(f"{name}: {trouble}, or those of the source")
        return value

    def each(self) -> tuple[Settings, ...]:
        """Return for each source the settings of a service that has this one alone; without [sources], these."""
        return tuple(self._alone(name, source) for name, source in self.sources.items()) or (self,)

    def key_of(self, source: str, *key: str) -> tuple[str, ...]:
        """Return where the value of a source comes from: from its own table, or from a section for all of them."""
        section, name = key
        own = self.sources.get(source)
        is_own = own is not None and (name if section != "model" else section) in own.model_fields_set
        return ("sources", source, section if section == "model" else name) if is_own else key

    def _alone(self, name: str, source: Source) -> Settings:
        listening = source.given(Listening)
        own_thresholds = listening.get("thresholds", {})
        # Those for all sources are for the sounds of the general model, which another one may lack.
        general = self.listening.thresholds if source.model is None else {}
        listening["thresholds"] = {**general, **own_thresholds}
        has_own = source.calibration is not None or source.model is not None or own_thresholds
        changes: dict[str, Any] = {
            "audio": _overlaid(self.audio, source, name),
            "listening": self.listening.model_copy(update=listening),
            "model": self.model if source.model is None else Model(path=source.model),
            "calibration": source.calibration if has_own else self.calibration,
            "sources": {},
        }
        return self.model_copy(update=changes)

    def shown(self) -> dict[str, Any]:
        """Return all values as JSON has them, without what may be secret."""
        values = super().shown()
        for (name, *position), section in self.sections():
            if position:
                values[name][position[0]] = section.shown()
            else:
                values[name] = section.shown()
        return values

    def sections(self) -> Iterator[tuple[tuple[Any, ...], Section]]:
        """Yield every section that is present, with its key; of several under one name, each with its position."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section):
                yield (name,), value
            elif isinstance(value, tuple):
                yield from (((name, number), section) for number, section in enumerate(value))
            elif isinstance(value, dict):
                yield from (((name, key), section) for key, section in value.items())

    def mistakes(self, known: Sequence[Sequence[str]]) -> Iterator[tuple[tuple[Any, ...], str]]:
        """Yield key and reason for each label that no model knows, and each file with two purposes.

        ``known``: the labels of each source's model, in the order of ``each``.
        """
        found: dict[tuple[Any, ...], None] = {}
        for alone, labels in zip(self.each(), known, strict=True):
            for name in ("only", "thresholds"):
                key = self.key_of(alone.audio.source, "listening", name)
                wrong = (label for label in getattr(alone.listening, name) if label not in labels)
                found |= dict.fromkeys((key, unknown_label(label, labels)) for label in wrong)
        together = tuple(dict.fromkeys(label for labels in known for label in labels))
        for key, section in self.sections():
            wrong = (label for label in getattr(section, "labels", ()) if label not in together)
            found |= dict.fromkeys(((*key, "labels"), unknown_label(label, together)) for label in wrong)
        yield from found
        yield from self._file_mistakes()

    def _file_mistakes(self) -> Iterator[tuple[tuple[Any, ...], str]]:
        """Yield key and reason for each file that two settings name, or that would be written though it is another."""
        written: dict[tuple[Any, ...], tuple[Path, FileKind]] = {
            ("file", number, "path"): (file.path, JSON_LINES) for number, file in enumerate(self.file)
        }
        if self.database is not None:
            written["database", "path"] = (self.database.file, DATABASE)
        models = {self.key_of(s.audio.source, "model", "path"): s.model.path for s in self.each() if s.model.path}
        read = dict(self.secret_files()) | models
        places: dict[str, tuple[Any, ...]] = {os.path.realpath(path): key for key, path in read.items()}
        for key, (path, kind) in written.items():
            other = places.setdefault(os.path.realpath(path), key)
            if os.path.isdir(path):  # noqa: PTH112 - raises nothing where this user may not look
                yield key, f"{path} is a directory; name a file"
            elif other != key:
                yield key, f"{path} is the file of {_dotted(other)}, too"
            elif os.access(path, os.R_OK) and os.path.isfile(path) and not is_of_kind(path, kind):  # noqa: PTH113
                yield key, f"{path} exists and is not {kind.name}; name another file"
        if self.database is not None and _is_foreign(self.database.file):
            yield ("database", "path"), f"{self.database.file} is a database of another program; name another file"
        if self.clips is not None:
            yield from _folder_mistakes(self.clips.folder, places)

    def secret_files(self) -> Iterator[tuple[tuple[Any, ...], Path]]:
        """Yield key and path of every file of a secret that a section names."""
        for key, section in self.sections():
            for name, field in type(section).model_fields.items():
                if is_secret(field.annotation) and (path := getattr(section, name)) is not None:
                    yield (*key, name), path


def _overlaid(audio: Audio, source: Source, name: str) -> Audio:
    """Return how a source is captured: as its own table says, else as [audio] does."""
    return audio.model_copy(update={**source.given(Audio), "source": name})


def _folder_mistakes(folder: Path, places: Mapping[str, tuple[Any, ...]]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield key and reason where the folder of clips is a file, or that of another setting."""
    if other := places.get(os.path.realpath(folder)):
        yield ("clips", "directory"), f"{folder} is the file of {_dotted(other)}; name a folder"
    elif os.path.isfile(folder):  # noqa: PTH113 - raises nothing where this user may not look
        yield ("clips", "directory"), f"{folder} is a file; name a folder"


def _dotted(key: tuple[Any, ...]) -> str:
    return ".".join(part for part in key if isinstance(part, str))


def _is_foreign(path: Path) -> bool:
    """Return whether an SQLite file is one of another program; its module is imported only where there is a file."""
    if not os.path.isfile(path) or not is_of_kind(path, DATABASE):  # noqa: PTH113 - raises nothing
        return False
    from detector.events_db import is_foreign

    return is_foreign(path)


def _twice(values: Iterable[object]) -> list[object]:
    return [value for value, times in Counter(values).items() if times > 1]
