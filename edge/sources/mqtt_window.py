"""What may be sent to one subscriber now, and what has to wait. Pure.

At QoS 1 a client takes only so many messages at once (its receive maximum, MQTT 5
section 4.9); the others wait here, and each PUBACK lets the next one out. What was sent
and not acknowledged is sent again, under its packet identifier and with DUP, when the
client comes back (MQTT-4.4.0-1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from edge.sources.mqtt_packets import Publish

PACKET_ID_MAX = 0xFFFF


class _Held(NamedTuple):
    """A message at QoS 1; `number` is its place in the feed, 0 where it has none."""

    packet: Publish
    number: int


class SendWindow:
    """The packet identifiers in use towards one subscriber, and its queue.

    `size` is how many QoS 1 messages may be without PUBACK, below 65,535.
    """

    __slots__ = ("_in_flight", "_last_id", "_waiting", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._in_flight: dict[int, _Held] = {}
        self._last_id = 0
        self._waiting: deque[_Held] = deque()

    @property
    def waiting_count(self) -> int:
        """Messages that the subscriber's acknowledgements hold up."""
        return len(self._waiting)

    @property
    def room(self) -> int:
        """How many more messages would go out at once."""
        return max(0, self.size - len(self._in_flight) - len(self._waiting))

    @property
    def oldest(self) -> int:
        """The lowest number that is not acknowledged, 0 where all are."""
        held = [*self._in_flight.values(), *self._waiting]
        return min((one.number for one in held if one.number), default=0)

    def offer(self, packet: Publish, number: int = 0) -> list[Publish]:
        """What goes out now that there is also `packet` to send: it, or nothing.

        QoS 0 needs no room and overtakes what waits; nothing promises an order
        between the two.
        """
        if not packet.qos:
            return [packet]
        self._waiting.append(_Held(packet, number))
        return self._released()

    def keep(self, packet: Publish, count_max: int) -> bool:
        """Keep it for a subscriber who is away; False when the oldest had to go.

        What has a number can be read again from the feed and is not counted.
        """
        self._waiting.append(_Held(packet, 0))
        kept = [place for place, one in enumerate(self._waiting) if not one.number]
        if len(kept) <= count_max:
            return True
        del self._waiting[kept[0]]
        return False

    def forget(self, also: Callable[[str], bool] = lambda _: False) -> None:
        """Hold nothing that has a number: it can be read from the feed again.

        Nor anything of a topic for which `also` is true.
        """
        for packet_id, one in list(self._in_flight.items()):
            if one.number or also(one.packet.topic):
                del self._in_flight[packet_id]
        self._waiting = deque(
            one for one in self._waiting if not (one.number or also(one.packet.topic))
        )

    def acknowledge(self, packet_id: int) -> list[Publish]:
        """What may go out after this PUBACK; one for a packet never sent is ignored."""
        self._in_flight.pop(packet_id, None)
        return self._released()

    def begin(self, size: int) -> list[Publish]:
        """A new connection of the same session: what goes out first.

        That is what was not acknowledged, in the order in which it was sent.
        """
        self.size = size
        again = [
            _Held(replace(one.packet, dup=True), one.number)
            for one in self._in_flight.values()
        ]
        self._in_flight.clear()
        self._waiting.extendleft(reversed(again))
        return self._released()

    def _released(self) -> list[Publish]:
        released = []
        while self._waiting and len(self._in_flight) < self.size:
            packet, number = self._waiting.popleft()
            if not packet.packet_id:  # those that have one come first, see `begin`
                packet = replace(packet, packet_id=self._next_id())
            self._in_flight[packet.packet_id] = _Held(packet, number)
            released.append(packet)
        return released

    def _next_id(self) -> int:
        packet_id = self._last_id % PACKET_ID_MAX + 1
        while packet_id in self._in_flight:
            packet_id = packet_id % PACKET_ID_MAX + 1
        self._last_id = packet_id
        return packet_id
