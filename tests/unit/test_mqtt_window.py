"""The send window and the kept form of a session, for any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RejectError
from edge.model import FeedItem, FeedPage
from edge.sources.mqtt_packets import Publish
from edge.sources.mqtt_session import Session, decode
from edge.sources.mqtt_window import SendWindow

TOPIC = "iomt/v1/alerts/high/frost"


class ListFeed:
    """A feed of so many messages, numbered from 1."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.first = 1

    def after(self, number: int, count: int) -> FeedPage:
        through = min(self.last, number + count)
        items = [FeedItem(n, TOPIC, b"%d" % n) for n in range(number + 1, through + 1)]
        return FeedPage(tuple(items), through)


events = st.lists(
    st.one_of(
        st.just(("offer", 0)),
        st.tuples(st.just("acknowledge"), st.integers(0, 8)),
        st.tuples(st.just("reconnect"), st.integers(1, 5)),
    ),
    max_size=60,
)


@given(events)
def test_every_message_is_sent_until_it_is_acknowledged_and_never_too_many_at_once(
    steps: list[tuple[str, int]],
) -> None:
    window, size, made = SendWindow(3), 3, 0
    flying: dict[int, bytes] = {}  # what this connection of the client holds
    seen: dict[bytes, int] = {}  # the packet identifier of each message
    done: set[bytes] = set()

    def take(packets: list[Publish]) -> None:
        for packet in packets:
            assert packet.packet_id not in flying
            assert packet.payload not in done
            assert packet.dup == (packet.payload in seen)
            assert seen.setdefault(packet.payload, packet.packet_id) == packet.packet_id
            flying[packet.packet_id] = packet.payload
        assert len(flying) <= size

    for step, number in steps:
        match step:
            case "offer":
                made += 1
                take(window.offer(Publish(TOPIC, b"%d" % made, 1)))
            case "acknowledge":
                if number < len(flying):
                    packet_id = list(flying)[number]
                    done.add(flying.pop(packet_id))
                    take(window.acknowledge(packet_id))
            case "reconnect":
                flying.clear()
                size = number
                take(window.begin(size))
    while flying:
        packet_id = next(iter(flying))
        done.add(flying.pop(packet_id))
        take(window.acknowledge(packet_id))
    assert len(done) == made


@given(
    last=st.integers(0, 30),
    read=st.integers(0, 30),
    acknowledged=st.sets(st.integers(0, 29)),
)
def test_what_is_kept_is_enough_to_go_on_without_a_loss(
    last: int, read: int, acknowledged: set[int]
) -> None:
    """Whatever was read and acknowledged, in any order, the rest comes again."""
    session = Session("viewer", "tablet", SendWindow(100), expiry_s=60)
    session.subscribe("iomt/v1/alerts/#", 1, ListFeed(0))
    sent = session.read(ListFeed(last), max(read, 1), lambda _: True)
    kept = [p for place, p in enumerate(sent) if place not in acknowledged]
    for place in acknowledged:
        if place < len(sent):
            session.window.acknowledge(sent[place].packet_id)
    session.away_since_ms = 5
    again = decode(session.encode(), 100, last, 9)
    assert (again.user, again.client_id, again.expiry_s) == ("viewer", "tablet", 60)
    assert again.subscriptions == session.subscriptions
    told = again.read(ListFeed(last), 100, lambda _: True)
    missed = [b"%d" % n for n in range(len(sent) + 1, last + 1)]
    assert {p.payload for p in kept} <= {p.payload for p in told}
    assert [p.payload for p in told][len(told) - len(missed) :] == missed
    assert all(p.dup == (p.payload not in missed) for p in told)


@pytest.mark.parametrize(
    "kept", [b"", b"\x80", b"\x01", b"\x88\x02\xf6\x60\x00\x00\x00\x00\xa0"]
)
def test_a_damaged_session_is_told_apart(kept: bytes) -> None:
    with pytest.raises(RejectError):
        decode(kept, 1, 0, 0)
