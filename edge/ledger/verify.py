"""`iomt verify`: check an exported ledger, a proof or a receipt, offline.

    python -m edge.ledger.verify PATH [--vkey V] [--policy F] [--device-key K]

needs nothing but Python. A directory is a ledger; a file says in its first line whether
it proves one record (.tlog-proof) or that a log only grew (consistency), and a receipt
is known by its first bytes. Whatever lies in the file is not trusted. The answers:

    exit 0  verified
    1       refused: the reason, and the place (file, and byte, hash or entry)
    2       could not run: no such file, not readable, a wrong argument
    3       not enough: all that could be checked is right, but something is lacking:
            the log's key, witnesses that the policy asks for, the device's key

One thing that is wrong refuses the whole, whatever else is lacking. The rules of each
verdict are in docs/ledger-format.md section 9.
"""

from __future__ import annotations

import argparse
import os
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edge.errors import RejectError
from edge.ledger import device_key as device_keys
from edge.ledger import proof as proofs
from edge.ledger import receipt as receipts
from edge.ledger import tlog
from edge.ledger.attestation import (
    KEY_FILE_SIZE_MAX,
    signed_original,
)
from edge.ledger.batch import ID_SIZE, TIME_MAX_MS
from edge.ledger.directory import check_directory
from edge.ledger.note import Checkpoint
from edge.ledger.policy import POLICY_SIZE_MAX, Policy, parse_policy
from edge.ledger.proof import BatchProof
from edge.ledger.receipt_check import check_receipt
from edge.ledger.report import DamageError, Report, Verdict, shown_time
from edge.ledger.trust import Trust, make_trust, open_checkpoint
from edge.model import Attestation, Flag, Kind, Record

__all__ = [
    "Report",
    "Verdict",
    "main",
    "verify_consistency",
    "verify_directory",
    "verify_file",
    "verify_proof",
]

_Path = str | os.PathLike[str]
_Check = Callable[[Path, Trust, Report], None]
_LINKS = (None, "mqtt", "ble", "ble-bonded")
_ADDRESS_SIZE = 6
_FLAGS_MAX = sum(Flag)
_NO_READING = "--device-key goes with the proof of a reading"


def verify_directory(
    path: _Path, vkey: str | None = None, policy: Policy | None = None
) -> Report:
    """Check the ledger in this directory, with the log's verifier key or a policy.

    Raises nothing: every outcome is a Report.
    """
    return _run(Path(path), check_directory, vkey, policy)


def verify_proof(
    path: _Path,
    vkey: str | None = None,
    policy: Policy | None = None,
    device_key: bytes | None = None,
) -> Report:
    """Check the proof of a record; `device_key` is the device's, pinned.

    Raises nothing: every outcome is a Report.
    """
    return _run(Path(path), _check_proof_file, vkey, policy, device_key)


def verify_consistency(
    path: _Path, vkey: str | None = None, policy: Policy | None = None
) -> Report:
    """Check the proof that one checkpoint continues another.

    Raises nothing: every outcome is a Report.
    """
    return _run(Path(path), _check_consistency_file, vkey, policy)


def verify_file(
    path: _Path,
    vkey: str | None = None,
    policy: Policy | None = None,
    device_key: bytes | None = None,
) -> Report:
    """Check a proof file of either kind, as its first line says.

    Raises nothing: every outcome is a Report.
    """
    return _run(Path(path), _check_file, vkey, policy, device_key)


def _run(
    path: Path,
    check: _Check,
    vkey: str | None,
    policy: Policy | None,
    device_key: bytes | None = None,
) -> Report:
    try:
        trust = make_trust(vkey, policy, device_key)
    except RejectError as error:
        return Report(Verdict.CANNOT_RUN, f"the key that was given: {error}")
    report = Report(Verdict.OK)
    try:
        check(path, trust, report)
    except DamageError as damage:
        report.verdict = Verdict.REFUSED
        report.reason, report.place = damage.reason, damage.place
    except OSError as error:
        report.verdict = Verdict.CANNOT_RUN
        report.reason = error.strerror or str(error)
        report.place = str(error.filename or path)
    else:
        report.conclude()
    return report


def _read(path: Path, size_max: int) -> bytes:
    """At most one byte more than `size_max`, which the parser then refuses."""
    with path.open("rb") as file:
        return file.read(size_max + 1)


