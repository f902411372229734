"""The device's own signature in a disclosed record (docs/wire-format.md section 1).

The original of a reading of attestation `device` is a COSE_Sign1 envelope in
deterministic CBOR:

    18([ h'a2 01 <alg> 04 48 <kid, 8 bytes>', {}, <payload>, <signature, 64 bytes> ])

    alg     = 27 (EdDSA) or 26 (ES256), as the key is (device_key.py)
    kid     = SHA-256(public key)[:8]
    signed  = ["Signature1", <protected header>, 'iomt/reading/v1', <payload>]
    payload = {1: device, 2: stream, 3: sequence, 4: device time, 5: readings, ...}

Here it is read as far as an auditor needs; what the readings in it say, and whether
they are well formed, the gateway's own reader judged (devices/envelope.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from edge import cbor
from edge.errors import RejectError
from edge.ledger import device_key
from edge.ledger.device_key import KID_SIZE
from edge.model import Record

ENVELOPE_SIZE_MAX = 65_536
KEY_FILE_SIZE_MAX = 4096
SIGNATURE_SIZE = 64
_COSE_SIGN1 = 18
_PROTECTED = {
    b"\xa2\x01\x27\x04\x48": device_key.EDDSA,
    b"\xa2\x01\x26\x04\x48": device_key.ES256,
}
_EXTERNAL_AAD = b"iomt/reading/v1"
_DEVICE, _STREAM = 1, 2


@dataclass(frozen=True, slots=True)
class SignedOriginal:
    """An envelope that names the record's device and stream, not checked yet."""

    algorithm: int  # device_key.EDDSA or ES256
    kid: bytes
    signed_bytes: bytes
    signature: bytes

    def check(self, public_key: bytes) -> None:
        """RejectError unless this key signed it."""
        if device_key.kid_of(public_key) != self.kid:
            raise RejectError("the device's signature is by another key")
        if device_key.algorithm_of(public_key) != self.algorithm:
            raise RejectError("the envelope's algorithm is not the key's")
        if not device_key.verify(public_key, self.signed_bytes, self.signature):
            raise RejectError("the device's signature is wrong")


def signed_original(record: Record) -> SignedOriginal:
    """The envelope in a record of attestation `device`; RejectError otherwise."""
    if len(record.original) > ENVELOPE_SIZE_MAX:
        raise RejectError(f"record: an envelope of more than {ENVELOPE_SIZE_MAX} bytes")
    match cbor.decode(record.original):
        case cbor.Tag(
            number, [bytes(protected), dict(unprotected), bytes(payload), bytes(signed)]
        ) if number == _COSE_SIGN1 and not unprotected:
            pass
        case _:
            raise RejectError("record: the original is not a device's signed envelope")
    algorithm = _PROTECTED.get(protected[:-KID_SIZE])
    if algorithm is None:
        raise RejectError("record: the envelope's header is not {alg, kid}")
    if len(signed) != SIGNATURE_SIZE:
        raise RejectError(f"record: a device's signature of {len(signed)} bytes")
    fields = cbor.decode(payload)
    if not isinstance(fields, dict):
        raise RejectError("record: the envelope's payload is not a map")
    for key, name, said in (
        (_DEVICE, "device", record.device),
        (_STREAM, "stream", record.stream),
    ):
        if said is None or fields.get(key) != said:
            raise RejectError(f"record: its {name} is not the signed envelope's")
    signed_bytes = cbor.encode(["Signature1", protected, _EXTERNAL_AAD, payload])
    return SignedOriginal(algorithm, protected[-KID_SIZE:], signed_bytes, signed)
