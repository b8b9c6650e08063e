"""What a sink is: takes records one by one, and may be slow, full or broken without anybody else noticing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Record: TypeAlias = Mapping[str, Any]
"""A JSON object with ``v`` and ``type``; see ``detector.records`` for the types there are."""


class Sink(Protocol):
    """Takes records one by one, as they become known."""

    def write(self, record: Record) -> None:
        """Pass a record on before returning; raises BrokenPipeError where nobody reads any more."""


class TryAgainError(Exception):
    """A sink cannot take this record now, but will later: a full disk, a server that is away. Its text says why."""


class LiveSink:
    """A sink of the service; a ``SinkWorker`` calls all its methods in one thread of its own.

    ``write`` may take its time: the worker's queue absorbs it, and drops the oldest records where
    it overflows. It raises TryAgainError to be given the same record again after a pause; any other
    exception means that this record is lost, and is counted and told.
    """

    types: frozenset[str] | None = None
    """Types of records to be given; None for all."""
    labels: frozenset[str] | None = None
    """Labels of sounds to be given; None for all. Records without a label are not asked for it."""
    longest_pause_s: float = math.inf
    """The longest pause between two tries that this sink needs; the worker has a longest one of its own."""

    def open(self) -> None:
        """Prepare to write, in the worker's thread; raises TryAgainError to be opened again after a pause."""

    def write(self, record: Record) -> None:
        """Pass a record on."""
        raise NotImplementedError

    def tick(self) -> None:
        """Do what is due by now; called about once a second, also while nothing is written."""

    def close(self) -> None:
        """Bring to an end what has been written, and release everything."""


@dataclass(frozen=True, slots=True)
class Station:
    """Who is listening, to what, with which model: what a sink may tell its readers besides records."""

    node: str
    """Name of this machine: letters, digits, ``_`` and ``-``."""
    source: str
    """Short name of the sound source, of the same letters; the ``source`` of each record."""
    device: str
    """The device's stable id, or what the user named it by where it has none."""
    classes: tuple[tuple[str, str], ...]
    """Label and category of each sound that is reported."""
    model: str
    """Name and version of the model."""
    model_sha256: str
    version: str
    """Version of snn-detect."""
