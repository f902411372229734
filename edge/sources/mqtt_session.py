"""One MQTT session: subscriptions, what is in flight, and a place in the feed. Pure.

A *feed* is what the gateway tells every subscriber who may hear it, numbered in the
order of its commits: the alerts. A session does not queue them. It keeps the number
up to which it has looked, and reads on when the client's window has room; so a client
that is away, or slow, costs eight bytes, and misses nothing that the store still has.
What is for one device alone (its receipts) waits in the session itself, bounded.

    kept as   deterministic CBOR, [1, user or null, client id, expiry in s, away since
              (ms since 1970, 0 while connected), acknowledged, sent, {filter: QoS}]

`acknowledged` is the number below which all is done, `sent` the highest that went out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edge import cbor
from edge.errors import RejectError
from edge.model import FeedPage
from edge.sources import mqtt_topics
from edge.sources.mqtt_packets import Publish
from edge.sources.mqtt_window import SendWindow

FORMAT_VERSION = 1


class Feed(Protocol):
    """What every subscriber reads at their own pace (delivery.alerts.AlertFeed)."""

    @property
    def last(self) -> int:
        """The newest number that may be told."""

    @property
    def first(self) -> int:
        """The oldest number that can still be read; what was before it is gone."""

    def after(self, number: int, count: int) -> FeedPage:
        """At most `count` messages after this number; `through` moves on if any are."""


class Keeper(Protocol):
    """What makes sessions outlive the process."""

    def load(self) -> list[bytes]:
        """What was kept, one item a session."""

    def now_ms(self) -> int:
        """The gateway's clock, which never goes back."""

    async def save(self, changes: Mapping[str, bytes | None]) -> None:
        """Return once these are durable, by a session's name; None removes."""


@dataclass(slots=True)
class Session:
    """What is between a user's client and us, with a connection or without.

    `expiry_s` is how long it lives without one; 0 ends it with its connection.
    `seen` is the number of the feed up to which it was looked at; up to `again` a
    message that goes out may have gone out before the process began.
    """

    user: str | None
    client_id: str
    window: SendWindow
    seen: int = 0
    again: int = 0
    expiry_s: int = 0
    away_since_ms: int = 0
    connected: bool = False
    live_from: int = 0
    subscriptions: dict[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is known by: a client id belongs to its user."""
        return f"{self.user or ''}\0{self.client_id}"

    @property
    def follows(self) -> bool:
        """Whether it has a subscription to the feed."""
        return any(map(mqtt_topics.is_alert, self.subscriptions))

    @property
    def keeps(self) -> bool:
        """Whether it outlives its connection."""
        return self.expiry_s > 0

    @property
    def acknowledged(self) -> int:
        """The number up to which the client has acknowledged all that it is to have."""
        oldest = self.window.oldest
        return oldest - 1 if oldest else self.seen

    def granted(self, topic: str) -> int | None:
        """The QoS of a topic's messages; None where no subscription covers it."""
        found = [
            qos
            for topic_filter, qos in self.subscriptions.items()
            if mqtt_topics.matches(topic_filter, topic)
        ]
        return max(found, default=None)

    def subscribe(self, topic_filter: str, qos: int, feed: Feed | None) -> None:
        """Add a subscription; the feed begins with what comes after the first."""
        if feed is not None and mqtt_topics.is_alert(topic_filter) and not self.follows:
            self.seen = self.again = feed.last
        self.subscriptions[topic_filter] = qos

    def read(
        self, feed: Feed, count_max: int, fits: Callable[[Publish], bool]
    ) -> list[Publish]:
        """What of the feed goes out now; looks at `count_max` messages at the most.

        One that does not fit the client's packets is passed over, MQTT 5 section
        3.1.2.11.4.
        """
        if not self.follows:
            self.seen = feed.last
            return []
        room = self.window.room
        if not room:
            return []
        page = feed.after(self.seen, min(room, count_max))
        out = []
        for number, topic, payload in page.items:
            qos = self.granted(topic)
            if qos is None or (not qos and number <= self.live_from):
                continue  # at QoS 0 nothing is kept for who is away
            packet = Publish(
                topic, payload, qos, dup=bool(qos) and number <= self.again
            )
            if fits(packet):
                out += self.window.offer(packet, number)
        self.seen = page.through
        return out

    def encode(self) -> bytes:
        """As it is kept; see the top of the file."""
        return cbor.encode(
            [
                FORMAT_VERSION,
                self.user,
                self.client_id,
                self.expiry_s,
                0 if self.connected else self.away_since_ms,
                self.acknowledged,
                max(self.seen, self.again),
                self.subscriptions,
            ]
        )


def decode(kept: bytes, window_size: int, last: int, now_ms: int) -> Session:
    """A session that was kept by an earlier process; RejectError where it is none.

    `last` is the newest number of the feed: of a session that was connected when the
    process ended nobody knows how far it was served.
    """
    match cbor.decode(kept):
        case [
            1,
            str() | None as user,
            str(client_id),
            int(expiry_s),
            int(away_since_ms),
            int(acknowledged),
            int(sent),
            dict(subscriptions),
        ] if all(isinstance(f, str) and q in (0, 1) for f, q in subscriptions.items()):
            return Session(
                user,
                client_id,
                SendWindow(window_size),
                seen=acknowledged,
                again=sent if away_since_ms else last,
                expiry_s=expiry_s,
                away_since_ms=away_since_ms or now_ms,
                subscriptions=dict(subscriptions),
            )
    raise RejectError("session: has another form")
