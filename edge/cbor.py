"""Deterministic CBOR (RFC 8949 section 4.2.1), the part that our formats use.

Types: unsigned and negative integers (64 bit), byte strings, text strings, arrays,
maps, tags, false, true and null. Decoding refuses whatever the deterministic rules
forbid: integers or lengths that are not in their shortest form, indefinite lengths,
map keys that are not in ascending order of their encoded bytes (so a key cannot come
twice), floats, undefined, text that is not UTF-8, and bytes after the end.

    00..17 / 18 xx / 19 xxxx / 1a x4 / 1b x8    unsigned integer
    20..                                        negative integer, -1 - n
    40.. / 60..                                 byte string / text string
    80.. / a0.. / c0..                          array / map / tag
    f4 f5 f6                                    false true null

A text or byte string, an array or a map may not be nested more than MAX_DEPTH deep,
and the caller bounds the size of what it hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Any, NamedTuple

from edge.errors import RejectError

MAX_DEPTH = 8
_UINT, _NINT, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_SIMPLE_VALUES: dict[int, bool | None] = {20: False, 21: True, 22: None}


class Tag(NamedTuple):
    """A tagged item, RFC 8949 section 3.4."""

    number: int
    value: object


class Encoded(bytes):
    """An item that is encoded already; `encode` writes it as it is."""


class Encodings(dict[int | str | None, bytes]):
    """Encodings of what comes again and again, for many items at one time.

    Not for bool, which a dict does not tell from 0 and 1.
    """

    def __missing__(self, item: int | str | None) -> bytes:
        found = self[item] = encode(item)
        return found

    def array(self, items: Sequence[int | str | None]) -> bytes:
        """The encoding of an array of such items."""
        return b"".join([array_head(len(items)), *map(self.__getitem__, items)])


def array_head(count: int) -> bytes:
    """What stands before the encodings of an array's items."""
    out = bytearray()
    _head(_ARRAY, count, out)
    return bytes(out)


def map_head(count: int) -> bytes:
    """What stands before the pairs of a map."""
    out = bytearray()
    _head(_MAP, count, out)
    return bytes(out)


def bytes_head(size: int) -> bytes:
    """What stands before the content of a byte string."""
    if 24 <= size < 0x100:
        return b"\x58%c" % size
    out = bytearray()
    _head(_BYTES, size, out)
    return bytes(out)


def integer(number: int) -> bytes:
    """The encoding of a number; quick for a time in ms."""
    if 0x100000000 <= number < 0x10000000000000000:
        return b"\x1b" + number.to_bytes(8, "big")
    return encode(number)


def encode(item: object) -> bytes:
    """The one deterministic encoding of `item`.

    Takes int (-2**64 .. 2**64-1), bytes, str, list or tuple, Mapping, Tag, bool and
    None; anything else is a TypeError.
    """
    out = bytearray()
    _encode(item, out)
    return bytes(out)


def _head(major: int, argument: int, out: bytearray) -> None:
    if argument < 24:
        out.append(major << 5 | argument)
    elif argument < 0x100:
        out += bytes((major << 5 | 24, argument))
    elif argument < 0x10000:
        out.append(major << 5 | 25)
        out += argument.to_bytes(2, "big")
    elif argument < 0x100000000:
        out.append(major << 5 | 26)
        out += argument.to_bytes(4, "big")
    elif argument < 0x10000000000000000:
        out.append(major << 5 | 27)
        out += argument.to_bytes(8, "big")
    else:
        raise ValueError(f"integer {argument} does not fit into 64 bits")


def _encode(item: object, out: bytearray) -> None:
    # By the exact type first: isinstance on the abstract classes below costs more than
    # all the rest of a small item.
    write = _WRITERS.get(type(item)) or _writer_of_kin(item)
    write(item, out)


def _writer_of_kin(item: object) -> Callable[[Any, bytearray], None]:
    """The writer for a subclass or another class of the same kind."""
    for kinds, write in _KIN:
        if isinstance(item, kinds):
            return write
    raise TypeError(f"CBOR here has no {type(item).__name__}")


def _write_integer(number: int, out: bytearray) -> None:
    if 0 <= number < 24:
        out.append(number)
    elif number >= 0:
        _head(_UINT, int(number), out)
    else:
        _head(_NINT, -1 - number, out)


def _write_bytes(octets: bytes | bytearray | memoryview, out: bytearray) -> None:
    octets = bytes(octets)  # the len() of a memoryview need not be its size
    _head(_BYTES, len(octets), out)
    out += octets


def _write_encoded(encoded: bytes, out: bytearray) -> None:
    out += encoded


def _write_text(text: str, out: bytearray) -> None:
    octets = text.encode()
    _head(_TEXT, len(octets), out)
    out += octets


def _write_tag(tag: Tag, out: bytearray) -> None:
    _head(_TAG, tag.number, out)
    _encode(tag.value, out)


def _write_array(items: Sequence[object], out: bytearray) -> None:
    _head(_ARRAY, len(items), out)
    for item in items:
        _encode(item, out)


