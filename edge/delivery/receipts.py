"""Receipts to the devices that subscribe to them: per commit and device one, signed.

A thread of its own builds and signs them in the order of the commits, after the
messages were acknowledged: nobody waits for a receipt. Only what a subscriber is there
for is collected. When more commits wait than PENDING_MAX the oldest goes, counted: a
device that misses one has its PUBACK, and `iomt prove` says the same at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

from edge.devices.envelope import sequence_of
from edge.ledger import receipt
from edge.ledger.device_key import kid_of
from edge.ledger.note import Sign, Verifier
from edge.ledger.receipt import Accepted, Duplicate, Place, Refused
from edge.model import Arrival, Outcome, Verdict
from edge.open_batch import Answered
from edge.store.commit import Committed

PENDING_MAX = 16  # commits

log = logging.getLogger("edge.receipts")


def topic_of(device: str) -> str:
    """Where a device's receipts are published."""
    return f"iomt/v1/{device}/receipt"


@dataclass(frozen=True, slots=True)
class LogKey:
    """The key that the log is signed with."""

    verifier: Verifier
    sign: Sign


class ReceiptWriter:
    """Sends receipts; `publish(topic, payload, user)` must not wait.

    `wanted(topic, user)` says whether that user subscribes to the topic.
    """

    def __init__(
        self,
        key: LogKey,
        wanted: Callable[[str, str], bool],
        publish: Callable[[str, bytes, str], int],
    ) -> None:
        self._kid = kid_of(key.verifier.public_key)
        self._sign = key.sign
        self._wanted = wanted  # asked with topic and user
        self._publish = publish
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="receipts")
        self._loop = asyncio.get_running_loop()
        self._pending = 0
        self.sent_count = 0
        self.left_out_count = 0

    def wants(self, arrival: Arrival) -> bool:
        """Whether what becomes of this message is to be told with a receipt.

        What a stranger publishes on a device's topic is none of the device's.
        """
        device = arrival.device
        return arrival.user == device and self._wanted(topic_of(device), device)

    def committed(self, answered: Sequence[Answered], committed: Committed) -> None:
        """The messages of one commit are durable."""
        if committed.place is None or not answered:
            return
        if self._pending >= PENDING_MAX:
            self.left_out_count += len(answered)
            log.warning("receipts of a commit are left out: signing is behind")
            return
        self._pending += 1
        work = self._loop.run_in_executor(
            self._thread, self._build, answered, committed.place, committed.time_ms
        )
        work.add_done_callback(self._built)

    def _build(
        self, answered: Sequence[Answered], place: Place, time_ms: int
    ) -> list[tuple[str, bytes]]:
        """(device, receipt) of a commit; on the thread."""
        found = []
        ordered = sorted(answered, key=lambda one: one.device)
        for device, some in groupby(ordered, key=lambda one: one.device):
            answers = [_answer(one) for one in some]
            found += [
                (device, signed)
                for signed in receipt.build(
                    device, time_ms, answers, place, kid=self._kid, sign=self._sign
                )
            ]
        return found

    def _built(self, work: asyncio.Future[list[tuple[str, bytes]]]) -> None:
        self._pending -= 1
        if work.cancelled():
            return
        for device, signed in work.result():
            self.sent_count += self._publish(topic_of(device), signed, device)

    def close(self) -> None:
        """Stop the thread; what it has not begun is left out."""
        self._thread.shutdown(cancel_futures=True)


def _answer(one: Answered) -> Accepted | Duplicate | Refused:
    sequence, digest = sequence_of(one.payload), receipt.digest_of(one.payload)
    match one.outcome:
        case Outcome(Verdict.COMMITTED):
            return Accepted(sequence, one.leaf, digest)
        case Outcome(Verdict.DUPLICATE):
            return Duplicate(sequence, digest)
        case Outcome(_, reason):
            return Refused(sequence, digest, reason.value if reason else "")
