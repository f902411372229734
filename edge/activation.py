"""Proposing, approving, activating, suspending and revoking contracts, on the ledger.

Each is one commit: the public entry (edge/ledger/lifecycle.py says what may follow
what) and, for a step, a record of kind 8, so that it takes effect in record order.
A gateway whose configuration names no quorum takes its contracts from a directory, and
refuses all of this.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from edge.clock import Clock
from edge.contracts.evaluation import encode_step
from edge.contracts.language import load
from edge.contracts.program import Contract
from edge.errors import ConfigurationError, NotFoundError, RejectError
from edge.intake import Intake
from edge.ledger.batch import (
    SIGNATURE_SIZE,
    ContractApproval,
    ContractProposal,
    ContractStep,
    Step,
)
from edge.ledger.lifecycle import APPROVE, ContractEntry, Lifecycle, Proposal, Status
from edge.model import Flag, Kind, Record
from edge.open_batch import Change
from edge.store import contract_log
from edge.store.commit import GATEWAY_SLOT, Writer

SOURCE_SIZE_MAX = 256 * 1024
WORDS = {step.name.lower(): step for step in Step}
_AT_WORK = (Status.PROPOSED, Status.ACTIVE, Status.SUSPENDED)
E = TypeVar("E", ContractProposal, ContractApproval, ContractStep)

log = logging.getLogger("edge.activation")


class Activation:
    """The operations that the local socket and the commands use."""

    def __init__(
        self,
        intake: Intake,
        lifecycle: Lifecycle,
        contract_of: Callable[[bytes], Contract],
        clock: Clock,
    ) -> None:
        self._intake = intake
        self._lifecycle = lifecycle
        self._contract_of = contract_of
        self._clock = clock
        # An answer "was entered before" waits until that is durable.
        self._entering = asyncio.Lock()

    @property
    def operations(self) -> Mapping[str, Callable[..., Awaitable[object]]]:
        """The operations by their names."""
        return {
            "contract-propose": self.propose,
            "contract-approve": self.approve,
            "contract-step": self.step,
            "contract-message": self.message,
            "contract-proposals": self.proposals,
        }

    async def propose(self, text: str, name: str) -> dict[str, object]:
        """Propose a contract's text; `name` is its file's, for the mistakes in it.

        The same text again while it is proposed or active is answered with what is
        there, and enters nothing.
        """
        self._governed()
        if len(text.encode()) > SOURCE_SIZE_MAX:
            raise ConfigurationError([f"{name}: above {SOURCE_SIZE_MAX} bytes"])
        contract = load(text, name)
        async with self._entering:
            for one in self._lifecycle.proposals.values():
                if one.contract == contract.hash and one.status in _AT_WORK:
                    return self._row(one) | {"new": False}
            sequence = self._lifecycle.next_sequence()
            await self._commit(
                ContractProposal(
                    *(sequence, 0, contract.hash, contract.name, contract.version)
                ),
                [contract_log.keep_text(contract.hash, text)],
            )
            return self._row(self._lifecycle.proposals[sequence]) | {"new": True}

    async def approve(
        self, sequence: int, contract: str, approver: str, signature: str
    ) -> dict[str, object]:
        """Enter an approver's signature (hex) over a proposal and its contract (hex).

        An approver's second approval of one proposal enters nothing.
        """
        proposal = self._proposal(sequence)
        entry = ContractApproval(
            *(sequence, 0, _octets("contract", contract)),
            *(approver, _octets("signature", signature, SIGNATURE_SIZE)),
        )
        async with self._entering:
            again = (
                entry.contract == proposal.contract
                and approver in self._lifecycle.approvals(proposal)
            )
            if not again:
                await self._commit(entry)
            return self._row(proposal) | {"new": not again}

    async def step(
        self,
        word: str,
        sequence: int,
        approver: str | None = None,
        signature: str | None = None,
    ) -> dict[str, object]:
        """Activate, suspend, resume or revoke a proposal, from this commit on."""
        if word not in WORDS:
            raise ConfigurationError([f"{word!r}: one of {', '.join(WORDS)}"])
        proposal, step = self._proposal(sequence), WORDS[word]
        if step is Step.ACTIVATE:
            entry = ContractStep(sequence, 0, proposal.contract, step)
        else:
            octets = _octets("signature", signature or "", SIGNATURE_SIZE)
            entry = ContractStep(
                *(sequence, 0, proposal.contract, step, approver or "", octets)
            )
        if step in (Step.ACTIVATE, Step.RESUME):
            self._contract_of(proposal.contract)  # whether this program can run it
        await self._commit(entry)
        log.warning("contract %s (proposal %d): %s", proposal.name, sequence, word)
        return self._row(proposal)

    async def message(self, word: str, sequence: int) -> dict[str, object]:
        """What an approver signs for this: as text."""
        if word != APPROVE and word not in WORDS:
            raise ConfigurationError([f"{word!r}: {APPROVE}, {', '.join(WORDS)}"])
        proposal = self._proposal(sequence)
        return self._row(proposal) | {
            "message": self._lifecycle.message(word, proposal).decode()
        }

    async def proposals(self) -> list[dict[str, object]]:
        """Every proposal, oldest first, and where it is."""
        return [self._row(one) for one in self._lifecycle.proposals.values()]

    # ---- Small parts ----

    async def _commit(
        self, entry: E, statements: list[contract_log.Statement] | None = None
    ) -> None:
        try:
            self._lifecycle.check(entry)
        except RejectError as error:
            log.warning("refused: %s", error)
            raise ConfigurationError([str(error)]) from error

        def change(now_ms: int) -> Change:
            dated: ContractEntry = replace(entry, time_ms=now_ms)
            self._lifecycle.take(dated)  # nothing came between: we have not waited
            body = dated.encode()
            change = Change(statements=list(statements or ()), entries=[body])
            if isinstance(dated, ContractStep):
                record = Record(
                    kind=Kind.CONTRACT,
                    received_ms=now_ms,
                    original=encode_step(dated.step, dated.sequence, dated.contract),
                    flags=Flag(0) if self._clock.synced else Flag.UNSYNCED,
                )
                change.records.append((record, GATEWAY_SLOT))
                change.snapshot = True  # so that no start replays over a step

            def keep(writer: Writer) -> None:
                batch = change.batch
                if batch is None:
                    raise AssertionError("a step that runs before its change")
                after = len(batch.entries) - batch.entries.index(body)
                index = writer.tree_size - after - batch.has_leaves
                contract_log.append(writer, index, body)

            change.steps.append(keep)
            return change

        await self._intake.administer(change)

    def _governed(self) -> None:
        if not self._lifecycle.governs:
            reason = "[contracts] quorum: not set, so the directory's files are active"
            raise ConfigurationError([reason])

    def _proposal(self, sequence: int) -> Proposal:
        self._governed()
        proposal = self._lifecycle.proposals.get(sequence)
        if proposal is None:
            raise NotFoundError(f"no proposal {sequence}; `iomt contract list`")
        return proposal

    def _row(self, one: Proposal) -> dict[str, object]:
        authority = self._lifecycle.authority
        return {
            "sequence": one.sequence,
            "name": one.name,
            "version": one.version,
            "contract": one.contract.hex(),
            "status": one.status,
            "approvals": self._lifecycle.approvals(one),
            "quorum": authority.quorum if authority else 0,
        }


def _octets(what: str, text: str, size: int = 32) -> bytes:
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if len(octets) != size:
        raise ConfigurationError([f"{what}: not {2 * size} hexadecimal digits"])
    return octets


def contracts_by_hash(
    read_text: Callable[[bytes], str | None], known: Mapping[bytes, Contract]
) -> Callable[[bytes], Contract]:
    """Where contracts come from by their hash: those known, or the store's texts."""
    cache = dict(known)

    def contract_of(digest: bytes) -> Contract:
        if digest not in cache:
            text = read_text(digest)
            if text is None:
                raise NotFoundError(
                    f"the text of contract {digest.hex()[:16]} is not in this store"
                )
            cache[digest] = load(text, digest.hex()[:16])
        return cache[digest]

    return contract_of
