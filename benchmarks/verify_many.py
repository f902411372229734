"""Many Ed25519 signatures at once, ours and what pip can install, in one run.

    python benchmarks/verify_many.py [rounds]

Every signature has its own key and its own message of 128 bytes. Each round lets every
way work once, in turn, so that all meet the same neighbours on a shared machine; a row
is the median of the rounds, in thousands of signatures a second of this thread's CPU
time, and how often the rate of `cryptography` it is.

"prepared" are keys that came before: their multiples are kept, 3 KiB a key. "bad" are
the best way with some signatures bad: sending them must not cost us time. All answers
are compared with those of `cryptography` first.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from edge.ledger import _core, core

COUNTS = (1, 8, 64, 256, 1024)
MESSAGE_SIZE = 128
ROUNDS = 9
ROUND_SIGNATURES = 1024  # a way repeats small counts until it has done about so many

lib: Any = _core.lib
ffi: Any = _core.ffi


class Signed(NamedTuple):
    key: bytes
    message: bytes
    signature: bytes


Way = Callable[[], bytes]  # one byte a signature: 1 good, 0 bad


def signed(count: int, bad: float, chance: random.Random) -> list[Signed]:
    """`bad` is the share of signatures that belong to another message."""
    found = []
    for at in range(count):
        private = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        message = chance.randbytes(MESSAGE_SIZE)
        signature = private.sign(message)
        if at < bad * count:
            message = chance.randbytes(MESSAGE_SIZE)
        found.append(
            Signed(private.public_key().public_bytes_raw(), message, signature)
        )
    chance.shuffle(found)
    return found


# ---- Ways ----


def by_cryptography(some: list[Signed]) -> Way:
    keys = [Ed25519PublicKey.from_public_bytes(one.key) for one in some]

    def verify() -> bytes:
        answers = bytearray()
        for key, one in zip(keys, some, strict=True):
            try:
                key.verify(one.signature, one.message)
                answers.append(1)
            except InvalidSignature:
                answers.append(0)
        return bytes(answers)

    return verify


def by_nacl(some: list[Signed]) -> Way:
    keys = [VerifyKey(one.key) for one in some]

    def verify() -> bytes:
        answers = bytearray()
        for key, one in zip(keys, some, strict=True):
            try:
                key.verify(one.message, one.signature)
                answers.append(1)
            except BadSignatureError:
                answers.append(0)
        return bytes(answers)

    return verify


def by_core(backend: Any, some: list[Signed], prepared: bool) -> Way:
    """The C function as core.verify_many calls it, with or without prepared keys."""
    keys, messages, signatures = (b"".join(parts) for parts in zip(*some, strict=True))
    ends = array("Q", range(MESSAGE_SIZE, len(messages) + 1, MESSAGE_SIZE)).tobytes()
    kept = [
        ffi.new("uint64_t[]", lib.iomt_ed25519_prepared_size() // 8)
        for _ in (some if prepared else [])
    ]
    for memory, one in zip(kept, some if prepared else [], strict=True):
        lib.iomt_ed25519_prepare(
            backend, ffi.cast("iomt_ed25519_prepared *", memory), one.key
        )
    pointers = [ffi.cast("iomt_ed25519_prepared *", memory) for memory in kept]
    table = ffi.new("iomt_ed25519_prepared *[]", pointers) if prepared else ffi.NULL
    answers = bytearray(len(some))
    out = ffi.from_buffer("uint8_t[]", answers)

    def verify(_memory: Any = kept) -> bytes:
        lib.iomt_ed25519_verify_many(
            *(backend, keys, table, messages, len(messages), ends),
            *(len(some), signatures, out),
        )
        return bytes(answers)

    return verify


def backends() -> dict[str, Any]:
    """Those that this CPU can run, best first."""
    found, at = {}, 0
    while (backend := lib.iomt_ed25519_backend_at(at)) != ffi.NULL:
        if lib.iomt_ed25519_backend_usable(backend):
            name = ffi.string(lib.iomt_ed25519_backend_name(backend)).decode()
            found[name] = backend
        at += 1
    return found


def ways(count: int, chance: random.Random) -> dict[str, tuple[Way, list[Signed]]]:
    good = signed(count, 0, chance)
    found = {
        "cryptography": (by_cryptography(good), good),
        "PyNaCl": (by_nacl(good), good),
    }
    for name, backend in backends().items():
        found[name] = (by_core(backend, good, False), good)
        found[f"{name}, prepared"] = (by_core(backend, good, True), good)
    if count > 1:
        best = next(iter(backends()))
        for bad in (0.5, 1.0):
            mixed = signed(count, bad, chance)
            way = by_core(backends()[best], mixed, False)
            found[f"{best}, {bad:.0%} bad"] = (way, mixed)
    return found


# ---- Rounds ----


def seconds(way: Way, repeats: int) -> float:
    start = time.thread_time()
    for _ in range(repeats):
        way()
    return time.thread_time() - start


def measure(count: int, rounds: int) -> dict[str, float]:
    """Thousands of signatures a second, the median of all rounds."""
    found = ways(count, random.Random(count))
    for name, (way, some) in found.items():
        if way() != by_cryptography(some)():
            raise AssertionError(f"{name} does not answer as cryptography does")
    repeats = -(-ROUND_SIGNATURES // count)
    times: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds):
        for name, (way, _some) in found.items():
            times[name].append(seconds(way, repeats))
    return {
        name: repeats * count / statistics.median(one) / 1000
        for name, one in times.items()
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    compiler = ffi.string(lib.iomt_compiler()).decode()
    print(f"{rounds} rounds, {compiler}, signatures by {core.active_signatures()}")
    columns = {count: measure(count, rounds) for count in COUNTS}
    names = list(columns[COUNTS[-1]])
    print(f"{'k/s (times cryptography)':28}" + "".join(f"{n:>16}" for n in COUNTS))
    for name in names:
        row = f"{name:28}"
        for column in columns.values():
            if name in column:
                ratio = column[name] / column["cryptography"]
                row += f"{column[name]:8.1f} ({ratio:4.1f})"
            else:
                row += f"{'':>15}"
        print(row)


if __name__ == "__main__":
    main()
