"""Pure Python verification gives OpenSSL's answer, for good and for odd signatures."""

from __future__ import annotations

import time
from hashlib import sha512
from itertools import product

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from ed25519_cases import BASE, add, encode, multiply, odd_encodings, small_order
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.ledger import ed25519

P, L = ed25519.P, ed25519.L

# RFC 8032 section 7.1: seed, message, signature of TEST 1, 2, 3 and SHA(abc). The
# public keys are derived from the seeds by OpenSSL.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bac"
            "c61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e"
            "458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290"
            "ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        (
            "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a8"
            "36ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        ),
        (
            "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ec"
            "fdfbc7c66431e0303dca179c138ac17ad9bef1177331a704"
        ),
    ),
]


def openssl(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def agree(key: bytes, message: bytes, signature: bytes) -> bool:
    """The common answer; fails where the two differ."""
    answer = ed25519.verify(key, message, signature)
    assert answer == openssl(key, message, signature), (
        key.hex(),
        message.hex(),
        signature.hex(),
    )
    return answer


@pytest.mark.parametrize(("seed", "message", "signature"), RFC_8032)
def test_the_signatures_of_rfc_8032_are_good(
    seed: str, message: str, signature: str
) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).public_key()
    public = key.public_bytes_raw()
    assert agree(public, bytes.fromhex(message), bytes.fromhex(signature))
    assert not agree(public, bytes.fromhex(message) + b"\0", bytes.fromhex(signature))


@settings(max_examples=200)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.data())
def test_good_signatures_are_good_and_one_flipped_bit_makes_them_bad(
    seed: bytes, message: bytes, data: st.DataObject
) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert agree(key, message, signature)
    bit = data.draw(st.integers(0, 767))
    changed = bytearray(key + signature)
    changed[bit >> 3] ^= 1 << (bit & 7)
    assert not agree(bytes(changed[:32]), message, bytes(changed[32:]))


@settings(max_examples=200)
@given(st.binary(min_size=96, max_size=96), st.binary(max_size=10))
def test_random_bytes_get_openssls_answer(noise: bytes, message: bytes) -> None:
    agree(noise[:32], message, noise[32:])


@pytest.mark.parametrize("more", [L, 2 * L, 8 * L])
def test_a_signature_with_the_order_added_to_s_is_bad(more: int) -> None:
    """Else everybody could make a second signature from a good one."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    s = int.from_bytes(signature[32:], "little") + more
    assert not agree(key, b"m", signature[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize("s", [0, 1, L - 1, L])
def test_odd_keys_and_odd_commitments_get_openssls_answer(s: int) -> None:
    """Some small-order keys pass without any secret: enrolment must refuse them."""
    odd = odd_encodings()
    answers = [
        agree(key, b"%d" % at, half + s.to_bytes(32, "little"))
        for at, (key, half) in enumerate(product(odd, odd[:: 3 if s == 0 else 7]))
    ]
    assert any(answers) == (s == 0)


def test_points_with_a_small_component_are_judged_without_the_cofactor() -> None:
    """[8][S]B = [8]R + [8][k]A holds for all of these, [S]B = R + [k]A for few."""
    secret, nonce = (
        0x1234567890ABCDEF1234567890ABCDEF,
        0xFEDCBA0987654321FEDCBA0987654321,
    )
    answers = []
    for key_part, half_part in product(small_order(), repeat=2):
        key = encode(add(multiply(secret, BASE), key_part))
        half = encode(add(multiply(nonce, BASE), half_part))
        digest = sha512(half + key + b"message").digest()
        k = int.from_bytes(digest, "little") % L
        s = (nonce + k * secret) % L
        exact = add(half_part, multiply(k, key_part)) == (0, 1)
        good = agree(key, b"message", half + s.to_bytes(32, "little"))
        assert good == exact
        answers.append(good)
    assert any(answers)
    assert not all(answers)


@given(st.integers(0, 2**255 - 1))
def test_only_points_of_the_curve_are_decompressed(y: int) -> None:
    """Half of all y have no x; Euler's criterion tells which, without a root."""
    square = (y * y - 1) * pow(ed25519.D * y * y + 1, -1, P) % P
    found = ed25519._decompress(y.to_bytes(32, "little"))
    assert (found is not None) == (pow(square, (P - 1) // 2, P) in (0, 1))
    assert found is None or (found[0] ** 2 % P, found[1]) == (square, y % P)


@pytest.mark.parametrize(("key_size", "signature_size"), [(31, 64), (33, 64), (32, 63)])
def test_a_wrong_size_is_a_mistake_of_the_caller(
    key_size: int, signature_size: int
) -> None:
    with pytest.raises(ValueError, match="bytes"):
        ed25519.verify(bytes(key_size), b"", bytes(signature_size))


def test_one_verification_takes_a_few_milliseconds() -> None:
    """About 1.5 ms on the machine of 2026; an auditor waits for one per proof."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    ed25519.verify(key, b"m", signature)
    best_s = 60.0
    for _ in range(20):
        started = time.perf_counter()
        ed25519.verify(key, b"m", signature)
        best_s = min(best_s, time.perf_counter() - started)
    assert best_s < 0.02
