"""One Ed25519 signature at a time, ours and what pip can install, in one run.

    python benchmarks/ed25519.py [rounds]

Each way works through the same 256 messages of 128 bytes, as a Python program calls
it: signs all with one key, as a log does, and verifies each with a key of its own. Each
round lets every way work once, in turn, so that all meet the same neighbours on a
shared machine; a row is the median of the rounds, in thousands a second of this
thread's CPU time, and how often the rate of `cryptography` it is.

"new key" verifies with keys that never came before, "known key" with keys that did:
`cryptography` and PyNaCl get key objects that were made before in both. Ours verifies
each signature that it makes before it gives it out; the others do not.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nacl.signing import SigningKey

from edge.ledger import core

KEYS, MESSAGE_SIZE, ROUNDS = 256, 128, 15
PEER = "cryptography"

Way = Callable[[], None]


def ways() -> dict[str, dict[str, Way]]:
    """By job, then by who does it."""
    chance = random.Random(8032)
    seeds = [chance.randbytes(32) for _ in range(KEYS)]
    messages = [chance.randbytes(MESSAGE_SIZE) for _ in range(KEYS)]
    openssl = [Ed25519PrivateKey.from_private_bytes(seed) for seed in seeds]
    sodium = [SigningKey(seed) for seed in seeds]
    ours = [core.Signer(seed) for seed in seeds]  # by the best backend
    rows = []
    for one, other, third, message in zip(ours, openssl, sodium, messages, strict=True):
        signature = one.sign(message)
        if not signature == other.sign(message) == third.sign(message).signature:
            raise AssertionError("three libraries, and not one signature")
        rows.append((one.public_key, message, signature))
    openssl_keys = [one.public_key() for one in openssl]
    sodium_keys = [one.verify_key for one in sodium]

    def sign_openssl() -> None:
        for message in messages:
            openssl[0].sign(message)

    def sign_sodium() -> None:
        for message in messages:
            sodium[0].sign(message)

    def verify_openssl() -> None:
        for key, (_, message, signature) in zip(openssl_keys, rows, strict=True):
            key.verify(signature, message)

    def verify_sodium() -> None:
        for key, (_, message, signature) in zip(sodium_keys, rows, strict=True):
            key.verify(message, signature)

    def sign_with(backend: str) -> Way:
        def sign() -> None:
            core.use_signatures(backend)
            for message in messages:
                ours[0].sign(message)

        return sign

    def verify_with(backend: str, *, known: bool) -> Way:
        def verify() -> None:
            core.use_signatures(backend)
            if not known:
                core.forget_public_keys()
            for row in rows:
                if not core.verify(*row):
                    raise AssertionError("a good signature was refused")

        return verify

    found: dict[str, dict[str, Way]] = {
        "sign": {PEER: sign_openssl, "PyNaCl": sign_sodium},
        "verify, new key": {PEER: verify_openssl, "PyNaCl": verify_sodium},
        "verify, known key": {PEER: verify_openssl, "PyNaCl": verify_sodium},
    }
    for name in core.signature_backends():
        found["sign"][name] = sign_with(name)
        found["verify, new key"][name] = verify_with(name, known=False)
        found["verify, known key"][name] = verify_with(name, known=True)
    return found


def measure(who: dict[str, Way], rounds: int) -> dict[str, float]:
    """Thousands a second, the median of the rounds."""
    times: dict[str, list[float]] = {name: [] for name in who}
    for way in who.values():  # keys become known the second time they come
        way()
        way()
    for _ in range(rounds):
        for name, way in who.items():
            start = time.thread_time()
            way()
            times[name].append(time.thread_time() - start)
    return {name: KEYS / statistics.median(one) / 1000 for name, one in times.items()}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"{rounds} rounds of {KEYS} messages of {MESSAGE_SIZE} bytes")
    for job, who in ways().items():
        print(f"\n{job + ', k/s':24}{'median':>8}{'times ' + PEER:>22}")
        found = measure(who, rounds)
        for name, rate in found.items():
            print(f"{name:24}{rate:8.1f}{rate / found[PEER]:22.1f}")


if __name__ == "__main__":
    main()
