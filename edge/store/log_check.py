"""A store's logs recomputed from their entries: what a backup and a restore check.

Unlike the start, which samples (head.py), this reads every tile of every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import apsw

from edge.errors import ConfigurationError, IntegrityError, RejectError
from edge.ledger import core, note, tiles, tlog
from edge.store import epochs
from edge.store.commit import load_edge
from edge.store.database import meta, rows


@dataclass(frozen=True, slots=True)
class _Log:
    """One epoch: its size, its right edge, and which full tiles are rows."""

    size: int
    edge: tiles.TileEdge
    unwritten: frozenset[tuple[int, int]]
    signed: bytes


def head(connection: apsw.Connection) -> tuple[int, bytes]:
    """(tree size, signed checkpoint); ConfigurationError before the first."""
    found = rows(connection, "SELECT size, note FROM checkpoint")
    if not found:
        raise ConfigurationError(
            ["the log has no checkpoint yet: start the gateway once"]
        )
    [(size, signed)] = found
    return size, signed


def needed_files(connection: apsw.Connection) -> Iterator[str]:
    """The tile files, below the data directory, that the store's rows do not hold."""
    for number, log in sorted(_logs(connection).items()):
        top = epochs.tile_directory(number)
        for level in (None, *range(tiles.levels(log.size))):
            for tile in tiles.level_tiles(level, log.size):
                full = tile.width == tiles.TILE_WIDTH
                if full and (level or 0, tile.index) not in log.unwritten:
                    yield f"{top}/{tile.path}"


def _logs(connection: apsw.Connection) -> dict[int, _Log]:
    """What the store holds of each epoch."""
    size, signed = head(connection)
    unwritten = frozenset(rows(connection, "SELECT level, idx FROM tiles"))
    found = {
        number: _Log(one.size, one.edge(), frozenset(), one.checkpoint)
        for number, one in epochs.all_ended(connection).items()
        if one.size
    }
    now = epochs.current(connection)
    found[now] = _Log(size, load_edge(connection, size), unwritten, signed)
    return found


def check_log(directory: Path, connection: apsw.Connection, keys: Path) -> None:
    """Recompute every epoch's head from its entries; IntegrityError says what is wrong.

    Each must be what its checkpoint says, signed with the epoch's key in `keys`.
    """
    origin = str(meta(connection, "origin"))
    try:
        for number, log in _logs(connection).items():
            top = directory / epochs.tile_directory(number)
            verifier = epochs.verifier(keys, origin, number)
            opened = note.open_note(log.signed, [verifier], core.verify)
            checkpoint = note.parse_checkpoint(opened.text)
            _check_tiles(top, connection, log)
            if (checkpoint.size, checkpoint.root) != (log.size, log.edge.root()):
                raise IntegrityError(
                    f"{top}: the entries do not lead to the checkpoint of size "
                    f"{log.size}"
                )
    except RejectError as error:
        raise IntegrityError(f"{directory}: the log is damaged: {error}") from error


def _check_tiles(top: Path, connection: apsw.Connection, log: _Log) -> None:
    """Every full tile follows from the entries, and the edge from the tiles."""
    above: list[bytes] = []
    for index in range(log.size // tiles.TILE_WIDTH):
        if (0, index) in log.unwritten:
            entries = _entry_rows(connection, index)
        else:
            path = tiles.entries_path(index)
            entries = tiles.decode_bundle(_read(top / path), tiles.TILE_WIDTH)
        hashes = b"".join(map(tlog.leaf_hash, entries))
        _compare(top, connection, log, (0, index), hashes)
        above.append(core.tree_root(hashes))
    level = 1
    while above:
        full, rest = divmod(len(above), tiles.TILE_WIDTH)
        roots = []
        for index in range(full):
            start = index * tiles.TILE_WIDTH
            hashes = b"".join(above[start : start + tiles.TILE_WIDTH])
            _compare(top, connection, log, (level, index), hashes)
            roots.append(core.tree_root(hashes))
        if b"".join(above[len(above) - rest :]) != log.edge.partial(level):
            raise IntegrityError(f"{top}: the edge of level {level} is another")
        above, level = roots, level + 1


def _entry_rows(connection: apsw.Connection, index: int) -> list[bytes]:
    first = index * tiles.TILE_WIDTH
    return [
        body
        for (body,) in rows(
            connection,
            "SELECT body FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx",
            (first, first + tiles.TILE_WIDTH),
        )
    ]


def _compare(
    top: Path,
    connection: apsw.Connection,
    log: _Log,
    place: tuple[int, int],
    hashes: bytes,
) -> None:
    path = tiles.tile_path(*place)
    if place in log.unwritten:
        query = "SELECT body FROM tiles WHERE level = ? AND idx = ?"
        [(content,)] = rows(connection, query, place)
    else:
        content = _read(top / path)
    if content != hashes:
        raise IntegrityError(f"{top / path}: does not follow from the entries")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(f"{path}: missing") from None
