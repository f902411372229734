"""What a key, a copied disk, the ledger and the logs tell about the patients.

The ledger must hold no personal data; the store must open for the right key alone.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from workbench import Mailbox, SignedDevice, reader_of, trusted_clock

from edge import cbor
from edge.config import Settings
from edge.errors import IntegrityError
from edge.gateway import open_core
from edge.model import Arrival, Kind, Outcome, Source
from edge.store import vault
from edge.store.database import open_reader, rows
from edge.store.keys import episode_associated, frame_associated, patient_associated
from edge.store.reader import Reader
from edge.store.vault import load_keys

RUN_SIZE = 16
STRINGS_COUNT = 1000


async def four_patients(settings: Settings, rounds: int = 2) -> None:
    """Four patients, each with a device and readings in common batches."""
    devices = [SignedDevice(f"monitor-{one}") for one in range(4)]
    async with open_core(settings) as core:
        mail = Mailbox(core)
        for number, device in enumerate(devices):
            change = core.administration
            await change.add_patient(f"P-{number}")
            await change.add_device(device.name, "signed", device.public_key)
            await change.assign_device(device.name, f"P-{number}")
        await change.add_device("spare", "unsigned")
        for _ in range(rounds):
            await asyncio.gather(
                *(mail.submit(one.name, one.envelope(spo2=80)) for one in devices),
                mail.submit("spare", b'[{"n":"heart_rate","u":"/min","v":61}]'),
            )


def opened_with(settings: Settings, key: bytes) -> Counter[int]:
    """How many frames of each patient (0: the gateway) open with this holder's key.

    Every wrap is tried under every holder's name, so that the place in a row protects
    nobody.
    """
    connection = open_reader(settings.directory)
    episodes = rows(connection, "SELECT id, ref, patient, wrapped FROM episodes")
    holders = {patient for _, _, patient, _ in episodes}
    keys: list[tuple[bytes, bytes]] = []
    for (_, ref, _, wrapped), holder in itertools.product(episodes, holders):
        try:
            inner = vault.unseal(key, wrapped, episode_associated(ref, holder))
        except IntegrityError:
            continue
        keys.append((ref, inner))
    found: Counter[int] = Counter()
    for boot, number, class_, sealed, patient in rows(
        connection,
        "SELECT b.boot, b.number, f.class, f.sealed, e.patient FROM frames f "
        "JOIN batches b ON b.id = f.id >> 20 JOIN episodes e ON e.id = f.episode",
    ):
        for ref, inner in keys:
            associated = frame_associated(boot, number, ref, class_)
            try:
                vault.unseal(inner, sealed, associated)
            except IntegrityError:
                continue
            found[patient] += 1
    return found


async def test_a_patients_key_opens_that_patient_and_nobody_else(
    tmp_path: Path,
) -> None:
    """Over all pairs, the gateway's own frames included."""
    settings = trusted_clock(tmp_path)
    await four_patients(settings)
    connection = open_reader(settings.directory)
    master = load_keys(settings.keys).master
    holders = {
        id_: vault.unseal(master, wrapped, patient_associated(ref, "key"))
        for id_, ref, wrapped in rows(
            connection, "SELECT id, ref, wrapped FROM patients"
        )
    }
    assert len(holders) == 4
    frames = dict(
        rows(
            connection,
            "SELECT e.patient, COUNT(*) FROM frames f "
            "JOIN episodes e ON e.id = f.episode GROUP BY e.patient",
        )
    )
    for id_, key in holders.items():
        assert opened_with(settings, key) == {id_: frames[id_]}
    assert opened_with(settings, bytes(32)) == {}
    for (id_, key), (ref, name) in itertools.product(
        holders.items(), rows(connection, "SELECT ref, sealed_name FROM patients")
    ):
        mine = rows(connection, "SELECT ref FROM patients WHERE id = ?", (id_,))
        try:
            vault.unseal(key, name, patient_associated(ref, "name"))
        except IntegrityError:
            assert [(ref,)] != mine
        else:
            assert [(ref,)] == mine


