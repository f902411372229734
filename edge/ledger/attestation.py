"""The device's own signature in a disclosed record (docs/wire-format.md section 1).

The original of a reading of attestation `device` is a COSE_Sign1 envelope in
deterministic CBOR:

    18([ h'a2 01 27 04 48 <kid, 8 bytes>', {}, <payload>, <signature, 64 bytes> ])

    kid     = SHA-256(public key)[:8]
    signed  = ["Signature1", <protected header>, 'iomt/reading/v1', <payload>]
    payload = {1: device, 2: stream, 3: sequence, 4: device time, 5: readings, ...}

Here it is read as far as an auditor needs; what the readings in it say, and whether
they are well formed, the gateway's own reader judged (devices/envelope.py).
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from edge import cbor
from edge.errors import RejectError
from edge.ledger import ed25519
from edge.ledger.note import decode_base64
from edge.model import Record

ENVELOPE_SIZE_MAX = 65_536
KEY_FILE_SIZE_MAX = 4096
KID_SIZE = 8
_COSE_SIGN1 = 18
_PROTECTED = b"\xa2\x01\x27\x04\x48"
_EXTERNAL_AAD = b"iomt/reading/v1"
_DEVICE, _STREAM = 1, 2
HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")
_PEM_KEY = re.compile(
    r"-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/=]+)\r?\n-----END PUBLIC KEY-----"
)
_SPKI = binascii.unhexlify("302a300506032b6570032100")  # RFC 8410: Ed25519, 32 bytes


@dataclass(frozen=True, slots=True)
class SignedOriginal:
    """An envelope that names the record's device and stream, not checked yet."""

    kid: bytes
    signed_bytes: bytes
    signature: bytes

    def check(self, public_key: bytes) -> None:
        """RejectError unless this key signed it."""
        if sha256(public_key).digest()[:KID_SIZE] != self.kid:
            raise RejectError("the device's signature is by another key")
        if not ed25519.verify(public_key, self.signed_bytes, self.signature):
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
    if not protected.startswith(_PROTECTED) or len(protected) != 5 + KID_SIZE:
        raise RejectError("record: the envelope's header is not {alg: EdDSA, kid}")
    if len(signed) != ed25519.SIGNATURE_SIZE:
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
    return SignedOriginal(protected[-KID_SIZE:], signed_bytes, signed)


def parse_device_key(text: str) -> bytes:
    """The Ed25519 public key in 64 hex digits or a PEM block; RejectError otherwise."""
    text = text.strip()
    if HEX_KEY.fullmatch(text):
        key = bytes.fromhex(text)
    elif pem := _PEM_KEY.fullmatch(text):
        content = decode_base64(pem[1])
        key = content.removeprefix(_SPKI)
        if not content.startswith(_SPKI) or len(key) != ed25519.PUBLIC_KEY_SIZE:
            raise RejectError("a public key, but not of Ed25519")
    elif "PRIVATE KEY" in text:
        raise RejectError("a private key; it belongs on the device alone")
    else:
        raise RejectError("not 64 hex digits, and no PEM public key")
    fault = ed25519.key_fault(key)
    if fault:
        raise RejectError(fault)
    return key
