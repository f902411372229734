"""`iomt verify` of proof files: of one record, of its device, and of consistency."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ledger_files
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edge import cbor
from edge.devices import envelope
from edge.errors import RejectError
from edge.ledger import attestation, batch, device_key, proof, tlog, verify
from edge.ledger.device_key import kid_of
from edge.ledger.verify import Verdict
from edge.model import Attestation, Kind, Record

VECTORS = Path(__file__).parents[1] / "vectors" / "ledger"
VKEY = ledger_files.VERIFIER.vkey
DEVICE_KEY = ledger_files.DEVICE_PUBLIC_KEY
ENTRIES = [one.encode() for one in ledger_files.sample_entries(300)]


def batch_of(root: bytes) -> batch.Batch:
    return batch.Batch(
        bytes(16), 0, ledger_files.STARTED_MS, synchronised=True, root=root
    )


@pytest.mark.parametrize("name", ["closed", "disclosed"])
def test_the_vectors_proofs_are_verified(name: str) -> None:
    path = VECTORS / f"{name}.tlog-proof"
    report = verify.verify_proof(path, VKEY)
    assert report.verdict is Verdict.OK
    assert (report.origin, report.size) == (ledger_files.ORIGIN, 300)
    entry = batch.decode_entry(ENTRIES[270])
    assert isinstance(entry, batch.Batch)
    name_of_leaf = f"{entry.boot_id.hex()[:12]}-{entry.number}-1"
    assert any(name_of_leaf in line for line in report.lines())
    assert verify.verify_proof(path).verdict is Verdict.NOT_ENOUGH


@pytest.mark.parametrize("name", ["closed", "disclosed"])
def test_a_flipped_byte_anywhere_in_a_proof_is_refused(
    name: str, tmp_path: Path
) -> None:
    """The enrolment, the record and the device's signature among them."""
    content = (VECTORS / f"{name}.tlog-proof").read_bytes()
    path = tmp_path / "proof"
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        report = verify.verify_proof(path, VKEY)
        assert report.verdict is Verdict.REFUSED, (at, report.lines())
        assert report.place == "proof"
    for changed_size in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:changed_size])
        assert verify.verify_proof(path, VKEY).verdict is Verdict.REFUSED


def test_the_proof_of_another_entry_is_refused(tmp_path: Path) -> None:
    """Every part is genuine, but they do not belong together."""
    one = proof.parse_proof((VECTORS / "disclosed.tlog-proof").read_bytes())
    content = ledger_files.sample_proof(ENTRIES, 271, 1, True, enrolment=True)
    other = proof.parse_proof(content)
    path = tmp_path / "proof"
    path.write_bytes(content)
    assert verify.verify_proof(path, VKEY).verdict is Verdict.OK
    for mixed in (
        replace(one, extra=other.extra),
        replace(one, index=other.index),
        replace(one, path=other.path),
        replace(one, checkpoint=ledger_files.signed_checkpoint(299, bytes(32))),
        replace(one, extra=None),
    ):
        path.write_bytes(mixed.encode())
        assert verify.verify_proof(path, VKEY).verdict is Verdict.REFUSED


def test_a_record_that_is_none_is_refused_though_it_was_committed(
    tmp_path: Path,
) -> None:
    """A gateway can commit to anything; the proof shall not call it a record."""
    salt = bytes(16)
    leaf = batch.batch_leaf(salt, b"no record")
    entry = batch_of(leaf).encode()
    extra = proof.BatchProof(entry, 0, (), leaf, salt, b"no record").encode()
    checkpoint = ledger_files.signed_checkpoint(1, tlog.leaf_hash(entry))
    path = tmp_path / "proof"
    path.write_bytes(proof.LogProof(0, (), checkpoint, extra).encode())
    assert verify.verify_proof(path, VKEY).verdict is Verdict.REFUSED


def test_what_a_disclosed_record_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    salt = bytes(16)
    record = Record(
        Kind.READING, 2**63 - 1, b"", "\x1b[2J", attestation=Attestation.GATEWAY
    )
    leaf = batch.batch_leaf(salt, record.encode())
    entry = batch_of(leaf).encode()
    extra = proof.BatchProof(entry, 0, (), leaf, salt, record.encode()).encode()
    checkpoint = ledger_files.signed_checkpoint(1, tlog.leaf_hash(entry))
    path = tmp_path / "proof"
    path.write_bytes(proof.LogProof(0, (), checkpoint, extra).encode())
    report = verify.verify_proof(path, VKEY)
    assert report.verdict is Verdict.OK
    assert all(line.isprintable() for line in report.lines())
    assert any("vouches for receiving" in line for line in report.lines())


