"""Backup beside a running gateway: one moment, no key, whole or none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from copies import (
    NOW_MS,
    assert_proven,
    grow,
    moved,
    names,
    reader_at,
    save,
    save_keys,
    saved_ward,
)
from cryptography.hazmat.primitives.asymmetric import ec
from cuts import CutError, all_cuts, all_failures
from test_activation import activated, governed, text
from test_device_identity import request_of
from workbench import (
    ORIGIN,
    Mailbox,
    SignedDevice,
    a_ward,
    make_gateway,
    reader_of,
)

from edge import cbor, config
from edge.errors import ConfigurationError, IntegrityError
from edge.gateway import open_core
from edge.ledger import core as native
from edge.model import Verdict
from edge.store import backup as backups
from edge.store import database, keysource
from edge.store.backup import BACKUP_NAME, KEYS_NAME, backup, backup_keys
from edge.store.database import (
    DATABASE_NAME,
    open_reader,
    rows,
)
from edge.store.restore import restore
from edge.store.rotation import rotate, seal_with_passphrase
from edge.store.vault import load_keys


async def test_a_backup_beside_a_running_gateway_is_one_moment_and_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readings go on being committed, and the copy holds each up to its checkpoint."""
    settings = make_gateway(tmp_path / "g")
    monitor = SignedDevice("monitor")
    chunks = []
    sleep = time.sleep

    def slowly(_: float) -> None:
        chunks.append(1)
        sleep(0.02)

    monkeypatch.setattr(backups, "CHUNK_SIZE", 512)
    monkeypatch.setattr(time, "sleep", slowly)
    async with a_ward(settings) as (core, mail):
        await grow(core, mail, monitor)
        saving = asyncio.create_task(asyncio.to_thread(save, settings, "saved"))
        during = 0
        while not saving.done():
            outcome = await mail.send("monitor", monitor.envelope())
            assert outcome.verdict is Verdict.COMMITTED
            during += 1
        copied = await saving
    assert during > 1
    assert len(chunks) > 10
    saved = settings.directory.parent / "saved"
    target = tmp_path / "restored" / "data"
    restored = restore(saved, target, saved.with_name("saved-keys"), now_ms=NOW_MS + 1)
    assert restored.tree_size == copied.tree_size > 256
    assert not restored.episodes_without_key
    assert not restored.patients_without_key
    old, new = reader_of(settings), reader_at(target)
    assert 2 <= len(names(new)) <= len(names(old))
    assert names(new) == names(old)[: len(names(new))]
    assert [p for _, p in new.patients().values()] == ["P-1"]
    assert_proven(settings, new, tmp_path / "proofs")
    with apsw.Connection(str(target / DATABASE_NAME)) as connection:
        [(marker,)] = rows(connection, "SELECT value FROM meta WHERE key = 'restored'")
        assert cbor.decode(marker) == [NOW_MS + 1, copied.tree_size]
        assert not rows(connection, "SELECT 1 FROM meta WHERE key = 'running'")
    copied_names = names(new)
    elsewhere = moved(settings, target)
    async with open_core(elsewhere) as core:
        core.intake.open_views()
        outcome = await Mailbox(core).send("monitor", monitor.envelope())
        assert outcome.verdict is Verdict.COMMITTED
    assert reader_at(target).origin == f"{ORIGIN}/epoch-2"  # no second history
    assert names(reader_at(target))[:-1] == copied_names


async def test_a_store_with_an_epoch_that_ended_is_copied_whole(tmp_path: Path) -> None:
    """Every restore ends one, and the next backup holds both logs."""
    _, saved, ring = await saved_ward(tmp_path)
    first, second = tmp_path / "first", tmp_path / "second"
    restore(saved, first, ring, now_ms=NOW_MS)
    settings = moved(config.load(tmp_path / "g" / "iomt.toml"), first)
    async with open_core(settings) as core:
        core.intake.open_views()
        monitor = SignedDevice("monitor", sequence=9)
        outcome = await Mailbox(core).send("monitor", monitor.envelope())
        assert outcome.verdict is Verdict.COMMITTED
    again, keys = tmp_path / "again", tmp_path / "again-keys"
    backup(first, first / "keys", again, now_ms=NOW_MS)
    backup_keys(first, first / "keys", keys, source=None, now_ms=NOW_MS)
    restored = restore(again, second, keys, now_ms=NOW_MS)
    assert restored.tree_size < reader_at(second).log_of(1).checkpoint()[0]
    assert names(reader_at(second)) == names(reader_at(first))
    assert (second / "keys" / "log-2.key").exists()
    tile = first / "ledger" / "tile" / "0" / "000"
    tile.write_bytes(bytes(tile.stat().st_size))
    with pytest.raises(IntegrityError, match="tile/0/000: does not follow"):
        backup(first, first / "keys", tmp_path / "third", now_ms=NOW_MS)