# --- the proof of one record --------------------------------------------------------


def _check_file(path: Path, trust: Trust, report: Report) -> None:
    content = _read(path, proofs.PROOF_SIZE_MAX)
    if receipts.is_receipt(content) and trust.device_key is None:
        with _blame(path.name):
            check_receipt(content, path.name, trust, report)
    elif not proofs.is_consistency(content):
        _check_proof(content, path.name, trust, report)
    elif trust.device_key is None:
        _check_consistency(content, path.name, trust, report)
    else:
        report.verdict, report.reason = Verdict.CANNOT_RUN, _NO_READING


def _check_proof_file(path: Path, trust: Trust, report: Report) -> None:
    content = _read(path, proofs.PROOF_SIZE_MAX)
    _check_proof(content, path.name, trust, report)


def _check_proof(content: bytes, place: str, trust: Trust, report: Report) -> None:
    with _blame(place):
        proof = proofs.parse_proof(content)
        if proof.extra is None:
            raise RejectError("no line `extra`, so it does not say what it proves")
        inner = proofs.decode_extra(proof.extra)
        batch = proofs.check_batch(inner)
        checkpoint = open_checkpoint(proof.checkpoint, trust, place, report)
        report.describe(checkpoint.origin, checkpoint.size, checkpoint.root)
        root = proofs.root_of_log(proof, inner.entry, checkpoint.size)
        if root != checkpoint.root:
            raise RejectError("the path does not lead to the checkpoint's root")
        name = f"{batch.boot_id.hex()[:12]}-{batch.number}-{inner.leaf_index}"
        at = shown_time(batch.time_ms)
        report.facts.append(f"entry   {proof.index}, a batch of {at}")
        report.facts.append(f"leaf    {name}, hash {inner.leaf_hash.hex()}")
        enrolled = _enrolled_key(inner, proof.index, checkpoint)
        _check_record(inner, enrolled, trust.device_key, report)


@contextmanager
def _blame(place: str) -> Iterator[None]:
    """A refusal in here is damage at `place`, unless it names a place itself."""
    try:
        yield
    except DamageError:
        raise
    except RejectError as error:
        raise DamageError(place, str(error)) from error


def _enrolled_key(
    inner: BatchProof, index: int, checkpoint: Checkpoint
) -> bytes | None:
    """The key that the ledger itself has for the device, if the proof shows it."""
    if inner.enrolment is None:
        return None
    size, root = checkpoint.size, checkpoint.root
    return proofs.check_enrolment(inner.enrolment, index, size, root)


def _check_record(
    inner: BatchProof, enrolled: bytes | None, pinned: bytes | None, report: Report
) -> None:
    if inner.record is None:
        report.facts.append("record  not disclosed")
        if pinned:
            report.device_lacks = "the record is not disclosed"
        return
    record = _decode_record(inner.record)
    kind = record.kind.name.lower()
    by = f" of {record.device}" if record.device is not None else ""
    at = shown_time(record.received_ms)
    report.facts.append(f"record  {kind}{by}, received {at}")
    if record.attestation is Attestation.DEVICE:
        since = None if inner.enrolment is None else inner.enrolment.index
        signature = _check_signature(record, enrolled, pinned, since)
        report.facts.append(f"device signature: {signature}")
        if enrolled is None and pinned is None:
            report.device_lacks = (
                "no key pinned with --device-key, and no enrolment in the proof"
            )
        return
    if enrolled:
        raise RejectError("extra: field 8, but no device signed this record")
    if record.kind is Kind.READING:
        report.facts.append(
            "device signature: none, the gateway vouches for receiving it"
        )
    if pinned:
        report.device_lacks = "no device signed this record"


def _decode_record(content: bytes) -> Record:
    """The record, if every value is one that docs/ledger-format.md section 3 knows."""
    record = Record.decode(content)
    if record.encode() != content:
        raise RejectError("record: not in its one encoding")
    if not 0 <= record.received_ms <= TIME_MAX_MS:
        raise RejectError("record: field 4 is not a time")
    if record.link not in _LINKS:
        raise RejectError("record: field 6 is not a link")
    if int(record.flags) > _FLAGS_MAX:
        raise RejectError("record: field 7 has a flag that is unknown")
    if record.assignment is not None and len(record.assignment) != ID_SIZE:
        raise RejectError(f"record: field 8 is not {ID_SIZE} bytes")
    if record.address is not None and len(record.address) != _ADDRESS_SIZE:
        raise RejectError(f"record: field 10 is not {_ADDRESS_SIZE} bytes")
    return record


