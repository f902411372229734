"""The keys that a device has signed with, one after the other.

    devices.public_key     the one that it signs with now
    meta `device-keys-ID`  CBOR [[key, since_ms, until_ms], ..., [key, since_ms]], once
                           there was more than one: oldest first, the present one last;
                           until_ms is when the gateway stops taking the key

The ledger has the same in public (docs/ledger-format.md, entries 0x05 and 0x0b). The
keys of before are kept for ever, so that what they signed can be proven.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import apsw

from edge import cbor
from edge.errors import IntegrityError, RejectError
from edge.ledger.device_key import kid_of
from edge.store.database import meta, rows

PREFIX = "device-keys-"
_PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class SigningKey(NamedTuple):
    """One key of a device; `until_ms` is None for the present one."""

    key: bytes
    since_ms: int
    until_ms: int | None = None


def keys_of(connection: apsw.Connection, device: int) -> list[SigningKey]:
    """All keys of a device, oldest first; none for one that does not sign."""
    stored = meta(connection, f"{PREFIX}{device}")
    if isinstance(stored, bytes):
        return _decode(stored)
    found = rows(
        connection,
        "SELECT public_key, added_ms FROM devices "
        "WHERE id = ? AND public_key IS NOT NULL",
        (device,),
    )
    return [SigningKey(bytes(key), added_ms) for key, added_ms in found]


def former_keys(connection: apsw.Connection) -> dict[int, SigningKey]:
    """The key before the present one, of each device that had another."""
    found = rows(
        connection,
        "SELECT key, value FROM meta WHERE key >= ?1 AND key < ?1 || '~'",
        (PREFIX,),
    )
    return {int(key.removeprefix(PREFIX)): _decode(value)[-2] for key, value in found}


def replaced(
    keys: list[SigningKey], key: bytes, now_ms: int, until_ms: int
) -> list[SigningKey]:
    """The keys with one more, the present one taken `until_ms`, older ones no more."""
    *older, last = keys
    ended = [
        one._replace(until_ms=min(one.until_ms or now_ms, now_ms)) for one in older
    ]
    return [*ended, last._replace(until_ms=until_ms), SigningKey(key, now_ms)]


def statement(device: int, keys: list[SigningKey]) -> tuple[str, tuple[str, bytes]]:
    """What stores them."""
    stored = [[one for one in key if one is not None] for key in keys]
    return _PUT, (f"{PREFIX}{device}", cbor.encode(stored))


def with_kid(keys: list[SigningKey], kid: bytes) -> SigningKey | None:
    """The key of this identifier, the newest where there were two."""
    for one in reversed(keys):
        if kid_of(one.key) == kid:
            return one
    return None


def _decode(stored: bytes) -> list[SigningKey]:
    try:
        found: Any = cbor.decode(stored)
        keys = [SigningKey(bytes(key), *map(int, times)) for key, *times in found]
    except (RejectError, TypeError, ValueError) as error:
        raise IntegrityError(f"a device's keys are damaged: {error}") from error
    if len(keys) < 2 or any(one.until_ms is None for one in keys[:-1]):
        raise IntegrityError("a device's keys are damaged: not one after the other")
    return keys
