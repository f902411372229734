"""The deterministic CBOR codec against RFC 8949, an independent codec, and garbage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import cbor
from edge.errors import RejectError

# RFC 8949 appendix A, the rows that our formats can hold, and the edges between the
# widths of a head.
VECTORS: list[tuple[object, str]] = [
    (0, "00"),
    (23, "17"),
    (24, "1818"),
    (255, "18ff"),
    (256, "190100"),
    (65535, "19ffff"),
    (65536, "1a00010000"),
    (2**32 - 1, "1affffffff"),
    (2**32, "1b0000000100000000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-1, "20"),
    (-24, "37"),
    (-25, "3818"),
    (-1000, "3903e7"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (False, "f4"),
    (True, "f5"),
    (None, "f6"),
    (b"", "40"),
    (bytes.fromhex("01020304"), "4401020304"),
    ("", "60"),
    ("ü", "62c3bc"),
    ("水", "63e6b0b4"),
    ([], "80"),
    ([1, [2, 3], [4, 5]], "8301820203820405"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": [2, 3]}, "a26161016162820203"),
    (cbor.Tag(1, 1363896240), "c11a514b67b0"),
    (cbor.Tag(4, [-2, 27315]), "c48221196ab3"),  # 273.15, RFC 8949 section 3.4.4
]


@pytest.mark.parametrize(("item", "text"), VECTORS, ids=[text for _, text in VECTORS])
def test_the_examples_of_the_standard_hold_in_both_directions(
    item: object, text: str
) -> None:
    assert cbor.encode(item).hex() == text
    decoded = cbor.decode(bytes.fromhex(text))
    assert decoded == item
    assert type(decoded) is type(item)  # 1 == True, so equality alone is not enough


def test_map_keys_come_in_the_order_of_their_encoded_bytes() -> None:
    """RFC 8949 section 4.2.1's own example, less the key that is false."""
    unordered = {100: 0, "aa": 0, 10: 0, "z": 0, -1: 0, (100,): 0}
    assert cbor.encode(unordered).hex() == "a60a001864002000617a006261610081186400"


BAD = {
    "": "ends early, at byte 0",
    "1817": "number not in its shortest form at byte 0",
    "1900ff": "number not in its shortest form at byte 0",
    "1a0000ffff": "number not in its shortest form at byte 0",
    "1b00000000ffffffff": "number not in its shortest form at byte 0",
    "19ff": "ends early, at byte 2",
    "5801aa": "number not in its shortest form at byte 0",
    "42aa": "string of 2 bytes ends early, at byte 0",
    "61ff": "text is not UTF-8 at byte 0",
    "63eda080": "text is not UTF-8 at byte 0",  # a lone surrogate
    "5f4101ff": "indefinite length or reserved head at byte 0",
    "9fff": "indefinite length or reserved head at byte 0",
    "bfff": "indefinite length or reserved head at byte 0",
    "1c": "indefinite length or reserved head at byte 0",
    "f7": "float or unassigned simple value at byte 0",  # undefined
    "f0": "float or unassigned simple value at byte 0",
    "f820": "float or unassigned simple value at byte 0",
    "f93c00": "float or unassigned simple value at byte 0",
    "fa3f800000": "float or unassigned simple value at byte 0",
    "0000": "1 bytes after the end, at byte 1",
    "8201": "array of 2 items ends early, at byte 1",
    "9b00ffffffffffffff": "array of 72057594037927935 items ends early, at byte 9",
    "a201020104": "map keys out of order or twice at byte 3",
    "a203040102": "map keys out of order or twice at byte 3",
    "a1f500": "map key is not a number or string at byte 1",
    "a18000": "map key is not a number or string at byte 1",
    "a1c10000": "map key is not a number or string at byte 1",
    "bb00ffffffffffffff": "map of 72057594037927935 pairs ends early, at byte 9",
    "81" * 9 + "00": "nested more than 8 deep, at byte 9",
}


@pytest.mark.parametrize("text", BAD, ids=str)
def test_what_the_deterministic_rules_forbid_is_refused_with_its_place(
    text: str,
) -> None:
    with pytest.raises(RejectError) as refused:
        cbor.decode(bytes.fromhex(text))
    assert str(refused.value) == BAD[text]


def test_nesting_of_exactly_the_limit_is_accepted() -> None:
    item: object = 0
    for _ in range(cbor.MAX_DEPTH):
        item = [item]
    assert cbor.decode(cbor.encode(item)) == item


