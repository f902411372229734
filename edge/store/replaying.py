"""`iomt replay`: the store's records through the contracts once more.

Which contracts were active is what each start of the gateway entered into the log; a
start goes on with the state of those that stayed the same, as the gateway did. Their
texts are kept in `meta` by hash (`contract-<hash>`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from edge.contracts.evaluation import Evaluator, decode_step
from edge.contracts.language import load
from edge.contracts.machine import Machine
from edge.contracts.program import Contract
from edge.contracts.replay import GATEWAY, Fault, Finding, Inputs, Placed, compare
from edge.devices.originals import readings_of
from edge.errors import NotFoundError
from edge.ledger.batch import ContractStep, EpochStart, GatewayStart, Step
from edge.model import Attestation, Firing, Flag, Kind
from edge.store import contract_log, epochs
from edge.store.check import Report, check
from edge.store.log_reader import LogReader
from edge.store.reader import Reader, StoredRecord


@dataclass(slots=True)
class Replayed:
    """What came of a replay; `lacking` says why it is NOT ENOUGH, or is empty."""

    findings: list[Finding] = field(default_factory=list)
    records: int = 0
    firings: int = 0
    lacking: list[str] = field(default_factory=list)


def replay(
    reader: Reader, now_ms: int, begin: int = 0, subject: str | None = None
) -> Replayed:
    """Recompute every firing of the store, and compare.

    Findings are of batches from `begin` on and, where told, of one subject. First every
    record is held against the leaf hash that its batch committed to (check.py): what is
    not there cannot be replayed. NotFoundError where the text of a contract that was
    active is not in the store.
    """
    result = Replayed()
    checked = check(reader, now_ms)
    result.lacking = _lacking(reader, checked)
    lost = [Finding(Fault.LOST, 0, 0, one) for one in checked.problems]
    fired: list[Placed] = []
    stored: list[Placed] = []
    inputs = Inputs()
    evaluator: Evaluator | None = None
    boot = b""
    starts = _Starts(reader, inputs)
    steps: list[tuple[int, Step, bytes]] = []  # batch, step, contract: of the records
    patient_of = reader.registry().patient_ref
    for one in reader.records_after(0, lambda _: None):  # damage was found above
        if one.boot_id != boot:
            boot = one.boot_id
            evaluator = starts.evaluator(boot, evaluator, patient_of)
        result.records += 1
        if one.record.kind is Kind.CONTRACT:
            steps.append((one.batch_id, *decode_step(one.record.original)))
        if one.record.kind is Kind.FIRING:
            firing = Firing.decode(one.record.original)
            if firing.contract != GATEWAY:
                stored.append(Placed(one.batch_id, firing))
            continue
        _look(inputs, one)
        if evaluator is not None:
            fired += [Placed(one.batch_id, each) for each in evaluator.feed(one.record)]
    result.firings = len(stored)
    _, removed = reader.forgotten_until()
    found = lost
    if not removed:
        found += [*compare(fired, stored), *inputs.end(), *starts.untold(steps)]
    result.findings = [one for one in found if _wanted(one, begin, subject)]
    return result


def _lacking(reader: Reader, checked: Report) -> list[str]:
    """Why the store cannot say everything any more."""
    found = []
    _, removed = reader.forgotten_until()
    if removed:
        found.append(
            f"readings up to batch {removed} were removed by the retention policy: "
            "what the contracts knew then cannot be recomputed"
        )
    erased = sum(line.erased for line in checked.ages.values())
    if erased:
        found.append(
            f"{erased} records of patients who were erased since: nobody can say any "
            "more what the contracts made of them"
        )
    return found


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
    """The gateway's starts in the logs, and the contracts that each began with.

    Every entry is shown to `inputs` on the way. After a rollback the log that went on
    begins with the contracts' steps of before, so its steps are all there are.
    """

    def __init__(self, reader: Reader, inputs: Inputs) -> None:
        self._reader = reader
        self._hashes: dict[bytes, tuple[bytes, ...]] = {}
        self._steps: list[tuple[Step, bytes]] = []
        now = reader.log().epoch
        for epoch in sorted({*epochs.all_ended(reader.connection), now}):
            self._steps.clear()
            self._read(reader.log_of(epoch), inputs)

    def _read(self, log: LogReader, inputs: Inputs) -> None:
        size = log.ended.size if log.ended else log.checkpoint()[0]
        for index in range(size):
            entry = log.decoded(index, size)
            start = isinstance(entry, GatewayStart | EpochStart)
            inputs.entry(0, entry.time_ms, start=start)
            if isinstance(entry, GatewayStart):
                self._hashes[entry.boot_id] = entry.contracts
            if isinstance(entry, ContractStep):
                self._steps.append((entry.step, entry.contract))

    def untold(self, steps: list[tuple[int, Step, bytes]]) -> Iterator[Finding]:
        """Where the steps that records made are not those that the log tells."""
        private = [(step, contract) for _, step, contract in steps]
        if private == self._steps:
            return
        batch = steps[-1][0] if steps else 0
        text = (
            f"{len(private)} steps of contracts in the records, "
            f"{len(self._steps)} in the log, and they differ"
        )
        yield Finding(Fault.CONTRACT, batch, 0, text)

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
        return Evaluator(machine, patient_of, self._contract)

    def _contract(self, digest: bytes) -> Contract:
        text = contract_log.text_of(self._reader.connection, digest)
        if text is None:
            raise NotFoundError(
                f"the text of contract {digest.hex()[:16]} is not in this store: "
                "it was active before texts were kept"
            )
        return load(text, digest.hex()[:16])
