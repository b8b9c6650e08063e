"""The outbox: order, bounds, what is kept while there is no connection."""

from __future__ import annotations

from detector.sinks.mqtt_outbox import Outbox
from detector.sinks.mqtt_topics import Message


def event(number: int) -> Message:
    return Message("event", str(number), lasting=True)


def state(payload: str, topic: str = "state") -> Message:
    return Message(topic, payload, retain=True)


def drain(box: Outbox, *, acknowledge: bool = True) -> list[str]:
    said = []
    while (message := box.pop()) is not None:
        said.append(message.payload)
        box.sent(len(said), message)
        if acknowledge:
            box.acknowledged(len(said))
    return said


def test_nothing_goes_out_without_a_connection_and_only_lasting_messages_wait() -> None:
    box = Outbox(10)
    box.put([event(1), state("ON"), event(2), state("OFF")])
    assert box.pop() is None
    assert box.traffic.waiting == 2
    box.open([state("now")])
    assert drain(box) == ["now", "1", "2"]
    assert box.traffic.waiting == 0


def test_with_a_connection_everything_keeps_its_order() -> None:
    box = Outbox(10)
    box.open([])
    box.put([event(1), state("ON")])
    box.put([state("OFF"), event(2)])
    assert drain(box) == ["1", "ON", "OFF", "2"]


def test_the_oldest_lasting_messages_make_room() -> None:
    box = Outbox(3)
    box.put(event(i) for i in range(10))
    assert box.traffic.dropped == 7
    box.open([])
    assert drain(box) == ["7", "8", "9"]


def test_states_do_not_push_events_out() -> None:
    box = Outbox(1)
    box.open([state(str(i), f"topic {i}") for i in range(100)])
    box.put([event(1)])
    assert drain(box)[-1] == "1"
    assert box.traffic.dropped == 0


def test_what_is_not_acknowledged_is_sent_again_before_the_rest() -> None:
    box = Outbox(100)
    box.open([])
    box.put([state("ON"), *(event(i) for i in range(30))])
    first = drain(box, acknowledge=False)
    assert first == ["ON", *map(str, range(19))]
    box.acknowledged(2)
    box.shut()
    box.put([event(30), state("OFF")])
    box.open([state("OFF")])
    assert drain(box) == ["OFF", *map(str, range(1, 31))]


def test_only_so_many_are_on_their_way_at_once() -> None:
    box = Outbox(100)
    box.open([])
    box.put(event(i) for i in range(30))
    assert len(drain(box, acknowledge=False)) == 20
    box.acknowledged(1)
    message = box.pop()
    assert message is not None
    assert message.payload == "20"


def test_what_is_true_now_does_not_overtake_what_waits_for_the_same_topic() -> None:
    box = Outbox(10)
    newest = Message("attributes", "newest", retain=True, lasting=True)
    box.put([Message("attributes", "old", retain=True, lasting=True), newest])
    box.open([newest, state("ON")])
    assert drain(box) == ["ON", "old", "newest"]


def test_a_broker_that_is_too_slow_is_told_of_the_present_later() -> None:
    box = Outbox(10)
    box.open([])
    for number in range(3000):
        box.put([state(str(number))])
    box.put([event(1)])
    assert box.traffic.waiting < 2500
    assert not box.is_behind
    said = drain(box)
    assert said[-1] == "1"
    assert box.is_behind
    box.open([state("2999")])
    assert not box.is_behind
    assert drain(box) == ["2999"]
