"""The reference check: every stored record hashed again, against its batch's leaves.

    good      the record's leaf hash is the one that the batch committed to
    altered   it is not, the frame does not open, or the leaf hashes do not lead to the
              root that stands in the batch's entry
    erased    a record is missing, and an erasure began after its batch or with it
    expired   a record is missing, and a retention policy has passed its batch
    lost      a record is missing for no known reason

Records are counted, by age; those of a frame that does not open count as lost as well.
Which of its records a batch misses cannot be told any more, and so not why either:
where both an erasure and a policy came after it, the policy is named; and a frame that
was lost *before* an erasure counts as erased.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from edge import cbor
from edge.errors import ErasedError, IntegrityError, RejectError
from edge.ledger import batch as ledger_batch
from edge.ledger import core, tlog
from edge.model import Kind, Record
from edge.store.forget import PHASE, Phase
from edge.store.reader import Reader, StoredBatch

AGES_MS = {
    "last hour": 3_600_000,
    "last day": 86_400_000,
    "last 30 days": 30 * 86_400_000,
    "older": 2**63,
}
PROBLEMS_MAX = 20
COUNT_KEY = 1  # of the count record, leaf 0


@dataclass(slots=True)
class Line:
    """Records of one age."""

    good: int = 0
    erased: int = 0
    expired: int = 0
    lost: int = 0
    altered: int = 0


@dataclass(slots=True)
class Report:
    """What the check found; `problems` names the first of them."""

    ages: dict[str, Line] = field(
        default_factory=lambda: {one: Line() for one in AGES_MS}
    )
    problems: list[str] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        """Whether something is altered or missing that nobody removed on purpose."""
        return any(line.lost or line.altered for line in self.ages.values())

    def note(self, problem: str) -> None:
        """Name a problem, if not too many were named."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(problem)


def check(reader: Reader, now_ms: int) -> Report:
    """Check every batch of the store; reads beside a running gateway."""
    report = Report()
    for batch in reader.batches():
        age_ms = now_ms - batch.time_ms
        name = next(one for one, most_ms in AGES_MS.items() if age_ms <= most_ms)
        line = report.ages[name]
        missing = _check_batch(reader, batch, line, report)
        if not missing:
            continue
        erased_ms, expired = reader.forgotten_until()  # may move on beside us
        if batch.id <= expired:
            line.expired += missing
        elif batch.time_ms <= erased_ms or _begins_erasure(reader, batch):
            line.erased += missing
        elif reader.has_batch(batch.id):
            line.lost += missing
            report.note(f"batch {batch.name}: {missing} records are missing")
    return report


def _check_batch(reader: Reader, batch: StoredBatch, line: Line, report: Report) -> int:
    """Count what is good and altered; returns how many records are missing."""
    hashes = [
        batch.leaves[at : at + tlog.HASH_SIZE]
        for at in range(0, len(batch.leaves), tlog.HASH_SIZE)
    ]
    entry = ledger_batch.decode_entry(batch.body)
    root = entry.root if isinstance(entry, ledger_batch.Batch) else None
    if not hashes or core.tree_root(batch.leaves) != root:
        line.altered += 1
        report.note(f"batch {batch.name}: its leaf hashes do not lead to its root")
        return 0
    found, true_count = 0, 0
    for frame, leaf, salted in _salted(reader, batch, line, report):
        found += 1
        if leaf < len(hashes) and tlog.leaf_hash(salted) == hashes[leaf]:
            line.good += 1
            if leaf == 0:
                true_count = _true_count(salted[ledger_batch.SALT_SIZE :])
        else:
            line.altered += 1
            report.note(f"batch {batch.name}: frame {frame}: record {leaf} is altered")
    if not true_count:
        return 1  # the count itself is missing: at least that
    return max(0, true_count - found)


def _begins_erasure(reader: Reader, batch: StoredBatch) -> bool:
    """Whether an erasure's intent is in the batch: its patient's alarms end there too.

    The batch's own time is that of its commit, which comes after the intent's.
    """
    for _, _, salted in _salted(reader, batch, Line(), Report()):
        try:
            record = Record.decode(salted[ledger_batch.SALT_SIZE :])
            if record.kind is Kind.ERASURE:
                body = cbor.decode(record.original)
                return isinstance(body, dict) and body.get(PHASE) == Phase.INTENT
        except RejectError:
            continue
    return False


def _salted(
    reader: Reader, batch: StoredBatch, line: Line, report: Report
) -> Iterator[tuple[int, int, bytes]]:
    """(frame, leaf, salt and record) of everything in a batch that opens."""
    for frame in reader.frames_of(batch.id):
        try:
            opened = reader.open_frame(frame)
        except ErasedError:
            continue
        except IntegrityError as error:
            line.altered += 1
            report.note(f"batch {batch.name}: frame {frame}: {error}")
            continue
        for leaf, record in opened.records:
            yield frame, leaf, ledger_batch.salt(opened.salt_key, leaf) + record


def _true_count(record: bytes) -> int:
    try:
        counts = cbor.decode(Record.decode(record).original)
    except RejectError:
        return 0
    count = counts.get(COUNT_KEY) if isinstance(counts, dict) else None
    return count if isinstance(count, int) else 0
