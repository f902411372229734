"""What `iomt verify` does with a receipt: hashes, and the log's one key.

The checkpoint in it has to be the log's, its batch entry has to stand in that tree, and
the receipt has to be signed by the key that signed the checkpoint. Beside that nothing
is believed; what the receipt says of the messages is told as what the gateway signed.
"""

from __future__ import annotations

from edge.errors import RejectError
from edge.ledger import ed25519, receipt
from edge.ledger.batch import reading_id
from edge.ledger.device_key import kid_of
from edge.ledger.report import Report, shown_time
from edge.ledger.trust import Trust, open_checkpoint

SHOWN_COUNT = 100  # messages of one receipt in the report: more do not fit into it


def check_receipt(content: bytes, place: str, trust: Trust, report: Report) -> None:
    """Check it and tell what it says; RejectError where anything is wrong."""
    signed = receipt.parse(content)
    told = signed.receipt
    checkpoint = open_checkpoint(told.place.checkpoint, trust, place, report)
    batch = receipt.check_place(told, checkpoint)
    keys = [one.public_key for one in trust.logs if one.name == checkpoint.origin]
    ours = [key for key in keys if kid_of(key) == signed.kid]
    if keys and not ours:
        raise RejectError("signed by another key than the log's")
    for key in ours:
        if not ed25519.verify(key, signed.signed_bytes, signed.signature):
            raise RejectError("the receipt's signature is wrong")
    report.describe(checkpoint.origin, checkpoint.size, checkpoint.root)
    at = shown_time(told.time_ms)
    report.facts.append(f"receipt for {told.device}, of {at}")
    report.facts.append(f"entry   {told.place.entry_index}, a batch of {at}")
    for accepted in told.accepted[:SHOWN_COUNT]:
        name = reading_id(batch.boot_id, batch.number, accepted.leaf, 0)
        report.facts.append(
            f"accepted  {_shown(accepted.sequence, accepted.digest)}, as {name}"
        )
    for repeated in told.duplicates[:SHOWN_COUNT]:
        report.facts.append(
            f"duplicate {_shown(repeated.sequence, repeated.digest)}: there before"
        )
    for refused in told.refused[:SHOWN_COUNT]:
        report.facts.append(
            f"refused   {_shown(refused.sequence, refused.digest)}: {refused.reason}"
        )


def _shown(sequence: int | None, digest: bytes) -> str:
    name = "message" if sequence is None else f"sequence {sequence}"
    return f"{name} {digest.hex()}"