def test_what_has_no_encoding_here_is_a_mistake_of_the_caller() -> None:
    for item in (1.5, object(), {1.5: 0}, {1}):
        with pytest.raises(TypeError):
            cbor.encode(item)
    for number in (2**64, -(2**64) - 1):
        with pytest.raises(ValueError, match="64 bits"):
            cbor.encode(number)


def test_kin_of_the_types_are_encoded_like_them() -> None:
    class Word(str):
        __slots__ = ()

    class Many(dict[int, int]):
        pass

    assert cbor.encode(Word("a")) == cbor.encode("a")
    assert cbor.encode(Many({1: 2})) == cbor.encode({1: 2})
    assert cbor.encode(bytearray(b"ab")) == cbor.encode(b"ab")
    assert cbor.encode((1, 2)) == cbor.encode([1, 2])
    words = memoryview(b"abcdefgh").cast("H")  # len() is 4, its size is 8
    assert cbor.encode(words) == cbor.encode(b"abcdefgh")


def test_a_byte_string_is_found_in_place() -> None:
    data = bytes.fromhex("8243aabbcc00")
    assert cbor.byte_string_span(data, 1) == (2, 5)
    for text, at, words in (
        ("63616263", 0, "not a byte string at byte 0"),
        ("43aabb", 0, "string of 3 bytes ends early, at byte 0"),
        ("41", 5, "ends early, at byte 5"),
    ):
        with pytest.raises(RejectError, match=words):
            cbor.byte_string_span(bytes.fromhex(text), at)


KEYS = st.one_of(
    st.integers(-(2**64), 2**64 - 1),
    st.text(max_size=8),
    st.binary(max_size=8),
)
SCALARS = st.one_of(KEYS, st.booleans(), st.none(), st.text(), st.binary())
ITEMS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        # Tags that cbor2 gives no meaning of its own to.
        st.builds(cbor.Tag, st.integers(60_000, 2**64 - 1), inner),
    ),
    max_leaves=12,
)


def plain(item: Any) -> Any:
    """An item of ours or of cbor2's (immutable inside a tag) in terms of both."""
    if isinstance(item, cbor.Tag):
        return ("tag", item.number, plain(item.value))
    if isinstance(item, cbor2.CBORTag):
        return ("tag", item.tag, plain(item.value))
    if isinstance(item, list | tuple):
        return ["array", *map(plain, item)]
    if isinstance(item, Mapping):
        return {key: plain(value) for key, value in item.items()}
    return item


def depth_of(item: object) -> int:
    if isinstance(item, cbor.Tag):
        return 1 + depth_of(item.value)
    if isinstance(item, list):
        return 1 + max(map(depth_of, item), default=0)
    if isinstance(item, dict):
        return 1 + max(map(depth_of, item.values()), default=0)
    return 0


@given(ITEMS.filter(lambda item: depth_of(item) <= cbor.MAX_DEPTH))
def test_an_independent_codec_reads_what_we_write_and_so_do_we(item: object) -> None:
    encoded = cbor.encode(item)
    assert plain(cbor2.loads(encoded)) == plain(item)
    assert cbor.decode(encoded) == item


@given(st.binary(max_size=40))
def test_accepted_bytes_are_the_only_encoding_of_their_item(data: bytes) -> None:
    """So two different byte strings never mean the same, and no hash is ambiguous."""
    try:
        item = cbor.decode(data)
    except RejectError:
        return
    assert cbor.encode(item) == data


@given(ITEMS, st.data())
def test_a_changed_byte_is_refused_or_means_something_else(
    item: object, choice: st.DataObject
) -> None:
    encoded = bytearray(cbor.encode(item))
    at = choice.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= choice.draw(st.integers(1, 255))
    try:
        other = cbor.decode(bytes(encoded))
    except RejectError:
        return
    assert cbor.encode(other) == bytes(encoded)


@given(ITEMS, st.integers(1, 8))
def test_a_truncated_item_is_refused(item: object, missing: int) -> None:
    encoded = cbor.encode(item)
    with pytest.raises(RejectError):
        cbor.decode(encoded[:-missing])


def test_an_array_of_what_comes_again_is_encoded_like_any_array() -> None:
    """Also one of items that are encoded already, and of more than 23."""
    items: list[int | str | None] = [0, 1, -1, None, "", "a", 2**40, 1, None, "a"] * 3
    known = cbor.Encodings()
    assert known.array(items) == cbor.encode(items)
    assert known.array([]) == cbor.encode([])
    encoded = [cbor.Encoded(cbor.encode(one)) for one in items]
    assert cbor.encode(encoded) == cbor.encode(items)
