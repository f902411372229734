"""The signed envelope, byte by byte (docs/wire-format.md section 1).

    d2                     tag 18: COSE_Sign1 (RFC 9052)
    84                     array of 4
    4d                     protected header, 13 bytes:
       a2 01 27               map of 2; alg: -8 (EdDSA); or 26 for -7 (ES256)
          04 48 k0..k7        kid: the first 8 bytes of SHA-256(public key)
    a0                     unprotected header, empty
    40+n | 58 n | 59 nn    payload, n bytes (or 5a: never, an envelope ends at 65,536):
       a5 or a6               map of 5 or 6
          01 text                device
          02 text                stream
          03 unsigned            sequence
          04 unsigned            device time, ms since 1970
          05 array               1 to 256 readings, each a map:
                                    00      offset to key 4, -2592000000..0 ms
                                    01..10  metric: integer, or decimal fraction
                                            c4 82 exponent mantissa, or text
          06 f5                  backlog, only ever true
    58 40 s0..s63          signature: Ed25519, or r || s of ECDSA over P-256, over

    84 6a "Signature1"     array of 4; context
       4d ...                 the protected header as above
       4f "iomt/reading/v1"   external_aad
       ...                    the payload's byte string as above

One value has one encoding (edge/cbor.py), so `build` of what `parse` found is the same
bytes. Checking the signature is not done here: the intake checks many at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from edge import cbor
from edge.devices.metrics import BY_KEY, BY_NAME, make_reading
from edge.errors import Reason, RefusedError, RejectError
from edge.ledger.device_key import EDDSA, ES256, KID_SIZE
from edge.model import Reading

ENVELOPE_SIZE_MAX = 65_536
READINGS_MAX = 256
PAIRS_MAX = 32
OFFSET_MS_MIN = -2_592_000_000  # 30 days
EXPONENT_MAX = 9
SIGNATURE_SIZE = 64
PAIRS_KEPT = 8192
TAG_DECIMAL_FRACTION = 4
EXTERNAL_AAD = b"iomt/reading/v1"

_DEVICE, _STREAM, _SEQUENCE, _DEVICE_TIME, _READINGS, _BACKLOG = range(1, 7)
_FIELDS = {
    _DEVICE: "device",
    _STREAM: "stream",
    _SEQUENCE: "sequence",
    _DEVICE_TIME: "device time",
    _READINGS: "readings",
    _BACKLOG: "backlog",
}
_KNOWN_FIELDS = frozenset(_FIELDS)
_REQUIRED_FIELDS = _KNOWN_FIELDS - {_BACKLOG}
_OFFSET = 0

_COSE_SIGN1 = b"\xd2\x84"
_COSE_MAC0 = b"\xd1\x84"  # mac_envelope.py: the same up to the payload's end
_PROTECTED_HEADS = {
    b"\x4d\xa2\x01\x27\x04\x48": EDDSA,
    b"\x4d\xa2\x01\x26\x04\x48": ES256,
}
_HEADS = {algorithm: head for head, algorithm in _PROTECTED_HEADS.items()}
KID_AT = len(_COSE_SIGN1) + 6
_UNPROTECTED_AT = KID_AT + KID_SIZE
_PAYLOAD_AT = _UNPROTECTED_AT + 1
_SIGNATURE_HEAD = b"\x58\x40"
_SIGNED_PREFIX = b"\x84\x6aSignature1"
_SIGNED_AAD = cbor.encode(EXTERNAL_AAD)

_METRIC_NAMES = {key: metric.name for key, metric in BY_KEY.items()}
_LETTER_KEYS = frozenset(key for key, metric in BY_KEY.items() if metric.letters)
_EXACT = Context(prec=28)  # a mantissa has at most 20 digits: nothing is ever rounded
_NO_TEXTS: Mapping[str, str] = {}
_NONE_IMPLAUSIBLE: frozenset[str] = frozenset()


class Envelope(NamedTuple):
    """What an envelope says; nothing in it is verified yet.

    `signed_bytes` is what `signature` (64 bytes) has to be over. The readings' times
    are absolute, in ms since 1970 by the device's clock.
    """

    kid: bytes
    signed_bytes: bytes
    signature: bytes
    device: str
    stream: str
    sequence: int
    device_time_ms: int
    readings: tuple[Reading, ...]
    backlog: bool = False
    algorithm: int = EDDSA


def parse(data: bytes) -> Envelope:
    """The envelope in `data`.

    RefusedError: TOO_LARGE, or MALFORMED with the field and place that is wrong. Byte
    offsets in a text that begins with "payload" count from the payload's first byte.
    """
    if len(data) > ENVELOPE_SIZE_MAX:
        raise RefusedError(
            Reason.TOO_LARGE, f"{len(data)} bytes, at most {ENVELOPE_SIZE_MAX}"
        )
    if not data.startswith(_COSE_SIGN1):
        raise _malformed("does not begin with d2 84 (COSE_Sign1), at byte 0")
    algorithm = _PROTECTED_HEADS.get(data[len(_COSE_SIGN1) : KID_AT])
    if algorithm is None:
        raise _malformed(
            "protected header is not {alg: EdDSA or ES256, kid: 8 bytes}, at byte 2"
        )
    if data[_UNPROTECTED_AT:_PAYLOAD_AT] != b"\xa0":
        raise _malformed(f"unprotected header is not empty, at byte {_UNPROTECTED_AT}")
    try:
        payload_start, payload_end = cbor.byte_string_span(data, _PAYLOAD_AT)
    except RejectError as error:
        raise _malformed(f"payload byte string: {error}") from error
    signature_at = payload_end + len(_SIGNATURE_HEAD)
    if not data.startswith(_SIGNATURE_HEAD, payload_end):
        raise _malformed(f"signature is not 64 bytes long, at byte {payload_end}")
    if len(data) != signature_at + SIGNATURE_SIZE:
        raise _malformed(
            f"signature must end the envelope at byte {signature_at + SIGNATURE_SIZE},"
            f" which ends at byte {len(data)}"
        )
    said = _usual(data, payload_start, payload_end)
    if said is None:
        said = _any(data[payload_start:payload_end])
    return Envelope(
        data[KID_AT:_UNPROTECTED_AT],
        _SIGNED_PREFIX
        + data[len(_COSE_SIGN1) : _UNPROTECTED_AT]
        + _SIGNED_AAD
        + data[_PAYLOAD_AT:payload_end],
        data[signature_at:],
        *said,
        algorithm,
    )


# ---- The payload ----

_Said: TypeAlias = tuple[str, str, int, int, tuple[Reading, ...], bool]


def _usual(data: bytes, at: int, end: int) -> _Said | None:
    """What the payload in data[at:end] says; None where it is not of the usual kind.

    Usual is a map of the keys 1 to 5, up to 23 readings without offsets, and of metrics
    1 to 23 those that are numbers. It is read in one pass, with no check left out:
    what this takes, `_any` takes too and says the same of it. All else is for `_any`.
    """
    try:
        if not data.startswith(_USUAL_HEAD, at):
            return None
        device, at = _usual_text(data, at + len(_USUAL_HEAD))
        if data[at] != _STREAM:
            return None
        stream, at = _usual_text(data, at + 1)
        if data[at] != _SEQUENCE:
            return None
        sequence, at = _usual_number(data, at + 1)
        if data[at] != _DEVICE_TIME:
            return None
        device_time_ms, at = _usual_number(data, at + 1)
        count = data[at + 1] - 0x80
        if data[at] != _READINGS or not 0 < count < 24:
            return None
        at += 2
        readings = []
        for _ in range(count):
            reading, at = _usual_reading(data, at, device_time_ms)
            readings.append(reading)
    except (IndexError, ValueError):
        return None
    if at != end:  # an item that went beyond the payload ends up here, too
        return None
    return device, stream, sequence, device_time_ms, tuple(readings), False


_USUAL_HEAD = bytes((0xA5, _DEVICE))
# By the first byte of an unsigned integer: its size, and the least number of that size.
_NUMBERS = {0x18: (2, 24), 0x19: (3, 1 << 8), 0x1A: (5, 1 << 16), 0x1B: (9, 1 << 32)}
# By the first byte of an integer of any sign: its size, or 0 where it begins none.
_INTEGER_SIZES = bytes(
    (1 if low < 24 else (2, 3, 5, 9)[low - 24] if low < 28 else 0) * (head < 0x40)
    for head, low in ((head, head & 31) for head in range(256))
)
_FRACTION_HEAD = 0xC0 | TAG_DECIMAL_FRACTION


def _usual_text(data: bytes, at: int) -> tuple[str, int]:
    """The text at `at` and where it ends; ValueError where it is no name's."""
    size = data[at] - 0x60
    at += 1
    if size == 24:
        size = data[at]
        at += 1
        if size < 24:
            raise ValueError("a length not in its shortest form")
    elif not 0 <= size < 24:
        raise ValueError("no text of up to 255 bytes")
    return data[at : at + size].decode(), at + size