def _write_map(items: Mapping[object, object], out: bytearray) -> None:
    _head(_MAP, len(items), out)
    # Two keys never have one encoding, so the sort does not get to compare values.
    for key, value in sorted([(encode(key), value) for key, value in items.items()]):
        out += key
        _encode(value, out)


def _write_simple(value: bool | None, out: bytearray) -> None:
    out.append({False: 0xF4, True: 0xF5, None: 0xF6}[value])


_WRITERS: dict[type, Callable[[Any, bytearray], None]] = {
    int: _write_integer,
    bytes: _write_bytes,
    str: _write_text,
    dict: _write_map,
    list: _write_array,
    tuple: _write_array,
    Tag: _write_tag,
    Encoded: _write_encoded,
    bool: _write_simple,
    type(None): _write_simple,
}
_KIN: tuple[tuple[type | UnionType, Callable[[Any, bytearray], None]], ...] = (
    (int, _write_integer),
    (bytes | bytearray | memoryview, _write_bytes),
    (str, _write_text),
    (Tag, _write_tag),
    (Sequence, _write_array),
    (Mapping, _write_map),
)


def decode(data: bytes) -> object:
    """The item that `data` is the deterministic encoding of.

    Arrays come back as list, maps as dict. Raises RejectError with the byte offset
    where the data leave the deterministic form.
    """
    item, end = _decode(data, 0, 0)
    if end != len(data):
        raise RejectError(f"{len(data) - end} bytes after the end, at byte {end}")
    return item


def decode_at(data: bytes, at: int) -> tuple[object, int]:
    """The item that begins at byte `at`, and where it ends; RejectError as `decode`."""
    return _decode(data, at, 0)


def byte_string_span(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the byte string whose head is at `at` begins and ends.

    For a caller that wants the content without a copy of all that is around it.
    Raises RejectError like `decode`.
    """
    major, length, start = _read_head(data, at)
    if major != _BYTES:
        raise RejectError(f"not a byte string at byte {at}")
    if start + length > len(data):
        raise RejectError(f"string of {length} bytes ends early, at byte {at}")
    return start, start + length


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    """(major type, argument, offset behind the head)."""
    if at >= len(data):
        raise RejectError(f"ends early, at byte {at}")
    major, short = data[at] >> 5, data[at] & 31
    if short < 24:
        return major, short, at + 1
    if short > 27:
        raise RejectError(f"indefinite length or reserved head at byte {at}")
    width = 1 << (short - 24)
    end = at + 1 + width
    if end > len(data):
        raise RejectError(f"ends early, at byte {len(data)}")
    if major == _SIMPLE:
        raise RejectError(f"float or unassigned simple value at byte {at}")
    argument = int.from_bytes(data[at + 1 : end], "big")
    if argument < (24, 0x100, 0x10000, 0x100000000)[short - 24]:
        raise RejectError(f"number not in its shortest form at byte {at}")
    return major, argument, end


def _decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if depth > MAX_DEPTH:
        raise RejectError(f"nested more than {MAX_DEPTH} deep, at byte {at}")
    start = at
    major, argument, at = _read_head(data, at)
    if major == _UINT:
        return argument, at
    if major == _NINT:
        return -1 - argument, at
    if major in (_BYTES, _TEXT):
        end = at + argument
        if end > len(data):
            raise RejectError(f"string of {argument} bytes ends early, at byte {start}")
        if major == _BYTES:
            return data[at:end], end
        try:
            return data[at:end].decode(), end
        except UnicodeDecodeError as error:
            raise RejectError(f"text is not UTF-8 at byte {start}") from error
    if major == _ARRAY:
        return _decode_array(data, at, argument, depth)
    if major == _MAP:
        return _decode_map(data, at, argument, depth)
    if major == _TAG:
        value, at = _decode(data, at, depth + 1)
        return Tag(argument, value), at
    if argument not in _SIMPLE_VALUES:
        raise RejectError(f"float or unassigned simple value at byte {start}")
    return _SIMPLE_VALUES[argument], at


def _decode_array(
    data: bytes, at: int, count: int, depth: int
) -> tuple[list[object], int]:
    if count > len(data) - at:  # every element has at least one byte
        raise RejectError(f"array of {count} items ends early, at byte {at}")
    items: list[object] = []
    for _ in range(count):
        item, at = _decode(data, at, depth + 1)
        items.append(item)
    return items, at


def _decode_map(
    data: bytes, at: int, count: int, depth: int
) -> tuple[dict[object, object], int]:
    if count > len(data) - at:
        raise RejectError(f"map of {count} pairs ends early, at byte {at}")
    items: dict[object, object] = {}
    previous = b""
    for _ in range(count):
        start = at
        key, at = _decode(data, at, depth + 1)
        if not isinstance(key, int | str | bytes) or isinstance(key, bool):
            raise RejectError(f"map key is not a number or string at byte {start}")
        encoded = data[start:at]
        if encoded <= previous:
            raise RejectError(f"map keys out of order or twice at byte {start}")
        previous = encoded
        items[key], at = _decode(data, at, depth + 1)
    return items, at
