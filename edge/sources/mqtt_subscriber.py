"""The subscribing side of one MQTT connection: what is granted, and what is sent.

Alerts are read from the feed at the pace of the client's acknowledgements; what is for
one device comes through `send`. A SUBACK leaves once the session is durable as it says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.sources import mqtt_answers, mqtt_topics
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import (
    Publish,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from edge.sources.mqtt_properties import Code, MqttError, Property
from edge.sources.mqtt_session import Session

if TYPE_CHECKING:
    from edge.sources.mqtt_listener import MqttListener

FEED_PAGE_COUNT = 32  # messages of the feed in one loop turn
SHOWN_LENGTH = 64  # of a topic filter, in a reason


@dataclass(slots=True)
class Client:
    """What its CONNECT told about a client."""

    version: int
    role: str
    user: str | None
    packet_size_max: int
    receive_max: int
    reasons_wanted: bool


class Subscriber:
    """Serves the subscriptions of `session`; `write` takes bytes for the client.

    `saving` is true between a SUBSCRIBE and its answer: nothing more is taken then, and
    `answered` is called after it.
    """

    def __init__(
        self,
        listener: MqttListener,
        client: Client,
        session: Session,
        write: Callable[[bytes], None],
        answered: Callable[[], None],
    ) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._client = client
        self.session = session
        self._write = write
        self._answered = answered
        self.saving = False

    def begin(self) -> None:
        """After the CONNACK: what was not acknowledged, then what was missed."""
        client, session = self._client, self.session
        for one in list(session.subscriptions):  # what was granted may not be any more
            if not mqtt_topics.may_subscribe(one, client.role, client.user):
                del session.subscriptions[one]
        size = min(self._limits.send_window_max, client.receive_max)
        self._send(session.window.begin(size))

    # What the client asks

    def subscribe(self, packet: Subscribe) -> None:
        """Grant what may be; MqttError for what was not offered."""
        if Property.SUBSCRIPTION_ID in packet.properties:
            raise MqttError(
                Code.SUBSCRIPTION_IDS_NOT_SUPPORTED,
                "SUBSCRIBE: no subscription identifiers",
            )
        why: list[str] = []
        codes = tuple(self._grant(one, why) for one in packet.subscriptions)
        answer = mqtt_answers.granted(
            packet.packet_id,
            codes,
            why[0] if why and self._client.reasons_wanted else "",
            self._client.version,
            self._client.packet_size_max,
        )
        self._answer_when_durable(answer)

    def unsubscribe(self, packet: Unsubscribe) -> None:
        """End these subscriptions."""
        codes = tuple(
            Code.SUCCESS
            if self.session.subscriptions.pop(one, None) is not None
            else Code.NO_SUBSCRIPTION_EXISTED
            for one in packet.topic_filters
        )
        answer = encode(Unsuback(packet.packet_id, codes), self._client.version)
        self._answer_when_durable(answer)

    def _answer_when_durable(self, answer: bytes) -> None:
        def answered() -> None:
            self.saving = False
            self._write(answer)
            self._answered()

        self.saving = True
        self._listener.sessions.save(self.session, answered)

    def _grant(self, subscription: Subscription, why: list[str]) -> int:
        """The QoS that is granted, or a code and one more reason in `why`."""
        topic_filter = subscription.topic_filter
        code, reason = self._objection(topic_filter)
        if reason:
            why.append(f"{topic_filter[:SHOWN_LENGTH]!r}: {reason}")
            return code
        qos = min(subscription.qos, 1)
        self.session.subscribe(topic_filter, qos, self._listener.sessions.feed)
        return qos

    def _objection(self, topic_filter: str) -> tuple[Code, str]:
        role, user = self._client.role, self._client.user
        granted = self.session.subscriptions
        if topic_filter.startswith("$share/"):
            return Code.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, "no shared subscriptions"
        if not mqtt_topics.is_filter(topic_filter):
            return Code.TOPIC_FILTER_INVALID, "not a topic filter"
        if not mqtt_topics.may_subscribe(topic_filter, role, user):
            allowed = mqtt_topics.allowed(role, user)
            return Code.NOT_AUTHORISED, f"this user may subscribe to {allowed}"
        if (
            topic_filter not in granted
            and len(granted) >= self._limits.subscriptions_max
        ):
            return Code.QUOTA_EXCEEDED, "too many subscriptions"
        return Code.SUCCESS, ""

    def acknowledged(self, packet_id: int) -> None:
        """A PUBACK: the next may go."""
        self._send(self.session.window.acknowledge(packet_id))
        if self.session.keeps:
            self._listener.sessions.note(self.session)

    # What is sent

    def pump(self) -> bool:
        """Send a page of the feed, as far as there is room; whether there is more."""
        session, feed = self.session, self._listener.sessions.feed
        if feed is None:
            return False
        before = session.seen
        self._send(session.read(feed, FEED_PAGE_COUNT, self._fits))
        return before < session.seen < feed.last

    def send(self, packet: Publish) -> bool:
        """Send a message of its own; False when it is too large for the client."""
        if not self._fits(packet):
            return False
        self._send(self.session.window.offer(packet))
        return True

    @property
    def too_far_behind(self) -> bool:
        """Whether the queue of messages of its own is full."""
        return self.session.window.waiting_count > self._limits.unsent_max

    def _fits(self, packet: Publish) -> bool:
        size_max = self._client.packet_size_max
        fits = len(encode(packet, self._client.version)) <= size_max
        if not fits:
            user = self._client.user or ""
            self._listener.log.warning("%r: a message is too large for it", user)
        return fits

    def _send(self, packets: list[Publish]) -> None:
        if packets:
            version = self._client.version
            self._write(b"".join(encode(one, version) for one in packets))