def _usual_number(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number at `at` and where it ends; ValueError where there is none."""
    head = data[at]
    if head < 24:
        return head, at + 1
    size, least = _NUMBERS.get(head, (0, 0))
    number = int.from_bytes(data[at + 1 : at + size], "big")
    if number < least or not size:
        raise ValueError("no number in its shortest form")
    return number, at + size


def _usual_reading(data: bytes, at: int, time_ms: int) -> tuple[Reading, int]:
    """The reading at `at` and where it ends; ValueError where it is not usual."""
    count = data[at] - 0xA0
    if not 0 < count < 24:
        raise ValueError("no map of 1 to 23 pairs")
    at += 1
    values: dict[str, Decimal] = {}
    implausible = _NONE_IMPLAUSIBLE
    before = _OFFSET
    for _ in range(count):
        key, head = data[at], data[at + 1]
        if not before < key < 24:
            raise ValueError("keys are not in order, or none of a number's")
        before = key
        if head == _FRACTION_HEAD:
            end = at + 4 + _INTEGER_SIZES[data[at + 4]]
        else:
            end = at + 1 + _INTEGER_SIZES[head]
        found = _pair(data[at:end])  # which looks at every byte, so `end` may be wrong
        if found is None:
            raise ValueError("not one number")
        name, number, is_plausible = found
        values[name] = number
        if not is_plausible:
            implausible |= {name}
        at = end
    return Reading(time_ms, values, _NO_TEXTS, implausible), at


@lru_cache(maxsize=PAIRS_KEPT)  # a ward's values repeat: most are found here
def _pair(pair: bytes) -> tuple[str, Decimal, bool] | None:
    """A metric's name, number and whether that is plausible; None for all else."""
    try:
        key, at = cbor.decode_at(pair, 0)
        value, at = cbor.decode_at(pair, at)
        if at != len(pair) or key == _OFFSET:
            return None
        reading = _reading({key: value}, 0, 0)
    except (RejectError, RefusedError):
        return None
    for name, number in reading.values.items():
        return name, number, not reading.implausible
    return None  # a letter


def _any(payload: bytes) -> _Said:
    """What any payload says; RefusedError with the field and place that is wrong."""
    try:
        decoded = cbor.decode(payload)
    except RejectError as error:
        raise _malformed(f"payload: {error}") from error
    fields = _fields(decoded)
    device_time_ms = fields[_DEVICE_TIME]
    return (
        fields[_DEVICE],
        fields[_STREAM],
        fields[_SEQUENCE],
        device_time_ms,
        _readings(fields[_READINGS], device_time_ms),
        _BACKLOG in fields,
    )


def sequence_of(data: bytes) -> int | None:
    """The sequence of an envelope that was admitted before; None if it is none.

    Reads the first three fields and no further, so that many can be looked at.
    """
    try:
        if not data.startswith((_COSE_SIGN1, _COSE_MAC0)):
            return None
        at, _ = cbor.byte_string_span(data, _PAYLOAD_AT)
        at += 1  # the map's head: 5 or 6 pairs, in the order of their keys
        for field in (_DEVICE, _STREAM, _SEQUENCE):
            key, at = cbor.decode_at(data, at)
            value, at = cbor.decode_at(data, at)
            if key != field:
                return None
    except RejectError:
        return None
    return value if isinstance(value, int) else None


def payload_span(data: bytes) -> tuple[int, int]:
    """Where the payload's map begins and ends; RejectError where there is none."""
    return cbor.byte_string_span(data, KID_AT + KID_SIZE + 1)


def place_of(data: bytes, detail: str) -> int:
    """The byte of the payload that a refusal's detail is about, for a person.

    The field's value, the reading or the map that it names; RejectError where the
    payload is no CBOR.
    """
    start, end = payload_span(data)
    payload = data[start:end]
    wanted = re.search(r"reading (\d+):|\(key (\d+)\)|unknown key (\d+)", detail)
    if wanted is None or not payload:
        return 0
    field = _READINGS if wanted[1] else int(wanted[2] or wanted[3])
    at = 1  # the map's head: at most 23 pairs
    while at < len(payload):
        key, value_at = cbor.decode_at(payload, at)
        if key == field:
            return (
                _item_at(payload, value_at, int(wanted[1])) if wanted[1] else value_at
            )
        _, at = cbor.decode_at(payload, value_at)
    return 0


def _item_at(payload: bytes, at: int, place: int) -> int:
    """Where item `place` of the array at `at` begins."""
    at += 1 if payload[at] & 0x1F < 24 else 2 if payload[at] & 0x1F == 24 else 3
    for _ in range(place):
        _, at = cbor.decode_at(payload, at)
    return at


def _malformed(detail: str) -> RefusedError:
    return RefusedError(Reason.MALFORMED, detail)


def _fields(payload: object) -> dict[int, Any]:
    """The payload's map, once its keys and the types of keys 1 to 4 and 6 are right."""
    if type(payload) is not dict:
        raise _malformed("payload: not a map")
    keys = payload.keys()
    if not keys >= _REQUIRED_FIELDS:
        missing = min(_REQUIRED_FIELDS - keys)
        raise _malformed(f"payload: {_FIELDS[missing]} (key {missing}) is missing")
    if not keys <= _KNOWN_FIELDS:
        unknown = next(key for key in payload if key not in _KNOWN_FIELDS)
        raise _malformed(f"payload: unknown key {_shown(unknown)}")
    for key in (_DEVICE, _STREAM):
        if type(payload[key]) is not str:
            raise _malformed(f"payload: {_FIELDS[key]} (key {key}) is not text")
    for key in (_SEQUENCE, _DEVICE_TIME):
        if type(payload[key]) is not int or payload[key] < 0:
            raise _malformed(
                f"payload: {_FIELDS[key]} (key {key}) is not an unsigned number"
            )
    if payload.get(_BACKLOG, True) is not True:
        raise _malformed("payload: backlog (key 6) is not true; leave it out instead")
    return payload


def _readings(items: object, device_time_ms: int) -> tuple[Reading, ...]:
    if type(items) is not list or not 1 <= len(items) <= READINGS_MAX:
        raise _malformed(
            f"payload: readings (key 5) is not an array of 1 to {READINGS_MAX}"
        )
    return tuple(
        [_reading(item, device_time_ms, place) for place, item in enumerate(items)]
    )


def _reading(item: object, device_time_ms: int, place: int) -> Reading:
    if type(item) is not dict or not 1 <= len(item) <= PAIRS_MAX:
        raise _malformed(f"reading {place}: not a map of 1 to {PAIRS_MAX} pairs")
    time_ms = device_time_ms
    values: dict[str, Decimal] = {}
    texts = _NO_TEXTS
    for key, value in item.items():
        name = _METRIC_NAMES.get(key)
        if name is None:
            if key != _OFFSET:
                raise _malformed(f"reading {place}: unknown metric {_shown(key)}")
            time_ms += _offset(value, place)
        elif key in _LETTER_KEYS:
            if type(value) is not str or len(value) != 1:
                raise _malformed(f"reading {place}: {name} is not one character")
            texts = {name: value}
        elif type(value) is int:
            values[name] = _decimal(0, value)
        else:
            values[name] = _decimal(*_fraction(value, name, place))
    return make_reading(time_ms, values, texts)


def _offset(value: object, place: int) -> int:
    if type(value) is not int or not OFFSET_MS_MIN <= value <= 0:
        raise _malformed(
            f"reading {place}: time offset (key 0) is not {OFFSET_MS_MIN} to 0 ms"
        )
    return value


def _fraction(value: object, name: str, place: int) -> tuple[int, int]:
    """Exponent and mantissa of a decimal fraction, RFC 8949 section 3.4.4."""
    if type(value) is cbor.Tag and value.number == TAG_DECIMAL_FRACTION:
        parts = value.value
        if type(parts) is list and len(parts) == 2:
            exponent, mantissa = parts
            if type(exponent) is int and type(mantissa) is int:
                if -EXPONENT_MAX <= exponent <= EXPONENT_MAX:
                    return exponent, mantissa
                raise _malformed(
                    f"reading {place}: {name} has the exponent {exponent},"
                    f" which is not -{EXPONENT_MAX} to {EXPONENT_MAX}"
                )
    raise _malformed(f"reading {place}: {name} is no integer or decimal fraction")


@lru_cache(maxsize=4096)  # a ward's values repeat: most are found here
def _decimal(exponent: int, mantissa: int) -> Decimal:
    return Decimal(mantissa).scaleb(exponent, _EXACT)


def _shown(key: object) -> str:
    """A sender's own key, short and printable enough for a log line."""
    return repr(key)[:40]


def build(
    device: str,
    stream: str,
    sequence: int,
    device_time_ms: int,
    readings: Sequence[Reading],
    *,
    kid: bytes,
    sign: Callable[[bytes], bytes],
    backlog: bool = False,
    algorithm: int = EDDSA,
) -> bytes:
    """The envelope that says this; `sign` gives the 64-byte signature over its input.

    A reading whose time is None or the device time carries no offset. ValueError for
    what an envelope cannot say (an exponent beyond ±9, a time in the reading's future).
    """
    fields: dict[int, object] = {
        _DEVICE: device,
        _STREAM: stream,
        _SEQUENCE: sequence,
        _DEVICE_TIME: device_time_ms,
        _READINGS: [_reading_map(reading, device_time_ms) for reading in readings],
    }
    if backlog:
        fields[_BACKLOG] = True
    header = _HEADS[algorithm] + kid
    payload = cbor.encode(cbor.encode(fields))
    signature = sign(_SIGNED_PREFIX + header + _SIGNED_AAD + payload)
    envelope = _COSE_SIGN1 + header + b"\xa0" + payload + _SIGNATURE_HEAD + signature
    try:
        parse(envelope)  # one set of rules, not a second copy of them for building
    except RefusedError as error:
        raise ValueError(f"no envelope can say this: {error.detail}") from error
    return envelope


def _reading_map(reading: Reading, device_time_ms: int) -> dict[int, object]:
    pairs: dict[int, object] = {}
    if reading.time_ms is not None and reading.time_ms != device_time_ms:
        pairs[_OFFSET] = reading.time_ms - device_time_ms
    for name, value in reading.values.items():
        pairs[BY_NAME[name].key] = _number_item(value)
    for name, text in reading.texts.items():
        pairs[BY_NAME[name].key] = text
    return pairs


def _number_item(value: Decimal) -> int | cbor.Tag:
    _, _, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"no envelope can say {value}")
    mantissa = int(value.scaleb(-exponent, _EXACT))
    if exponent == 0:
        return mantissa
    return cbor.Tag(TAG_DECIMAL_FRACTION, [exponent, mantissa])
