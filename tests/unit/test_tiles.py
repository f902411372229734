"""Paths, tiles and bundles of C2SP tlog-tiles."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RejectError
from edge.ledger import tiles, tlog
from edge.ledger.tiles import Tile, TileEdge

SIZES = (1, 255, 256, 257, 65535, 65536, 65537, 70000)


@cache
def leaves() -> list[bytes]:
    return [tlog.leaf_hash(b"%d" % at) for at in range(max(SIZES))]


@cache
def grown() -> tuple[dict[tuple[int, int], bytes], dict[int, TileEdge]]:
    """All full tiles of 70000 leaves, and the edge as it was at each of SIZES."""
    edge = TileEdge()
    full: dict[tuple[int, int], bytes] = {}
    edges = {}
    for leaf in leaves():
        for tile in edge.append(leaf):
            assert (tile.level, tile.index) not in full
            full[tile.level, tile.index] = tile.content
        if edge.size in SIZES:
            edges[edge.size] = TileEdge.load(edge.size, edge.dump())
    return full, edges


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 999), "tile/0/999"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(1, 1234067), "tile/1/x001/x234/067"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(2, 0, 1), "tile/2/000.p/1"),
        (Tile(None, 1234067, 8), "tile/entries/x001/x234/067.p/8"),
    ],
)
def test_a_path_is_written_and_read_as_in_the_specification(
    tile: Tile, path: str
) -> None:
    assert tile.path == path
    assert tiles.parse_path(path) == tile


@given(
    st.one_of(st.none(), st.integers(0, 7)),
    st.integers(0, 2**55),
    st.integers(1, 256),
)
def test_every_path_is_read_back(level: int | None, index: int, width: int) -> None:
    tile = Tile(level, index, width)
    assert tiles.parse_path(tile.path) == tile
    assert tile.path in (
        tiles.entries_path(index, width),
        tiles.tile_path(level or 0, index, width),
    )


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/0",
        "tile/0/0000",
        "tile/0/1000",
        "tile/0/001/000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/00/000",
        "tile/8/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/300",
        "tile/0/000.p",
        "tile/data/000",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/000\n",
        "tile/0/٠٠٠",
        "tile/0/" + "x001/" * 8 + "001",
        "checkpoint",
        "",
    ],
)
def test_what_no_writer_writes_is_not_a_path(path: str) -> None:
    with pytest.raises(RejectError, match="not the path of a tile"):
        tiles.parse_path(path)


def names(size: int) -> list[str]:
    """The partial tiles, and the count of full ones, of each level."""
    found = []
    for level in range(tiles.levels(size)):
        all_tiles = list(tiles.level_tiles(level, size))
        full = [one for one in all_tiles if one.width == 256]
        assert [one.index for one in all_tiles] == list(range(len(all_tiles)))
        found.append(f"{len(full)} full")
        found += [one.path for one in all_tiles if one.width < 256]
    return found


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, []),
        (1, ["0 full", "tile/0/000.p/1"]),
        (255, ["0 full", "tile/0/000.p/255"]),
        (256, ["1 full", "0 full", "tile/1/000.p/1"]),
        (257, ["1 full", "tile/0/001.p/1", "0 full", "tile/1/000.p/1"]),
        (65535, ["255 full", "tile/0/255.p/255", "0 full", "tile/1/000.p/255"]),
        (65536, ["256 full", "1 full", "0 full", "tile/2/000.p/1"]),
        (
            65537,
            ["256 full", "tile/0/256.p/1", "1 full", "0 full", "tile/2/000.p/1"],
        ),
        (
            70000,
            [
                "273 full",
                "tile/0/273.p/112",
                "1 full",
                "tile/1/001.p/17",
                "0 full",
                "tile/2/000.p/1",
            ],
        ),
    ],
)
def test_a_size_demands_these_tiles(size: int, expected: list[str]) -> None:
    assert names(size) == expected
    partial = [one.path for one in tiles.partial_tiles(size)]
    assert partial == [one for one in expected if one.startswith("tile")]
    for level in range(tiles.levels(size)):
        for tile in tiles.level_tiles(level, size):
            assert tiles.width_at(level, tile.index, size) == tile.width
        assert tiles.width_at(level, tile.index + 1, size) == 0


@pytest.mark.parametrize("size", SIZES)
def test_the_edge_knows_the_root_and_the_partial_tiles(size: int) -> None:
    full, edges = grown()
    edge = edges[size]
    assert edge.root() == tlog.tree_root(leaves()[:size])
    for tile in tiles.partial_tiles(size):
        assert tile.level is not None
        first = tile.index * 256
        if tile.level == 0:
            wanted = leaves()[first : first + tile.width]
        else:
            wanted = [
                tlog.tree_root(tiles.split_hashes(full[tile.level - 1, at]))
                for at in range(first, first + tile.width)
            ]
        assert edge.partial(tile.level) == b"".join(wanted)


def test_the_full_tiles_come_once_each_and_hold_the_hashes_below_them() -> None:
    full, _ = grown()
    assert set(full) == {(0, at) for at in range(273)} | {(1, 0)}
    for (level, index), content in full.items():
        if level == 0:
            assert content == b"".join(leaves()[index * 256 : index * 256 + 256])
        else:
            below = (tiles.split_hashes(full[0, at]) for at in range(256))
            assert content == b"".join(map(tlog.tree_root, below))


def test_tiles_that_one_leaf_completes_come_with_it_from_the_lowest_up() -> None:
    edge = grown()[1][65535]
    again = TileEdge.load(edge.size, edge.dump())
    found = again.append(leaves()[65535])
    assert [(one.level, one.index) for one in found] == [(0, 255), (1, 0)]
    assert again.dump() == [b"", b"", tlog.tree_root(leaves()[:65536])]


@given(st.integers(0, 700), st.integers(0, 300))
def test_a_loaded_edge_goes_on_as_if_it_had_never_stopped(
    before: int, after: int
) -> None:
    edge = TileEdge()
    for leaf in leaves()[:before]:
        edge.append(leaf)
    again = TileEdge.load(before, edge.dump())
    for leaf in leaves()[before : before + after]:
        assert edge.append(leaf) == again.append(leaf)
    assert again.dump() == edge.dump()
    assert again.root() == edge.root() == tlog.tree_root(leaves()[: before + after])


def test_an_edge_is_loaded_only_with_the_widths_of_its_size() -> None:
    """What is stored may be damaged; a wrong edge would sign a wrong tree."""
    edge = grown()[1][70000]
    rows = edge.dump()
    with pytest.raises(RejectError, match="level 1: 544 bytes for 18 hashes"):
        TileEdge.load(70256, rows)
    with pytest.raises(RejectError, match="2 levels for a tree of size 70000"):
        TileEdge.load(70000, rows[:2])
    with pytest.raises(RejectError, match="level 0"):
        TileEdge.load(70000, [rows[0][:-1], *rows[1:]])


def test_a_part_of_a_partial_tile_can_be_had_but_not_more_than_there_is() -> None:
    edge = grown()[1][255]
    assert edge.partial(0, 3) == b"".join(leaves()[:3])
    assert edge.partial(4) == b""
    with pytest.raises(ValueError, match="255 wide, not 256"):
        edge.partial(0, 256)
    with pytest.raises(ValueError, match="31 bytes"):
        edge.append(bytes(31))


@given(st.integers(0, 69999), st.sampled_from((257, 65537, 70000)))
def test_proofs_are_read_from_tiles(index: int, size: int) -> None:
    """Plan, read each tile once, prove: the way in which the gateway proves."""
    index %= size
    full, edges = grown()
    asked = []

    def read(level: int, at: int) -> bytes:
        asked.append((level, at))
        if tiles.width_at(level, at, size) == tiles.TILE_WIDTH:
            return full[level, at]
        return edges[size].partial(level)

    hashes = tiles.read_subtrees(tlog.plan_inclusion(index, size), read)
    path = tlog.inclusion(index, size, hashes)
    found = tlog.root_from_inclusion(index, size, leaves()[index], path)
    assert found == edges[size].root()
    assert len(asked) == len(set(asked)) <= 5


def test_a_tile_that_is_too_narrow_for_a_proof_is_refused() -> None:
    with pytest.raises(RejectError, match="tile/0/000: less wide"):
        tiles.read_subtrees([tlog.Subtree(1, 3)], lambda _level, _at: bytes(7 * 32))


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_a_bundle_gives_its_entries_back(entries: list[bytes]) -> None:
    content = tiles.encode_bundle(entries)
    assert tiles.decode_bundle(content, len(entries)) == entries
    with pytest.raises(RejectError):
        tiles.decode_bundle(content, len(entries) + 1)
    with pytest.raises(RejectError):
        tiles.decode_bundle(content + b"\0", len(entries))


def test_a_bundle_is_sizes_and_entries() -> None:
    content = tiles.encode_bundle([b"", b"ab", b"c" * 258])
    assert content == b"\0\0" + b"\0\2ab" + b"\1\2" + b"c" * 258
    with pytest.raises(RejectError, match="entry 2 begins at byte 6"):
        tiles.decode_bundle(content[:-1], 3)
    with pytest.raises(RejectError, match="entry 1 begins at byte 2"):
        tiles.decode_bundle(content[:3], 3)
    with pytest.raises(RejectError, match="260 bytes after the end, at byte 6"):
        tiles.decode_bundle(content, 2)
    assert len(tiles.encode_bundle([bytes(65535)])) == 65537
    with pytest.raises(ValueError, match="65536 bytes"):
        tiles.encode_bundle([bytes(65536)])
