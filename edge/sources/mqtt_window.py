"""What may be sent to one subscriber now, and what has to wait. Pure.

At QoS 1 a client takes only so many messages at once (its receive maximum, MQTT 5
section 4.9); the others wait here, and each PUBACK lets the next one out.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from edge.sources.mqtt_packets import Publish

PACKET_ID_MAX = 0xFFFF


class SendWindow:
    """The packet identifiers in use towards one subscriber, and its queue.

    `size` is how many QoS 1 messages may be without PUBACK, below 65,535.
    """

    __slots__ = ("_in_flight", "_last_id", "_waiting", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._in_flight: set[int] = set()
        self._last_id = 0
        self._waiting: deque[Publish] = deque()

    @property
    def waiting_count(self) -> int:
        """Messages that the subscriber's acknowledgements hold up."""
        return len(self._waiting)

    def offer(self, packet: Publish) -> list[Publish]:
        """What goes out now that there is also `packet` to send: it, or nothing.

        QoS 0 needs no room and overtakes what waits; nothing promises an order
        between the two.
        """
        if not packet.qos:
            return [packet]
        self._waiting.append(packet)
        return self._released()

    def acknowledge(self, packet_id: int) -> list[Publish]:
        """What may go out after this PUBACK; one for a packet never sent is ignored."""
        self._in_flight.discard(packet_id)
        return self._released()

    def _released(self) -> list[Publish]:
        released = []
        while self._waiting and len(self._in_flight) < self.size:
            packet_id = self._last_id % PACKET_ID_MAX + 1
            while packet_id in self._in_flight:
                packet_id = packet_id % PACKET_ID_MAX + 1
            self._last_id = packet_id
            self._in_flight.add(packet_id)
            released.append(replace(self._waiting.popleft(), packet_id=packet_id))
        return released