# --- the device's signature ---------------------------------------------------------

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes([9] * 32))
OTHER_PUBLIC_KEY = OTHER_KEY.public_key().public_bytes_raw()
GOOD = Record.decode(ledger_files.sample_record(270, 1))
PARTS = cbor.decode(GOOD.original)


def proof_of(
    record: Record | bytes,
    directory: Path,
    *,
    enrolled: bytes | None = None,
    salt: bytes = bytes(16),
) -> Path:
    """A genuine proof of whatever record, in a log of an enrolment and a batch."""
    content = record if isinstance(record, bytes) else record.encode()
    leaf = batch.batch_leaf(salt, content)
    enrolment = batch.DeviceEnrolment(
        bytes(16), ledger_files.STARTED_MS, Attestation.DEVICE, enrolled or DEVICE_KEY
    ).encode()
    entry = batch_of(leaf).encode()
    hashes = [tlog.leaf_hash(enrolment), tlog.leaf_hash(entry)]
    extra = proof.BatchProof(
        entry=entry,
        leaf_index=0,
        path=(),
        leaf_hash=leaf,
        salt=salt,
        record=content,
        enrolment=None
        if enrolled is None
        else proof.EnrolmentProof(0, (hashes[1],), enrolment),
    )
    checkpoint = ledger_files.signed_checkpoint(2, tlog.tree_root(hashes))
    made = proof.LogProof(1, (hashes[0],), checkpoint, extra.encode())
    path = directory / "one.tlog-proof"
    path.write_bytes(made.encode())
    return path


def test_the_enrolment_in_the_proof_vouches_for_the_devices_key() -> None:
    report = verify.verify_proof(VECTORS / "disclosed.tlog-proof", VKEY)
    assert report.verdict is Verdict.OK
    lines = report.lines()
    assert "record  reading of monitor-7, received 2026-09-21T14:17:50.000Z" in lines
    assert "device signature: good, its key stands in the ledger since entry 2" in lines
    assert lines[-1] == "VERIFIED"


def test_a_pinned_key_vouches_for_the_device_without_an_enrolment(
    tmp_path: Path,
) -> None:
    path = proof_of(GOOD, tmp_path)
    report = verify.verify_proof(path, VKEY, device_key=DEVICE_KEY)
    assert report.verdict is Verdict.OK
    assert "device signature: good, by the pinned key" in report.lines()


def test_without_a_key_for_the_device_the_answer_is_not_enough(tmp_path: Path) -> None:
    """The log part is verified, and the line says so; who sent it is left open."""
    report = verify.verify_proof(proof_of(GOOD, tmp_path), VKEY)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert report.lines()[-1] == (
        "NOT ENOUGH: log: verified; device: not enough "
        "(no key pinned with --device-key, and no enrolment in the proof)"
    )
    assert "device signature: not checked (no key pinned)" in report.lines()
    report = verify.verify_proof(proof_of(GOOD, tmp_path))
    assert report.verdict is Verdict.NOT_ENOUGH
    assert report.reason.startswith("log: not enough (all is consistent")
    assert "; device: not enough (" in report.reason


def test_the_device_may_be_known_where_the_log_is_not(tmp_path: Path) -> None:
    report = verify.verify_proof(proof_of(GOOD, tmp_path), device_key=DEVICE_KEY)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert "device signature: good, by the pinned key" in report.lines()
    assert "device" not in report.reason
    assert "--vkey" in report.reason


def test_another_pinned_key_refuses_the_proof(tmp_path: Path) -> None:
    for path in (proof_of(GOOD, tmp_path), VECTORS / "disclosed.tlog-proof"):
        report = verify.verify_proof(path, VKEY, device_key=OTHER_PUBLIC_KEY)
        assert report.verdict is Verdict.REFUSED
        assert "the device's signature is by another key" in report.reason


def test_another_enrolled_key_refuses_the_proof(tmp_path: Path) -> None:
    """A gateway cannot pass one device's reading off as another's."""
    path = proof_of(GOOD, tmp_path, enrolled=OTHER_PUBLIC_KEY)
    report = verify.verify_proof(path, VKEY)
    assert report.verdict is Verdict.REFUSED
    assert "the device's signature is by another key" in report.reason
    report = verify.verify_proof(path, VKEY, device_key=DEVICE_KEY)
    assert report.verdict is Verdict.REFUSED
    assert "field 8 enrols another key than the pinned one" in report.reason


def original(
    protected: object = None,
    unprotected: object = None,
    payload: object = None,
    signature: object = None,
    tag: int = 18,
) -> bytes:
    """The good envelope with parts of it replaced."""
    assert isinstance(PARTS, cbor.Tag)
    assert isinstance(PARTS.value, list)
    parts = zip(PARTS.value, (protected, unprotected, payload, signature), strict=True)
    items = [old if new is None else new for old, new in parts]
    return cbor.encode(cbor.Tag(tag, items))


