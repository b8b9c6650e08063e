"""The outbox: order, bounds, what is kept while there is no connection."""

from __future__ import annotations

from detector.sinks.mqtt_client import Outbox
from detector.sinks.mqtt_topics import Message


def event(number: int) -> Message:
    return Message("event", str(number), durable=True)


def state(payload: str, topic: str = "state") -> Message:
    return Message(topic, payload, retain=True)


def drain(box: Outbox, *, acknowledge: bool = True) -> list[str]:
    sent: list[str] = []
    while (message := box.next()) is not None:
        sent.append(message.payload)
        box.published(len(sent))
        if acknowledge:
            box.acknowledged(len(sent))
    return sent


def test_nothing_goes_out_without_a_connection_and_only_durable_messages_wait() -> None:
    box = Outbox(10)
    box.put([event(1), state("ON"), event(2), state("OFF")])
    assert box.next() is None
    assert box.waiting == 2
    box.open([state("now")])
    assert drain(box) == ["now", "1", "2"]
    assert box.waiting == 0


def test_with_a_connection_everything_keeps_its_order() -> None:
    box = Outbox(10)
    box.open([])
    box.put([event(1), state("ON")])
    box.put([state("OFF"), event(2)])
    assert drain(box) == ["1", "ON", "OFF", "2"]


def test_the_oldest_durable_messages_make_room() -> None:
    box = Outbox(3)
    box.put(event(i) for i in range(10))
    assert box.dropped == 7
    box.open([])
    assert drain(box) == ["7", "8", "9"]


def test_states_do_not_push_events_out() -> None:
    box = Outbox(1)
    box.open([state(str(i), f"topic {i}") for i in range(100)])
    box.put([event(1)])
    assert drain(box)[-1] == "1"
    assert box.dropped == 0


def test_what_is_not_acknowledged_counts_as_waiting_over_a_reconnect() -> None:
    """Paho sends it again, before anything that is sent from here."""
    box = Outbox(100)
    box.open([])
    box.put([state("ON"), *(event(i) for i in range(30))])
    assert drain(box, acknowledge=False) == ["ON", *map(str, range(19))]
    box.shut()
    box.put([event(30), state("OFF")])
    assert box.waiting == 20 + 11 + 1
    box.open([state("OFF")])
    assert box.next() is None
    for number in range(1, 21):
        box.acknowledged(number)
    assert drain(box) == ["OFF", *map(str, range(19, 31))]
    assert box.waiting == 0


def test_only_so_many_are_unacknowledged_at_once() -> None:
    box = Outbox(100)
    box.open([])
    box.put(event(i) for i in range(30))
    assert len(drain(box, acknowledge=False)) == 20
    box.acknowledged(1)
    message = box.next()
    assert message is not None
    assert message.payload == "20"


def test_one_thread_sends_at_a_time() -> None:
    box = Outbox(10)
    box.open([event(1), event(2)])
    assert box.next() is not None
    assert box.next() is None
    box.published(1)
    message = box.next()
    assert message is not None
    assert message.payload == "2"


def test_an_acknowledgement_may_come_before_its_number_is_known() -> None:
    box = Outbox(10)
    box.open([event(1), Message("level", "2", qos=0), event(3)])
    for number in (1, 2, 3):
        assert box.next() is not None
        box.acknowledged(number)
        box.published(number)
    assert box.waiting == 0


def test_a_message_that_could_not_be_sent_does_not_hold_up_the_next() -> None:
    box = Outbox(10)
    box.open([event(1), event(2)])
    assert box.next() is not None
    box.published(None)
    assert drain(box) == ["2"]


def test_the_present_does_not_overtake_what_waits_for_the_same_topic() -> None:
    box = Outbox(10)
    newest = Message("attributes", "newest", retain=True, durable=True)
    box.put([Message("attributes", "old", retain=True, durable=True), newest])
    box.open([newest, state("ON")])
    assert drain(box) == ["ON", "old", "newest"]


def test_for_a_broker_that_is_too_slow_the_last_state_of_each_topic_is_kept() -> None:
    box = Outbox(10)
    box.open([])
    for number in range(3000):
        box.put([state(str(number), f"topic {number % 2}")])
    box.put([event(1)])
    assert box.waiting < 2500
    sent = drain(box)
    assert sent[-3:] == ["2998", "2999", "1"]


def test_waiting_for_the_end_is_bounded() -> None:
    box = Outbox(10)
    box.open([event(1)])
    assert not box.wait_until_sent(0.01)
    assert drain(box) == ["1"]
    assert box.wait_until_sent(0.01)
