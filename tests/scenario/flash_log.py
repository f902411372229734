"""Reads the reference client's flash (firmware_sim/client/iomt_log.h), written from its
format and not from its code: what a device measured, and what it put into envelopes."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import cbor2

BLOCK_SIZE = 4096  # of firmware_sim/client/example.c
WORD_SIZE = 8
HEAD = struct.Struct("<BBHII")  # type, size of the body, argument, number, check
BLOCK, READING, BUNDLE = b"BRE"
Values = dict[int, Decimal]


@dataclass
class FlashLog:
    """Readings by number: (time in ms, values by metric); their numbers by sequence."""

    readings: dict[int, tuple[int, Values]]
    bundles: dict[int, range]


def _check(block: int, offset: int, record: bytes) -> int:
    place = struct.pack("<II", block, offset)
    return zlib.crc32(place + record[:8] + record[HEAD.size :])


def _record_at(content: bytes, block: int, offset: int) -> bytes | None:
    start = (block * BLOCK_SIZE) % len(content) + offset
    size = HEAD.size + content[start + 1]
    record = content[start : start + size]
    if offset + size > BLOCK_SIZE or record[0] not in (BLOCK, READING, BUNDLE):
        return None
    (check,) = struct.unpack_from("<I", record, 8)
    return record if check == _check(block, offset, record) else None


def _values(pairs: int, encoded: bytes) -> Values:
    items = cbor2.loads(bytes([0xA0 | pairs]) + encoded)
    return {key: Decimal(value) for key, value in items.items()}


def read_log(path: Path) -> FlashLog:
    """Every good record of every block, oldest block first."""
    content = path.read_bytes()
    log = FlashLog({}, {})
    count = len(content) // BLOCK_SIZE
    heads = [content[index * BLOCK_SIZE :][: HEAD.size] for index in range(count)]
    numbers = {HEAD.unpack(head)[3] for head in heads if head[0] == BLOCK}
    for block in sorted(numbers):
        offset = 0
        while offset + HEAD.size <= BLOCK_SIZE:
            record = _record_at(content, block, offset)
            if record is None:
                offset += WORD_SIZE
                continue
            offset += -(-len(record) // WORD_SIZE) * WORD_SIZE
            kind, _, argument, number, _ = HEAD.unpack_from(record)
            body = record[HEAD.size :]
            if kind == READING:
                time_ms = int.from_bytes(body[:6], "little")
                log.readings[number] = time_ms, _values(argument >> 8, body[6:])
            elif kind == BUNDLE:
                (sequence,) = struct.unpack_from("<Q", body)
                log.bundles[sequence] = range(number, number + argument)
    return log