def files_below(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


async def test_a_backup_holds_no_key_wrapped_or_not(tmp_path: Path) -> None:
    """Otherwise an erasure, which destroys keys, would not reach the copies."""
    settings = make_gateway(tmp_path / "g")
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", monitor.envelope())
        await mail.send("monitor", b"garbage")
        await mail.send("thermometer", b'[{"n":"body_temperature","u":"Cel","v":36.7}]')
    save(settings, "saved")
    with open_reader(settings.directory) as connection:
        secrets = [
            one
            for table, column in (
                ("meta WHERE key = 'gateway_key'", "value"),
                ("patients", "wrapped"),
                ("patients", "tag"),
                ("patients", "sealed_name"),
                ("episodes", "wrapped"),
                ("contract_state", "sealed"),
                ("quarantine", "sealed"),
            )
            for (one,) in rows(connection, f"SELECT {column} FROM {table}")
        ]
    keyring = load_keys(settings.keys)
    secrets += [keyring.master, keyring.log_seed, keyring.access_token.encode()]
    secrets += [keyring.master.hex().encode(), keyring.log_seed.hex().encode()]
    assert len(secrets) >= 9
    saved = settings.directory.parent / "saved"
    original = dict(files_below(settings.directory))
    assert any(secrets[0] in one for one in original.values())  # it can be found
    for path, content in files_below(saved):
        for secret in secrets:
            assert secret not in content, path
    for path, _ in files_below(saved.with_name("saved-keys")):
        assert path.stat().st_mode & 0o777 == 0o600
    assert saved.stat().st_mode & 0o777 == 0o700


async def test_places_where_a_copy_would_be_none_are_refused(tmp_path: Path) -> None:
    """Keys beside what they seal, a copy inside the original, a directory in use."""
    settings = make_gateway(tmp_path / "g")
    data, keys = settings.directory, settings.keys
    with pytest.raises(ConfigurationError, match="no gateway's data"):
        backup(data, keys, tmp_path / "none", now_ms=NOW_MS)
    async with open_core(settings):
        pass
    save(settings, "saved")
    saved, ring = data.with_name("saved"), data.with_name("saved-keys")
    for place in (saved / "keys", ring, data, keys / "copy"):
        with pytest.raises(ConfigurationError):
            backup_keys(data, keys, place, source=None, now_ms=NOW_MS)
    for place in (saved, ring / "store", data / "copy"):
        with pytest.raises(ConfigurationError):
            backup(data, keys, place, now_ms=NOW_MS)
    assert not (saved / "keys").exists()


async def test_a_damaged_log_is_not_backed_up(tmp_path: Path) -> None:
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, mail):
        await grow(core, mail, SignedDevice("monitor"))
    bundle = settings.directory / "ledger" / "tile" / "entries" / "000"
    content = bytearray(bundle.read_bytes())
    content[700] ^= 1
    bundle.write_bytes(content)
    target = tmp_path / "saved"
    with pytest.raises(IntegrityError):
        backup(settings.directory, settings.keys, target, now_ms=NOW_MS)
    assert not (target / BACKUP_NAME).exists()
    bundle.unlink()
    with pytest.raises(IntegrityError, match=r"entries/000: missing"):
        backup(settings.directory, settings.keys, tmp_path / "again", now_ms=NOW_MS)


async def test_a_backup_that_is_cut_anywhere_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope())
    ring = save_keys(settings, "ring")
    saved = tmp_path / "saved"

    def work() -> None:
        backup(settings.directory, settings.keys, saved, now_ms=NOW_MS)

    complete = 0
    for place in all_cuts(monkeypatch, work):
        if (saved / BACKUP_NAME).exists():
            restore(saved, tmp_path / "data", ring, now_ms=NOW_MS)
            assert len(names(reader_at(tmp_path / "data"))) == 1, place
            shutil.rmtree(tmp_path / "data")
            complete += 1
        else:
            with pytest.raises(ConfigurationError, match="no complete backup"):
                restore(saved, tmp_path / "data", ring, now_ms=NOW_MS)
        shutil.rmtree(saved, ignore_errors=True)
    assert complete == 3
    restore(saved, tmp_path / "data", ring, now_ms=NOW_MS)


