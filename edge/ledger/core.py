"""The native core in Python: hashes and tree roots over whole buffers, and Ed25519.

Here lengths and types are checked and C return values become exceptions; nothing else
in the ledger sees cffi. A buffer is any contiguous object with the buffer protocol
(bytes, bytearray, memoryview, array, numpy) and is read in place. Calls into C let
other threads run; a caller that changes a buffer meanwhile gets wrong hashes, never a
wild access.

`ends` says where records end: unsigned 64-bit integers in native byte order
(array('Q'), numpy uint64, or bytes of them). Record i is records[ends[i-1]:ends[i]],
the first starts at 0. Ends never decrease, and the last equals len(records).

A backend is chosen at import: the best that this CPU and operating system can run, or
the one that the environment variable IOMT_CORE_BACKEND names (empty: not set).

Mistakes of a caller are TypeError and ValueError. A signature that is not valid is an
answer, never an exception: the one that OpenSSL gives (cofactorless verification).
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from edge.errors import ConfigurationError

try:
    from edge.ledger._core import ffi, lib
except ImportError as error:
    raise ImportError(
        "the native core edge.ledger._core is not built, or not for this Python; "
        "build it with: pip install -e .  (needs a C compiler and cffi)"
    ) from error

if TYPE_CHECKING:
    from typing_extensions import Buffer

HASH_SIZE: Final = 32
SEED_SIZE: Final = 32
PUBLIC_KEY_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
END_SIZE: Final = 8

BACKEND_VARIABLE: Final = "IOMT_CORE_BACKEND"

# Devices come back, so parsed public keys are kept: more than one gateway has devices.
KEPT_PUBLIC_KEYS: Final = 4096

# struct codes of an unsigned 64-bit integer as array, numpy and memoryview write them
# ("L" where it has 8 bytes), and of plain bytes.
_END_FORMATS: Final = frozenset({"Q", "@Q", "=Q", "L", "@L"})
_BYTE_FORMATS: Final = frozenset({"B", "b", "c", "@B", "@b", "@c"})

_new_bytes = ffi.new_allocator(should_clear_after_alloc=False)


# ---- Backends ----


def _table() -> dict[str, Any]:
    """Every backend of this build by name, best first."""
    found: dict[str, Any] = {}
    while (backend := lib.iomt_backend_at(len(found))) != ffi.NULL:
        found[ffi.string(lib.iomt_backend_name(backend)).decode()] = backend
    return found


def backends() -> list[str]:
    """The backends that run on this CPU, best first; the last is `portable`."""
    return [
        name for name, backend in _table().items() if lib.iomt_backend_usable(backend)
    ]


def _choose(name: str, asked_by: str) -> Any:
    usable = ", ".join(backends())
    backend = _table().get(name)
    if backend is None:
        raise ConfigurationError(
            [f"{asked_by}: there is no backend {name!r}; usable here: {usable}"]
        )
    if not lib.iomt_backend_usable(backend):
        raise ConfigurationError(
            [f"{asked_by}: this CPU cannot run {name!r}; usable here: {usable}"]
        )
    return backend


# Replaced as a whole and read once a call, so threads need no lock.
_backend: Any = _choose(
    os.environ.get(BACKEND_VARIABLE) or backends()[0], BACKEND_VARIABLE
)


def use(name: str) -> None:
    """Make the whole process use this backend from the next call on."""
    global _backend  # noqa: PLW0603 - the one choice, made on purpose
    _backend = _choose(name, "use")


def active() -> str:
    """The name of the backend in use."""
    return str(ffi.string(lib.iomt_backend_name(_backend)).decode())


# ---- Checks ----


def _view(what: str, buffer: Buffer) -> memoryview:
    """A contiguous buffer of any items, as it is, not copied."""
    try:
        view = memoryview(buffer)
    except TypeError:
        raise TypeError(
            f"{what} must be a buffer, not {type(buffer).__name__}"
        ) from None
    if not view.c_contiguous:
        raise ValueError(f"{what} must be contiguous")
    return view


def _bytes_of(what: str, buffer: Buffer) -> memoryview:
    """The bytes of a contiguous buffer, not copied."""
    view = _view(what, buffer)
    if view.nbytes == 0:  # cast() refuses an empty view of two dimensions
        return memoryview(b"" if view.readonly else bytearray())
    return view.cast("B")


def _count(what: str, view: memoryview, size: int) -> int:
    count, rest = divmod(view.nbytes, size)
    if rest:
        raise ValueError(f"{what} has {view.nbytes} bytes, not a multiple of {size}")
    return count


def _ends_view(ends: Buffer) -> memoryview:
    view = _view("ends", ends)
    is_integers = view.format in _END_FORMATS and view.itemsize == END_SIZE
    if not is_integers and view.format not in _BYTE_FORMATS:
        raise TypeError(
            "ends must hold unsigned 64-bit integers in native byte order, "
            f"not items of format {view.format!r}"
        )
    return _bytes_of("ends", view)


def _refuse_end(ends: memoryview, index: int, size: int) -> ValueError:
    values = ends.cast("Q")
    start = values[index - 1] if index else 0
    end = values[index]
    if end < start:
        fault = f"is before the end of the record before it, {start}"
    elif end > size:
        fault = f"is beyond the {size} bytes there are"
    else:
        fault = f"is the last and must equal the {size} bytes there are"
    return ValueError(f"ends[{index}] = {end} {fault}")


def _check_some(count: int, size: int) -> None:
    if count == 0 and size:
        raise ValueError(f"ends is empty, but there are {size} bytes")


def _exactly(what: str, value: Buffer, size: int) -> bytes:
    view = _bytes_of(what, value)
    if view.nbytes != size:
        raise ValueError(f"{what} has {view.nbytes} bytes, not {size}")
    return bytes(view)


# ---- Hashes and tree ----


def leaf_hashes(
    records: Buffer, ends: Buffer, out: Buffer | None = None
) -> bytes | None:
    """SHA-256(0x00 || record) of every record: n × 32 bytes, or None if into `out`.

    `out` has exactly that size and shares no memory with the input. If `ends` turns out
    to be wrong, what it then holds is not defined.
    """
    record_view, end_view = _bytes_of("records", records), _ends_view(ends)
    size, count = record_view.nbytes, _count("ends", end_view, END_SIZE)
    _check_some(count, size)
    if out is None:
        hashes = _new_bytes("uint8_t[]", count * HASH_SIZE)
    else:
        out_view = _bytes_of("out", out)
        if out_view.readonly:
            raise ValueError("out must be writable")
        if out_view.nbytes != count * HASH_SIZE:
            raise ValueError(
                f"out has {out_view.nbytes} bytes, not {count} × {HASH_SIZE}"
            )
        hashes = ffi.from_buffer("uint8_t[]", out_view, require_writable=True)
    good = lib.iomt_leaf_hashes(
        _backend,
        ffi.from_buffer("uint8_t[]", record_view),
        size,
        ffi.from_buffer("uint8_t[]", end_view),
        count,
        hashes,
    )
    if good != count:
        raise _refuse_end(end_view, good, size)
    return bytes(ffi.buffer(hashes)) if out is None else None


def tree_root(leaf_hashes: Buffer) -> bytes:
    """The RFC 6962 root over n × 32 bytes; of no leaves, SHA-256 of nothing."""
    view = _bytes_of("leaf_hashes", leaf_hashes)
    count = _count("leaf_hashes", view, HASH_SIZE)
    root = _new_bytes("uint8_t[]", HASH_SIZE)
    lib.iomt_tree_root(_backend, ffi.from_buffer("uint8_t[]", view), count, root)
    return bytes(ffi.buffer(root))


# ---- Ed25519, by OpenSSL through `cryptography` ----


def sign(seed: bytes, message: Buffer) -> bytes:
    """The RFC 8032 signature, 64 bytes, by the 32-byte private seed."""
    key = Ed25519PrivateKey.from_private_bytes(_exactly("seed", seed, SEED_SIZE))
    return key.sign(_bytes_of("message", message))


def public_key(seed: bytes) -> bytes:
    """The public key, 32 bytes, of the 32-byte private seed."""
    key = Ed25519PrivateKey.from_private_bytes(_exactly("seed", seed, SEED_SIZE))
    return key.public_key().public_bytes_raw()


@lru_cache(maxsize=KEPT_PUBLIC_KEYS)
def _parsed(key: bytes) -> Ed25519PublicKey | None:
    """None for 32 bytes that are no key: they verify nothing."""
    try:
        return Ed25519PublicKey.from_public_bytes(key)
    except ValueError:
        return None


def _is_valid(key: bytes, message: memoryview, signature: bytes) -> bool:
    parsed = _parsed(key)
    if parsed is None:
        return False
    try:
        parsed.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def verify(public_key: Buffer, message: Buffer, signature: Buffer) -> bool:
    """Whether this is the key's signature of the message; lengths are 32 and 64."""
    return _is_valid(
        _exactly("public_key", public_key, PUBLIC_KEY_SIZE),
        _bytes_of("message", message),
        _exactly("signature", signature, SIGNATURE_SIZE),
    )


