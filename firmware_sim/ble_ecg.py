"""A simulated ECG patch: 250 Hz over Bluetooth, kept until it is acknowledged.

Written from docs/wire-format.md section 5.

    service 69747631-0010-4d65-8a5e-1f7d6c3b2a10
        -0011-  notify   session u32 | first u64 | rate u16 | scale u16, nV | lead u8 |
                         samples i16 each
        -0012-  write    session u32 | next u64
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence

from bumble.core import UUID
from bumble.gatt import Characteristic, CharacteristicValue

from firmware_sim.ble import NOTIFY, Peripheral

SERVICE = "69747631-0010-4d65-8a5e-1f7d6c3b2a10"
SAMPLES = "69747631-0011-4d65-8a5e-1f7d6c3b2a10"
ACKNOWLEDGEMENT = "69747631-0012-4d65-8a5e-1f7d6c3b2a10"
RATE_HZ = 250
CHUNK_COUNT = 100  # samples: 217 bytes, 0.4 s
LEAD_II = 2
KEPT_CHUNKS = 4500  # half an hour


class EcgPatch:
    """`measure` adds samples; run() sends them. `forgotten` counts what no longer fits.

    `scale_nv` is how many nanovolts one step is.
    """

    def __init__(
        self,
        peripheral: Peripheral,
        session: int,
        *,
        rate_hz: int = RATE_HZ,
        scale_nv: int = 5000,
        kept_chunks: int = KEPT_CHUNKS,
    ) -> None:
        self.peripheral = peripheral
        self.session = session
        self.acknowledged = 0
        self.forgotten = 0
        self._rate_hz, self._scale_nv = rate_hz, scale_nv
        self._kept_chunks = kept_chunks
        self._kept: deque[tuple[int, bytes]] = deque()
        self._pending: list[int] = []
        self._count = 0
        self._wake = asyncio.Event()
        self._samples: Characteristic[bytes] = Characteristic(
            UUID(SAMPLES), Characteristic.Properties(NOTIFY), Characteristic.READABLE
        )
        acknowledgement = Characteristic(
            UUID(ACKNOWLEDGEMENT),
            Characteristic.Properties.WRITE,
            Characteristic.WRITEABLE,
            CharacteristicValue(write=self._written),
        )
        peripheral.add_service(SERVICE, [self._samples, acknowledgement])

    def measure(self, samples: Sequence[int]) -> None:
        """Samples, in steps; whole chunks are sent."""
        self._pending += samples
        while len(self._pending) >= CHUNK_COUNT:
            chunk, self._pending = (
                self._pending[:CHUNK_COUNT],
                self._pending[CHUNK_COUNT:],
            )
            head = struct.pack(
                "<IQHHB",
                self.session,
                self._count,
                self._rate_hz,
                self._scale_nv,
                LEAD_II,
            )
            self._kept.append(
                (self._count, head + struct.pack(f"<{CHUNK_COUNT}h", *chunk))
            )
            self._count += CHUNK_COUNT
            if len(self._kept) > self._kept_chunks:
                self._kept.popleft()
                self.forgotten += CHUNK_COUNT
        self._wake.set()

    @property
    def backlog_count(self) -> int:
        """Chunks that nobody has acknowledged."""
        return len(self._kept)

    def _written(self, _: object, value: bytes) -> None:
        session, next_sample = struct.unpack("<IQ", bytes(value))
        if session != self.session:
            return
        self.acknowledged = max(self.acknowledged, next_sample)
        while self._kept and self._kept[0][0] + CHUNK_COUNT <= self.acknowledged:
            self._kept.popleft()
        self._wake.set()

    async def run(self, window_chunks: int = 64) -> None:
        """Send to whoever subscribes, from the first that is not acknowledged.

        At most `window_chunks` are under way without an acknowledgement.
        """
        listener: object = None
        sent = 0
        while True:
            self._wake.clear()
            now = self.peripheral.listener(self._samples)
            if now is not listener:
                listener, sent = now, self.acknowledged
            limit = self.acknowledged + window_chunks * CHUNK_COUNT
            for first, chunk in list(self._kept):
                if listener is None or self.peripheral.listener(self._samples) is not (
                    listener
                ):
                    break
                if sent <= first < limit:
                    await self.peripheral.send(self._samples, chunk)
                    sent = first + CHUNK_COUNT
            try:
                async with asyncio.timeout(0.05):
                    await self._wake.wait()
            except TimeoutError:
                continue
