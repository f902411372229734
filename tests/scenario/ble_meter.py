"""A virtual glucose meter with memory and clock, and with the faults of real ones."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from decimal import Decimal

from ble_fakes import INDICATE, NOTIFY, READ, Peripheral, Radio, pushing
from bumble.core import UUID
from bumble.gatt import Characteristic, CharacteristicValue

from edge.devices.profiles.current_time import CurrentTime
from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.glucose import GlucoseMeasurement
from edge.devices.profiles.racp import Answer, OpCode, Operator, Request, Response

METER = "F1:00:00:00:00:11"
WRITE = Characteristic.Properties.WRITE


def record(sequence: int, time_ms: int, mg_per_dl: int = 120) -> bytes:
    """One stored record."""
    return bytes(
        GlucoseMeasurement(
            sequence, Timestamp.at(time_ms), None, Decimal(mg_per_dl).scaleb(-5), 1, 1
        )
    )


@dataclass
class Meter:
    """`records` by number. The other fields are what is wrong with it.

    `ignores` are requests (hex) that it does not answer; `refuses` op codes that it
    does not know; `leaves_after` is after how many records it switches itself off;
    `ends_with` how it ends a report.
    """

    records: dict[int, bytes]
    clock_ms: int
    ignores: set[str] = field(default_factory=set)
    refuses: set[OpCode] = field(default_factory=set)
    leaves_after: int | None = None
    ends_with: Response = Response.SUCCESS
    requests: list[str] = field(default_factory=list)
    clock_writes: list[bytes] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    peripheral: Peripheral | None = None

    async def start(self, radio: Radio, address: str = METER) -> Peripheral:
        """Put it on the air."""
        self._measurement = pushing(0x2A18)
        self._point = Characteristic(
            UUID.from_16_bits(0x2A52),
            WRITE | INDICATE,
            Characteristic.WRITEABLE,
            CharacteristicValue(write=self._written),
        )
        clock = Characteristic(
            UUID.from_16_bits(0x2A2B),
            READ | WRITE | NOTIFY,
            Characteristic.READABLE | Characteristic.WRITEABLE,
            CharacteristicValue(
                read=lambda _: bytes(CurrentTime.at(self.clock_ms)),
                write=lambda _, value: self.clock_writes.append(bytes(value)),
            ),
        )
        self.peripheral = await radio.peripheral(
            address,
            {
                0x1808: [self._measurement, pushing(0x2A34), self._point],
                0x1805: [clock],
            },
        )
        return self.peripheral

    def _written(self, _: object, value: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(bytes(value)))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer(self, value: bytes) -> None:
        self.requests.append(value.hex())
        if value.hex() in self.ignores:
            return
        request = Request.from_bytes(value)
        if request.op_code in self.refuses:
            await self._end(request, Response.OP_CODE_NOT_SUPPORTED)
            return
        chosen = self._chosen(request)
        if request.op_code is OpCode.DELETE:
            for number in chosen:
                del self.records[number]
        elif request.op_code is OpCode.REPORT:
            await self._report(chosen)
        missing = not chosen and request.op_code is not OpCode.ABORT
        await self._end(request, Response.NO_RECORDS if missing else self.ends_with)

    def _chosen(self, request: Request) -> list[int]:
        numbers = sorted(self.records)
        bounds = [bound for bound in request.bounds if isinstance(bound, int)]
        match request.operator:
            case Operator.FROM:
                return [n for n in numbers if n >= bounds[0]]
            case Operator.UP_TO:
                return [n for n in numbers if n <= bounds[0]]
            case Operator.LAST:
                return numbers[-1:]
            case _:
                return numbers

    async def _report(self, chosen: list[int]) -> None:
        assert self.peripheral is not None
        device = self.peripheral.device
        for count, number in enumerate(chosen):
            if count == self.leaves_after:
                self.leaves_after = None
                await self.peripheral.hang_up()
                raise asyncio.CancelledError
            await device.notify_subscribers(self._measurement, self.records[number])

    async def _end(self, request: Request, response: Response) -> None:
        assert self.peripheral is not None
        answer = bytes(Answer(None, int(request.op_code), int(response)))
        with contextlib.suppress(asyncio.TimeoutError):
            await self.peripheral.device.indicate_subscribers(self._point, answer)
