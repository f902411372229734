"""Decoding a committed record's original again: it says the same for ever.

link              original
mqtt              envelope if its first byte is 0xd2, one with a MAC if 0xd1, a message
                  with the rule to read it by (mapped.py) if 0x82, else SenML JSON
ble, ble-bonded   envelope if the device signed it, else the GATT value of the
                  characteristic that is the record's stream
none              SenML JSON where the flag `typed` says that a person typed it in
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.devices import envelope, mac_envelope, mapped, senml
from edge.devices.profiles import PROFILES
from edge.errors import Reason, RefusedError
from edge.model import NO_FLAGS, Attestation, Flag, Reading, Record

_SIGNED, _MACED = b"\xd2", b"\xd1"  # no JSON text in UTF-8 begins with either
LATE_MS = 60_000  # docs/wire-format.md section 3
BLE_LINKS = frozenset({"ble", "ble-bonded"})


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an original says.

    `sequence` and `device_time_ms` are an envelope's, None for what has none; a reading
    may still have a time of its own.
    """

    sequence: int | None
    readings: tuple[Reading, ...]
    device_time_ms: int | None
    backlog: bool


def readings_of(record: Record) -> Decoded:
    """The decoded original of a record of kind READING; the same for ever.

    RefusedError where the original is not what its link says, which for a committed
    record means that it was admitted by other code.
    """
    if record.link in BLE_LINKS and record.attestation is not Attestation.DEVICE:
        decode = PROFILES.get(record.stream or "")
        if decode is None:
            raise RefusedError(
                Reason.MALFORMED, f"no profile for characteristic {record.stream}"
            )
        return Decoded(None, (decode(record.original),), None, backlog=False)
    if record.link is None and Flag.TYPED in record.flags:
        message = senml.parse(record.original, record.received_ms)
        return Decoded(None, message.readings, None, backlog=False)
    if record.link == "mqtt" or record.link in BLE_LINKS:
        first = record.original[:1]
        if first in (_SIGNED, _MACED):
            parse = envelope.parse if first == _SIGNED else mac_envelope.parse
            signed = parse(record.original)
            return Decoded(
                signed.sequence, signed.readings, signed.device_time_ms, signed.backlog
            )
        if record.original[:1] == bytes((mapped.ORIGINAL_FIRST_BYTE,)):
            message = mapped.parse(record.original, record.received_ms)
        else:
            message = senml.parse(record.original, record.received_ms)
        return Decoded(None, message.readings, None, backlog=False)
    raise RefusedError(Reason.MALFORMED, f"no decoder for the link {record.link}")


def live(record: Record, reading: Reading) -> bool:
    """Whether `reading` tells of now, so that it may raise an alarm.

    Not when its envelope says that it was stored, nor when it is more than LATE_MS old.
    While our clock is not synchronised an age by it means nothing, so only the first
    counts. Nor does the time of a BLE device by itself, for it has no zone: the source
    has compared the device's clock and marked what is old as backlog.
    """
    flags = record.flags
    if flags is not NO_FLAGS and Flag.BACKLOG in flags:
        return False
    if record.link in BLE_LINKS and record.attestation is not Attestation.DEVICE:
        return True
    unsynced = flags is not NO_FLAGS and Flag.UNSYNCED in flags
    if unsynced or reading.time_ms is None:
        return True
    return record.received_ms - reading.time_ms <= LATE_MS