async def test_whatever_a_store_holds_is_known_to_the_backup(tmp_path: Path) -> None:
    """A new table, a new setting: somebody has to say whether a copy may hold it."""
    settings = governed(tmp_path / "g")
    monitor = SignedDevice("monitor")
    async with a_ward(settings) as (core, mail):
        await grow(core, mail, monitor)
        await activated(core, text())
        await mail.send("monitor", monitor.envelope(systolic_pressure=199))
        await core.administration.operations["device-password"](device="d1")
        await core.administration.operations["device-certificate"](
            device="d2", request=request_of(ec.generate_private_key(ec.SECP256R1()))
        )
        await core.administration.operations["device-key"](
            name="monitor", public_key=native.public_key(bytes(32)).hex(), grace_h=1
        )
        await core.forgetting.erase_patient("P-1")
    save(settings, "saved")
    with open_reader(settings.directory) as connection:
        tables = {
            one
            for (one,) in rows(
                connection, "SELECT name FROM sqlite_schema WHERE type = 'table'"
            )
        }
        kept = {one for (one,) in rows(connection, "SELECT key FROM meta")}
    assert tables == {
        *("meta", "batches", "frames", "frame_index", "episodes", "devices"),
        *("sequences", "patients", "assignments", "entries", "edge", "tiles"),
        *("checkpoint", "kept_checkpoints", "erasures", "quarantine", "counters"),
        *("outbox", "contract_state", "deliveries"),
    }
    left_out = {"gateway_key", "running", "suspect", "abnormal_exits", "poison"}
    with contextlib.closing(backups.open_copy(tmp_path / "g/saved/gateway.db")) as copy:
        copied = {one for (one,) in rows(copy, "SELECT key FROM meta")}
        schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
        with open_reader(settings.directory) as connection:
            assert rows(copy, schema) == rows(connection, schema)
    assert copied == kept - left_out
    assert {one.rstrip("0123456789") for one in copied} >= {
        *("contract_log", "outbox_released", "start_hashes"),
        *("device-keys-", "password-", "tls-"),
    }


async def test_a_full_disk_leaves_no_backup_that_looks_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is full: nothing is left, and the next attempt may go there."""
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (core, mail):
        await grow(core, mail, SignedDevice("monitor"))
    saved, ring = tmp_path / "saved", tmp_path / "ring"
    data, keys = settings.directory, settings.keys
    code = (
        "import resource, signal, sys, pathlib\n"
        "from edge.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "size = int(sys.argv.pop(1))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    whole = (data / DATABASE_NAME).stat().st_size
    for size in (40_000, whole // 2):
        done = subprocess.run(
            [
                *(sys.executable, "-c", code, str(size)),
                *("backup", str(saved), "--data", str(data)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 4, done.stderr
        assert f"{saved}: no backup" in done.stderr
        assert not saved.exists()

    def work() -> None:
        backup(data, keys, saved, now_ms=NOW_MS)
        backup_keys(data, keys, ring, source=None, now_ms=NOW_MS)

    failures = 0
    for place in all_failures(monkeypatch, work):
        failures += 1
        assert not (saved.exists() and ring.exists()), place
        for target, head in ((saved, BACKUP_NAME), (ring, KEYS_NAME)):
            assert target.exists() == (target / head).exists(), place
            shutil.rmtree(target, ignore_errors=True)
    assert failures > 20


# ---- The key ring ----


async def test_the_master_key_that_opens_is_in_the_key_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a rotation that was cut off the other file is there as well."""
    settings = make_gateway(tmp_path / "g")
    async with a_ward(settings) as (_, mail):
        await mail.send("monitor", SignedDevice("monitor").envelope())
    before = (settings.keys / "master.key").read_text()

    def no_rename(*_: object) -> None:
        raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", no_rename)
        with pytest.raises(CutError):
            rotate(settings.directory, settings.keys, "file")
    after = (settings.keys / "master.key.new").read_text()
    save(settings, "saved")
    ring = tmp_path / "g" / "saved-keys"
    assert (ring / "master.key").read_text() == after != before
    assert not (ring / "master.key.new").exists()
    restore(tmp_path / "g" / "saved", tmp_path / "data", ring, now_ms=NOW_MS)
    assert len(names(reader_at(tmp_path / "data"))) == 1


async def test_a_rotation_during_a_key_backup_leaves_none_that_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows from before and a master key from after would be a copy of nothing."""
    settings = make_gateway(tmp_path / "g")
    async with open_core(settings):
        pass
    copy_tables = backups.copy_tables

    def meanwhile(*values: Any) -> None:
        copy_tables(*values)
        rotate(settings.directory, settings.keys, "file")

    monkeypatch.setattr(backups, "copy_tables", meanwhile)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)  # the backup's read is open
    with pytest.raises(IntegrityError, match="try again"):
        save_keys(settings, "ring")
    assert not (tmp_path / "g" / "ring").exists()
    monkeypatch.undo()
    save_keys(settings, "ring")


async def test_an_open_key_beside_a_sealed_one_does_not_get_into_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_gateway(tmp_path / "g")
    async with open_core(settings):
        pass
    open_key = (settings.keys / "master.key").read_text()
    read, write = os.pipe()
    os.write(write, b"correct horse battery\n")
    os.close(write)
    monkeypatch.setattr(keysource, "SCRYPT_N", 1 << 4)
    monkeypatch.setattr(keysource, "_passphrase", keysource.Passphrase(read))
    seal_with_passphrase(settings.directory, settings.keys)
    (settings.keys / "master.key").write_text(open_key)  # as a cut conversion leaves it
    (settings.keys / "master.key").chmod(0o600)
    ring = tmp_path / "ring"
    place = (settings.directory, settings.keys, ring)
    backup_keys(*place, source="passphrase", now_ms=NOW_MS)
    held = {one.name for one in ring.iterdir()}
    assert held == {
        *("access.token", "keys.json", "log.key", "master.sealed", "ring.db")
    }
