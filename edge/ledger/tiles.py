"""The log as files: C2SP tlog-tiles paths, tiles and entry bundles.

    checkpoint                     the signed note
    tile/<L>/<N>[.p/<W>]           W (or 256) hashes of 32 bytes
    tile/entries/<N>[.p/<W>]       W (or 256) times: size as uint16 big-endian, entry

Hash i of the tile (L, N) is the root over the 256**L leaves from (N*256 + i) * 256**L
on, so level 0 holds leaf hashes, and each hash above is the root of a full tile below.
N is written in groups of three digits, all but the last marked with an x:
1234067 is x001/x234/067. A tree of size s has s // 256**(L+1) full tiles on level L
and, when s // 256**L is no multiple of 256, one partial tile of the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge.errors import RejectError
from edge.ledger.tlog import (
    EMPTY_ROOT,
    HASH_SIZE,
    Subtree,
    tree_root,
)

TILE_WIDTH = 256
TILE_SIZE = TILE_WIDTH * HASH_SIZE
TILE_HEIGHT = 8  # binary levels in a tile
LEVEL_MAX = 7  # 256**8 is more than the largest tree size
ENTRY_SIZE_MAX = 65535
BUNDLE_SIZE_MAX = TILE_WIDTH * (2 + ENTRY_SIZE_MAX)
CHECKPOINT_PATH = "checkpoint"

_PATH = re.compile(
    r"tile/(entries|[0-7])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?",
    re.ASCII,
)
_INDEX_GROUPS_MAX = 7  # 10**21 is more than the largest tree size


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile (or, with level None, an entry bundle) of the first `width` items."""

    level: int | None
    index: int
    width: int = TILE_WIDTH

    @property
    def path(self) -> str:
        """The tile's path in the log's directory."""
        level = "entries" if self.level is None else str(self.level)
        text = f"{self.index % 1000:03d}"
        rest = self.index // 1000
        while rest:
            text = f"x{rest % 1000:03d}/{text}"
            rest //= 1000
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{text}{partial}"


