"""A store of version 1 goes on as one of this version, or stays as it is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import apsw
import pytest
from copies import (
    assert_proven,
    names,
    old_names,
    old_store,
)
from cuts import all_cuts
from workbench import (
    ORIGIN,
    Mailbox,
    SignedDevice,
    a_ward,
    make_gateway,
    reader_of,
    readings_of,
)

from edge.cli import main
from edge.errors import BusyError, ConfigurationError, GatewayError
from edge.gateway import open_core
from edge.model import Verdict
from edge.store.database import (
    DATABASE_NAME,
    MIGRATIONS,
    STORE_VERSION,
    lock_directory,
)
from edge.store.leaf_hashes import padded
from edge.store.migrate import migrate


async def test_a_store_of_version_1_goes_on_with_all_its_readings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = old_store(tmp_path)
    assert settings.origin == ORIGIN
    before = old_names(settings)
    assert before
    with pytest.raises(ConfigurationError, match="iomt migrate"):
        async with open_core(settings):
            raise AssertionError
    assert not main(["migrate", "--config", str(tmp_path / "v1" / "iomt.toml")])
    assert f"version 1 became {STORE_VERSION}" in capsys.readouterr().out
    copy = settings.directory / f"{DATABASE_NAME}.v1"
    assert copy.stat().st_mode & 0o777 == 0o600
    assert readings_of(settings)
    async with open_core(settings) as core:
        core.intake.open_views()
        mail = Mailbox(core)
        await core.administration.add_device("later", "unsigned")
        reading = b'[{"n":"body_temperature","u":"Cel","v":36.7}]'
        assert (await mail.send("later", reading)).verdict is Verdict.COMMITTED
    after = names(reader_of(settings))
    assert after[:-1] == before
    assert_proven(settings, reader_of(settings), tmp_path / "proofs")
    assert migrate(settings.directory).copy is None  # nothing more to do


async def test_a_store_of_version_2_goes_on_with_every_hash_that_it_kept(
    tmp_path: Path,
) -> None:
    """It kept what pads a batch's leaves, where this program keeps a seed."""
    settings = make_gateway(tmp_path)
    async with a_ward(settings) as (core, mail):
        device = SignedDevice("monitor")
        for count in (4, 1, 2):  # with the count of them five leaves, two and three
            sent = [mail.send("monitor", device.envelope()) for _ in range(count)]
            await asyncio.gather(*sent)
    before = names(reader_of(settings))
    with apsw.Connection(str(settings.directory / DATABASE_NAME)) as connection:
        seeded = 0
        for id_, stored in list(connection.execute("SELECT id, leaves FROM batches")):
            seeded += padded(stored) != stored
            connection.execute(
                "UPDATE batches SET leaves = ? WHERE id = ?", (padded(stored), id_)
            )
        assert seeded > 1
        connection.pragma("user_version", 2)
    assert migrate(settings.directory).version == 2
    async with open_core(settings) as core:
        core.intake.open_views()
        await core.administration.add_device("another", "unsigned")
    assert names(reader_of(settings)) == before
    assert_proven(settings, reader_of(settings), tmp_path / "proofs")


async def test_a_migration_that_is_cut_off_leaves_version_1_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = old_store(tmp_path)
    before = old_names(settings)
    for place in all_cuts(monkeypatch, lambda: _migrate_in_vain(settings.directory)):
        assert old_names(settings) == before, place
    assert old_names(settings) == before  # also where a statement fails
    assert migrate(settings.directory).version == 1
    assert names(reader_of(settings)) == before


KILLED = """
import os, pathlib, signal, sys
import apsw
from edge.store.database import MIGRATIONS
from edge.store.migrate import migrate

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def prepare(connection):
    connection.pragma("cache_size", 1)  # what is changed goes to the disk at once
    connection.create_scalar_function("die", die, 0)
    if sys.argv[2] == "after":
        connection.set_wal_hook(die)

apsw.connection_hooks.append(prepare)
if sys.argv[2] == "before":
    MIGRATIONS[1] += "SELECT die();"
migrate(pathlib.Path(sys.argv[1]))
"""


def test_a_migration_that_is_killed_is_done_or_not(tmp_path: Path) -> None:
    """By the kernel, right before its commit and right after."""
    for when, version in (("before", 1), ("after", STORE_VERSION)):
        settings = old_store(tmp_path / when)
        before = old_names(settings)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(settings.directory), when],
            capture_output=True,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        with apsw.Connection(str(settings.directory / DATABASE_NAME)) as connection:
            assert connection.pragma("user_version") == version
        assert old_names(settings) == before
        assert migrate(settings.directory).version == version
        assert names(reader_of(settings)) == before


def _migrate_in_vain(directory: Path) -> None:
    """The last statement fails, after the tables are made."""
    step = MIGRATIONS[1]
    MIGRATIONS[1] = step + "CREATE TABLE meta (key);"
    try:
        with pytest.raises(GatewayError, match="not migrated"):
            migrate(directory)
    finally:
        MIGRATIONS[1] = step


async def test_what_cannot_be_migrated_is_refused(tmp_path: Path) -> None:
    settings = old_store(tmp_path)
    with lock_directory(settings.directory), pytest.raises(BusyError):
        migrate(settings.directory)
    with pytest.raises(ConfigurationError, match="no gateway's data"):
        migrate(tmp_path)
    path = settings.directory / DATABASE_NAME
    for version, words in ((STORE_VERSION + 1, "knows up to"), (0, "unknown")):
        with apsw.Connection(str(path)) as connection:
            connection.pragma("user_version", version)
        with pytest.raises(ConfigurationError, match=words):
            migrate(settings.directory)
    with apsw.Connection(str(path)) as connection:
        connection.pragma("application_id", 7)
    with pytest.raises(ConfigurationError, match="not a gateway's"):
        migrate(settings.directory)
    assert os.listdir(settings.directory).count(f"{DATABASE_NAME}.v1") == 0


async def test_an_erasure_reaches_what_a_migration_left(tmp_path: Path) -> None:
    """The copy holds the wrapped keys, and the master key lies beside it."""
    settings = old_store(tmp_path)
    copy = migrate(settings.directory).copy
    assert copy is not None
    unfinished = copy.with_name(copy.name + ".tmp")
    unfinished.write_bytes(b"as a migration that was cut off leaves it")
    async with open_core(settings) as core:
        assert copy.exists()
        receipt = await core.forgetting.erase_patient("P-1")
        assert receipt["state"] == "completed"
        assert not copy.exists()
        assert not unfinished.exists()
    assert [name for _, name in reader_of(settings).patients().values()] == ["P-2"]
