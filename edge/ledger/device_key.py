"""The public keys that devices sign with, and what their signatures are worth.

    32 bytes   Ed25519                            COSE alg -8 (EdDSA)
    65 bytes   P-256, uncompressed (04 || x || y)  COSE alg -7 (ES256)

For an auditor: the standard library alone. The gateway checks many at once elsewhere.
"""

from __future__ import annotations

import binascii
import re
from functools import lru_cache
from hashlib import sha256

from edge.errors import RejectError
from edge.ledger import ed25519, p256
from edge.ledger.note import decode_base64

EDDSA, ES256 = -8, -7
KID_SIZE = 8
_ALGORITHMS = {ed25519.PUBLIC_KEY_SIZE: EDDSA, p256.PUBLIC_KEY_SIZE: ES256}
HEX_KEY = re.compile(r"[0-9a-fA-F]{64}|04[0-9a-fA-F]{128}")
_PEM_KEY = re.compile(
    r"-----BEGIN PUBLIC KEY-----\r?\n([A-Za-z0-9+/=\r\n]+?)\r?\n"
    r"-----END PUBLIC KEY-----"
)
# RFC 8410 and RFC 5480: what stands before the key's bytes in a SubjectPublicKeyInfo
_SPKI_ED25519 = binascii.unhexlify("302a300506032b6570032100")
_SPKI_P256 = binascii.unhexlify("3059301306072a8648ce3d020106082a8648ce3d030107034200")


def algorithm_of(public_key: bytes) -> int | None:
    """The COSE algorithm that a key of this size signs with, None for none."""
    return _ALGORITHMS.get(len(public_key))


@lru_cache(maxsize=4096)  # more than one gateway has devices
def kid_of(key: bytes) -> bytes:
    """The COSE key identifier, 8 bytes, of a key as it is enrolled (any size)."""
    return sha256(key).digest()[:KID_SIZE]


def key_fault(public_key: bytes) -> str:
    """Why a public key must not be enrolled, or an empty text."""
    if len(public_key) == p256.PUBLIC_KEY_SIZE:
        return p256.key_fault(public_key)
    return ed25519.key_fault(public_key)


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether this is the signature of the key over the message."""
    if len(public_key) == p256.PUBLIC_KEY_SIZE:
        return p256.verify(public_key, message, signature)
    return ed25519.verify(public_key, message, signature)


def subject_public_key_info(public_key: bytes) -> bytes:
    """The key as certificates hold it (RFC 5280, DER)."""
    long = len(public_key) == p256.PUBLIC_KEY_SIZE
    return (_SPKI_P256 if long else _SPKI_ED25519) + public_key


def parse(text: str) -> bytes:
    """The public key in hexadecimal digits or a PEM block; RejectError otherwise."""
    text = text.strip()
    if HEX_KEY.fullmatch(text):
        key = bytes.fromhex(text)
    elif pem := _PEM_KEY.fullmatch(text):
        content = decode_base64("".join(pem[1].split()))
        for head, size in (
            (_SPKI_ED25519, ed25519.PUBLIC_KEY_SIZE),
            (_SPKI_P256, p256.PUBLIC_KEY_SIZE),
        ):
            key = content.removeprefix(head)
            if content.startswith(head) and len(key) == size:
                break
        else:
            raise RejectError("a public key, but neither of Ed25519 nor of P-256")
    elif "PRIVATE KEY" in text:
        raise RejectError("a private key; it belongs on the device alone")
    else:
        raise RejectError("not 64 or 130 hex digits, and no PEM public key")
    fault = key_fault(key)
    if fault:
        raise RejectError(fault)
    return key
