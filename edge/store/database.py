"""The one SQLite file: its tables, and how connections to it are opened.

WAL with synchronous=FULL: a commit returns after its bytes are flushed. Checkpoints of
the WAL are not automatic (they would run inside a commit that a device waits for); the
writer does them between commits. There is one writing connection, on its own thread,
in the one process that holds the directory's lock; readers open the file read-only.

    meta         settings of the store: origin, wrapped gateway key, markers
    batches      one row a commit with records; `leaves` = store/leaf_hashes.py
    frames       sealed records; id = batch << 20 | place in the batch
    episodes     keys of frames, wrapped for their holder (patient 0 = the gateway)
    devices, sequences, patients, assignments
    entries      log entries whose bundle file is not known to be durable yet
    frame_index  the frames of an episode, but for the newest; `episode_frames` has all
    edge         partial tiles of level 1 and up (level 0 follows from `entries`)
    tiles        full tiles whose file is not known to be durable yet
    checkpoint   the newest signed checkpoint, one row
    kept_checkpoints  one an hour, to prove consistency between
    erasures     patients whose keys and frames go; completed_ms once they are gone
    deliveries   firings that go to the webhook; delivered_ms once one was taken
    outbox       the newest firings in their order (store/firings.py)
    quarantine   refused messages, sealed; counters; contract_state
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from edge.errors import BusyError, ConfigurationError, DurabilityError

DATABASE_NAME = "gateway.db"
LOCK_NAME = "gateway.lock"
TILE_DIRECTORY = "ledger"
STORE_VERSION = 3
APPLICATION_ID = 0x496F4D54  # "IoMT"
FRAME_BITS = 20
BUSY_TIMEOUT_MS = 5_000
WAL_CHUNK_SIZE = 1 << 20

# An index that each commit kept would cost a page for each device in it, so the newest
# frames stand in none: `index_frames` takes them all at once, now and then.
_FRAME_INDEX = """
CREATE TABLE frame_index (
    episode INTEGER NOT NULL, frame INTEGER NOT NULL,
    PRIMARY KEY (episode, frame)) WITHOUT ROWID, STRICT;
CREATE VIEW episode_frames (episode, id) AS
    SELECT episode, frame FROM frame_index
    UNION ALL SELECT episode, id FROM frames
    WHERE id > (SELECT value FROM meta WHERE key = 'frames_indexed');
CREATE TRIGGER frame_deleted AFTER DELETE ON frames BEGIN
    DELETE FROM frame_index WHERE episode = old.episode AND frame = old.id; END;
CREATE TRIGGER frame_moved AFTER UPDATE OF episode ON frames BEGIN
    UPDATE frame_index SET episode = new.episode
    WHERE episode = old.episode AND frame = old.id; END;
INSERT INTO meta VALUES ('frames_indexed', 0);
"""

_DELIVERIES = """
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY, batch INTEGER NOT NULL, leaf INTEGER NOT NULL,
    delivered_ms INTEGER, attempts INTEGER NOT NULL) STRICT;
CREATE INDEX deliveries_waiting ON deliveries (id) WHERE delivered_ms IS NULL;
"""

_INDEX_FRAMES = """
INSERT INTO frame_index SELECT episode, id FROM frames
    WHERE id > (SELECT value FROM meta WHERE key = 'frames_indexed');
UPDATE meta SET value = (SELECT ifnull(max(id), 0) FROM frames)
    WHERE key = 'frames_indexed';
"""

_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value ANY) WITHOUT ROWID, STRICT;
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, boot BLOB NOT NULL, number INTEGER NOT NULL,
    time_ms INTEGER NOT NULL, entry INTEGER NOT NULL, body BLOB NOT NULL,
    leaves BLOB NOT NULL) STRICT;
CREATE INDEX batches_number ON batches (number);
CREATE TABLE frames (
    id INTEGER PRIMARY KEY, episode INTEGER NOT NULL, class INTEGER NOT NULL,
    sealed BLOB NOT NULL) STRICT;
CREATE TABLE episodes (
    id INTEGER PRIMARY KEY, ref BLOB NOT NULL, device INTEGER NOT NULL,
    assignment INTEGER NOT NULL, patient INTEGER NOT NULL, wrapped BLOB NOT NULL,
    opened_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL) STRICT;
CREATE INDEX episodes_device ON episodes (device);
CREATE INDEX episodes_patient ON episodes (patient);
CREATE TABLE devices (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, ref BLOB NOT NULL,
    kind TEXT NOT NULL, public_key BLOB, address TEXT, added_ms INTEGER NOT NULL,
    revoked_ms INTEGER) STRICT;
CREATE TABLE sequences (device INTEGER PRIMARY KEY, state BLOB NOT NULL) STRICT;
CREATE TABLE patients (
    id INTEGER PRIMARY KEY, ref BLOB NOT NULL, tag BLOB NOT NULL UNIQUE,
    sealed_name BLOB NOT NULL, wrapped BLOB NOT NULL, added_ms INTEGER NOT NULL) STRICT;
CREATE TABLE assignments (
    id INTEGER PRIMARY KEY, ref BLOB NOT NULL UNIQUE, device INTEGER NOT NULL,
    patient INTEGER NOT NULL, from_ms INTEGER NOT NULL, until_ms INTEGER) STRICT;
CREATE TABLE entries (idx INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE edge (level INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
CREATE TABLE tiles (
    level INTEGER NOT NULL, idx INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (level, idx)) WITHOUT ROWID, STRICT;
CREATE TABLE checkpoint (
    one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL,
    time_ms INTEGER NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE kept_checkpoints (
    size INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE erasures (
    id INTEGER PRIMARY KEY, patient INTEGER NOT NULL, ref BLOB NOT NULL,
    started_ms INTEGER NOT NULL, completed_ms INTEGER) STRICT;
CREATE TABLE quarantine (
    id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, principal BLOB NOT NULL,
    reason TEXT NOT NULL, size INTEGER NOT NULL, sealed BLOB NOT NULL) STRICT;
CREATE INDEX quarantine_principal ON quarantine (principal, id);
CREATE TABLE counters (
    name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID, STRICT;
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, batch INTEGER NOT NULL,
    leaf INTEGER NOT NULL) STRICT;
{_DELIVERIES}CREATE TABLE contract_state (
    one INTEGER PRIMARY KEY CHECK (one = 1), batch INTEGER NOT NULL,
    sealed BLOB NOT NULL) STRICT;
{_FRAME_INDEX}"""

