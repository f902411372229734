"""ECDSA over P-256 in Python against OpenSSL, RFC 6979's vectors, and the edges."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.ledger import p256

# RFC 6979 appendix A.2.5: the key, and the signatures of two messages with SHA-256
KEY = bytes.fromhex(
    "0460fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
    "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
)
SIGNATURES = {
    b"sample": "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
    "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8",
    b"test": "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367"
    "019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083",
}


@pytest.mark.parametrize("message", SIGNATURES)
def test_the_signatures_of_rfc_6979_are_good(message: bytes) -> None:
    signature = bytes.fromhex(SIGNATURES[message])
    assert p256.verify(KEY, message, signature)
    assert not p256.verify(KEY, message + b"x", signature)
    assert p256.key_fault(KEY) == ""


def test_s_may_be_high_or_low() -> None:
    """(r, s) and (r, -s) are both signatures, and secure elements give either."""
    signature = bytes.fromhex(SIGNATURES[b"test"])
    s = int.from_bytes(signature[32:])
    other = signature[:32] + (p256.N - s).to_bytes(32)
    assert p256.verify(KEY, b"test", other)


@pytest.mark.parametrize("r", [0, p256.N, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, p256.N, 2**256 - 1])
def test_numbers_outside_the_group_are_no_signature(r: int, s: int) -> None:
    for one, other in ((r, s), (s, r)):
        if 0 in (one, other) or max(one, other) >= p256.N:
            assert not p256.verify(KEY, b"test", one.to_bytes(32) + other.to_bytes(32))


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        (b"", "not an uncompressed point"),
        (b"\x02" + KEY[1:33], "not an uncompressed point"),
        (b"\x05" + KEY[1:], "not an uncompressed point"),
        (bytes([4]) + bytes(64), "no point of the curve"),
        (KEY[:-1] + bytes([KEY[-1] ^ 1]), "no point of the curve"),
        (
            b"\x04" + (p256.P + 5).to_bytes(32) + bytes(32),
            "no point of the curve",
        ),
    ],
)
def test_what_is_no_key_is_told(key: bytes, fault: str) -> None:
    assert fault in p256.key_fault(key)


def openssl_says(key: bytes, message: bytes, signature: bytes) -> bool:
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    parsed = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
    try:
        encoded = encode_dss_signature(r, s)
        parsed.verify(encoded, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


@settings(max_examples=40)
@given(
    st.integers(1, p256.N - 1),
    st.binary(max_size=100),
    st.sampled_from(["none", "message", "r", "s", "negate", "small"]),
    st.integers(0, 255),
)
def test_the_answer_is_that_of_openssl(
    secret: int, message: bytes, change: str, bit: int
) -> None:
    private = ec.derive_private_key(secret, ec.SECP256R1())
    key = private.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
    match change:
        case "message":
            message += b"!"
        case "r":
            r ^= 1 << bit
        case "s":
            s ^= 1 << bit
        case "negate":
            s = p256.N - s
        case "small":
            r, s = bit, bit
    signature = (r % 2**256).to_bytes(32) + (s % 2**256).to_bytes(32)
    assert p256.verify(key, message, signature) == openssl_says(key, message, signature)


@pytest.mark.parametrize("secret", [1, 2, 3, p256.N - 1, p256.N - 2, 2**255])
def test_keys_at_the_edges_verify_too(secret: int) -> None:
    """G itself, its negative: where adding the two points is doubling, or nothing."""
    private = ec.derive_private_key(secret, ec.SECP256R1())
    key = private.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    for number in range(5):
        message = b"%d" % number
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
        assert p256.verify(key, message, r.to_bytes(32) + s.to_bytes(32))
