"""A device gets a new signing key: what the old one signed stays provable."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from fronts import front
from processes import run
from test_device_identity import do, redeem, request_of, secure
from workbench import (
    Mailbox,
    SignedDevice,
    a_ward,
    make_gateway,
    reader_of,
    readings_of,
    vkey,
)

from edge import cli
from edge.devices.registry import Device, DeviceKind
from edge.errors import ConfigurationError, Reason
from edge.gateway import Core
from edge.ledger.batch import DeviceEnrolment, DeviceKey, decode_entry
from edge.ledger.verify import Verdict, verify_directory, verify_proof
from edge.model import Attestation
from edge.model import Verdict as Answer
from edge.rekeying import GRACE_MAX_H, HOUR_MS
from edge.store import custody, device_keys, epochs

NODE = os.environ.get("IOMT_NODE") or shutil.which("node")
CLI = Path(__file__).parents[2] / "verifier" / "cli.mjs"
NEW_SEED = bytes(range(1, 33))


def old_and_new() -> tuple[SignedDevice, SignedDevice]:
    """One device with its key of before, and with the one after it."""
    return SignedDevice("pump"), SignedDevice("pump", NEW_SEED, sequence=100)


async def roll(core: Core, device: SignedDevice, grace_h: int = 1) -> int:
    operation = core.administration.operations["device-key"]
    until_ms = await operation(
        name=device.name, public_key=device.public_key, grace_h=grace_h
    )
    assert isinstance(until_ms, int)
    return until_ms


async def verdicts(
    path: Path, key: str, pinned: str = ""
) -> tuple[Verdict, int | None]:
    """Of the verifier in Python, and the exit status of the one in JavaScript."""
    device_key = bytes.fromhex(pinned) if pinned else None
    if path.is_dir():
        report = verify_directory(path, key)
    else:
        report = verify_proof(path, key, device_key=device_key)
    if NODE is None or pinned:
        return report.verdict, None
    second = await run(NODE, "--no-warnings", str(CLI), str(path), "--vkey", key)
    return report.verdict, second.status


GOOD = (Verdict.OK, 0 if NODE else None)


async def test_a_key_that_leaked_opens_no_connection_either(tmp_path: Path) -> None:
    """Its certificate is for the key that the device signed with."""
    settings = secure(tmp_path)
    old, new = old_and_new()
    key = ed25519.Ed25519PrivateKey.from_private_bytes(old.seed)
    another = ed25519.Ed25519PrivateKey.from_private_bytes(new.seed)
    closed: list[str] = []
    async with front(settings) as door:
        core = door.running.core
        row = await do(door, "device-enrol", device="pump")
        status, answer = await redeem(row, request_of(key))
        assert status == 200
        shown = x509.load_pem_x509_certificate(answer["certificate"].encode())
        octets = shown.public_bytes(Encoding.DER)
        core.identities.on_change.append(closed.append)
        assert core.identities.identify("", b"", octets) == ("device", "pump")
        assert core.identities.identify("pump", b"", octets) == ("device", "pump")
        assert core.identities.identify("monitor", b"", octets) is None
        await roll(core, new, grace_h=1)
        assert core.identities.identify("", b"", octets) == ("device", "pump")
        assert closed == []
        await roll(core, SignedDevice("pump", bytes(range(2, 34))), grace_h=0)
        assert core.identities.identify("", b"", octets) is None
        assert closed == ["pump"]
        row = await do(door, "device-enrol", device="pump", grace_h=0)
        status, answer = await redeem(row, request_of(another))
        assert (status, "before" in answer["error"]) == (403, True)
    async with front(settings) as door:
        assert door.running.core.identities.identify("", b"", octets) is None


async def test_old_envelopes_are_proven_by_the_old_key_and_new_ones_by_the_new(
    tmp_path: Path,
) -> None:
    """By both verifiers, from the ledger alone, and with a key pinned."""
    settings = make_gateway(tmp_path / "g")
    old, new = old_and_new()
    async with a_ward(settings) as (core, mail):
        await core.administration.add_device("pump", "signed", old.public_key)
        assert (await mail.send("pump", old.envelope())).verdict is Answer.COMMITTED
        await roll(core, new)
        for one in (new, old, new):  # the old key within its grace
            outcome = await mail.send("pump", one.envelope())
            assert outcome.verdict is Answer.COMMITTED, outcome
    reader, key = reader_of(settings), vkey(settings)
    for reading, signer, other in zip(
        readings_of(settings), (old, new, old, new), (new, old, new, old), strict=True
    ):
        path = tmp_path / "one.tlog-proof"
        path.write_bytes(reader.prove(reading.reading_id(0), disclose=True))
        assert await verdicts(path, key) == GOOD
        assert await verdicts(path, key, signer.public_key) == (Verdict.OK, None)
        assert await verdicts(path, key, other.public_key) == (Verdict.REFUSED, None)
        links = custody.custody(reader, settings.keys, reading.reading_id(0), None)
        assert all(one.result is not custody.Result.BROKEN for one in links), links
    reader.export(tmp_path / "log")
    assert await verdicts(tmp_path / "log", key) == GOOD


async def test_the_old_key_is_refused_after_its_grace_also_after_a_restart(
    tmp_path: Path,
) -> None:
    settings = make_gateway(tmp_path / "g")
    old, new = old_and_new()
    async with a_ward(settings) as (core, mail):
        await core.administration.add_device("pump", "signed", old.public_key)
        await roll(core, new)
    async with a_ward(settings) as (core, mail):  # what it knows, it read again
        device = core.registry.find("pump")
        assert device is not None
        assert (await mail.send("pump", old.envelope())).verdict is Answer.COMMITTED
        assert (await mail.send("pump", new.envelope())).verdict is Answer.COMMITTED
        kept = old.envelope()
        later_ms = device.former_until_ms - core.intake.now_ms()
        assert HOUR_MS // 2 < later_ms <= HOUR_MS
        await roll(core, SignedDevice("pump", bytes(32)), grace_h=0)
        for late in (kept, new.envelope()):  # of the key before, and of the one before
            outcome = await mail.send("pump", late)
            assert outcome.reason is Reason.BAD_SIGNATURE, outcome
            assert "of before is good no more" in outcome.detail or late is kept


async def test_what_is_no_new_key_changes_nothing(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "g")
    old, new = old_and_new()
    async with a_ward(settings) as (core, mail):
        await core.administration.add_device("pump", "signed", old.public_key)
        await core.administration.add_device("scale", "unsigned")
        operation = core.administration.operations["device-key"]
        for name, key, grace_h, words in (
            ("pump", old.public_key, 1, "signs with it"),
            ("pump", "00" * 32, 1, "public key: "),
            ("pump", "no", 1, "not hexadecimal"),
            ("pump", new.public_key, -1, "grace: 0 to"),
            ("pump", new.public_key, GRACE_MAX_H + 1, "grace: 0 to"),
            ("scale", new.public_key, 1, "signs nothing"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                await operation(name=name, public_key=key, grace_h=grace_h)
        assert (await mail.send("pump", old.envelope())).verdict is Answer.COMMITTED
        await roll(core, new)
        with pytest.raises(ConfigurationError, match="did so before"):
            await roll(core, old)


async def test_two_changes_of_one_key_at_once_are_one(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "g")
    old, new = old_and_new()
    other = SignedDevice("pump", bytes(32))
    async with a_ward(settings) as (core, _):
        await core.administration.add_device("pump", "signed", old.public_key)
        both = await asyncio.gather(
            roll(core, new), roll(core, other), return_exceptions=True
        )
        assert [type(one) for one in both] == [int, ConfigurationError]
        device = core.registry.find("pump")
        assert device is not None
        assert device.public_key == bytes.fromhex(new.public_key)


async def test_a_claim_gives_a_device_its_new_key_at_the_enrolment_door(
    tmp_path: Path,
) -> None:
    settings = secure(tmp_path / "g")
    key = ed25519.Ed25519PrivateKey.from_private_bytes(NEW_SEED)
    old, new = old_and_new()
    async with front(settings) as door:
        core = door.running.core
        mail = Mailbox(core)
        await core.administration.add_device("pump", "signed", old.public_key)
        row = await do(door, "device-enrol", device="pump")
        status, answer = await redeem(row, request_of(key))
        assert (status, "not the one" in answer["error"]) == (403, True)
        row = await do(door, "device-enrol", device="pump", grace_h=0)
        present = ed25519.Ed25519PrivateKey.from_private_bytes(old.seed)
        status, answer = await redeem(row, request_of(present))
        assert (status, "signs with it" in answer["error"]) == (403, True)
        status, answer = await redeem(row, request_of(key))  # not used up by that
        assert status == 200, answer
        outcome = await mail.send("pump", old.envelope())
        assert outcome.reason is Reason.BAD_SIGNATURE
        assert (await mail.send("pump", new.envelope())).verdict is Answer.COMMITTED


async def test_the_command_says_until_when_the_old_key_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = make_gateway(tmp_path / "g")
    old, new = old_and_new()

    def iomt(*words: str) -> int:
        return cli.main([*words, "--config", str(tmp_path / "g" / "iomt.toml")])

    for number, one in enumerate((old, new)):
        (tmp_path / f"{number}.pub").write_text(one.public_key)
    add = ("device", "add", "pump", "--key", str(tmp_path / "0.pub"))
    change = ("device", "key", "pump", "--key", str(tmp_path / "1.pub"))
    assert await asyncio.to_thread(iomt, *add) == 0
    assert await asyncio.to_thread(iomt, *change, "--grace", "2") == 0
    assert "the old one is taken until 20" in capsys.readouterr().out
    assert await asyncio.to_thread(iomt, *change) == 2  # it is its key already
    device = reader_of(settings).registry().find("pump")
    assert device is not None
    assert device.former_key == bytes.fromhex(old.public_key)


def test_a_later_epoch_has_the_key_within_its_grace_and_the_new_one() -> None:
    """In the order that makes a verifier take both; without grace the new one alone."""
    old, new = (bytes.fromhex(one.public_key) for one in old_and_new())
    device = Device(1, "pump", bytes(16), DeviceKind.SIGNED, new)
    device = replace(device, former_key=old, former_until_ms=500)
    for now_ms, expected in (
        (499, [DeviceEnrolment(bytes(16), 499, Attestation.DEVICE, old),
               DeviceKey(bytes(16), 499, new, 500)]),
        (500, [DeviceEnrolment(bytes(16), 500, Attestation.DEVICE, new)]),
    ):  # fmt: skip
        entries = epochs.enrolled_again(device, now_ms)
        assert [decode_entry(one) for one in entries] == expected


async def test_the_old_key_ends_with_its_entry_and_not_when_that_is_durable(
    tmp_path: Path,
) -> None:
    """A leaked key signs nothing that comes after the entry which ends it."""
    settings = make_gateway(tmp_path / "g")
    old, new = old_and_new()
    async with a_ward(settings) as (core, mail):
        await core.administration.add_device("pump", "signed", old.public_key)
        core.intake.before_commit.append(lambda: lambda _: time.sleep(0.2))
        rolling = asyncio.create_task(roll(core, new, grace_h=0))
        await asyncio.sleep(0)  # it has happened, and its commit is under way
        leaked = mail.submit("pump", old.envelope())
        fresh = mail.submit("pump", new.envelope())
        assert not rolling.done()
        assert (await leaked).reason is Reason.BAD_SIGNATURE
        assert (await fresh).verdict is Answer.COMMITTED
        await rolling


async def test_of_three_keys_the_last_two_are_good_also_after_a_restart(
    tmp_path: Path,
) -> None:
    settings = make_gateway(tmp_path / "g")
    first, second = old_and_new()
    third = SignedDevice("pump", bytes(32), sequence=200)
    async with a_ward(settings) as (core, _):
        await core.administration.add_device("pump", "signed", first.public_key)
        for one in (second, third):
            await roll(core, one)
    async with a_ward(settings) as (core, mail):
        for one, reason in (
            (first, Reason.BAD_SIGNATURE),  # within its hour, and superseded twice
            (second, None),
            (third, None),
        ):
            assert (await mail.send("pump", one.envelope())).reason is reason
        device = core.registry.find("pump")
        assert device is not None
        ends = [
            one.until_ms
            for one in device_keys.keys_of(core.reader.connection, device.id)
        ]
        assert ends[1:] == [device.former_until_ms, None]
        assert ends[0] is not None
        assert ends[0] <= core.intake.now_ms()
