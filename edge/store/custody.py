"""The chain of custody of one reading, each link recomputed from what is stored.

    device ─ gateway ─ batch ─ entry ─ checkpoint ─ second medium ─ witnesses

A link is `ok`, `not there` (with what is missing) or `broken` (with what contradicts
what). Nothing is believed because it is stored: hashes, paths and signatures are
computed again, and the device's key is taken from its enrolment in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from edge.errors import ErasedError, IntegrityError, NotFoundError, RejectError
from edge.ledger import batch as ledger_batch
from edge.ledger import core, note, tiles, tlog
from edge.ledger.attestation import signed_original
from edge.model import Attestation, Record
from edge.store import epochs, evidence
from edge.store.log_reader import LogReader
from edge.store.proving import enrolment
from edge.store.reader import Located, Reader


class Result(StrEnum):
    """What became of a link."""

    OK = "ok"
    ABSENT = "not there"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Link:
    """One link; without one that is `needed` the chain does not hold."""

    name: str
    result: Result
    text: str
    needed: bool = True


class _AbsentError(Exception):
    """A link is not there, for the reason of the text; `needed` as in Link."""

    def __init__(self, text: str, *, needed: bool = True) -> None:
        super().__init__(text)
        self.needed = needed


def custody(
    reader: Reader, keys: Path, reading_id: str, place: Path | None
) -> list[Link]:
    """The links of a reading; NotFoundError where the store knows no such batch.

    `keys` is the keys directory (for the log's public key), `place` the second medium.
    """
    try:
        found = reader.located(reading_id)
    except ErasedError as error:
        return [Link("record", Result.ABSENT, str(error))]
    except (IntegrityError, RejectError) as error:
        return [Link("record", Result.BROKEN, str(error))]
    log = reader.log_of(found.epoch)
    chain = _Chain(reader, keys, found, log)
    return [
        _link("device", chain.device),
        _link("gateway", chain.gateway),
        _link("batch", chain.batch),
        _link("entry", chain.entry),
        _link("checkpoint", chain.checkpoint),
        _link("second medium", lambda: chain.second_medium(place)),
        _link("witnesses", chain.witnesses),
    ]


def _link(name: str, check: Callable[[], str]) -> Link:
    try:
        return Link(name, Result.OK, check())
    except _AbsentError as error:
        return Link(name, Result.ABSENT, str(error), error.needed)
    except NotFoundError as error:
        return Link(name, Result.ABSENT, str(error))
    except (IntegrityError, RejectError) as error:
        return Link(name, Result.BROKEN, str(error))


class _Chain:
    """The checks; each returns what it found, or raises what is missing or wrong."""

    def __init__(
        self, reader: Reader, keys: Path, found: Located, log: LogReader
    ) -> None:
        self._reader, self._keys, self._found, self._log = reader, keys, found, log
        ended = log.ended
        self._size = ended.size if ended else log.checkpoint()[0]

    def device(self) -> str:
        """The device's own signature, under the key that the log enrolled."""
        record = Record.decode(self._found.record)
        if record.attestation is not Attestation.DEVICE:
            raise _AbsentError(
                "not signed by a device: the gateway vouches for having received it",
                needed=False,
            )
        name = record.device or ""
        signed = signed_original(record)
        proven = enrolment(
            *(self._reader, name, signed.kid),
            *(self._found.entry, self._log, self._size),
        )
        if proven is None:
            raise _AbsentError(f"no enrolment of {name} in the log before the reading")
        entry = ledger_batch.decode_entry(proven.entry)
        keyed = ledger_batch.DeviceEnrolment | ledger_batch.DeviceKey
        if not isinstance(entry, keyed) or not entry.public_key:
            raise IntegrityError(f"{name} was enrolled without a key at {proven.index}")
        signed.check(entry.public_key)
        return f"{name} signed it with the key that is in the log since {proven.index}"

    def gateway(self) -> str:
        """The start of the process that received it."""
        batch = self._batch()
        at = self._log.start_of(batch.boot_id, self._found.entry, self._size)
        if at is None:
            boot = batch.boot_id.hex()[:12]
            raise IntegrityError(f"no gateway start of boot {boot} before the batch")
        start = self._log.decoded(at, self._size)
        if not isinstance(start, ledger_batch.GatewayStart):
            raise IntegrityError(f"entry {at} is no gateway start")
        return (
            f"boot {batch.boot_id.hex()[:12]} began at entry {at} with version "
            f"{start.version}, software {start.software.hex()[:16]}"
        )

    def batch(self) -> str:
        """Salt and record to leaf hash, leaf hash to the root in the batch entry."""
        found, batch = self._found, self._batch()
        hashes = tiles.split_hashes(found.leaves)
        leaf = ledger_batch.batch_leaf(found.salt, found.record)
        if hashes[found.leaf] != leaf:
            raise IntegrityError("salt and record do not give the leaf hash")
        path = core.tree_path(found.leaves, found.leaf)
        root = tlog.root_from_inclusion(found.leaf, len(hashes), leaf, path)
        if root != batch.root:
            raise IntegrityError("the path does not lead to the batch's root")
        return f"leaf {found.leaf} of {len(hashes)} in batch {batch.number}"

    def _batch(self) -> ledger_batch.Batch:
        entry = ledger_batch.decode_entry(self._found.body)
        if not isinstance(entry, ledger_batch.Batch):
            raise IntegrityError("the batch's entry is of another kind")
        return entry

    def entry(self) -> str:
        """The batch entry in the log, and its path to the root."""
        found, size = self._found, self._size
        if found.entry >= size or self._log.entry(found.entry, size) != found.body:
            raise IntegrityError(f"entry {found.entry} of the log is not this batch")
        path = self._log.inclusion(found.entry, size)
        leaf = tlog.leaf_hash(found.body)
        root = tlog.root_from_inclusion(found.entry, size, leaf, path)
        if root != self._root():
            raise IntegrityError("the path does not lead to the log's root")
        return f"entry {found.entry} of {size}"

    def _root(self) -> bytes:
        ended = self._log.ended
        if ended is not None:
            return ended.edge().root()
        return self._checkpoint().root

    def _checkpoint(self) -> note.Checkpoint:
        origin, number = self._reader.base_origin, self._log.epoch
        verifier = epochs.verifier(self._keys, origin, number)
        opened = note.open_note(self._log.checkpoint()[1], [verifier], core.verify)
        return note.parse_checkpoint(opened.text)

    def checkpoint(self) -> str:
        """The log's signature over the root; of an ended epoch also the next log's."""
        ended = self._log.ended
        if ended is None:
            shown = self._checkpoint()
            if shown.size != self._size:
                raise IntegrityError(f"the checkpoint is of size {shown.size}")
            return f"signed by {shown.origin} at size {shown.size}"
        later = self._reader.log_after(self._log.epoch)
        size = later.ended.size if later.ended else later.checkpoint()[0]
        first = later.decoded(0, size)
        named = isinstance(first, ledger_batch.EpochStart) and (
            (first.previous_origin, first.branch_size, first.branch_root)
            == (ended.origin, ended.size, self._root())
        )
        if not named:
            raise IntegrityError(f"entry 0 of the log after {ended.origin} lacks it")
        return f"{ended.origin} ended at size {ended.size}; the next log names its root"

    def second_medium(self, place: Path | None) -> str:
        """The copy of the newest checkpoint, which the log must continue."""
        if place is None:
            raise _AbsentError("none is configured", needed=False)
        origin, number = self._reader.base_origin, self._log.epoch
        copies = evidence.copies_on(place, origin)
        if isinstance(copies, str):
            raise _AbsentError(copies, needed=False)
        if number not in copies or self._log.ended is not None:
            raise _AbsentError(f"{place} holds no copy to compare", needed=False)
        verifier = epochs.verifier(self._keys, origin, number)
        finding = evidence.judge(copies[number], verifier, self._log)
        if finding.rollback:
            raise IntegrityError(finding.rollback)
        if finding.trouble:
            raise _AbsentError(finding.trouble, needed=False)
        return f"{place} holds a checkpoint that this log continues"

    def witnesses(self) -> str:
        """Whoever else signed the checkpoint."""
        try:
            signed = self._log.checkpoint()[1]
        except NotFoundError as error:
            raise _AbsentError(str(error), needed=False) from error
        parsed = note.parse_note(signed)
        others = [
            one.name
            for one in parsed.signatures
            if one.name != note.parse_checkpoint(parsed.text).origin
        ]
        if others:
            names = ", ".join(others)
            raise _AbsentError(
                f"cosigned by {names}: `iomt verify --policy` checks it", needed=False
            )
        raise _AbsentError("nobody has cosigned the checkpoint", needed=False)
