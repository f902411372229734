"""Fetching a device's stored records by its Record Access Control Point.

    ask "from the first that we have not" ─► records, notified ─► "success"
         │ operator not supported                                     │
         ▼                                                            ▼
    ask "all" ─► nothing comes (some devices) ─► ask "the last"   all committed?
                                                                      │ yes
                                                                      ▼
                                                            "delete up to the last"

A record is deleted only after the commit that holds it; when one was refused, or the
device's numbers do not rise, nothing is deleted at all. A fetch that the device ends
with anything but success is not complete, whatever has come by then.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable

from edge.devices.profiles import continuous_glucose, glucose
from edge.devices.profiles.racp import (
    SEQUENCE_MAX,
    Answer,
    OpCode,
    Operator,
    Request,
    Response,
)
from edge.errors import RefusedError
from edge.model import Outcome, Verdict

log = logging.getLogger("edge.ble")

# The measurement of a service -> what else its records consist of.
STREAMS = {
    glucose.MEASUREMENT_UUID: frozenset(
        {glucose.MEASUREMENT_UUID, glucose.CONTEXT_UUID}
    ),
    continuous_glucose.MEASUREMENT_UUID: frozenset(
        {continuous_glucose.MEASUREMENT_UUID}
    ),
}


class RecordAccess:
    """The stored records of one service, over one connection.

    `measurement` is the service's measurement characteristic, a key of STREAMS; `write`
    writes to the control point. Tell `answered` every indication of the control point
    and `took` every record while `fetching`.
    """

    def __init__(
        self,
        measurement: str,
        write: Callable[[bytes], Awaitable[None]],
        *,
        quiet_s: float,
    ) -> None:
        self.measurement = measurement
        self.streams = STREAMS[measurement]
        self.fetching = False
        self.sequences: list[int] = []
        self.refused_count = 0
        self._write = write
        self._quiet_s = quiet_s
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._heard = asyncio.Event()
        self._pending_count = 0
        self._settled = asyncio.Event()
        self._settled.set()

    def answered(self, value: bytes) -> None:
        """An indication of the control point."""
        self._answers.put_nowait(value)
        self._heard.set()

    def took(self, stream: str, value: bytes) -> Callable[[Outcome], None]:
        """A record is on its way to the intake; call the result with its outcome."""
        self._heard.set()
        self._pending_count += 1
        self._settled.clear()
        if stream == self.measurement:
            sequence = sequence_of(stream, value)
            if sequence is not None:
                self.sequences.append(sequence)
        return self._settle

    def _settle(self, outcome: Outcome) -> None:
        self._pending_count -= 1
        if outcome.verdict is Verdict.REFUSED:
            self.refused_count += 1
        if not self._pending_count:
            self._settled.set()

    async def settled(self) -> None:
        """Return once every record that came is durable."""
        await self._settled.wait()

    async def fetch(self, after: int | None) -> bool:
        """Have the records behind the one numbered `after` sent, all where it is None.

        Whether the device says that these were all. TimeoutError from a device that
        does not answer, BleakError from a connection that ends.
        """
        self.fetching = True
        try:
            if after is not None and after < SEQUENCE_MAX:
                answer = await self._ask(Operator.FROM, after + 1)
                if answer.response == Response.SUCCESS:
                    return True
                if answer.response == Response.NO_RECORDS:
                    return await self._none_newer(after)
            return await self._all()
        finally:
            self.fetching = False

    async def _none_newer(self, after: int) -> bool:
        """No record is newer; unless the device began to count anew."""
        before = len(self.sequences)
        answer = await self._ask(Operator.LAST)
        newest = self.sequences[before:]
        if answer.response == Response.SUCCESS and newest and newest[-1] < after:
            log.info("a device counts its records anew")
            return await self._all()
        return answer.response in (Response.SUCCESS, Response.NO_RECORDS)

    async def _all(self) -> bool:
        try:
            answer = await self._ask(Operator.ALL)
        except TimeoutError:
            if self.sequences:  # it stopped half-way: not an unknown request
                raise
            await self._write(bytes(Request(OpCode.ABORT, Operator.NONE)))
            answer = await self._ask(Operator.LAST, ignored=OpCode.ABORT)
            log.warning("a device reports its last record only: %s", answer.words)
            return False
        if answer.response in (Response.SUCCESS, Response.NO_RECORDS):
            return True
        log.warning("a device did not report all its records: %s", answer.words)
        return False

    def may_delete(self) -> bool:
        """Whether "delete up to the last" can hit only what we hold."""
        numbers = self.sequences
        rising = all(a < b for a, b in itertools.pairwise(numbers))
        return bool(numbers) and rising and not self.refused_count

    async def delete(self) -> bool:
        """Have what was fetched deleted; whether the device did it."""
        answer = await self._ask(
            Operator.UP_TO, self.sequences[-1], op_code=OpCode.DELETE
        )
        if answer.response != Response.SUCCESS:
            log.info("a device keeps its records: %s", answer.words)
        return answer.response == Response.SUCCESS

    async def _ask(
        self,
        operator: Operator,
        *bounds: int,
        op_code: OpCode = OpCode.REPORT,
        ignored: OpCode | None = None,
    ) -> Answer:
        """The answer to a request; TimeoutError after `quiet_s` without a record."""
        while not self._answers.empty():
            self._answers.get_nowait()
        await self._write(bytes(Request(op_code, operator, bounds)))
        while True:
            self._heard.clear()
            if self._answers.empty():
                async with asyncio.timeout(self._quiet_s):
                    await self._heard.wait()
                continue
            try:
                answer = Answer.from_bytes(self._answers.get_nowait())
            except RefusedError as error:
                log.warning("a device answers with nonsense: %s", error.detail)
                continue
            if answer.request == op_code and answer.request != ignored:
                return answer


def sequence_of(stream: str, value: bytes) -> int | None:
    """The number of a record among its device's, None where it is malformed."""
    try:
        if stream == continuous_glucose.MEASUREMENT_UUID:
            return continuous_glucose.GlucosePoint.from_bytes(value).offset_min
        return glucose.GlucoseMeasurement.from_bytes(value).sequence
    except RefusedError:
        return None