HEADER = b"\xa2\x01\x27\x04\x48" + kid_of(DEVICE_KEY)
UNSIGNED = b"[{}]"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"original": original(signature=bytes(64))}, "signature is wrong"),
        ({"original": original(signature=bytes(63))}, "signature of 63 bytes"),
        ({"original": original(signature="s" * 64)}, "not a device's signed envelope"),
        ({"original": original(tag=17)}, "not a device's signed envelope"),
        ({"original": original(unprotected={1: 2})}, "not a device's signed envelope"),
        ({"original": original(unprotected=[])}, "not a device's signed envelope"),
        ({"original": original(payload="text")}, "not a device's signed envelope"),
        ({"original": cbor.encode(cbor.Tag(18, [1, 2, 3, 4, 5]))}, "signed envelope"),
        ({"original": cbor.encode(cbor.Tag(18, "text"))}, "signed envelope"),
        ({"original": original()[1:]}, "not a device's signed envelope"),
        ({"original": original() + b"\0"}, "after the end"),
        ({"original": b"[{}]"}, ""),
        ({"original": b""}, "ends early"),
        ({"original": original(protected=HEADER + b"\0")}, "header is not"),
        ({"original": original(protected=HEADER[:-1])}, "header is not"),
        ({"original": original(protected=b"\xa2\x01\x25" + HEADER[3:])}, "header is"),
        ({"original": original(protected=HEADER[:-8] + bytes(8))}, "by another key"),
        ({"original": original(payload=b"\x80")}, "payload is not a map"),
        ({"original": original(payload=b"\xa1")}, "ends early"),
        ({"original": original(payload=b"\xa0")}, "its device is not"),
        ({"original": original(payload=b"\xa0" * 65_536)}, "more than 65536 bytes"),
        ({"device": "monitor-8"}, "its device is not the signed envelope's"),
        ({"device": None}, "its device is not the signed envelope's"),
        ({"stream": "ecg"}, "its stream is not the signed envelope's"),
        ({"stream": None}, "its stream is not the signed envelope's"),
        ({"kind": Kind.COUNT}, "what is no reading claims a device's signature"),
    ],
)
def test_a_false_claim_of_a_devices_signature_is_refused(
    changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    """The gateway committed to it and the log is sound: the claim is still false."""
    path = proof_of(GOOD._replace(**changes), tmp_path)  # type: ignore[arg-type]
    report = verify.verify_proof(path, VKEY, device_key=DEVICE_KEY)
    assert report.verdict is Verdict.REFUSED, report.lines()
    assert reason in report.reason
    unchecked = "signature is wrong" in reason or "another key" in reason
    report = verify.verify_proof(path, VKEY)
    expected = Verdict.NOT_ENOUGH if unchecked else Verdict.REFUSED
    assert report.verdict is expected


def test_a_signature_of_another_purpose_is_none_of_a_reading(tmp_path: Path) -> None:
    """The same key over the same payload, as a receipt."""
    assert isinstance(PARTS, cbor.Tag)
    assert isinstance(PARTS.value, list)
    for aad, verdict in (
        (b"iomt/receipt/v1", Verdict.REFUSED),
        (b"iomt/reading/v1", Verdict.OK),
    ):
        signed = cbor.encode(["Signature1", HEADER, aad, PARTS.value[2]])
        changed = original(signature=ledger_files.DEVICE_KEY.sign(signed))
        path = proof_of(GOOD._replace(original=changed), tmp_path)
        report = verify.verify_proof(path, VKEY, device_key=DEVICE_KEY)
        assert report.verdict is verdict


def test_a_signature_under_another_algorithms_name_is_none(tmp_path: Path) -> None:
    """It is the key's over these very bytes, but they say that it is ES256's."""
    assert isinstance(PARTS, cbor.Tag)
    assert isinstance(PARTS.value, list)
    header = b"\xa2\x01\x26" + HEADER[3:]
    signed = cbor.encode(["Signature1", header, b"iomt/reading/v1", PARTS.value[2]])
    signature = ledger_files.DEVICE_KEY.sign(signed)
    changed = original(protected=header, signature=signature)
    path = proof_of(GOOD._replace(original=changed), tmp_path)
    report = verify.verify_proof(path, VKEY, device_key=DEVICE_KEY)
    assert report.verdict is Verdict.REFUSED
    assert "algorithm is not the key's" in report.reason


def test_the_auditors_reader_agrees_with_the_gateways() -> None:
    """Two readers of one format: what is signed must be the same bytes."""
    theirs = envelope.parse(GOOD.original)
    ours = attestation.signed_original(GOOD)
    assert (ours.kid, ours.signed_bytes, ours.signature) == (
        theirs.kid,
        theirs.signed_bytes,
        theirs.signature,
    )


GATEWAY_READING = GOOD._replace(attestation=Attestation.GATEWAY, original=UNSIGNED)
COUNT = Record(Kind.COUNT, ledger_files.STARTED_MS, b"\xa0")


@pytest.mark.parametrize("record", [GATEWAY_READING, COUNT])
def test_a_record_that_no_device_signed_needs_no_device_key(
    record: Record, tmp_path: Path
) -> None:
    """A pinned key asks for a signature, and there is none to check."""
    path = proof_of(record, tmp_path)
    assert verify.verify_proof(path, VKEY).verdict is Verdict.OK
    report = verify.verify_proof(path, VKEY, device_key=DEVICE_KEY)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert "device: not enough (no device signed this record)" in report.reason
    path = proof_of(record, tmp_path, enrolled=DEVICE_KEY)
    report = verify.verify_proof(path, VKEY)
    assert report.verdict is Verdict.REFUSED
    assert "field 8, but no device signed this record" in report.reason


def test_a_pinned_key_and_an_undisclosed_record_are_not_enough() -> None:
    path = VECTORS / "closed.tlog-proof"
    report = verify.verify_proof(path, VKEY, device_key=DEVICE_KEY)
    assert report.verdict is Verdict.NOT_ENOUGH
    assert report.reason == (
        "log: verified; device: not enough (the record is not disclosed)"
    )
    assert "record  not disclosed" in report.lines()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"received_ms": -1}, "4"),
        ({"received_ms": 2**63}, "4"),
        ({"link": "usb"}, "6"),
        ({"link": ""}, "6"),
        ({"flags": 64}, "7"),
        ({"assignment": bytes(15)}, "8"),
    ],
)
def test_a_record_with_a_value_that_nobody_defined_is_refused(
    changes: dict[str, object], field: str, tmp_path: Path
) -> None:
    """It could mean one thing to one reader and another to the next."""
    path = proof_of(GATEWAY_READING._replace(**changes), tmp_path)  # type: ignore[arg-type]
    report = verify.verify_proof(path, VKEY)
    assert report.verdict is Verdict.REFUSED
    assert f"record: field {field}" in report.reason


