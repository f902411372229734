"""The reading side of the log: checkpoint, tiles, bundles, and what proofs need.

It opens nothing sealed and needs no key. The log of the epoch that the store writes is
read from rows and tile files; one that has ended from its row in `meta` and its files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from edge.errors import IntegrityError, NotFoundError, RejectError
from edge.ledger import core, tiles, tlog
from edge.ledger.batch import Batch, ClockTick, Entry, GatewayStart, decode_entry
from edge.store import epochs
from edge.store.commit import partial_tile
from edge.store.database import rows

BUNDLES_KEPT = 16


class LogReader:
    """One epoch of the log, on a connection that its caller closes."""

    def __init__(
        self, connection: apsw.Connection, directory: Path, epoch: int | None = None
    ) -> None:
        self._connection = connection
        now = epochs.current(connection)
        self.epoch = now if epoch is None else epoch
        self._ended = (
            None if self.epoch == now else epochs.ended(connection, self.epoch)
        )
        self._directory = directory / epochs.tile_directory(self.epoch)
        self._bundles: dict[int, list[bytes]] = {}

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Several queries over one state of the store."""
        if self._connection.in_transaction:
            yield
            return
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("COMMIT")

    @property
    def ended(self) -> epochs.Ended | None:
        """How the epoch ended, None while the store writes it."""
        return self._ended

    # ---- What a client gets ----

    def checkpoint(self) -> tuple[int, bytes]:
        """(tree size, newest signed checkpoint); NotFoundError before the first.

        Of an epoch that ended with a rollback nothing is released but what is known to
        be of its first history.
        """
        if self._ended is not None:
            if self._ended.original and self._ended.size:
                return self._ended.size, self._ended.checkpoint
            raise NotFoundError(
                f"{self._ended.origin} ended with a rollback: nothing more that it "
                "signed is released (docs/limits.md)"
            )
        found = rows(self._connection, "SELECT size, note FROM checkpoint")
        if not found:
            raise NotFoundError("the log has no checkpoint yet")
        [(size, signed)] = found
        return size, signed

    def resource(self, path: str) -> bytes | None:
        """What a tlog-tiles client gets for `path`, or None.

        Partial tiles are served at every width up to what the newest checkpoint covers.
        """
        with self.snapshot():
            size, signed = self.checkpoint()
            if path == tiles.CHECKPOINT_PATH:
                return signed
            try:
                tile = tiles.parse_path(path)
            except RejectError:
                return None
            if tile.width > tiles.width_at(tile.level, tile.index, size):
                return None
            if tile.level is None:
                entries = self._entries(tile.index, size)[: tile.width]
                return tiles.encode_bundle(entries)
            content = self.tile(tile.level, tile.index, size)
            return content[: tile.width * tlog.HASH_SIZE]

    def export(self, target: Path) -> int:
        """Write the whole log as a static directory, `checkpoint` last; its size.

        The gateway may run and append meanwhile: what is written is the log at the
        checkpoint of the start. Files that are there already are overwritten.
        """
        size, signed = self.checkpoint()
        paths = [
            one.path
            for level in (None, *range(tiles.levels(size)))
            for one in tiles.level_tiles(level, size)
        ]
        for path in paths:
            content = self.resource(path)
            if content is None:
                raise IntegrityError(f"{path}: missing")
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        temporary = target / (tiles.CHECKPOINT_PATH + ".tmp")
        target.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(signed)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(target / tiles.CHECKPOINT_PATH)
        return size

    # ---- Tiles and entries ----

    def _file(self, path: str) -> bytes | None:
        try:
            return (self._directory / path).read_bytes()
        except FileNotFoundError:
            return None

    def tile(self, level: int, index: int, size: int) -> bytes:
        """A tile of hashes as wide as the tree of `size`, the newest, has it."""
        if tiles.width_at(level, index, size) < tiles.TILE_WIDTH:
            if self._ended is not None:
                return self._ended.edge().partial(level)
            return partial_tile(self._connection, level, size)
        content = self._file(tiles.tile_path(level, index))
        if content is not None:
            return content
        found = rows(
            self._connection,
            "SELECT body FROM tiles WHERE level = ? AND idx = ?",
            (level, index),
        )
        if self._ended is not None or not found:
            raise IntegrityError(f"{tiles.tile_path(level, index)}: missing")
        return bytes(found[0][0])

    def _entries(self, index: int, size: int) -> list[bytes]:
        """The entries of a bundle, as many as the tree has."""
        width = tiles.width_at(None, index, size)
        kept = self._bundles.get(index)
        if kept is not None and len(kept) >= width:
            return kept[:width]
        content = self._file(tiles.entries_path(index))
        first = index * tiles.TILE_WIDTH
        if content is not None:
            found = tiles.decode_bundle(content, tiles.TILE_WIDTH)[:width]
        elif self._ended is not None:
            found = list(self._ended.tail) if width < tiles.TILE_WIDTH else []
        else:
            found = [
                body
                for (body,) in rows(
                    self._connection,
                    "SELECT body FROM entries WHERE idx >= ? AND idx < ? ORDER BY idx",
                    (first, first + width),
                )
            ]
        if len(found) != width:
            raise IntegrityError(f"{tiles.entries_path(index, width)}: missing")
        if len(self._bundles) >= BUNDLES_KEPT:
            self._bundles.clear()
        self._bundles[index] = found
        return found

    def entry(self, index: int, size: int) -> bytes:
        """One entry of the tree of `size`."""
        bundle, place = divmod(index, tiles.TILE_WIDTH)
        return self._entries(bundle, size)[place]

    # ---- What proofs need ----

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """The path of an entry in the tree of `size`, the newest."""
        found = tiles.read_subtrees(
            tlog.plan_inclusion(index, size),
            lambda level, place: self.tile(level, place, size),
            core.tree_root,
        )
        return tuple(tlog.inclusion(index, size, found))

    def consistency(self, old: int, new: int, size: int) -> tuple[bytes, ...]:
        """The consistency proof from `old` to `new`; the tree has `size` now."""
        found = tiles.read_subtrees(
            tlog.plan_consistency(old, new),
            lambda level, place: self.tile(level, place, size),
            core.tree_root,
        )
        return tuple(tlog.consistency(old, new, found))

    def root_at(self, old: int, size: int) -> bytes:
        """The root that the tree, which has `size` now, had at `old`."""
        found = tiles.read_subtrees(
            tlog.plan_root(old),
            lambda level, place: self.tile(level, place, size),
            core.tree_root,
        )
        return tlog.root(old, found)

    def first_where(self, size: int, holds: Callable[[int], bool]) -> int:
        """The first index below `size` that `holds`, or `size`; once true, always."""
        low, high = 0, size
        while low < high:
            middle = (low + high) // 2
            if holds(middle):
                high = middle
            else:
                low = middle + 1
        return low

    def first_at(self, time_ms: int, size: int) -> int:
        """The index of the first entry of this time or later (times never go back)."""
        return self.first_where(
            size, lambda at: self.decoded(at, size).time_ms >= time_ms
        )

    def decoded(self, index: int, size: int) -> Entry:
        """One entry, decoded."""
        return decode_entry(self.entry(index, size))

    def start_of(self, boot_id: bytes, index: int, size: int) -> int | None:
        """Where the start of the boot stands that wrote the entry at `index`."""

        def holds(at: int) -> bool:
            while at < index:
                one = self.decoded(at, size)
                if isinstance(one, Batch | ClockTick | GatewayStart):
                    return one.boot_id == boot_id
                at += 1
            return True

        at = self.first_where(index, holds)
        while at < index:  # an enrolment of this boot's time may stand before its start
            one = self.decoded(at, size)
            if isinstance(one, GatewayStart):
                return at if one.boot_id == boot_id else None
            if isinstance(one, Batch | ClockTick):
                return None
            at += 1
        return None