async def test_a_copied_disk_without_the_master_key_gives_no_plaintext(
    tmp_path: Path,
) -> None:
    """Neither by the program with another key, nor by looking at the bytes."""
    settings = trusted_clock(tmp_path)
    await four_patients(settings)
    told = [one.record.original for one in reader_of(settings).records()]
    names = [f"P-{one}".encode() for one in range(4)]
    copy = tmp_path / "copy"
    shutil.copytree(settings.directory, copy, ignore=shutil.ignore_patterns("keys"))
    content = b"".join(one.read_bytes() for one in copy.rglob("*") if one.is_file())
    assert not [one for one in names if one in content]
    assert not [
        one for one in told if len(one) > RUN_SIZE and one[:RUN_SIZE] in content
    ]
    with pytest.raises(IntegrityError):
        Reader(copy, bytes(32))


async def test_no_nonce_comes_twice_over_restarts_and_a_restored_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs go on from one copy of the store: nothing depends on a counter."""
    settings = trusted_clock(tmp_path / "gateway")
    await four_patients(settings)
    copy = tmp_path / "copy"
    shutil.copytree(settings.directory, copy)
    restored = replace(settings, directory=copy, keys=copy / "keys")
    nonces: list[bytes] = []
    cipher = AESGCMSIV

    class Listening:
        def __init__(self, key: bytes) -> None:
            self._cipher = cipher(key)
            self.decrypt = self._cipher.decrypt

        def encrypt(self, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
            nonces.append(nonce)
            return self._cipher.encrypt(nonce, plain, associated)

    monkeypatch.setattr(vault, "AESGCMSIV", Listening)

    async def go_on(where: Settings) -> None:
        async with open_core(where) as core:
            mail = Mailbox(core)
            for one in range(4):
                device = SignedDevice(f"monitor-{one}", sequence=10)
                await mail.send(device.name, device.envelope(spo2=80))
            await mail.send("monitor-0", b"refused")
            await core.forgetting.merge_patients("P-0", "P-1")

    await go_on(settings)
    first = len(nonces)
    await go_on(restored)
    assert first > 10
    assert len(nonces) == 2 * first
    assert len(set(nonces)) == len(nonces)
    monkeypatch.setattr("edge.store.vault.os.urandom", bytes)
    vault.seal(bytes(32), b"", b"")
    vault.seal(bytes(32), b"", b"")
    assert len(set(nonces)) < len(nonces)  # the test can fail


def shared_runs(texts: list[bytes]) -> set[bytes]:
    """The runs of 16 bytes that stand in more than one of the texts."""
    seen: dict[bytes, int] = {}
    shared = set()
    for number, text in enumerate(texts):
        for at in range(len(text) - RUN_SIZE + 1):
            run = text[at : at + RUN_SIZE]
            if seen.setdefault(run, number) != number:
                shared.add(run)
    return shared


async def test_two_records_of_one_patient_share_no_run_of_bytes(tmp_path: Path) -> None:
    """The same message twice: what is stored and what is on the log has no likeness."""
    settings = trusted_clock(tmp_path)
    message = b'[{"n":"body_temperature","u":"Cel","v":36.7,"t":-60}]'
    async with open_core(settings) as core:
        await core.administration.add_patient("P-1")
        await core.administration.add_device("thermometer", "unsigned")
        await core.administration.assign_device("thermometer", "P-1")
        mail = Mailbox(core)
        for _ in range(8):
            await mail.send("thermometer", message)
            await asyncio.sleep(0.01)
    connection = open_reader(settings.directory)
    frames = [one for (one,) in rows(connection, "SELECT sealed FROM frames")]
    leaves = [
        leaves[at : at + 32]
        for (leaves,) in rows(connection, "SELECT leaves FROM batches")
        for at in range(0, len(leaves), 32)
    ]
    entries = rows(connection, "SELECT body, boot FROM batches")
    # A batch entry's constants: its head and the boot id, up to the batch's number.
    heads = {body[: body.index(boot) + len(boot)] for body, boot in entries}
    assert len(heads) == 1
    [head] = heads
    bodies = [body[len(head) :] for body, _ in entries]
    assert len(frames) > 16
    assert len(bodies) >= 8
    assert shared_runs([*frames, *leaves, *bodies]) == set()
    records = [one.record.encode() for one in reader_of(settings).records()]
    assert shared_runs(records)  # in the clear they are alike


def _distinctive(count: int) -> list[str]:
    """Strings of which none comes by chance, nor as a piece of another."""
    chance = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(chance.choice(letters) for _ in range(14)) for _ in range(count)]


async def test_a_thousand_strings_leave_no_trace_on_the_ledger_or_in_the_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Names, addresses, values and payload texts, through every kind of record."""
    caplog.set_level(logging.DEBUG, logger="edge")  # main() may have set it lower
    settings = trusted_clock(tmp_path / "gateway")
    strings = _distinctive(STRINGS_COUNT)
    words = iter(strings)
    chance = random.Random(8)
    values = [
        f"{chance.randrange(30, 41)}.{chance.randrange(10**9, 10**10)}"
        for _ in range(60)
    ]
    addresses = [
        ":".join(f"{chance.randrange(256):02X}" for _ in range(6)) for _ in range(20)
    ]
    async with open_core(settings) as core:
        change, mail, forgetting = core.administration, Mailbox(core), core.forgetting
        patients = [next(words) for _ in range(40)]
        for name in patients:
            await change.add_patient(name)
        for number, address in enumerate(addresses):
            await change.add_device(f"ble-{number}", "ble", None, address)
        monitor = SignedDevice("monitor")
        await change.add_device("monitor", "signed", monitor.public_key)
        await change.add_device("sensor", "unsigned")
        await change.assign_device("monitor", patients[0])
        await change.assign_device("sensor", patients[1])
        for value in values:
            text = f'[{{"n":"body_temperature","u":"Cel","v":{value}}}]'.encode()
            mail.submit("sensor", text)
        for word in itertools.islice(words, 500):  # refused, with their texts
            mail.submit("sensor", f'[{{"n":"{word}","v":1}}]'.encode())
        for word in itertools.islice(words, 200):  # of nobody, and not even JSON
            core.intake.submit(
                Arrival(
                    Source.MQTT, f"mqtt:{word}", "sensor", "x", word.encode(), _ignore
                )
            )
        for word in itertools.islice(words, 100):
            mail.submit("monitor", word.encode())
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        await change.operations["alarm-act"](
            kind="acknowledge",
            contract="blood-pressure",
            rule="high",
            patient=patients[0],
            actor=next(words),
            role=next(words),
        )
        await change.assign_device("monitor", None)
        monitor.envelope(systolic_pressure=120)  # lost on its way: a gap event
        await mail.send("monitor", monitor.envelope(systolic_pressure=120))
        last_ms = reader_of(settings).newest_ms()
        await forgetting.claim_readings("monitor", patients[2], 0, last_ms)
        await change.assign_device("monitor", patients[3])
        await forgetting.correct_patient("monitor", patients[3], patients[4])
        await forgetting.merge_patients(patients[4], patients[5])
        await forgetting.erase_patient(patients[1])
        await change.revoke_device("monitor")
    kinds = {one.record.kind for one in reader_of(settings).records()}
    assert kinds >= set(Kind) - {Kind.TICK, Kind.CONTRACT}  # contracts are public
    reader_of(settings).export(tmp_path / "log")
    wanted = [
        *strings,
        *values,
        *addresses,
        *(one.replace(":", "") for one in addresses),
    ]
    hidden = {one.encode() for one in wanted}
    hidden |= {bytes.fromhex(one.replace(":", "")) for one in addresses}
    hidden |= {cbor.encode(one) for one in strings}
    content = b"\xff".join(
        file.read_bytes() for file in (tmp_path / "log").rglob("*") if file.is_file()
    )
    assert len(content) > 2000
    assert found_in(content, hidden) == set()
    logged = "\n".join(one.getMessage() for one in caplog.records)
    assert "refused" in logged
    assert found_in(logged.encode(), hidden) == set()
    assert found_in(content + strings[3].encode(), hidden)  # the test can fail


def _ignore(_: Outcome) -> None:
    """A sender who does not wait for the answer."""


def found_in(content: bytes, hidden: set[bytes]) -> set[bytes]:
    return {one for one in hidden if one in content}
