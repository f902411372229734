"""ES256 for the gateway: ECDSA over P-256 with SHA-256, through OpenSSL.

Keys and signatures are as in edge/ledger/p256.py, which says the same in pure Python
for auditors; the tests hold the two together.
"""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

KEPT_PUBLIC_KEYS = 4096  # parsed: devices come back
COORDINATE_SIZE = 32


@lru_cache(maxsize=KEPT_PUBLIC_KEYS)
def _parsed(key: bytes) -> ec.EllipticCurvePublicKey | None:
    """None for bytes that are no key: they verify nothing."""
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
    except ValueError:
        return None


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether these 64 bytes, r || s, are the key's signature of the message."""
    parsed = _parsed(public_key)
    if parsed is None or len(signature) != 2 * COORDINATE_SIZE:
        return False
    r = int.from_bytes(signature[:COORDINATE_SIZE])
    s = int.from_bytes(signature[COORDINATE_SIZE:])
    try:
        parsed.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
