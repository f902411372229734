"""The log's entries about contracts once more, so that a start need not read the log.

    meta `contract_log`      CBOR array of [index in the log, entry bytes], oldest first
    meta `contract-<hash>`   the text of a contract that was proposed or active

A new epoch begins with all of these entries again, under its own indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import apsw

from edge import cbor
from edge.errors import IntegrityError, RejectError
from edge.ledger import core
from edge.ledger.batch import (
    Authority,
    ContractApproval,
    ContractProposal,
    ContractStep,
    decode_entry,
)
from edge.ledger.lifecycle import ContractEntry, Lifecycle
from edge.store.commit import SqlValue, Writer
from edge.store.database import meta

LOG_KEY = "contract_log"
SOURCE_KEY = "contract-"  # and the hash in hexadecimal
_PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"

Statement = tuple[str, tuple[SqlValue, ...]]


def load(connection: apsw.Connection) -> list[tuple[int, ContractEntry]]:
    """Index and entry of each; IntegrityError where the row is damaged."""
    stored = meta(connection, LOG_KEY)
    if not isinstance(stored, bytes):
        return []
    found = []
    try:
        for index, body in _rows(stored):
            entry = decode_entry(body)
            if not isinstance(
                entry, Authority | ContractProposal | ContractApproval | ContractStep
            ):
                raise RejectError(f"entry {index} is about no contract")
            found.append((index, entry))
    except RejectError as error:
        raise IntegrityError(f"meta {LOG_KEY}: {error}") from error
    return found


def lifecycle(entries: Iterable[ContractEntry]) -> Lifecycle:
    """Where these entries lead; IntegrityError where they contradict each other."""
    state = Lifecycle(core.verify)
    try:
        for entry in entries:
            state.take(entry)
    except RejectError as error:
        raise IntegrityError(f"meta {LOG_KEY}: {error}") from error
    return state


def dated(entries: Iterable[tuple[int, ContractEntry]], now_ms: int) -> list[bytes]:
    """The bytes of these entries at this time: an epoch begins with all again."""
    return [replace(entry, time_ms=now_ms).encode() for _, entry in entries]


def replaced(entries: Sequence[tuple[int, bytes]]) -> Statement:
    """The statement that makes these the whole row."""
    return _PUT, (LOG_KEY, cbor.encode([list(one) for one in entries]))


def append(writer: Writer, index: int, entry: bytes) -> None:
    """Add an entry to the row, within the commit that enters it into the log."""
    stored = meta(writer.connection, LOG_KEY)
    before = _rows(stored) if isinstance(stored, bytes) else []
    sql, values = replaced([*before, (index, entry)])
    writer.connection.execute(sql, values)


def keep_text(digest: bytes, text: str) -> Statement:
    """The statement that keeps a contract's text."""
    return _PUT, (f"{SOURCE_KEY}{digest.hex()}", text)


def text_of(connection: apsw.Connection, digest: bytes) -> str | None:
    """The text of the contract of this hash, None where it is not kept."""
    text = meta(connection, f"{SOURCE_KEY}{digest.hex()}")
    return text if isinstance(text, str) else None


def _rows(stored: bytes) -> list[tuple[int, bytes]]:
    decoded = cbor.decode(stored)
    found = []
    for one in decoded if isinstance(decoded, list) else [None]:
        match one:
            case [int(index), bytes(body)]:
                found.append((index, body))
            case _:
                raise RejectError("not an array of [index, entry]")
    return found
