"""Which contracts the log says are active: proposals, approvals, and the steps after.

The entries 0x07 to 0x0a (docs/ledger-format.md section 12) in their order are the whole
state; the gateway and an auditor fold them with this one class. What an approver signs:

    iomt/contract/v1 LF <word> LF <scope> LF <sequence> LF <hash, 64 hex digits> LF
    <number> LF

`word` is approve, suspend, resume or revoke; `scope` stands in the authority entry, so
that a signature counts for one gateway; `number` is 0 for an approval, otherwise how
many steps this proposal has taken so far, so that no signature counts twice.

    proposed ─ quorum of approvals ─► active ◄─ resume ── suspended
        │                               │ └──── suspend ─────► │
        └──────────── revoke ───────────┴──────── revoke ──────┘──► revoked

Activating a proposal replaces the active or suspended one of the same contract name;
what was replaced stays so, and its text must be proposed again to come back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from edge.errors import RejectError
from edge.ledger.batch import (
    Authority,
    ContractApproval,
    ContractProposal,
    ContractStep,
    Step,
)
from edge.ledger.ed25519 import key_fault

ContractEntry: TypeAlias = (
    Authority | ContractProposal | ContractApproval | ContractStep
)
Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]  # key, message, signature

APPROVE = "approve"


class Status(StrEnum):
    """Where a proposal is."""

    PROPOSED = "proposed"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"
    REPLACED = "replaced"


_FROM = {
    Step.ACTIVATE: {Status.PROPOSED},
    Step.SUSPEND: {Status.ACTIVE},
    Step.RESUME: {Status.SUSPENDED},
    Step.REVOKE: {Status.PROPOSED, Status.ACTIVE, Status.SUSPENDED},
}
_TO = {
    Step.ACTIVATE: Status.ACTIVE,
    Step.SUSPEND: Status.SUSPENDED,
    Step.RESUME: Status.ACTIVE,
    Step.REVOKE: Status.REVOKED,
}
_DONE = {
    Step.ACTIVATE: "activated",
    Step.SUSPEND: "suspended",
    Step.RESUME: "resumed",
    Step.REVOKE: "revoked",
}


@dataclass(slots=True)
class Proposal:
    """One proposal and what became of it."""

    sequence: int
    contract: bytes
    name: str
    version: int
    status: Status = Status.PROPOSED
    approvals: dict[str, bytes] = field(default_factory=dict)  # approver -> their key
    steps: int = 0
    was_active: bool = False


def message(
    word: str, scope: str, sequence: int, contract: bytes, number: int
) -> bytes:
    """What an approver signs."""
    lines = ("iomt/contract/v1", word, scope, sequence, contract.hex(), number)
    return "".join(f"{line}\n" for line in lines).encode()


class Lifecycle:
    """The state after the entries that were taken.

    `take` raises RejectError, with nothing changed, for an entry that must not follow.
    """

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self.authority: Authority | None = None
        self.proposals: dict[int, Proposal] = {}

    @property
    def governs(self) -> bool:
        """Whether the log decides which contracts are active."""
        return self.authority is not None and self.authority.quorum > 0

    def active(self) -> list[Proposal]:
        """What is active, by name."""
        found = [one for one in self.proposals.values() if one.status is Status.ACTIVE]
        return sorted(found, key=lambda one: one.name)

    def approvals(self, proposal: Proposal) -> list[str]:
        """The approvers of a proposal who are approvers still, under the same key."""
        keys = dict(self.authority.approvers) if self.authority else {}
        return sorted(
            name for name, key in proposal.approvals.items() if keys.get(name) == key
        )

    def next_sequence(self) -> int:
        """Of the next proposal."""
        return max(self.proposals, default=0) + 1

    def message(self, word: str, proposal: Proposal) -> bytes:
        """What is signed for the next step of this proposal; `word` as above."""
        number = 0 if word == APPROVE else proposal.steps
        return message(
            word, self._scope(), proposal.sequence, proposal.contract, number
        )

    def take(self, entry: ContractEntry) -> None:
        """Go on by one entry."""
        self.check(entry)
        if isinstance(entry, Authority):
            self.authority = entry
        elif isinstance(entry, ContractProposal):
            self.proposals[entry.sequence] = Proposal(
                *(entry.sequence, entry.contract, entry.name, entry.version)
            )
        elif isinstance(entry, ContractApproval):
            key = self._key(entry.approver)
            self.proposals[entry.sequence].approvals[entry.approver] = key
        else:
            self._step(entry)

    def check(self, entry: ContractEntry) -> None:
        """RejectError where this entry must not follow."""
        if isinstance(entry, Authority):
            self._check_authority(entry)
        elif isinstance(entry, ContractProposal):
            if entry.sequence < self.next_sequence():
                raise RejectError(
                    f"proposal {entry.sequence} after {self.next_sequence() - 1}"
                )
        elif isinstance(entry, ContractApproval):
            proposal = self._proposal(entry.sequence, entry.contract)
            if proposal.status is not Status.PROPOSED:
                raise RejectError(
                    f"proposal {proposal.sequence} is {proposal.status} already"
                )
            if proposal.approvals.get(entry.approver) == self._key(entry.approver):
                raise RejectError(
                    f"{entry.approver} has approved proposal {proposal.sequence} before"
                )
            self._check_signature(APPROVE, proposal, entry.approver, entry.signature)
        else:
            self._check_step(entry)

    # ---- Small parts ----

    def _check_authority(self, entry: Authority) -> None:
        names = {name for name, _ in entry.approvers}
        keys = {key for _, key in entry.approvers}
        if not len(names) == len(keys) == len(entry.approvers) or "" in names:
            raise RejectError("authority: an approver's name or key comes twice")
        if entry.quorum > len(names) or (names and not entry.quorum):
            raise RejectError(
                f"authority: a quorum of {entry.quorum} among {len(names)} approvers"
            )
        if "\n" in entry.scope:
            raise RejectError("authority: a scope of more than one line")
        for name, key in entry.approvers:
            if fault := key_fault(key):
                raise RejectError(f"authority: the key of {name}: {fault}")
        if self.authority is not None and entry.scope != self.authority.scope:
            raise RejectError("authority: another scope than before")

    def _check_step(self, entry: ContractStep) -> None:
        proposal = self._proposal(entry.sequence, entry.contract)
        if proposal.status not in _FROM[entry.step]:
            raise RejectError(
                f"proposal {proposal.sequence} is {proposal.status}: it cannot be "
                f"{_DONE[entry.step]}"
            )
        if entry.step is not Step.ACTIVATE:
            self._check_signature(
                entry.step.name.lower(),
                proposal,
                entry.approver or "",
                entry.signature or b"",
            )
            return
        if self.authority is None or not self.governs:
            raise RejectError("there is no authority that could have approved it")
        good = len(self.approvals(proposal))
        if good < self.authority.quorum:
            raise RejectError(
                f"proposal {proposal.sequence} has {good} of the "
                f"{self.authority.quorum} approvals that it needs"
            )
        newest = [
            one.sequence
            for one in self.proposals.values()
            if one.name == proposal.name and one.was_active
        ]
        if max(newest, default=0) > proposal.sequence:
            raise RejectError(
                f"proposal {max(newest)} of {proposal.name} is newer and was active"
            )

    def _step(self, entry: ContractStep) -> None:
        proposal = self.proposals[entry.sequence]
        if entry.step is Step.ACTIVATE:
            for one in self.proposals.values():
                at_work = one.status in (Status.ACTIVE, Status.SUSPENDED)
                if one.name == proposal.name and at_work:
                    one.status = Status.REPLACED
            proposal.was_active = True
        proposal.status = _TO[entry.step]
        proposal.steps += 1

    def _proposal(self, sequence: int, contract: bytes) -> Proposal:
        proposal = self.proposals.get(sequence)
        if proposal is None:
            raise RejectError(f"there is no proposal {sequence}")
        if proposal.contract != contract:
            raise RejectError(f"proposal {sequence} is of another contract")
        return proposal

    def _scope(self) -> str:
        if self.authority is None:
            raise RejectError("nobody was named who may approve contracts")
        return self.authority.scope

    def _key(self, approver: str) -> bytes:
        keys = dict(self.authority.approvers) if self.authority else {}
        if approver not in keys:
            raise RejectError(f"{approver!r} is no approver")
        return keys[approver]

    def _check_signature(
        self, word: str, proposal: Proposal, approver: str, signature: bytes
    ) -> None:
        key = self._key(approver)
        if not self._verify(key, self.message(word, proposal), signature):
            raise RejectError(
                f"the signature is not {approver}'s for: {word} proposal "
                f"{proposal.sequence}, contract {proposal.contract.hex()[:16]}"
            )
