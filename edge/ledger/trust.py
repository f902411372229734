"""What an auditor brings along, and what it says about a signed checkpoint.

Keys and policy come from elsewhere, never from the ledger or the proof that is checked:
a key that lies beside them proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.errors import RejectError
from edge.ledger.note import (
    ED25519,
    Checkpoint,
    Note,
    Verifier,
    check_note,
    parse_checkpoint,
    parse_vkey,
)
from edge.ledger.policy import Policy
from edge.ledger.report import DamageError, Report, shown_time

_NO_KEY = (
    "all is consistent, but without the log's key (--vkey or --policy) "
    "nobody can tell who made it"
)


@dataclass(frozen=True, slots=True)
class Trust:
    """The logs whose signature counts, the witnesses, the device's pinned key."""

    logs: tuple[Verifier, ...] = ()
    policy: Policy | None = None
    device_key: bytes | None = None  # 32 bytes, a proper Ed25519 key

    @property
    def verifiers(self) -> tuple[Verifier, ...]:
        """Every key whose signature is checked, or recognised at least."""
        witnesses = self.policy.witnesses.values() if self.policy else ()
        return (*self.logs, *witnesses)


def make_trust(
    vkey: str | None, policy: Policy | None, device_key: bytes | None = None
) -> Trust:
    """What these make together; RejectError where they contradict each other."""
    logs = policy.logs if policy else ()
    if vkey is not None:
        verifier = parse_vkey(vkey)
        if verifier.kind != ED25519:
            raise RejectError(
                f"a log signs with type 0x01, this is of type 0x{verifier.kind:02x}"
            )
        if logs and verifier not in logs:
            raise RejectError("the policy does not name that log")
        logs = (verifier,)
    trust = Trust(logs, policy, device_key)
    ids = {(one.name, one.key_id) for one in trust.verifiers}
    if len(ids) != len(trust.verifiers):
        raise RejectError("its name and key id are those of a witness")
    return trust


def open_checkpoint(
    content: bytes, trust: Trust, place: str, report: Report, label: str = ""
) -> Checkpoint:
    """The checkpoint in this note; DamageError where it cannot stand.

    What it lacks (the log's key, witnesses) goes to the report, as do the signatures,
    each fact after `label`.
    """
    try:
        note = check_note(content, trust.verifiers)
        signers = [one for one in trust.logs if note.signature_by(one)]
        unread = [one for one in trust.logs if note.mentions(one)]
        if trust.logs and not signers and not unread:
            raise RejectError("not signed by a key that we know")
        checkpoint = parse_checkpoint(note.text)
        if checkpoint.extensions:
            raise RejectError("line 4: a checkpoint here has no extension lines")
        names = [one.name for one in signers or unread]
        if names and checkpoint.origin not in names:
            raise RejectError(f"line 1: the key is for the origin {names[0]}")
    except RejectError as error:
        raise DamageError(place, f"{label}checkpoint: {error}") from error
    if not trust.logs:
        _lack(report, _NO_KEY)
    elif not signers:
        _lack(report, f"{label}the log's signature is of type 0x06, not understood")
    if trust.policy:
        _check_quorum(note, trust.policy, report, label)
    for one in note.unverified:
        report.facts.append(f"{label}signature by {one.name}: not checked")
    return checkpoint


def _check_quorum(note: Note, policy: Policy, report: Report, label: str) -> None:
    cosigned = policy.cosignatures(note)
    for name, verifier in policy.witnesses.items():
        if name in cosigned:
            what = f"cosigned {shown_time(cosigned[name].time_s * 1000)}"
        elif note.mentions(verifier):
            what = "a cosignature of type 0x06 (ML-DSA-44), not understood"
        else:
            what = "no cosignature"
        report.facts.append(f"{label}witness {name}: {what}")
    lacking = policy.lacking(cosigned)
    if lacking:
        whole = f"{label}the quorum {policy.quorum} is not reached, it lacks "
        _lack(report, whole + ", and ".join(lacking))


def _lack(report: Report, what: str) -> None:
    if what not in report.log_lacks:  # two checkpoints may lack the same
        report.log_lacks.append(what)