@dataclass(frozen=True, slots=True)
class FullTile:
    """A tile that is complete and will never change."""

    level: int
    index: int
    content: bytes


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile of hashes."""
    return Tile(level, index, width).path


def entries_path(index: int, width: int = TILE_WIDTH) -> str:
    """The path of an entry bundle."""
    return Tile(None, index, width).path


def parse_path(path: str) -> Tile:
    """The tile of this path; RejectError unless it is exactly what `path` writes."""
    match = _PATH.fullmatch(path)
    if match is None or match[2].count("/") >= _INDEX_GROUPS_MAX:
        raise RejectError(f"{path}: not the path of a tile")
    level = None if match[1] == "entries" else int(match[1])
    index = int(match[2].replace("x", "").replace("/", ""))
    tile = Tile(level, index, int(match[3] or TILE_WIDTH))
    if tile.path != path or tile.width > TILE_WIDTH:
        raise RejectError(f"{path}: not the path of a tile")
    return tile


def width_at(level: int | None, index: int, size: int) -> int:
    """How many items the tile at this place has in a tree of `size`: 0 to 256."""
    count = size >> TILE_HEIGHT * (level or 0)
    return max(0, min(TILE_WIDTH, count - index * TILE_WIDTH))


def levels(size: int) -> int:
    """How many levels of tiles a tree of `size` has."""
    return -(-size.bit_length() // TILE_HEIGHT)


def level_tiles(level: int | None, size: int) -> Iterator[Tile]:
    """The tiles of one level (None: the bundles), the partial one last."""
    count = size >> TILE_HEIGHT * (level or 0)
    for index in range(count // TILE_WIDTH):
        yield Tile(level, index)
    if count % TILE_WIDTH:
        yield Tile(level, count // TILE_WIDTH, count % TILE_WIDTH)


def partial_tiles(size: int) -> list[Tile]:
    """The partial tiles of hashes of a tree of `size`, the lowest level first."""
    found = []
    for level in range(levels(size)):
        index, width = divmod(size >> TILE_HEIGHT * level, TILE_WIDTH)
        if width:
            found.append(Tile(level, index, width))
    return found


def encode_bundle(entries: Iterable[bytes]) -> bytes:
    """The bundle of these entries; ValueError for one that is too large."""
    parts = []
    for entry in entries:
        if len(entry) > ENTRY_SIZE_MAX:
            raise ValueError(f"an entry of {len(entry)} bytes")
        parts.append(len(entry).to_bytes(2, "big"))
        parts.append(entry)
    return b"".join(parts)


def iterate_bundle(content: bytes, width: int) -> Iterator[tuple[int, bytes]]:
    """Each entry of a bundle after the byte where its size stands.

    RejectError names the byte that is wrong, after the entries before it were given.
    """
    at = 0
    for number in range(width):
        start = at + 2
        end = start + int.from_bytes(content[at:start], "big")
        if start > len(content) or end > len(content):
            raise RejectError(f"ends early: entry {number} begins at byte {at}")
        yield at, content[start:end]
        at = end
    if at != len(content):
        raise RejectError(f"{len(content) - at} bytes after the end, at byte {at}")


def decode_bundle(content: bytes, width: int) -> list[bytes]:
    """The `width` entries of a bundle; RejectError names the byte that is wrong."""
    return [entry for _, entry in iterate_bundle(content, width)]


def split_hashes(content: bytes) -> list[bytes]:
    """The hashes of a tile; RejectError when the last one is cut."""
    if len(content) % HASH_SIZE:
        raise RejectError(f"{len(content)} bytes are no multiple of {HASH_SIZE}")
    return [content[at : at + HASH_SIZE] for at in range(0, len(content), HASH_SIZE)]


def read_subtrees(
    wanted: Sequence[Subtree],
    read: Callable[[int, int], bytes],
    root: Callable[[bytes], bytes] | None = None,
) -> list[bytes]:
    """The hashes of these subtrees, as tlog's plans ask for them.

    `read(level, index)` gives a tile's bytes, full or as wide as the tree has it; it is
    asked once for each tile. `root` is the root over joined leaf hashes (the C core's,
    where there is one). RejectError when a tile is not wide enough.
    """
    kept: dict[tuple[int, int], bytes] = {}
    hashes = []
    for one in wanted:
        tile_level, above = divmod(one.level, TILE_HEIGHT)
        tile_index, start = divmod(one.index << above, TILE_WIDTH)
        place = (tile_level, tile_index)
        if place not in kept:
            kept[place] = read(tile_level, tile_index)
        row = kept[place][start * HASH_SIZE : (start + (1 << above)) * HASH_SIZE]
        if len(row) != HASH_SIZE << above:
            raise RejectError(f"{tile_path(*place)}: less wide than the tree needs")
        hashes.append(root(row) if root else tree_root(split_hashes(row)))
    return hashes


def _root_of(joined: bytes) -> bytes:
    return tree_root(split_hashes(joined))


class TileEdge:
    """The right edge of the log: on each level the hashes of its partial tile.

    `root_of` is the root over joined hashes (the C core's, where there is one).
    """

    __slots__ = ("_root_of", "_rows", "size")

    def __init__(self, root_of: Callable[[bytes], bytes] = _root_of) -> None:
        self.size = 0
        self._rows: list[bytearray] = []
        self._root_of = root_of

    @classmethod
    def load(
        cls,
        size: int,
        rows: Sequence[bytes],
        root_of: Callable[[bytes], bytes] = _root_of,
    ) -> TileEdge:
        """The edge that `dump` took apart; RejectError where the widths disagree."""
        if len(rows) != levels(size):
            raise RejectError(f"{len(rows)} levels for a tree of size {size}")
        edge = cls(root_of)
        edge.size = size
        for level, row in enumerate(rows):
            width = (size >> TILE_HEIGHT * level) % TILE_WIDTH
            if len(row) != width * HASH_SIZE:
                raise RejectError(f"level {level}: {len(row)} bytes for {width} hashes")
            edge._rows.append(bytearray(row))
        return edge

    def dump(self) -> list[bytes]:
        """Each level's partial tile, level 0 first, to be kept together with `size`."""
        return [bytes(row) for row in self._rows]

    def partial(self, level: int, width: int | None = None) -> bytes:
        """The partial tile of a level, or its first `width` hashes."""
        row = self._rows[level] if level < len(self._rows) else bytearray()
        if width is not None and width * HASH_SIZE > len(row):
            raise ValueError(
                f"level {level} is {len(row) // HASH_SIZE} wide, not {width}"
            )
        return bytes(row if width is None else row[: width * HASH_SIZE])

    def append(self, leaf: bytes) -> list[FullTile]:
        """Add a leaf hash; the tiles that became full with it, the lowest first."""
        if len(leaf) != HASH_SIZE:
            raise ValueError(f"a leaf hash of {len(leaf)} bytes")
        return self.extend(leaf)

    def extend(self, leaf_hashes: bytes) -> list[FullTile]:
        """Add joined leaf hashes; the tiles that became full, by level and index."""
        if len(leaf_hashes) % HASH_SIZE:
            raise ValueError(f"leaf hashes of {len(leaf_hashes)} bytes")
        full: list[FullTile] = []
        more, level = leaf_hashes, 0
        while more:
            if level == len(self._rows):
                self._rows.append(bytearray())
            row = self._rows[level]
            row += more
            first = len(full)
            index = self.size >> TILE_HEIGHT * (level + 1)
            while len(row) >= TILE_SIZE:
                full.append(FullTile(level, index, bytes(row[:TILE_SIZE])))
                del row[:TILE_SIZE]
                index += 1
            more = b"".join(self._root_of(tile.content) for tile in full[first:])
            level += 1
        self.size += len(leaf_hashes) // HASH_SIZE
        return full

    def root(self) -> bytes:
        """The root of the whole tree."""
        result = b""
        for row in self._rows:
            # What is incomplete below is the last, incomplete node of this level.
            if row or result:
                result = self._root_of(bytes(row) + result)
        return result or EMPTY_ROOT
