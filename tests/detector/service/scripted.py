"""A live source with the events of a list, and an engine that keeps its records."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from detector.audio.live_source import AudioBlock, SourceEvent, SourceStats, drain
from detector.errors import SourceError
from detector.messages import AudioChunk, Samples
from detector.pipeline import Detector
from detector.records import as_dict
from detector.service.engine import NO_SOURCE, Counters, Engine, RecordPublisher

RATE = 16000
Record = dict[str, Any]


class Script:
    """Emits one item of a list at each call, raises those that are errors, and ends behind the last one."""

    def __init__(self, items: Iterable[SourceEvent | SourceError]) -> None:
        self.items = list(items)
        self.stats: SourceStats = dataclasses.replace(NO_SOURCE, device="usb-id:1234:5678", is_open=True)
        self.is_closed = False

    def take(self, timeout_s: float) -> list[SourceEvent] | None:
        del timeout_s
        if not self.items:
            return None
        item = self.items.pop(0)
        if isinstance(item, SourceError):
            raise item
        return [item]

    def close(self) -> None:
        self.is_closed = True


def blocks(samples: Samples, first: int = 0, length: int = 320) -> Iterator[AudioBlock]:
    """Yield sound in blocks that are recorded one after another from now on."""
    begin = time.monotonic() - first / RATE
    for at in range(0, len(samples), length):
        piece = samples[at : at + length]
        end = first + at + len(piece)
        yield AudioBlock(AudioChunk(piece, first + at), begin + end / RATE)


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


class Bench:
    """An engine over a script, with its records."""

    def __init__(
        self, items: Iterable[SourceEvent | SourceError], detector: Detector, only: tuple[str, ...] = ()
    ) -> None:
        self.records: list[Record] = []
        self.counters = Counters()
        self.source = Script(items)
        self.publisher = RecordPublisher("mic", lambda record: self.records.append(as_dict(record)))
        self.engine = Engine(self.source, detector, self.publisher, self.counters, only)

    def run(self) -> list[Record]:
        """Process the whole script."""
        drain(self.source, self.engine.handle, lambda: True)
        return self.records

    def turn(self) -> None:
        """Process one item of the script."""
        for event in self.source.take(0) or []:
            self.engine.handle(event)

    def of(self, *kinds: str) -> list[Record]:
        return [r for r in self.records if r["type"] in kinds]
