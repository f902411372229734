"""`iomt replay`: the store's records through the contracts once more.

Which contracts were active is what each start of the gateway entered into the log; a
start goes on with the state of those that stayed the same, as the gateway did. Their
texts are kept in `meta` by hash (`contract-<hash>`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge.contracts.evaluation import Evaluator
from edge.contracts.language import load
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.contracts.replay import GATEWAY, Finding, Inputs, Placed, compare
from edge.devices.originals import readings_of
from edge.errors import NotFoundError
from edge.ledger.batch import GatewayStart
from edge.model import Attestation, Firing, Flag, Kind
from edge.store.database import meta
from edge.store.reader import Reader, StoredRecord

SOURCE_KEY = "contract-"  # and the hash in hex: a meta row with the contract's text


@dataclass(slots=True)
class Replayed:
    """What came of a replay; `lacking` says why it is NOT ENOUGH, or is empty."""

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    firings: int = 0
    lacking: list[str] = field(default_factory=list)


def replay(reader: Reader, begin: int = 0, subject: str | None = None) -> Replayed:
    """Recompute every firing of the store, and compare.

    Findings are of batches from `begin` on and, where told, of one subject.
    NotFoundError where the text of a contract that was active is not in the store.
    """
    result = Replayed()
    _, removed = reader.forgotten_until()
    if removed:
        result.lacking.append(
            f"readings up to batch {removed} were removed by the retention policy: "
            "what the contracts knew then cannot be recomputed"
        )
    fired: list[Placed] = []
    stored: list[Placed] = []
    inputs = Inputs()
    evaluator: Evaluator | None = None
    boot = b""
    starts = _Starts(reader)
    patient_of = reader.registry().patient_ref
    for one in reader.records():
        if one.boot_id != boot:
            boot = one.boot_id
            evaluator = starts.evaluator(boot, evaluator, patient_of)
        result.records += 1
        if one.record.kind is Kind.FIRING:
            firing = Firing.decode(one.record.original)
            if firing.contract != GATEWAY:
                stored.append(Placed(one.batch_id, firing))
            continue
        _look(inputs, one)
        if evaluator is not None:
            fired += [Placed(one.batch_id, each) for each in evaluator.feed(one.record)]
    for batch, time_ms, start in starts.entries():
        inputs.entry(batch, time_ms, start=start)
    result.firings = len(stored)
    if not removed:
        found = [*compare(fired, stored), *inputs.end()]
        result.findings = [one for one in found if _wanted(one, begin, subject)]
    return result


def _wanted(one: Finding, begin: int, subject: str | None) -> bool:
    if one.batch < begin:
        return False
    return subject is None or one.firing is None or one.firing.subject == subject


def _look(inputs: Inputs, one: StoredRecord) -> None:
    record = one.record
    if record.kind is not Kind.READING or record.attestation is not Attestation.DEVICE:
        return
    sequence = readings_of(record).sequence
    if sequence is not None and record.device is not None:
        late = bool(record.flags & (Flag.LATE | Flag.BACKLOG))
        inputs.signed(
            record.device, sequence, one.batch_id, record.received_ms, late=late
        )


class _Starts:
    """The gateway's starts in the log, and the contracts that each began with."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._entries: list[tuple[int, bool]] = []  # time, whether a start
        self._hashes: dict[bytes, tuple[bytes, ...]] = {}
        log = reader.log()
        size, _ = log.checkpoint()
        for index in range(size):
            entry = log.decoded(index, size)
            start = isinstance(entry, GatewayStart)
            self._entries.append((entry.time_ms, start))
            if isinstance(entry, GatewayStart):
                self._hashes[entry.boot_id] = entry.contracts

    def entries(self) -> Iterator[tuple[int, int, bool]]:
        """(0, time, whether a start of the gateway) of every entry."""
        for time_ms, start in self._entries:
            yield 0, time_ms, start

    def evaluator(
        self,
        boot: bytes,
        before: Evaluator | None,
        patient_of: Callable[[bytes | None], bytes | None],
    ) -> Evaluator:
        """The contracts of this start, with the state of the one before."""
        contracts = [self._contract(one) for one in self._hashes.get(boot, ())]
        machine = Machine(contracts)
        if before is not None:
            machine.restore(before.machine.snapshot())
        return Evaluator(machine, patient_of)

    def _contract(self, digest: bytes) -> Contract:
        text = meta(self._reader.connection, SOURCE_KEY + digest.hex())
        if not isinstance(text, str):
            raise NotFoundError(
                f"the text of contract {digest.hex()[:16]} is not in this store: "
                "it was active before texts were kept"
            )
        return load(text, digest.hex()[:16])
