"""The sink and the source that CONTRIBUTING shows work as they stand there."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from detector.audio.live_source import AudioBlock, SourceEvent, drain
from detector.config.settings import Settings
from detector.messages import Event
from detector.records import StreamInfo, event_record
from tests.test_documents import blocks

CONTRIBUTING = ".github/CONTRIBUTING.md"


def names_of(block: str) -> dict[str, Any]:
    """Run the block that defines a class and return its names."""
    (code,) = (text for text in blocks(CONTRIBUTING, "python") if block in text)
    names: dict[str, Any] = {"__name__": "contributing"}
    exec(compile(code, CONTRIBUTING, "exec", dont_inherit=True), names)  # noqa: S102 - our own document
    return names


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(10)
        yield opened


def test_the_sink_is_a_section_of_the_settings_and_sends_records(receiver: socket.socket) -> None:
    section = names_of("class UdpSink(LiveSink)")["Udp"]
    more: Any = type("More", (Settings,), {"__annotations__": {"udp": section}})
    settings = more.model_validate({"udp": {"host": "127.0.0.1", "port": receiver.getsockname()[1]}})
    sink = settings.udp.build(None).make()
    event = Event("onset", 0, "guitar", "music", 16000, 17000, 0.9, 0.8)
    sink.write(event_record(event, StreamInfo("mic", "a", 16000, "household-0.6.0", "f796"), 1))
    sent = json.loads(receiver.recv(65536))
    assert (sent["type"], sent["label"], sent["onset_s"]) == ("onset", "guitar", 1.0)
    sink.close()


def test_the_source_gives_blocks_until_an_empty_datagram() -> None:
    source = names_of("class UdpSource")["UdpSource"](0)
    port = source._socket.getsockname()[1]
    samples = (np.arange(1000) % 50 - 25).astype("<i2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for part in (samples[:400].tobytes(), samples[400:].tobytes(), b""):
            sender.sendto(part, ("127.0.0.1", port))
    events: list[SourceEvent] = []
    assert drain(source, events.append, lambda: True)
    assert source.take(0.01) == ()
    found = [event for event in events if isinstance(event, AudioBlock)]
    assert [block.chunk.first_sample for block in found] == [0, 400]
    assert np.array_equal(np.concatenate([b.chunk.samples for b in found]), samples.astype(np.float32) / 32768)
    source.close()
