"""Bad messages, sent on purpose, each kind within five seconds and again each ten.

wrong-key       a good envelope, but not the device's key         → bad signature
garbage         random bytes on the topic of an enrolled device   → malformed
replayed        an acknowledged envelope once more                → duplicate
equivocation    an acknowledged sequence, signed, other readings  → refused
unknown-device  a good envelope of a device that nobody enrolled  → refused
"""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal

from firmware_sim.beds import now_ms, topic
from firmware_sim.envelope import Sample, Signer, payload
from firmware_sim.mqtt_device import Message, MqttDevice

KINDS = ("wrong-key", "garbage", "replayed", "equivocation", "unknown-device")
FIRST_S = 1.0
BETWEEN_S = 0.6  # so that all kinds have come after 1.0 + 4 * 0.6 seconds
ROUND_S = 10.0
WRONG_KEY_SEQUENCE = 1 << 62  # it would be new, were the key right
GARBAGE_SIZE = 96
STREAM = "vitals"
SAMPLE = Sample({"heart_rate": Decimal(66), "spo2": Decimal(99)})


class Overheard:
    """The newest message of a device whose acknowledgement was heard."""

    def __init__(self) -> None:
        self._newest: tuple[Message, int] | None = None
        self._any = asyncio.Event()

    def hear(self, message: Message) -> None:
        """A signed message was acknowledged."""
        if message.sequence is not None:
            self._newest = message, message.sequence
            self._any.set()

    async def newest(self) -> tuple[Message, int]:
        """The newest message and its sequence; waits for the first one."""
        while self._newest is None:
            await self._any.wait()
        return self._newest


class Intruder:
    """Sends the bad messages about one device whose key it also holds."""

    def __init__(
        self,
        device: MqttDevice,
        victim: str,
        victim_signer: Signer,
        overheard: Overheard,
    ) -> None:
        self._device = device
        self._victim = victim
        self._signer = victim_signer
        self._overheard = overheard
        self._stranger = Signer(os.urandom(32))
        self._count = 0

    async def run(self) -> None:
        """One of each kind, then again each ten seconds."""
        await asyncio.sleep(FIRST_S)
        while True:
            for kind in KINDS:
                self._device.put(await self._make(kind))
                await asyncio.sleep(BETWEEN_S)
            await asyncio.sleep(ROUND_S - BETWEEN_S * len(KINDS))

    async def _make(self, kind: str) -> Message:
        self._count += 1
        sequence = WRONG_KEY_SEQUENCE + self._count
        where = topic(self._victim, STREAM)
        if kind == "garbage":
            return Message(where, os.urandom(GARBAGE_SIZE), kind)
        if kind == "wrong-key":
            body = payload(self._victim, STREAM, sequence, now_ms(), [SAMPLE])
            return Message(where, self._stranger.envelope(body), kind)
        if kind == "unknown-device":
            name = "nobody-knows-me"
            body = payload(name, STREAM, sequence, now_ms(), [SAMPLE])
            return Message(topic(name, STREAM), self._stranger.envelope(body), kind)
        good, good_sequence = await self._overheard.newest()
        if kind == "replayed":
            return Message(good.topic, good.payload, kind)
        body = payload(self._victim, STREAM, good_sequence, now_ms(), [SAMPLE])
        return Message(where, self._signer.envelope(body), kind)
