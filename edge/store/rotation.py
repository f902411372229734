"""A new master key, or another form of the same one; the ledger knows nothing of it.

    rotate     write master.key.new ► one transaction re-wraps the gateway's key and
               every patient's ► rename it to master.key
    seal       write master.sealed ► remove master.key
    unseal     write master.key ► remove master.sealed

A crash before the transaction's end leaves the old key in force, one after it the new
one; `keysource.settle` finds out at the next start which, and removes the other. All of
it holds the data directory's lock: no gateway may run.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import apsw

from edge.errors import ConfigurationError, DurabilityError, IntegrityError
from edge.store import keysource, vault
from edge.store.database import lock_directory, meta, open_writer, rows
from edge.store.keys import Keys, patient_associated


def rotate(directory: Path, keys: Path, source: str | None) -> int:
    """Wrap every key that the master key wraps under a new one; how many.

    With credentials the new key is the administrator's: `iomt-master-new` beside
    `iomt-master`, to be exchanged afterwards.
    """
    with lock_directory(directory):
        keysource.settle(keys, source, directory)
        place = keysource.place_of(keys, source)
        if place.source == keysource.CREDENTIAL:
            old, new = place.read(place.current), place.read(place.new)
        else:
            old, new = place.read(place.current), vault.new_key()
            vault.write_secret(place.new, _text(place, new))
        try:
            count = _rewrap(directory, old, new)
        except apsw.Error as error:
            raise DurabilityError(f"{directory}: not re-wrapped: {error}") from error
        keysource.settle(keys, source, directory)
    return count


def _text(place: keysource.Place, master: bytes) -> str:
    if place.source == keysource.FILE:
        return master.hex()
    return keysource.seal_master(master, keysource.passphrase().get())


def _rewrap(directory: Path, old: bytes, new: bytes) -> int:
    if old == new:
        raise ConfigurationError(["the new master key is the old one"])
    with contextlib.closing(open_writer(directory)) as connection:
        connection.pragma("secure_delete", "ON")
        with connection:
            count = _rewrap_all(connection, old, new)
        # The old wraps stay in the WAL otherwise; a reader may delay that.
        with contextlib.suppress(apsw.BusyError):
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        Keys(new, connection)
    return count


def _rewrap_all(connection: apsw.Connection, old: bytes, new: bytes) -> int:
    def again(wrapped: bytes, associated: bytes) -> bytes:
        return vault.seal(new, vault.unseal(old, wrapped, associated), associated)

    gateway_key = meta(connection, "gateway_key")
    if not isinstance(gateway_key, bytes):
        raise IntegrityError("the store has no gateway key")
    connection.execute(
        "UPDATE meta SET value = ? WHERE key = 'gateway_key'",
        (again(gateway_key, b"gateway"),),
    )
    patients = rows(connection, "SELECT id, ref, wrapped FROM patients")
    for id_, ref, wrapped in patients:
        connection.execute(
            "UPDATE patients SET wrapped = ? WHERE id = ?",
            (again(wrapped, patient_associated(ref, "key")), id_),
        )
    return 1 + len(patients)


# ---- File and passphrase ----


def seal_with_passphrase(directory: Path, keys: Path) -> None:
    """Put the master key under a passphrase that is asked for; no open file remains."""
    with lock_directory(directory):
        file, sealed = keys / vault.MASTER_KEY, keys / keysource.SEALED_KEY
        if not file.exists():
            raise ConfigurationError([f"{file}: missing; nothing to put under a seal"])
        keysource.settle(keys, keysource.FILE, directory)
        master = keysource.place_of(keys, keysource.FILE).read(file)
        text = keysource.seal_master(master, keysource.passphrase().choose())
        _replace(sealed, text)
        if keysource.load_sealed(sealed) != master:
            raise IntegrityError(f"{sealed}: does not read back")
        _remove(file)


def unseal_to_file(directory: Path, keys: Path) -> None:
    """The master key as a 0600 file again, without a passphrase."""
    with lock_directory(directory):
        file, sealed = keys / vault.MASTER_KEY, keys / keysource.SEALED_KEY
        if not sealed.exists():
            raise ConfigurationError([f"{sealed}: missing; no passphrase to take off"])
        keysource.settle(keys, keysource.PASSPHRASE, directory)
        _replace(file, keysource.load_sealed(sealed).hex())
        _remove(sealed)


def _replace(path: Path, text: str) -> None:
    """A whole 0600 file or what was there before, also after a crash."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    vault.write_secret(temporary, text)
    os.rename(temporary, path)
    vault.sync_directory(path.parent)


def _remove(path: Path) -> None:
    """Remove a file; the disk may keep its bytes, so a rotation should follow."""
    os.unlink(path)
    vault.sync_directory(path.parent)
