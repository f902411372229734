"""What may follow what among the log's entries about contracts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.errors import RejectError
from edge.ledger import core
from edge.ledger.batch import (
    Authority,
    ContractApproval,
    ContractProposal,
    ContractStep,
    Step,
    decode_entry,
)
from edge.ledger.lifecycle import Lifecycle, Status, message

SCOPE = "test.example/ward"
NAMES = ("ann", "bob", "cyd")
SEEDS = {name: bytes([at]) * 32 for at, name in enumerate(NAMES, 1)}
KEYS = {name: core.public_key(seed) for name, seed in SEEDS.items()}
FIRST, SECOND = bytes(32), bytes([7]) * 32
T = 1_700_000_000_000


def authority(quorum: int = 2, *names: str) -> Authority:
    listed = names or NAMES
    return Authority(SCOPE, T, quorum, tuple((name, KEYS[name]) for name in listed))


def proposal(
    sequence: int, contract: bytes = FIRST, name: str = "spo2"
) -> ContractProposal:
    return ContractProposal(sequence, T, contract, name, sequence)


def signed(word: str, who: str, sequence: int, contract: bytes, number: int) -> bytes:
    return core.sign(SEEDS[who], message(word, SCOPE, sequence, contract, number))


def approval(sequence: int, who: str, contract: bytes = FIRST) -> ContractApproval:
    signature = signed("approve", who, sequence, contract, 0)
    return ContractApproval(sequence, T, contract, who, signature)


def step(
    kind: Step,
    sequence: int,
    who: str = "ann",
    contract: bytes = FIRST,
    number: int = 0,
) -> ContractStep:
    if kind is Step.ACTIVATE:
        return ContractStep(sequence, T, contract, kind)
    signature = signed(kind.name.lower(), who, sequence, contract, number)
    return ContractStep(sequence, T, contract, kind, who, signature)


def after(*entries: object) -> Lifecycle:
    state = Lifecycle(core.verify)
    for entry in entries:
        state.take(entry)  # type: ignore[arg-type]
    return state


def approved(quorum: int = 2) -> Lifecycle:
    return after(authority(quorum), proposal(1), approval(1, "ann"), approval(1, "bob"))


def test_what_is_signed_is_six_lines() -> None:
    """The exact bytes of docs/ledger-format.md, for signers that are not ours."""
    said = message("suspend", SCOPE, 12, SECOND, 3)
    assert said == (
        b"iomt/contract/v1\nsuspend\ntest.example/ward\n12\n" + b"07" * 32 + b"\n3\n"
    )


@pytest.mark.parametrize(
    "entry",
    [
        authority(),
        Authority(SCOPE, T, 0, ()),
        proposal(3),
        approval(1, "ann"),
        step(Step.ACTIVATE, 1),
        step(Step.REVOKE, 1, "bob"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_an_entry_is_read_back_as_it_was(entry: object) -> None:
    assert decode_entry(entry.encode()) == entry  # type: ignore[attr-defined]


def test_a_quorum_of_approvals_makes_a_contract_active() -> None:
    state = after(authority(), proposal(1), approval(1, "ann"))
    with pytest.raises(RejectError, match="has 1 of the 2 approvals"):
        state.take(step(Step.ACTIVATE, 1))
    state.take(approval(1, "cyd"))
    state.take(step(Step.ACTIVATE, 1))
    assert [one.sequence for one in state.active()] == [1]


def test_an_approver_counts_once() -> None:
    state = after(authority(), proposal(1), approval(1, "ann"))
    with pytest.raises(RejectError, match="ann has approved proposal 1 before"):
        state.take(approval(1, "ann"))
    assert state.approvals(state.proposals[1]) == ["ann"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (replace(approval(1, "ann"), sequence=2), "is not ann's for"),
        (replace(approval(1, "ann"), contract=SECOND), "is of another contract"),
        (replace(approval(1, "ann"), approver="bob"), "is not bob's for"),
        (replace(approval(1, "ann"), approver="eve"), "'eve' is no approver"),
        (approval(9, "ann"), "there is no proposal 9"),
        (
            ContractApproval(
                *(1, T, FIRST, "ann"),
                core.sign(SEEDS["ann"], message("approve", "other", 1, FIRST, 0)),
            ),
            "is not ann's for",
        ),
        (
            ContractApproval(*(1, T, FIRST, "ann"), step(Step.REVOKE, 1).signature),  # type: ignore[arg-type]
            "is not ann's for",
        ),
    ],
    ids=[
        *("other sequence", "other contract", "other approver", "stranger"),
        *("no proposal", "other gateway", "other word"),
    ],
)
def test_an_approval_that_is_bound_to_something_else_is_refused(
    entry: ContractApproval, reason: str
) -> None:
    state = after(authority(), proposal(1), proposal(2))
    with pytest.raises(RejectError, match=reason):
        state.take(entry)
    assert not state.proposals[1].approvals
    assert not state.proposals[2].approvals


def test_an_approval_after_the_activation_is_refused() -> None:
    state = approved()
    state.take(step(Step.ACTIVATE, 1))
    with pytest.raises(RejectError, match="proposal 1 is active already"):
        state.take(approval(1, "cyd"))


def test_an_approver_who_is_none_any_more_does_not_count() -> None:
    state = approved()
    state.take(authority(2, "bob", "cyd"))
    with pytest.raises(RejectError, match="has 1 of the 2"):
        state.take(step(Step.ACTIVATE, 1))
    state.take(approval(1, "cyd"))
    state.take(step(Step.ACTIVATE, 1))


def test_an_approver_with_a_new_key_approves_anew() -> None:
    state = approved()
    other = core.public_key(bytes([9]) * 32)
    state.take(Authority(SCOPE, T, 2, (("ann", other), ("bob", KEYS["bob"]))))
    assert state.approvals(state.proposals[1]) == ["bob"]


def test_a_signature_for_a_step_counts_once() -> None:
    """A suspension of yesterday must not silence the contract of today."""
    state = approved()
    state.take(step(Step.ACTIVATE, 1))
    suspend = step(Step.SUSPEND, 1, number=1)
    state.take(suspend)
    assert state.active() == []
    state.take(step(Step.RESUME, 1, "bob", number=2))
    with pytest.raises(RejectError, match="is not ann's for: suspend"):
        state.take(suspend)
    assert [one.sequence for one in state.active()] == [1]


@pytest.mark.parametrize("kind", [Step.SUSPEND, Step.RESUME])
def test_what_is_not_active_cannot_be_suspended_or_resumed(kind: Step) -> None:
    state = approved()
    with pytest.raises(RejectError, match="proposal 1 is proposed: it cannot be"):
        state.take(step(kind, 1))


def test_what_is_revoked_stays_so() -> None:
    state = approved()
    state.take(step(Step.ACTIVATE, 1))
    state.take(step(Step.REVOKE, 1, number=1))
    for entry in (step(Step.ACTIVATE, 1), step(Step.RESUME, 1, number=2)):
        with pytest.raises(RejectError, match="proposal 1 is revoked"):
            state.take(entry)


def test_a_new_version_takes_the_place_of_the_old_one() -> None:
    state = approved()
    state.take(step(Step.ACTIVATE, 1))
    state.take(proposal(2, SECOND))
    for who in ("bob", "cyd"):
        state.take(approval(2, who, SECOND))
    state.take(step(Step.ACTIVATE, 2, contract=SECOND))
    assert [one.sequence for one in state.active()] == [2]
    assert state.proposals[1].status is Status.REPLACED


def test_an_older_proposal_does_not_come_back_over_a_newer_one() -> None:
    state = approved()
    state.take(proposal(2, SECOND))
    for who in ("bob", "cyd"):
        state.take(approval(2, who, SECOND))
    state.take(step(Step.ACTIVATE, 2, contract=SECOND))
    with pytest.raises(RejectError, match="proposal 2 of spo2 is newer"):
        state.take(step(Step.ACTIVATE, 1))


def test_a_newer_proposal_that_was_never_active_is_in_nobodys_way() -> None:
    state = approved()
    state.take(proposal(2, SECOND))
    state.take(step(Step.REVOKE, 2, contract=SECOND))
    state.take(step(Step.ACTIVATE, 1))


def test_contracts_of_other_names_stand_side_by_side() -> None:
    state = approved()
    state.take(step(Step.ACTIVATE, 1))
    state.take(proposal(2, SECOND, "glucose"))
    for who in ("bob", "cyd"):
        state.take(approval(2, who, SECOND))
    state.take(step(Step.ACTIVATE, 2, contract=SECOND))
    assert [one.name for one in state.active()] == ["glucose", "spo2"]


def test_a_sequence_is_used_once() -> None:
    state = after(authority(), proposal(4))
    for sequence in (4, 3):
        with pytest.raises(RejectError, match=f"proposal {sequence} after 4"):
            state.take(proposal(sequence, SECOND))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Authority(SCOPE, T, 3, (("a", KEYS["ann"]), ("b", KEYS["bob"]))), "quorum of"),
        (Authority(SCOPE, T, 0, (("a", KEYS["ann"]),)), "a quorum of 0 among 1"),
        (Authority(SCOPE, T, 1, (("a", KEYS["ann"]), ("a", KEYS["bob"]))), "twice"),
        (Authority(SCOPE, T, 1, (("a", KEYS["ann"]), ("b", KEYS["ann"]))), "twice"),
        (Authority(SCOPE, T, 1, (("", KEYS["ann"]),)), "twice"),
        (Authority(SCOPE, T, 1, (("a", bytes(32)),)), "small order"),
        (Authority("a\nb", T, 1, (("a", KEYS["ann"]),)), "more than one line"),
    ],
)
def test_an_authority_that_makes_no_sense_is_refused(
    entry: Authority, reason: str
) -> None:
    with pytest.raises(RejectError, match=reason):
        after(entry)


def test_the_scope_stays_the_gateways() -> None:
    state = after(authority())
    with pytest.raises(RejectError, match="another scope"):
        state.take(replace(authority(), scope="else"))


def test_without_an_authority_nothing_is_approved_or_activated() -> None:
    state = after(proposal(1))
    with pytest.raises(RejectError, match="no approver"):
        state.take(approval(1, "ann"))
    with pytest.raises(RejectError, match="there is no authority"):
        state.take(step(Step.ACTIVATE, 1))