def test_a_record_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """All flags, said as -1, which Python would read as every flag there is."""
    fields = cbor.decode(GATEWAY_READING.encode())
    assert isinstance(fields, dict)
    path = proof_of(cbor.encode(fields | {7: -1}), tmp_path)
    report = verify.verify_proof(path, VKEY)
    assert report.verdict is Verdict.REFUSED
    assert "record: not in its one encoding" in report.reason
    assert verify.verify_proof(proof_of(cbor.encode(fields), tmp_path), VKEY).facts


def pem(key: Ed25519PrivateKey) -> str:
    public = key.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_device_key_is_hex_or_pem() -> None:
    key = ledger_files.DEVICE_KEY
    for text in (DEVICE_KEY.hex(), DEVICE_KEY.hex().upper() + "\n", pem(key)):
        assert device_key.parse(text) == DEVICE_KEY
    crlf = pem(key).replace("\n", "\r\n")
    assert device_key.parse(crlf) == DEVICE_KEY
    private = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    ).decode()
    x25519 = pem(key).replace("MCowBQYDK2Vw", "MCowBQYDK2Vu")
    for text, reason in (
        (DEVICE_KEY.hex()[1:], "not 64 or 130 hex digits"),
        ("", "not 64 or 130 hex digits"),
        (private, "belongs on the device alone"),
        (x25519, "neither of Ed25519"),
        (pem(key).replace("=", ""), "base64"),
        ("00" * 32, "a point of small order"),
        ("ff" * 32, "not in its canonical form|no point of the curve"),
    ):
        with pytest.raises(RejectError, match=reason):
            device_key.parse(text)


def test_the_command_takes_the_device_key_from_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(proof_of(GOOD, tmp_path))
    file = tmp_path / "device.pem"
    file.write_text(pem(ledger_files.DEVICE_KEY))
    for given in (str(file), DEVICE_KEY.hex()):
        assert verify.main([path, "--vkey", VKEY, "--device-key", given]) == 0
    file.write_text(pem(OTHER_KEY))
    assert verify.main([path, "--vkey", VKEY, "--device-key", str(file)]) == 1
    assert "by another key" in capsys.readouterr().out.splitlines()[-1]
