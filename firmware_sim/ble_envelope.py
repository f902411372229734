"""A simulated device that signs what it sends over Bluetooth.

Written from docs/wire-format.md section 4: the envelope of section 1 in fragments,
kept until the gateway has answered it.

    service 69747631-0001-4d65-8a5e-1f7d6c3b2a10
        -0002-  notify             fragment: head u8 | up to ATT_MTU - 4 bytes
                                   head: 0x80 first, 0x40 last, low 6 bits its place
        -0003-  write              answer: sequence u64 | 0 kept, 1 refused
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal

from bumble.core import UUID
from bumble.gatt import Characteristic, CharacteristicValue

from firmware_sim.ble import NOTIFY, Peripheral
from firmware_sim.envelope import Sample, Signer, payload

SERVICE = "69747631-0001-4d65-8a5e-1f7d6c3b2a10"
ENVELOPE = "69747631-0002-4d65-8a5e-1f7d6c3b2a10"
ANSWER = "69747631-0003-4d65-8a5e-1f7d6c3b2a10"
FIRST, LAST, PLACES = 0x80, 0x40, 64
RESEND_S = 5.0


def fragments(envelope: bytes, value_size: int) -> Iterator[bytes]:
    """The envelope in values of at most `value_size` bytes."""
    pieces = [
        envelope[at : at + value_size - 1]
        for at in range(0, len(envelope), value_size - 1)
    ]
    for place, piece in enumerate(pieces):
        head = place % PLACES
        if place == 0:
            head |= FIRST
        if place == len(pieces) - 1:
            head |= LAST
        yield bytes((head,)) + piece


def parse_answer(value: bytes) -> tuple[int, int]:
    """Sequence and verdict of an answer."""
    sequence, verdict = struct.unpack("<QB", value)
    return sequence, verdict


class SigningSensor:
    """Signs readings, and sends each until it is answered.

    `unanswered` holds the envelopes by sequence; `refused` those that the gateway does
    not want. `now_ms` is the device's clock.
    """

    def __init__(
        self,
        peripheral: Peripheral,
        device: str,
        stream: str,
        seed: bytes,
        now_ms: Callable[[], int],
        *,
        first_sequence: int = 0,
    ) -> None:
        self.peripheral = peripheral
        self.signer = Signer(seed)
        self.unanswered: dict[int, bytes] = {}
        self.refused: set[int] = set()
        self._device, self._stream = device, stream
        self._now_ms = now_ms
        self._sequence = first_sequence
        self._wake = asyncio.Event()
        self._envelope: Characteristic[bytes] = Characteristic(
            UUID(ENVELOPE), Characteristic.Properties(NOTIFY), Characteristic.READABLE
        )
        answer = Characteristic(
            UUID(ANSWER),
            Characteristic.Properties.WRITE,
            Characteristic.WRITEABLE,
            CharacteristicValue(write=self._answered),
        )
        peripheral.add_service(SERVICE, [self._envelope, answer])

    def measure(self, values: Mapping[str, Decimal | int | str]) -> int:
        """Sign a reading and have it sent; its sequence."""
        sequence, self._sequence = self._sequence, self._sequence + 1
        signed = payload(
            self._device, self._stream, sequence, self._now_ms(), [Sample(values)]
        )
        self.unanswered[sequence] = self.signer.envelope(signed)
        self._wake.set()
        return sequence

    def _answered(self, _: object, value: bytes) -> None:
        sequence, verdict = parse_answer(bytes(value))
        if self.unanswered.pop(sequence, None) is not None and verdict:
            self.refused.add(sequence)

    async def run(self, resend_s: float = RESEND_S) -> None:
        """Send what is new, and every `resend_s` what nobody has answered."""
        while True:
            self._wake.clear()
            for envelope in list(self.unanswered.values()):
                await self.peripheral.send_whole(self._envelope, envelope, fragments)
            try:
                async with asyncio.timeout(resend_s):
                    await self._wake.wait()
            except TimeoutError:
                continue
