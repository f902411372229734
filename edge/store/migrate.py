"""An older store to this program's version: a copy beside it, then one transaction.

The copy (`gateway.db.vN`) holds everything, keys included, for whoever has to go back
to the program of before. The next erasure removes it, or it would not reach everything
that lies on this disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from edge.errors import ConfigurationError, DurabilityError
from edge.store.backup import CHUNK_SIZE, sync_file
from edge.store.database import (
    APPLICATION_ID,
    DATABASE_NAME,
    MIGRATIONS,
    STORE_VERSION,
    lock_directory,
)
from edge.store.vault import sync_directory


@dataclass(frozen=True, slots=True)
class Migrated:
    """What was done: from which version, and where the store of before is kept."""

    version: int
    copy: Path | None


def migrate(directory: Path) -> Migrated:
    """Bring the store to STORE_VERSION; nothing is done where it is there already.

    BusyError while a gateway runs, ConfigurationError for a newer version or what is no
    store. Cut off anywhere, the store is of the old version or of the new one.
    """
    path = directory / DATABASE_NAME
    if not path.is_file():
        raise ConfigurationError([f"{directory}: holds no gateway's data"])
    with lock_directory(directory):
        try:
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
            with contextlib.closing(connection):
                version = _version(connection, path)
                if version == STORE_VERSION:
                    return Migrated(version, None)
                connection.pragma("synchronous", "FULL")
                copy = path.with_name(f"{DATABASE_NAME}.v{version}")
                _copy_beside(connection, copy)
                with connection:
                    for step in range(version, STORE_VERSION):
                        connection.execute(MIGRATIONS[step])
                    connection.pragma("user_version", STORE_VERSION)
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except (OSError, apsw.Error) as error:
            raise DurabilityError(f"{path}: not migrated: {error}") from error
    return Migrated(version, copy)


def remove_copies(directory: Path) -> Iterator[None]:
    """Overwrite and remove what migrations left, a piece at each step; durable.

    DurabilityError where that fails.
    """
    try:
        for path in sorted(directory.glob(f"{DATABASE_NAME}.v*")):
            with path.open("r+b") as stream:
                for _ in range(0, path.stat().st_size, CHUNK_SIZE):
                    stream.write(bytes(CHUNK_SIZE))
                    stream.flush()
                    os.fsync(stream.fileno())
                    yield
            path.unlink()
            sync_directory(directory)
            yield
    except OSError as error:
        raise DurabilityError(f"{directory}: {error}") from error


def _version(connection: apsw.Connection, path: Path) -> int:
    if connection.pragma("application_id") != APPLICATION_ID:
        raise ConfigurationError([f"{path}: not a gateway's database"])
    version = int(connection.pragma("user_version"))
    if version > STORE_VERSION:
        raise ConfigurationError(
            [
                (
                    f"{path}: of version {version}; this program knows up to "
                    f"{STORE_VERSION}, and no store is ever made older"
                )
            ]
        )
    if any(step not in MIGRATIONS for step in range(version, STORE_VERSION)):
        raise ConfigurationError([f"{path}: of version {version}, which is unknown"])
    return version


def _copy_beside(connection: apsw.Connection, copy: Path) -> None:
    """The whole store as it is, keys included, in the same directory; durable."""
    temporary = copy.with_name(copy.name + ".tmp")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(apsw.Connection(str(temporary))) as target:
        target.pragma("journal_mode", "OFF")  # nothing before its rename
        with target.backup("main", connection, "main") as pages:
            pages.step(-1)
    sync_file(temporary)
    os.rename(temporary, copy)
    sync_directory(copy.parent)
