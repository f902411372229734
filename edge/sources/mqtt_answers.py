"""What a client is told, as bytes: the welcome, refusals and their reasons, goodbyes.

Pure. Version 5 is told a reason code and, where it wants one and has room, a reason
string; 3.1.1 has a place for neither: there a refused message is acknowledged like any
other (it would be sent for ever), a refused filter is 0x80, and a goodbye is a close.
The table of refusals is in docs/wire-format.md section 3.
"""

from __future__ import annotations

from edge.errors import Reason
from edge.model import Outcome
from edge.sources.mqtt_encoder import encode
from edge.sources.mqtt_packets import V5, V311, Connack, Disconnect, Puback, Suback
from edge.sources.mqtt_properties import Code, Properties, Property, printable

REASON_SIZE_MAX = 256  # bytes of a reason string

REASON_CODES = {
    Reason.UNKNOWN_DEVICE: Code.NOT_AUTHORISED,
    Reason.WRONG_TOPIC: Code.TOPIC_NAME_INVALID,
    Reason.NOT_AUTHORISED: Code.NOT_AUTHORISED,
    Reason.MALFORMED: Code.PAYLOAD_FORMAT_INVALID,
    Reason.BAD_SIGNATURE: Code.NOT_AUTHORISED,
    Reason.EQUIVOCATION: Code.PAYLOAD_FORMAT_INVALID,
    Reason.IMPLAUSIBLE_CLOCK: Code.PAYLOAD_FORMAT_INVALID,
    Reason.UNKNOWN_UNIT: Code.PAYLOAD_FORMAT_INVALID,
    Reason.TOO_LARGE: Code.QUOTA_EXCEEDED,
    Reason.POISON: Code.IMPLEMENTATION_SPECIFIC,
}
# What a CONNACK of 3.1.1 can say (section 3.2.2.3); for anything else it just closes.
RETURN_CODES = {
    Code.UNSUPPORTED_VERSION: 1,
    Code.CLIENT_ID_NOT_VALID: 2,
    Code.SERVER_UNAVAILABLE: 3,
    Code.BAD_USER_OR_PASSWORD: 4,
    Code.NOT_AUTHORISED: 5,
}


def refusal(packet_id: int, outcome: Outcome, size_max: int, *, reason: bool) -> bytes:
    """A PUBACK of version 5 that says why, in at most `size_max` bytes."""
    code = REASON_CODES.get(outcome.reason or Reason.MALFORMED, Code.UNSPECIFIED)
    text = printable(outcome.detail, REASON_SIZE_MAX)
    if text and reason:
        full = encode(Puback(packet_id, code, {Property.REASON: text}), V5)
        if len(full) <= size_max:
            return full
    return encode(Puback(packet_id, code), V5)


def granted(
    packet_id: int, codes: tuple[int, ...], why: str, version: int, size_max: int
) -> bytes:
    """A SUBACK; `why` is the reason of the first filter that was refused, or empty."""
    if version == V311:
        return encode(Suback(packet_id, tuple(min(one, 0x80) for one in codes)), V311)
    if why:
        reason: Properties = {Property.REASON: printable(why, REASON_SIZE_MAX)}
        full = encode(Suback(packet_id, codes, reason), V5)
        if len(full) <= size_max:
            return full
    return encode(Suback(packet_id, codes), V5)


def farewell(
    code: Code, why: str, version: int, *, known: bool, size_max: int
) -> bytes:
    """The last packet; `known` says that the client's CONNECT was accepted."""
    reason: Properties = {Property.REASON: printable(why, REASON_SIZE_MAX)}
    if version == V5:
        if not known:
            return encode(Connack(code, False, reason), V5)
        full = encode(Disconnect(code, reason), V5)
        return full if len(full) <= size_max else encode(Disconnect(code), V5)
    if version == V311 and not known and code in RETURN_CODES:
        return encode(Connack(RETURN_CODES[code]), V311)
    return b""