def _check_signature(
    record: Record, enrolled: bytes | None, pinned: bytes | None, since: int | None
) -> str:
    """What is known of the device's signature; RejectError where it is not good."""
    if record.kind is not Kind.READING:
        raise RejectError("record: what is no reading claims a device's signature")
    signed = signed_original(record)
    key = pinned or enrolled
    if key is None:
        return "not checked (no key pinned)"
    signed.check(key)
    if enrolled is None:
        return "good, by the pinned key"
    if enrolled != key:
        raise RejectError("extra: field 8 enrols another key than the pinned one")
    whose = "by the pinned key, which stands" if pinned else "its key stands"
    return f"good, {whose} in the ledger since entry {since}"


# --- consistency --------------------------------------------------------------------


def _check_consistency_file(path: Path, trust: Trust, report: Report) -> None:
    content = _read(path, proofs.PROOF_SIZE_MAX)
    _check_consistency(content, path.name, trust, report)


def _check_consistency(
    content: bytes, place: str, trust: Trust, report: Report
) -> None:
    with _blame(place):
        proof = proofs.parse_consistency(content)
        older = open_checkpoint(proof.older, trust, place, report, "earlier: ")
        newer = open_checkpoint(proof.newer, trust, place, report, "later: ")
        report.describe(newer.origin, newer.size, newer.root)
        if older.origin != newer.origin:
            raise RejectError(f"earlier: checkpoint of another log, {older.origin}")
        tlog.check_consistency(
            older.size, newer.size, older.root, newer.root, proof.path
        )
        root = b64encode(older.root).decode()
        report.facts.append(f"continues size {older.size}, root {root}")


# --- the command --------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, print the report, return the exit status."""
    options = _parser().parse_args(arguments)
    report = _report(options)
    for line in report.lines():
        print(line)
    return int(report.verdict)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iomt verify",
        description="Check a ledger directory, a .tlog-proof, a consistency proof or a "
        "device's receipt, offline.",
        epilog="exit status: 0 verified, 1 refused, 2 cannot run, 3 not enough",
    )
    parser.add_argument(
        "path", metavar="PATH", help="a ledger directory, a proof or a receipt"
    )
    parser.add_argument("--vkey", help="the log's key, as `iomt ledger vkey` prints it")
    parser.add_argument(
        "--policy", metavar="F", help="a tlog-policy file: logs, witnesses, quorum"
    )
    parser.add_argument(
        "--device-key",
        metavar="K",
        help="the device's public key: 64 hex digits, or a file with them or with PEM",
    )
    return parser


def _report(options: argparse.Namespace) -> Report:
    path = Path(options.path)
    policy, device_key = None, None
    try:
        if options.policy is not None:
            what, place = "the policy that was given", options.policy
            policy = parse_policy(_read(Path(place), POLICY_SIZE_MAX))
        if options.device_key is not None:
            what, place = "the device's key that was given", ""
            device_key = _read_device_key(options.device_key)
    except RejectError as error:
        return Report(Verdict.CANNOT_RUN, f"{what}: {error}", place)
    except OSError as error:
        reason = f"{what}: {error.strerror or error}"
        return Report(Verdict.CANNOT_RUN, reason, str(error.filename or place))
    if not path.is_dir():
        return verify_file(path, options.vkey, policy, device_key)
    if device_key is not None:
        return Report(Verdict.CANNOT_RUN, _NO_READING)
    return verify_directory(path, options.vkey, policy)


def _read_device_key(given: str) -> bytes:
    """The key in this text or in the file that it names."""
    if device_keys.HEX_KEY.fullmatch(given):
        return device_keys.parse(given)
    content = _read(Path(given), KEY_FILE_SIZE_MAX)
    if len(content) > KEY_FILE_SIZE_MAX:
        raise RejectError(f"a file of more than {KEY_FILE_SIZE_MAX} bytes")
    return device_keys.parse(content.decode("ascii", "replace"))


if __name__ == "__main__":
    sys.exit(main())