# What `iomt migrate` runs to bring a store of the version before to this one.
MIGRATIONS = {
    1: f"""
CREATE TABLE kept_checkpoints (
    size INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE erasures (
    id INTEGER PRIMARY KEY, patient INTEGER NOT NULL, ref BLOB NOT NULL,
    started_ms INTEGER NOT NULL, completed_ms INTEGER) STRICT;
DROP INDEX frames_episode;
{_DELIVERIES}{_FRAME_INDEX}{_INDEX_FRAMES}""",
    2: "",  # the batches from now on are padded by a seed
}


@contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Hold the data directory; BusyError where another process does.

    DurabilityError where the lock file cannot be written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DurabilityError(f"{directory}: {error}") from error
    try:
        _lock(descriptor, directory)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        raise BusyError(
            f"{directory} is in use by another gateway"
            + (f" (process {holder})" if holder else "")
        ) from None
    except OSError as error:
        raise DurabilityError(f"{directory / LOCK_NAME}: {error}") from error


def open_writer(directory: Path) -> apsw.Connection:
    """The writing connection; makes the tables in a new file.

    The caller holds the directory's lock. ConfigurationError for a file of another
    version or another program, DurabilityError where SQLite cannot open it.
    """
    path = directory / DATABASE_NAME
    try:
        _write_wal_again(path.with_name(path.name + "-wal"))
        connection = apsw.Connection(str(path))
        path.chmod(0o600)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        version = connection.pragma("user_version")
        application = connection.pragma("application_id")
        fresh = version == 0 and application == 0
        if fresh:
            connection.pragma("auto_vacuum", "INCREMENTAL")
        connection.pragma("journal_mode", "WAL")
        connection.pragma("synchronous", "FULL")
        connection.pragma("wal_autocheckpoint", 0)
        connection.pragma("temp_store", "MEMORY")
        connection.pragma("secure_delete", "ON")  # what is forgotten must be gone
        if fresh:
            with connection:
                connection.execute(_SCHEMA)
                connection.pragma("application_id", APPLICATION_ID)
                connection.pragma("user_version", STORE_VERSION)
        else:
            _check_version(path, application, version)
    except (apsw.Error, OSError) as error:
        raise DurabilityError(f"{path}: {error}") from error
    return connection


def _write_wal_again(path: Path) -> None:
    """Write the WAL's own bytes over it, and flush them; nothing where there is none.

    After a flush that failed the kernel believes the pages clean: who starts then would
    read, and build on, what the disk never got. Written again they are dirty, and a
    flush means something.
    """
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        at = 0
        while chunk := os.pread(descriptor, WAL_CHUNK_SIZE, at):
            view = memoryview(chunk)
            while view:
                written = os.pwrite(descriptor, view, at)
                view, at = view[written:], at + written
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def open_reader(directory: Path) -> apsw.Connection:
    """A read-only connection, beside a running gateway or without one."""
    path = directory / DATABASE_NAME
    if not path.exists():
        raise ConfigurationError([f"{directory}: holds no gateway's data"])
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        _check_version(
            path,
            connection.pragma("application_id"),
            connection.pragma("user_version"),
        )
    except apsw.Error as error:
        raise DurabilityError(f"{path}: {error}") from error
    return connection


def rows(
    connection: apsw.Connection, sql: str, values: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    """All rows of a query; the statement alone knows the columns' types."""
    return connection.execute(sql, tuple(values)).fetchall()


def meta(connection: apsw.Connection, key: str) -> int | str | bytes | None:
    """A setting of the store, None where it was never set."""
    found = rows(connection, "SELECT value FROM meta WHERE key = ?", (key,))
    return found[0][0] if found else None


def index_frames(connection: apsw.Connection) -> None:
    """Take the newest frames into the index by episode; within a transaction."""
    connection.execute(_INDEX_FRAMES)


def _check_version(path: Path, application: object, version: object) -> None:
    if application != APPLICATION_ID:
        raise ConfigurationError([f"{path}: not a gateway's database"])
    if version in MIGRATIONS:
        advice = f"`iomt migrate` brings it to {STORE_VERSION}"
        raise ConfigurationError([f"{path}: of version {version}; {advice}"])
    if version != STORE_VERSION:
        raise ConfigurationError(
            [f"{path}: of version {version}; this program knows up to {STORE_VERSION}"]
        )
