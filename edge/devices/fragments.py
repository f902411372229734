"""The signed envelope over Bluetooth: its service, fragments and answers.

A device that signs (docs/wire-format.md section 1) may send the same bytes over GATT:

    service    69747631-0001-4d65-8a5e-1f7d6c3b2a10
    envelope   69747631-0002-...  notify or indicate, device to gateway: fragments
    answer     69747631-0003-...  write with response, gateway to device: 9 bytes

A fragment is one byte and up to ATT_MTU - 4 bytes of the envelope:

    bit 7      the first of its envelope
    bit 6      the last
    bit 5..0   its place among the fragments of the envelope, modulo 64, from 0

An answer comes after the commit that holds the envelope:

    sequence   8   of the envelope, little-endian
    verdict    1   0 committed, now or before; 1 refused: do not send it again

The device keeps an envelope until it is answered, and sends those that are not again
when the gateway subscribes; the gateway knows a repetition by its sequence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edge.devices.envelope import ENVELOPE_SIZE_MAX
from edge.errors import Reason, RefusedError

SERVICE_UUID = "69747631-0001-4d65-8a5e-1f7d6c3b2a10"
ENVELOPE_UUID = "69747631-0002-4d65-8a5e-1f7d6c3b2a10"
ANSWER_UUID = "69747631-0003-4d65-8a5e-1f7d6c3b2a10"

TAKEN, REFUSED = 0, 1
_FIRST, _LAST = 1 << 7, 1 << 6
_PLACES = 64
_ANSWER = struct.Struct("<QB")


def split(envelope: bytes, value_size: int) -> Iterator[bytes]:
    """The fragments of an envelope in values of at most `value_size` bytes."""
    step = value_size - 1
    starts = range(0, len(envelope), step)
    for place, start in enumerate(starts):
        head = place % _PLACES
        head |= _FIRST if place == 0 else 0
        head |= _LAST if start + step >= len(envelope) else 0
        yield bytes((head,)) + envelope[start : start + step]


class Assembly:
    """Puts the fragments of one connection together; `broken_count` counts losses."""

    def __init__(self) -> None:
        self._parts: list[bytes] | None = None
        self._size = 0
        self.broken_count = 0

    def add(self, fragment: bytes) -> bytes | None:
        """The envelope that this fragment ends, or None.

        An envelope with a fragment missing is forgotten and counted: it is not
        answered, so it comes again. RefusedError for one that is too large.
        """
        if not fragment:
            return None
        head, octets = fragment[0], fragment[1:]
        if head & _FIRST:
            if self._parts:
                self.broken_count += 1
            self._parts, self._size = [], 0
        parts = self._parts
        if parts is None:
            return None  # the middle of one whose beginning was lost, and counted
        if head % _PLACES != len(parts) % _PLACES:
            self._parts = None
            self.broken_count += 1
            return None
        parts.append(octets)
        self._size += len(octets)
        if self._size > ENVELOPE_SIZE_MAX:
            self._parts = None
            raise RefusedError(
                Reason.TOO_LARGE, f"an envelope of more than {ENVELOPE_SIZE_MAX} bytes"
            )
        if not head & _LAST:
            return None
        self._parts = None
        return b"".join(parts)


def answer(sequence: int, verdict: int) -> bytes:
    """What is written to the device when its envelope is durable."""
    return _ANSWER.pack(sequence, verdict)


def parse_answer(value: bytes) -> tuple[int, int]:
    """Sequence and verdict; RefusedError MALFORMED for other than 9 bytes."""
    if len(value) != _ANSWER.size:
        raise RefusedError(
            Reason.MALFORMED, f"an answer of {len(value)} bytes, not {_ANSWER.size}"
        )
    sequence, verdict = _ANSWER.unpack(value)
    return sequence, verdict
