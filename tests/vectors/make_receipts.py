"""Writes tests/vectors/receipts.json: receipts, good and broken, with the verdict.

    python tests/vectors/make_receipts.py [FILE]

The same bytes come out each time. `vkey` is the log's key; each case has

    name      of the case
    receipt   hex
    verdict   OK or REFUSED
    reason    a part of the text that says why, where refused
    says      where good: device, time_ms, accepted, duplicates, refused, entry, as the
              fields of docs/wire-format.md section 4 (bytes in hex)
"""

from __future__ import annotations

import json
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
sys.path.append(str(_HERE.parent / "unit"))

from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: E402
    Ed25519PrivateKey,
)
from ledger_files import KEY, ORIGIN, STARTED_MS, VERIFIER  # noqa: E402

from edge import cbor  # noqa: E402
from edge.ledger import batch, note, receipt, tlog  # noqa: E402
from edge.ledger.device_key import kid_of  # noqa: E402
from edge.ledger.receipt import Accepted, Duplicate, Place, Refused  # noqa: E402

_OTHER = Ed25519PrivateKey.from_private_bytes(sha256(b"another log").digest())
_PROTECTED = b"\xa2\x01\x27\x04\x48" + kid_of(VERIFIER.public_key)


def place(entries: int) -> Place:
    """Where the last entry of a log of so many stands; the others are clock ticks."""
    log = tlog.CompactRange()
    for number in range(entries - 1):
        tick = batch.ClockTick(bytes(16), STARTED_MS + number, True).encode()
        log.append(tlog.leaf_hash(tick))
    time_ms = STARTED_MS + entries
    entry = batch.Batch(bytes(range(16)), 7, time_ms, True, sha256(b"r").digest())
    path = tuple(reversed(log.dump()))
    log.append(tlog.leaf_hash(entry.encode()))
    checkpoint = note.Checkpoint(ORIGIN, log.size, log.root())
    signed = note.sign_note(checkpoint.text, VERIFIER, KEY.sign)
    return Place(entry.encode(), entries - 1, path, signed)


def _digest(number: int) -> bytes:
    return receipt.digest_of(b"message %d" % number)


ANSWERS = [
    Accepted(41, 1, _digest(41)),
    Accepted(2**64 - 1, 3, _digest(42)),
    Accepted(None, 300, _digest(43)),
    Duplicate(40, _digest(40)),
    Refused(39, _digest(39), "equivocation"),
    Refused(None, _digest(0), "malformed"),
]


def made(answers: list[Any], entries: int = 300) -> bytes:
    """One receipt, signed by the log's key."""
    [signed] = receipt.build(
        "monitor-7",
        STARTED_MS + entries,
        answers,
        place(entries),
        kid=kid_of(VERIFIER.public_key),
        sign=KEY.sign,
    )
    return signed


def changed(
    change: dict[int, object], *, key: Ed25519PrivateKey = KEY, without: int = 0
) -> bytes:
    """The sample with other fields, properly signed by this key."""
    fields = cbor.decode(cbor.decode(made(ANSWERS)).value[2])  # type: ignore[attr-defined]
    assert isinstance(fields, dict)
    fields = {k: v for k, v in (fields | change).items() if k != without}
    payload = cbor.encode(fields)
    signed = cbor.encode(["Signature1", _PROTECTED, receipt.EXTERNAL_AAD, payload])
    return cbor.encode(cbor.Tag(18, [_PROTECTED, {}, payload, key.sign(signed)]))


def said(content: bytes) -> dict[str, object]:
    """What a good receipt says, for a reader in any language."""
    told = receipt.parse(content).receipt

    def plain(item: tuple[object, ...]) -> list[object]:
        return [one.hex() if isinstance(one, bytes) else one for one in item]

    return {
        "device": told.device,
        "time_ms": told.time_ms,
        "accepted": [plain(one) for one in told.accepted],
        "duplicates": [plain(one) for one in told.duplicates],
        "refused": [plain(one) for one in told.refused],
        "entry": told.place.entry_index,
    }


def cases() -> list[dict[str, object]]:
    """All of them."""
    sample = made(ANSWERS)
    good = {
        "of everything": sample,
        "the log's first entry": made(ANSWERS[:1], 1),
        "the second": made(ANSWERS[:1], 2),
        "only refused": made(ANSWERS[4:], 256),
        "a full tile": made(ANSWERS[:1], 257),
    }
    flipped = bytearray(sample)
    flipped[-1] ^= 1
    bad = {
        "a bit of the signature": (bytes(flipped), "signature is wrong"),
        "another key, our kid": (changed({}, key=_OTHER), "signature is wrong"),
        "cut short": (sample[:-1], ""),
        "bytes after the end": (sample + b"\0", ""),
        "another entry": (changed({7: 298}), "does not lead"),
        "another time": (changed({2: STARTED_MS}), "not the batch entry's"),
        "a path too short": (changed({8: b""}), ""),
        "a path of half a hash": (changed({8: bytes(48)}), "no list of hashes"),
        "not a batch": (changed({6: b"\x04\xa0"}), ""),
        "no checkpoint": (changed({}, without=9), "missing or unknown"),
        "an unknown field": (changed({10: 1}), "missing or unknown"),
        "an empty list of refused": (changed({5: []}), "is empty"),
        "a short digest": (changed({3: [[1, 1, b"short"]]}), "digest"),
        "a negative sequence": (changed({3: [[-1, 1, _digest(1)]]}), "sequence"),
        "a leaf that is none": (changed({3: [[1, -1, _digest(1)]]}), "leaf"),
        "a reason that is a number": (changed({5: [[1, _digest(1), 3]]}), "field 5"),
        "a device's own envelope": (
            cbor.encode(
                cbor.Tag(18, [_PROTECTED, {}, cbor.encode({1: "a"}), bytes(64)])
            ),
            "missing or unknown",
        ),
        "too large": (changed({1: "d" * 2000}), "at most 2000"),
    }
    found: list[dict[str, object]] = [
        {"name": name, "receipt": one.hex(), "verdict": "OK", "says": said(one)}
        for name, one in good.items()
    ]
    found += [
        {"name": name, "receipt": one.hex(), "verdict": "REFUSED", "reason": reason}
        for name, (one, reason) in bad.items()
    ]
    return found


def main(target: Path) -> None:
    """Write the file."""
    index = {"vkey": VERIFIER.vkey, "cases": cases()}
    target.write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else _HERE / "receipts.json")
