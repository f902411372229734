"""The proof files that a store can make (docs/ledger-format.md sections 5 and 10)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.errors import NotFoundError
from edge.ledger import batch as ledger_batch
from edge.ledger import core, proof, tiles
from edge.ledger.attestation import signed_original
from edge.model import Attestation, Record

if TYPE_CHECKING:
    from edge.store.log_reader import LogReader
    from edge.store.reader import Reader


def prove(reader: Reader, reading_id: str, *, disclose: bool) -> bytes:
    """The .tlog-proof file of a reading; NotFoundError where there is none.

    A disclosed one of a device that signs holds the proof of its enrolment too, so that
    an auditor needs no key but the log's.
    """
    found = reader.located(reading_id)
    record = Record.decode(found.record)
    log = reader.log_of(found.epoch)
    with log.snapshot():
        size, signed = log.checkpoint()
        enrolled = None
        if disclose and record.attestation is Attestation.DEVICE:
            kid = signed_original(record).kid
            device = record.device or ""
            enrolled = enrolment(reader, device, kid, found.entry, log, size)
        hashes = tiles.split_hashes(found.leaves)
        extra = proof.BatchProof(
            entry=found.body,
            leaf_index=found.leaf,
            path=tuple(core.tree_path(found.leaves, found.leaf)),
            leaf_hash=hashes[found.leaf],
            salt=found.salt if disclose else None,
            record=found.record if disclose else None,
            enrolment=enrolled,
        )
        return proof.LogProof(
            index=found.entry,
            path=log.inclusion(found.entry, size),
            checkpoint=signed,
            extra=extra.encode(),
        ).encode()


def enrolment(
    reader: Reader, device: str, kid: bytes, before: int, log: LogReader, size: int
) -> proof.EnrolmentProof | None:
    """The proof of the device's key of this identifier, ahead of the entry `before`.

    Entries' times never go back, so the moment the device got the key leads there. In
    a later epoch it was enrolled again with the others, ahead of the first start.
    """
    known = reader.signing_key(device, kid)
    if known is None:
        return None
    ref, (key, since_ms, _) = known
    for at in range(log.first_at(since_ms, size), before):
        one = log.decoded(at, size)
        if isinstance(one, ledger_batch.DeviceEnrolment | ledger_batch.DeviceKey):
            if one.device_id == ref and one.public_key == key:
                path = log.inclusion(at, size)
                return proof.EnrolmentProof(at, path, log.entry(at, size))
        elif one.time_ms > since_ms and not isinstance(one, ledger_batch.EpochStart):
            return None
    return None


def prove_consistency(reader: Reader, old: int, new: int) -> bytes:
    """The file that proves that the log of size `new` continues that of `old`.

    NotFoundError where no checkpoint of these sizes is kept.
    """
    log = reader.log()
    with log.snapshot():
        kept = {size: signed for size, _, signed in reader.comparable_checkpoints()}
        for size in (old, new):
            if size not in kept:
                raise NotFoundError(
                    f"no checkpoint of size {size} is kept (see `iomt ledger "
                    "checkpoints`)"
                )
        if old > new:
            raise NotFoundError(f"{old} is larger than {new}: the older one first")
        path = log.consistency(old, new, log.checkpoint()[0])
    return proof.ConsistencyProof(path, kept[old], kept[new]).encode()
