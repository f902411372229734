"""Differential fuzzing: the native Ed25519 against OpenSSL and libsodium.

    python tests/native/test_ed25519_fuzz.py COUNT      (make soak: 10,000,000)

Every case goes to OpenSSL (through `cryptography`), to `verify_many` of the fastest
backend, and to its verification of one with a key that never came before; a part of
them also to the other backends, to `verify` with keys that come back, and to libsodium
(PyNaCl), which refuses more: keys and R of small order and in odd encodings. The seed
and the number of cases are printed, so a difference can be seen again:
IOMT_FUZZ_SEED=<seed>.
"""

from __future__ import annotations

import os
import random
import sys
import time
from array import array
from functools import cache, lru_cache
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from ed25519_cases import Case, Cases, decode, small_order

from edge.ledger import _core, core

CASES = 100_000
SEED_VARIABLE = "IOMT_FUZZ_SEED"
PEERS_SHARE, ONE_SHARE = 10, 10  # one batch of so many
lib: Any = _core.lib
ffi: Any = _core.ffi
REPORT_EVERY_S = 60


@lru_cache(maxsize=256)
def parsed(key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(key)


def openssl(case: Case) -> bool:
    key, message, signature = case
    try:
        parsed(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def libsodium(case: Case) -> bool:
    nacl = pytest.importorskip("nacl.signing")
    exceptions = pytest.importorskip("nacl.exceptions")
    key, message, signature = case
    try:
        nacl.VerifyKey(key).verify(message, signature)
    except (exceptions.BadSignatureError, exceptions.CryptoError):
        return False
    return True


def is_odd(encoded: bytes) -> bool:
    """What libsodium refuses in a key or an R: small order, y not below p."""
    y = int.from_bytes(encoded, "little") % 2**255
    return decode(encoded) in small_order() or y >= 2**255 - 19


def many(batch: list[Case]) -> list[bool]:
    keys, messages, signatures = (
        b"".join(column) for column in zip(*batch, strict=True)
    )
    ends, total = array("Q"), 0
    for _, message, _ in batch:
        total += len(message)
        ends.append(total)
    return [bool(one) for one in core.verify_many(keys, messages, ends, signatures)]


@cache
def in_c(backend: str) -> Any:
    at = 0
    while (one := lib.iomt_ed25519_backend_at(at)) != ffi.NULL:
        if ffi.string(lib.iomt_ed25519_backend_name(one)).decode() == backend:
            return one
        at += 1
    raise AssertionError(f"no backend {backend}")


def with_new_key(backend: str, case: Case) -> bool:
    """One signature, as with a key that never came before."""
    key, message, signature = case
    none, size = ffi.NULL, len(message)
    answer = lib.iomt_ed25519_verify(in_c(backend), key, none, message, size, signature)
    return bool(answer)


def differences(batch: list[Case], chance: random.Random) -> list[tuple[str, Case]]:
    """Who answered one of these cases otherwise than OpenSSL."""
    expected = [openssl(case) for case in batch]
    best, *others = core.signature_backends()
    chosen = [best]
    if chance.randrange(PEERS_SHARE) == 0:
        chosen += others
    found: list[tuple[str, Case]] = []
    for backend in chosen:
        core.use_signatures(backend)
        answers = {
            "many": many(batch),
            "one, new key": [with_new_key(backend, case) for case in batch],
        }
        if chance.randrange(ONE_SHARE) == 0:
            answers["one"] = [core.verify(*case) for case in batch]
        for way, given in answers.items():
            for case, answer, right in zip(batch, given, expected, strict=True):
                if answer != right:
                    found.append((f"{backend}, {way}: {answer}", case))
    core.use_signatures(best)
    if chance.randrange(2 * PEERS_SHARE) == 0:
        for case, right in zip(batch, expected, strict=True):
            excused = right and (is_odd(case[0]) or is_odd(case[2][:32]))
            if libsodium(case) != right and not excused:
                found.append((f"libsodium: {not right}", case))
    return found


def run(count: int, seed: int, *, report: bool = False) -> tuple[int, int]:
    """(cases, how many of them were good); AssertionError at the first difference."""
    cases, chance = Cases(seed), random.Random(seed)
    done = good = 0
    told = time.monotonic()
    while done < count:
        batch = [cases.next() for _ in range(chance.choice((1, 7, 8, 64, 65, 500)))]
        found = differences(batch, chance)
        assert not found, f"seed {seed}, after {done} cases: " + "; ".join(
            f"{who} for {' '.join(part.hex() or '-' for part in case)}"
            for who, case in found[:5]
        )
        done += len(batch)
        good += sum(openssl(case) for case in batch[:8])
        if report and time.monotonic() - told > REPORT_EVERY_S:
            told = time.monotonic()
            print(f"seed {seed}: {done} cases, no difference", flush=True)
    return done, good


def seed_of_this_run() -> int:
    return int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().getrandbits(63))


@pytest.mark.timeout(600)
def test_no_answer_differs_from_that_of_openssl() -> None:
    """One signature that we take and an auditor refuses is a broken ledger."""
    count = int(os.environ.get("IOMT_FUZZ_CASES") or CASES)
    seed = seed_of_this_run()
    done, good = run(count, seed)
    print(f"seed {seed}: {done} cases, no difference")
    assert done >= count
    assert good > 0


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fuzzing can fail: a verifier that forgets S < L is found at once."""
    honest = core.verify_many

    def forgetful(
        keys: bytes, messages: bytes, ends: array[int], signatures: bytes
    ) -> bytes:
        order = 2**252 + 27742317777372353535851937790883648493
        reduced = bytearray(signatures)
        for at in range(0, len(signatures), 64):
            s = int.from_bytes(signatures[at + 32 : at + 64], "little") % order
            reduced[at + 32 : at + 64] = s.to_bytes(32, "little")
        return honest(keys, messages, ends, reduced)

    monkeypatch.setattr(core, "verify_many", forgetful)
    with pytest.raises(AssertionError, match="seed 7"):
        run(2_000, 7)


if __name__ == "__main__":
    wanted, chosen_seed = int(sys.argv[1]), seed_of_this_run()
    started = time.monotonic()
    total, _ = run(wanted, chosen_seed, report=True)
    print(
        f"seed {chosen_seed}: {total} cases in {time.monotonic() - started:.0f} s, "
        f"backends {', '.join(core.signature_backends())}: no difference"
    )
