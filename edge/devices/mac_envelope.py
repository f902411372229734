"""The envelope of a device that cannot sign: a MAC under a key that we have too.

    d1                     tag 17: COSE_Mac0 (RFC 9052 section 6.2)
    84                     array of 4
    4d                     protected header, 13 bytes:
       a2 01 05               map of 2; alg: 5 (HMAC 256/256)
          04 48 k0..k7        kid: the first 8 bytes of SHA-256(key)
    a0                     unprotected header, empty
    40+n | 58 n | 59 nn    payload, as in the signed envelope (envelope.py)
    58 20 m0..m31          HMAC-SHA-256 with the shared key, 32 random bytes, over

    84 64 "MAC0"           array of 4; context
       4d ...                 the protected header as above
       4f "iomt/reading/v1"   external_aad
       ...                    the payload's byte string as above

Who checks a MAC can make one. So it says to us that the device sent this, and nothing
to anybody else: what comes in it is attested by the gateway.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from edge import cbor
from edge.devices import envelope
from edge.devices.envelope import KID_AT, Envelope
from edge.errors import Reason, RefusedError, RejectError
from edge.ledger.device_key import KID_SIZE, kid_of
from edge.model import Reading

HMAC_256 = 5  # the COSE algorithm
KEY_SIZE = 32
MAC_SIZE = 32
FIRST_BYTE = 0xD1

_HEAD = b"\xd1\x84\x4d\xa2\x01\x05\x04\x48"
_SIGNED_HEAD = b"\xd2\x84\x4d\xa2\x01\x27\x04\x48"
_MAC_HEAD = b"\x58\x20"
_SIGNATURE_HEAD = b"\x58\x40"
_MACED_PREFIX = b"\x84\x64MAC0"
_AAD = cbor.encode(envelope.EXTERNAL_AAD)
_PROTECTED_AT = 2
_UNPROTECTED_AT = KID_AT + KID_SIZE
_PAYLOAD_AT = _UNPROTECTED_AT + 1


def parse(data: bytes) -> Envelope:
    """The envelope in `data`; its `signature` is the MAC, and is not checked.

    RefusedError as from `envelope.parse`.
    """
    if not data.startswith(_HEAD):
        raise _malformed(
            "does not begin with d1 84 (COSE_Mac0) and {alg: HMAC 256, kid}, at byte 0"
        )
    try:
        _, end = cbor.byte_string_span(data, _PAYLOAD_AT)
    except RejectError as error:
        raise _malformed(f"payload byte string: {error}") from error
    if data[end : end + len(_MAC_HEAD)] != _MAC_HEAD:
        raise _malformed(f"MAC is not 32 bytes long, at byte {end}")
    mac = data[end + len(_MAC_HEAD) :]
    if len(mac) != MAC_SIZE:
        raise _malformed(
            f"MAC must end the envelope at byte {end + len(_MAC_HEAD) + MAC_SIZE},"
            f" which ends at byte {len(data)}"
        )
    # One set of rules for what an envelope says: that of the signed one.
    rest = data[len(_SIGNED_HEAD) : end]
    found = envelope.parse(_SIGNED_HEAD + rest + _SIGNATURE_HEAD + mac + mac)
    return Envelope(
        kid=found.kid,
        signed_bytes=_maced(data[:end]),
        signature=mac,
        device=found.device,
        stream=found.stream,
        sequence=found.sequence,
        device_time_ms=found.device_time_ms,
        readings=found.readings,
        backlog=found.backlog,
        algorithm=HMAC_256,
    )


def verify(key: bytes, message: bytes, mac: bytes) -> bool:
    """Whether these 32 bytes are the MAC of the message; in constant time."""
    return hmac.compare_digest(hmac.digest(key, message, "sha256"), mac)


def build(
    device: str,
    stream: str,
    sequence: int,
    device_time_ms: int,
    readings: Sequence[Reading],
    *,
    key: bytes,
    backlog: bool = False,
) -> bytes:
    """The envelope that says this; ValueError for what none can say."""
    unsigned: Callable[[bytes], bytes] = lambda _: bytes(envelope.SIGNATURE_SIZE)  # noqa: E731
    signed = envelope.build(
        *(device, stream, sequence, device_time_ms, readings),
        kid=kid_of(key),
        sign=unsigned,
        backlog=backlog,
    )
    size = len(_SIGNATURE_HEAD) + envelope.SIGNATURE_SIZE
    data = _HEAD + signed[len(_SIGNED_HEAD) : -size]
    return data + _MAC_HEAD + hmac.digest(key, _maced(data), "sha256")


def _maced(data: bytes) -> bytes:
    """What the MAC is over, of an envelope up to its payload's end."""
    protected = data[_PROTECTED_AT:_UNPROTECTED_AT]
    return _MACED_PREFIX + protected + _AAD + data[_PAYLOAD_AT:]


def _malformed(detail: str) -> RefusedError:
    return RefusedError(Reason.MALFORMED, detail)
