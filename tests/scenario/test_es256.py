"""Devices whose secure element has no Ed25519: ES256, from envelope to proof."""

from __future__ import annotations

import os
import shutil
import time
from decimal import Decimal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from processes import run
from workbench import SignedDevice, a_ward, make_gateway, reader_of, readings_of, vkey

from edge.devices import es256
from edge.devices.envelope import build
from edge.devices.metrics import make_reading
from edge.errors import ConfigurationError, Reason
from edge.ledger import p256
from edge.ledger.device_key import EDDSA, ES256, kid_of
from edge.ledger.verify import Verdict, verify_proof
from edge.model import Attestation
from edge.model import Verdict as Answer

NODE = os.environ.get("IOMT_NODE") or shutil.which("node")
CLI = Path(__file__).parents[2] / "verifier" / "cli.mjs"
PRIVATE = ec.derive_private_key(0xC0FFEE, ec.SECP256R1())
KEY = PRIVATE.public_key().public_bytes(
    serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
)


def sign(message: bytes) -> bytes:
    r, s = decode_dss_signature(PRIVATE.sign(message, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def envelope(sequence: int, algorithm: int = ES256, kid: bytes = b"") -> bytes:
    now_ms = time.time_ns() // 1_000_000
    return build(
        *("secure", "vitals", sequence, now_ms),
        [make_reading(now_ms, {"heart_rate": Decimal(71)}, {})],
        kid=kid or kid_of(KEY),
        sign=sign,
        algorithm=algorithm,
    )


async def test_a_reading_by_es256_is_proved_to_be_the_devices_own(
    tmp_path: Path,
) -> None:
    """By both verifiers, with the enrolment in the proof or the key pinned."""
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, mail):
        await core.administration.add_device("secure", "signed", KEY.hex())
        outcome = await mail.send("secure", envelope(0))
        assert outcome.verdict is Answer.COMMITTED, outcome
        again = await mail.send("secure", envelope(0))
        assert again.reason is Reason.EQUIVOCATION  # ECDSA signs otherwise each time
    [reading] = readings_of(settings)
    assert reading.record.attestation is Attestation.DEVICE
    proof = reader_of(settings).prove(reading.reading_id(0), disclose=True)
    path = tmp_path / "one.tlog-proof"
    path.write_bytes(proof)
    key = vkey(settings)
    for pinned in (None, KEY):
        assert verify_proof(path, key, device_key=pinned).verdict is Verdict.OK
    other = ec.derive_private_key(7, ec.SECP256R1()).public_key()
    wrong = other.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    for pinned in (wrong, bytes.fromhex(SignedDevice("monitor").public_key)):
        assert verify_proof(path, key, device_key=pinned).verdict is Verdict.REFUSED
    if NODE is not None:
        second = await run(NODE, "--no-warnings", str(CLI), str(path), "--vkey", key)
        assert second.status == 0, second
        assert "checked with its key in the ledger" in second.out
        spoilt = proof.replace(b"extra ", b"extra A", 1)
        path.write_bytes(spoilt)
        second = await run(NODE, "--no-warnings", str(CLI), str(path), "--vkey", key)
        assert second.status == 1


async def test_an_envelope_of_another_algorithm_or_a_bad_signature_is_refused(
    tmp_path: Path,
) -> None:
    async with a_ward(make_gateway(tmp_path)) as (core, mail):
        await core.administration.add_device("secure", "signed", KEY.hex())
        spoilt = bytearray(envelope(1))
        spoilt[-1] ^= 1
        for message in (envelope(0, EDDSA), bytes(spoilt), envelope(2, kid=bytes(8))):
            outcome = await mail.send("secure", message)
            assert outcome.reason is Reason.BAD_SIGNATURE
        assert (await mail.send("secure", envelope(3))).verdict is Answer.COMMITTED


@pytest.mark.parametrize(
    "key", [KEY[:-1], b"\x02" + KEY[1:], KEY[:-1] + bytes([KEY[-1] ^ 1]), bytes(65)]
)
async def test_a_key_that_is_no_point_is_not_enrolled(
    tmp_path: Path, key: bytes
) -> None:
    async with a_ward(make_gateway(tmp_path)) as (core, _):
        with pytest.raises(ConfigurationError, match="public key"):
            await core.administration.add_device("secure", "signed", key.hex())


def test_the_gateways_answer_is_the_auditors() -> None:
    for number in range(20):
        message = b"%d" % number
        signature = bytearray(sign(message))
        assert es256.verify(KEY, message, bytes(signature))
        assert p256.verify(KEY, message, bytes(signature))
        signature[number] ^= 1
        assert not es256.verify(KEY, message, bytes(signature))
        assert not p256.verify(KEY, message, bytes(signature))
    for r, s in ((0, 1), (1, 0), (p256.N, 1), (1, p256.N)):
        nothing = r.to_bytes(32) + s.to_bytes(32)
        assert not es256.verify(KEY, b"", nothing)
        assert not p256.verify(KEY, b"", nothing)