def verify_many(
    public_keys: Buffer, messages: Buffer, ends: Buffer, signatures: Buffer
) -> bytes:
    """One byte for each message, 1 good or 0 bad: the same answers as `verify`.

    Key i is 32 bytes of `public_keys`, signature i 64 bytes of `signatures`; `ends`
    divides `messages` as it does records.
    """
    message_view, end_view = _bytes_of("messages", messages), _ends_view(ends)
    size, count = message_view.nbytes, _count("ends", end_view, END_SIZE)
    _check_some(count, size)
    keys = _bytes_of("public_keys", public_keys)
    signs = _bytes_of("signatures", signatures)
    for what, view, each in (
        ("public_keys", keys, PUBLIC_KEY_SIZE),
        ("signatures", signs, SIGNATURE_SIZE),
    ):
        if view.nbytes != count * each:
            raise ValueError(f"{what} has {view.nbytes} bytes, not {count} × {each}")
    good = lib.iomt_check_ends(ffi.from_buffer("uint8_t[]", end_view), count, size)
    if good != count:
        raise _refuse_end(end_view, good, size)
    answers, start = bytearray(count), 0
    for i, end in enumerate(end_view.cast("Q")):
        answers[i] = _is_valid(
            bytes(keys[i * PUBLIC_KEY_SIZE : (i + 1) * PUBLIC_KEY_SIZE]),
            message_view[start:end],
            bytes(signs[i * SIGNATURE_SIZE : (i + 1) * SIGNATURE_SIZE]),
        )
        start = end
    return bytes(answers)
