"""The native core in Python: hashes and tree roots over whole buffers, and Ed25519.

Here lengths and types are checked and C return values become exceptions; nothing else
in the ledger sees cffi. A buffer is any contiguous object with the buffer protocol
(bytes, bytearray, memoryview, array, numpy) and is read in place. Calls into C let
other threads run; a caller that changes a buffer meanwhile gets wrong hashes, never a
wild access.

`ends` says where records end: unsigned 64-bit integers in native byte order
(array('Q'), numpy uint64, or bytes of them). Record i is records[ends[i-1]:ends[i]],
the first starts at 0. Ends never decrease, and the last equals len(records).

At import every backend that this CPU and operating system can run is tested with a
known answer and timed, in a few milliseconds; the fastest is used, or the one that the
environment variable IOMT_CORE_BACKEND names (empty: not set). `report` says what was
found. One that fails its test is never used, and said so in the log.
Ed25519 has backends of its own, which IOMT_CORE_ED25519 names.

Mistakes of a caller are TypeError and ValueError. A signature that is not valid is an
answer, never an exception: the one that OpenSSL gives (cofactorless verification).
"""

from __future__ import annotations

import logging
import os
from array import array
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.errors import ConfigurationError, IntegrityError

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

SALT_SIZE: Final = 16
SALT_KEY_SIZE: Final = 32
PATH_LENGTH_MAX: Final = 64

BACKEND_VARIABLE: Final = "IOMT_CORE_BACKEND"
SIGNATURES_VARIABLE: Final = "IOMT_CORE_ED25519"
WORD_SIZE: Final = 8

# Devices come back, so their public keys are kept ready: more than one gateway has
# devices. At most 13 MB.
KEPT_PUBLIC_KEYS: Final = 4096

# struct codes of an unsigned 64-bit integer as array, numpy and memoryview write them
# ("L" where it has 8 bytes), and of plain bytes.
_END_FORMATS: Final = frozenset({"Q", "@Q", "=Q", "L", "@L"})
_BYTE_FORMATS: Final = frozenset({"B", "b", "c", "@B", "@b", "@c"})

_new_bytes = ffi.new_allocator(should_clear_after_alloc=False)
_BYTE_ARRAY: Final = ffi.typeof("uint8_t[]")  # parsed once, not in every call
_from_buffer = ffi.from_buffer
_hash_leaves = lib.iomt_leaf_hashes
_sign = lib.iomt_ed25519_sign
_buffer = ffi.buffer
_log = logging.getLogger(__name__)


# ---- Backends ----


@dataclass(frozen=True, slots=True)
class Measured:
    """A backend that passed its test, as the calibration found it.

    Times are for one leaf hash of a 150-byte record and for one node, of 64 in a call;
    0 where the calibration ran out of time. With less than `fewest` messages left,
    `few` takes them (None: nobody is better).
    """

    name: str
    lanes: int
    leaf_ns: float
    node_ns: float
    few: str | None
    fewest: int


@dataclass(frozen=True, slots=True)
class Report:
    """Which backend is in use and why; `measured` is fastest first."""

    backend: str
    why: str
    compiler: str
    measured: tuple[Measured, ...]
    failed: tuple[str, ...]
    unusable: tuple[str, ...]
    calibration_ms: float


def _name(backend: Any) -> str:
    return str(ffi.string(lib.iomt_backend_name(backend)).decode())


class _Calibration:
    """The tuned backends by name, fastest first; outlives every use of them."""

    def __init__(self) -> None:
        self._choice = ffi.new("iomt_choice *")
        lib.iomt_calibrate(self._choice)
        built = _built()  # in order of preference, for what was not timed
        rows = sorted(
            self._choice.measured[0 : self._choice.count],
            key=lambda row: (
                not row.leaf_ns,
                row.leaf_ns + row.node_ns,
                built.index(_name(row.backend)),
            ),
        )
        self.tuned = {_name(row.backend): row.backend for row in rows}
        self.measured = tuple(
            Measured(
                _name(row.backend),
                lib.iomt_backend_lanes(row.backend),
                row.leaf_ns,
                row.node_ns,
                _name(row.few) if row.few != ffi.NULL and row.fewest > 1 else None,
                row.fewest,
            )
            for row in rows
        )
        failed = self._choice.failed[0 : self._choice.failed_count]
        self.failed = tuple(map(_name, failed))
        self.took_ms = self._choice.took_ns / 1e6
        for name in self.failed:
            _log.error("backend %s fails its self-test here and is not used", name)
        if not self.tuned:
            raise ImportError("no backend of the native core passes its self-test")


def _built() -> list[str]:
    """Every backend of this build, usable or not."""
    names: list[str] = []
    while (backend := lib.iomt_backend_at(len(names))) != ffi.NULL:
        names.append(_name(backend))
    return names


_calibration = _Calibration()


def backends() -> list[str]:
    """The backends that run on this CPU and pass their test, fastest first."""
    return list(_calibration.tuned)


def _choose(name: str, asked_by: str) -> Any:
    backend = _calibration.tuned.get(name)
    if backend is not None:
        return backend
    if name in _calibration.failed:
        fault = f"{name!r} fails its self-test"
    elif name in _built():
        fault = f"this CPU cannot run {name!r}"
    else:
        fault = f"there is no backend {name!r}"
    raise ConfigurationError(
        [f"{asked_by}: {fault}; usable here: {', '.join(backends())}"]
    )


# Replaced as a whole and read once a call, so threads need no lock.
_forced = os.environ.get(BACKEND_VARIABLE)
_why = f"the environment variable {BACKEND_VARIABLE}" if _forced else "the fastest here"
_backend: Any = _choose(_forced or backends()[0], BACKEND_VARIABLE)


def use(name: str) -> None:
    """Make the whole process use this backend from the next call on.

    A call that another thread has under way ends with the backend it began with.
    """
    global _backend, _why
    _backend, _why = _choose(name, "use"), "asked for by the program"


def active() -> str:
    """The name of the backend in use."""
    return _name(_backend)


def report() -> Report:
    """What the calibration at import found, and what is in use now."""
    known = {*backends(), *_calibration.failed}
    return Report(
        backend=active(),
        why=_why,
        compiler=ffi.string(lib.iomt_compiler()).decode(),
        measured=_calibration.measured,
        failed=_calibration.failed,
        unusable=tuple(name for name in _built() if name not in known),
        calibration_ms=_calibration.took_ms,
    )


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


def _output(what: str, out: Buffer, size: int, wanted: str) -> Any:
    """A writable buffer of exactly this size, for C to write into."""
    view = _bytes_of(what, out)
    if view.readonly:
        raise ValueError(f"{what} must be writable")
    if view.nbytes != size:
        raise ValueError(f"{what} has {view.nbytes} bytes, not {wanted}")
    return ffi.from_buffer("uint8_t[]", view, require_writable=True)


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
    # Checking a few dozen records takes as long as hashing them; these types need none.
    if (
        type(records) is bytes
        and type(ends) is array
        and ends.typecode == "Q"
        and type(out) is bytearray
        and (count := len(ends))
        and len(out) == count * HASH_SIZE
        and count
        == _hash_leaves(
            _backend,
            records,
            len(records),
            _from_buffer(_BYTE_ARRAY, ends),
            count,
            _from_buffer(_BYTE_ARRAY, out),
        )
    ):
        return None
    return _leaf_hashes_of_any(records, ends, out)


def _leaf_hashes_of_any(
    records: Buffer, ends: Buffer, out: Buffer | None
) -> bytes | None:
    record_view, end_view = _bytes_of("records", records), _ends_view(ends)
    size, count = record_view.nbytes, _count("ends", end_view, END_SIZE)
    _check_some(count, size)
    if out is None:
        hashes = _new_bytes("uint8_t[]", count * HASH_SIZE)
    else:
        hashes = _output("out", out, count * HASH_SIZE, f"{count} × {HASH_SIZE}")
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


def tree_path(leaf_hashes: Buffer, index: int) -> list[bytes]:
    """The inclusion path of the leaf at `index`, from its sibling up (RFC 6962)."""
    view = _bytes_of("leaf_hashes", leaf_hashes)
    count = _count("leaf_hashes", view, HASH_SIZE)
    if not 0 <= index < count:
        raise ValueError(f"no leaf {index} in a tree of {count}")
    path = _new_bytes("uint8_t[]", PATH_LENGTH_MAX * HASH_SIZE)
    length = lib.iomt_tree_path(
        _backend, ffi.from_buffer("uint8_t[]", view), count, index, path
    )
    joined = bytes(ffi.buffer(path, length * HASH_SIZE))
    return [joined[at : at + HASH_SIZE] for at in range(0, len(joined), HASH_SIZE)]


# ---- What a commit needs ----


@dataclass(frozen=True, slots=True)
class BatchTree:
    """The tree of one commit: `width` leaf hashes, padding included, and its nodes.

    `tree` holds the rows of the tree one after the other, the leaf hashes first.
    """

    width: int
    tree: bytes

    @property
    def leaf_hashes(self) -> bytes:
        """`width` × 32 bytes."""
        return self.tree[: self.width * HASH_SIZE]

    @property
    def root(self) -> bytes:
        """The root that the batch entry bears."""
        return self.tree[-HASH_SIZE:]

    def path(self, index: int) -> list[bytes]:
        """The inclusion path of a leaf, from its sibling up."""
        if not 0 <= index < self.width:
            raise ValueError(f"no leaf {index} in a batch of {self.width}")
        path, row, width = [], 0, self.width
        while width > 1:
            at = (row + (index ^ 1)) * HASH_SIZE
            path.append(self.tree[at : at + HASH_SIZE])
            row, width, index = row + width, width // 2, index // 2
        return path


def batch_tree(
    records: bytearray,
    ends: array[int],
    salt_keys: bytes,
    key_of: array[int],
    padding: bytes,
) -> BatchTree:
    """Salt the records of a commit, hash them and build the tree over the hashes.

    Each record begins with 16 bytes of room, which its salt takes: HMAC-SHA-256(key,
    index as 8 bytes, big-endian) cut to 16, with key number key_of[i] (array('I')) of
    `salt_keys`, 32 bytes each. `padding` makes the number of hashes a power of two.
    Nothing else may use `records` meanwhile.
    """
    count, more = len(ends), _count("padding", memoryview(padding), HASH_SIZE)
    width = count + more
    if ends.typecode != "Q" or key_of.typecode != "I" or len(key_of) != count:
        raise TypeError("ends is array('Q'), and key_of an array('I') as long")
    if width.bit_count() != 1 or not count:
        raise ValueError(f"{count} records and {more} hashes are no power of two")
    tree = bytearray((2 * width - 1) * HASH_SIZE)
    tree[count * HASH_SIZE : width * HASH_SIZE] = padding
    keys = _count("salt_keys", memoryview(salt_keys), SALT_KEY_SIZE)
    good = lib.iomt_batch(
        _backend,
        _from_buffer(_BYTE_ARRAY, records, require_writable=True),
        len(records),
        _from_buffer(_BYTE_ARRAY, ends),
        count,
        salt_keys,
        keys,
        _from_buffer(_BYTE_ARRAY, key_of),
        _from_buffer(_BYTE_ARRAY, tree),
        width,
    )
    if good != count:
        raise ValueError(
            f"record {good}: its end, its room for a salt or its key is wrong"
        )
    return BatchTree(width, bytes(tree))


def extend_range(size: int, range_: bytes, leaf_hashes: Buffer) -> bytes:
    """The compact range of a tree of `size` leaves with more of them appended.

    A compact range has one hash for each 1 bit of the size, the largest subtree first.
    """
    view = _bytes_of("leaf_hashes", leaf_hashes)
    count = _count("leaf_hashes", view, HASH_SIZE)
    if size < 0 or len(range_) != size.bit_count() * HASH_SIZE:
        raise ValueError(f"{len(range_)} bytes for the range of a tree of size {size}")
    if size + count >= 1 << 63:
        raise ValueError(f"a tree of {size} leaves takes no {count} more")
    room = bytearray((PATH_LENGTH_MAX + 1) * HASH_SIZE)
    room[: len(range_)] = range_
    held = lib.iomt_extend_range(
        _backend,
        size,
        _from_buffer(_BYTE_ARRAY, room),
        _from_buffer(_BYTE_ARRAY, view),
        count,
    )
    return bytes(room[: held * HASH_SIZE])


def range_root(range_: bytes) -> bytes:
    """The root of the tree that this compact range stands for."""
    count = _count("range", memoryview(range_), HASH_SIZE)
    root = _new_bytes("uint8_t[]", HASH_SIZE)
    lib.iomt_range_root(_backend, range_, count, root)
    return bytes(ffi.buffer(root))


# ---- Ed25519: backends ----


def _signature_table() -> dict[str, Any]:
    """Every Ed25519 backend of this build by name, best first."""
    found: dict[str, Any] = {}
    while (backend := lib.iomt_ed25519_backend_at(len(found))) != ffi.NULL:
        found[ffi.string(lib.iomt_ed25519_backend_name(backend)).decode()] = backend
    return found


def signature_backends() -> list[str]:
    """The Ed25519 backends that run on this CPU, best first; the last is `portable`."""
    return [
        name
        for name, backend in _signature_table().items()
        if lib.iomt_ed25519_backend_usable(backend)
    ]


def _choose_signatures(name: str, asked_by: str) -> Any:
    usable = signature_backends()
    if name not in usable:
        can = ", ".join(usable)
        raise ConfigurationError(
            [f"{asked_by}: no Ed25519 backend {name!r} runs here; usable: {can}"]
        )
    return _signature_table()[name]


# Replaced as a whole and read once a call, so threads need no lock.
_signatures: Any = _choose_signatures(
    os.environ.get(SIGNATURES_VARIABLE) or signature_backends()[0], SIGNATURES_VARIABLE
)


def use_signatures(name: str) -> None:
    """Make the whole process use this Ed25519 backend from the next call on."""
    global _signatures  # noqa: PLW0603 - the one choice, made on purpose
    _signatures = _choose_signatures(name, "use_signatures")


def active_signatures() -> str:
    """The name of the Ed25519 backend in use."""
    return str(ffi.string(lib.iomt_ed25519_backend_name(_signatures)).decode())


# ---- Ed25519: signing ----

_NULL: Final = ffi.NULL  # the object itself, so that `is` tells it


def _fixed(what: str, value: Buffer, size: int) -> bytes:
    """`_exactly`, faster for the bytes that nearly every caller has."""
    if type(value) is bytes and len(value) == size:
        return value
    return _exactly(what, value, size)


def _message(message: Buffer) -> tuple[Any, int]:
    """(what C reads it from, its size)."""
    if type(message) is bytes:
        return message, len(message)
    view = _bytes_of("message", message)
    return ffi.from_buffer("uint8_t[]", view), view.nbytes


class Signer:
    """A private key that signs in constant time; each signature is verified first.

    The expanded key is wiped when the signer is closed or collected. The seed that it
    was made from belongs to the caller, and Python's bytes cannot be wiped.
    """

    def __init__(self, seed: Buffer) -> None:
        memory = ffi.new("uint64_t[]", -(-lib.iomt_ed25519_signer_size() // WORD_SIZE))

        def wipe(pointer: Any, _memory: Any = memory) -> None:
            lib.iomt_ed25519_wipe_signer(pointer)  # before its memory can go

        self._signer: Any = ffi.gc(ffi.cast("iomt_ed25519_signer *", memory), wipe)
        lib.iomt_ed25519_start_signer(
            _signatures, self._signer, _exactly("seed", seed, SEED_SIZE)
        )
        key = _new_bytes("uint8_t[]", PUBLIC_KEY_SIZE)
        lib.iomt_ed25519_signer_key(self._signer, key)
        self.public_key = bytes(ffi.buffer(key))

    def sign(self, message: Buffer) -> bytes:
        """The RFC 8032 signature, 64 bytes.

        IntegrityError if it does not verify: memory or processor made a mistake, and
        such a signature could give the key away.
        """
        if self._signer is None:
            raise ValueError("the signer is closed")
        content, size = _message(message)
        signature = _new_bytes(_BYTE_ARRAY, SIGNATURE_SIZE)
        if not _sign(_signatures, self._signer, content, size, signature):
            raise IntegrityError("a signature made here does not verify")
        out: bytes = _buffer(signature)[:]  # a copy, faster than by bytes()
        return out

    def close(self) -> None:
        """Wipe the key; using the signer after that is a mistake (ValueError)."""
        if self._signer is not None:
            ffi.release(self._signer)
            self._signer = None


def sign(seed: Buffer, message: Buffer) -> bytes:
    """The RFC 8032 signature, 64 bytes, by the 32-byte private seed."""
    signer = Signer(seed)
    try:
        return signer.sign(message)
    finally:
        signer.close()


def sign_by_openssl(seed: Buffer, message: Buffer) -> bytes:
    """The same bytes, made by OpenSSL through `cryptography`."""
    key = Ed25519PrivateKey.from_private_bytes(_exactly("seed", seed, SEED_SIZE))
    return key.sign(_bytes_of("message", message))


def public_key(seed: Buffer) -> bytes:
    """The public key, 32 bytes, of the 32-byte private seed."""
    signer = Signer(seed)
    signer.close()
    return signer.public_key


# ---- Ed25519: verifying ----


class _Kept:
    """A public key that was seen. When it comes back its multiples are computed, which
    costs one verification (three of the fastest) and shortens every later one; 3 KiB
    then."""

    __slots__ = ("_memory", "_seen", "prepared")

    def __init__(self) -> None:
        self.prepared: Any = _NULL
        self._seen = False
        self._memory: Any = None

    def meet(self, key: bytes) -> None:
        """Note one use. Two threads may both prepare; either result is right."""
        if not self._seen:
            self._seen = True
            return
        memory = ffi.new(
            "uint64_t[]", -(-lib.iomt_ed25519_prepared_size() // WORD_SIZE)
        )
        prepared = ffi.cast("iomt_ed25519_prepared *", memory)
        lib.iomt_ed25519_prepare(_signatures, prepared, key)
        self._memory, self.prepared = memory, prepared


@lru_cache(maxsize=KEPT_PUBLIC_KEYS)
def _kept(key: bytes) -> _Kept:  # noqa: ARG001 - the cache's key
    return _Kept()


def forget_public_keys() -> None:
    """Keep no key: the next use of each is its first."""
    _kept.cache_clear()


def verify(public_key: Buffer, message: Buffer, signature: Buffer) -> bool:
    """Whether this is the key's signature of the message; lengths are 32 and 64."""
    key = _fixed("public_key", public_key, PUBLIC_KEY_SIZE)
    content, size = _message(message)
    kept = _kept(key)
    answer = lib.iomt_ed25519_verify(
        _signatures,
        key,
        kept.prepared,
        content,
        size,
        _fixed("signature", signature, SIGNATURE_SIZE),
    )
    if kept.prepared is _NULL:
        kept.meet(key)
    return bool(answer)


def verify_many(
    public_keys: Buffer, messages: Buffer, ends: Buffer, signatures: Buffer
) -> bytes:
    """One byte for each message, 1 good or 0 bad: the same answers as `verify`,
    whatever stands beside it.

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
    # The same bytes for the cache and for C, whoever changes the buffer meanwhile.
    together = bytes(keys)
    each_key = [
        together[at : at + PUBLIC_KEY_SIZE]
        for at in range(0, len(together), PUBLIC_KEY_SIZE)
    ]
    kept = [_kept(key) for key in each_key]
    answers = bytearray(count)
    good = lib.iomt_ed25519_verify_many(
        _signatures,
        together,
        ffi.new("iomt_ed25519_prepared *[]", [one.prepared for one in kept]),
        ffi.from_buffer("uint8_t[]", message_view),
        size,
        ffi.from_buffer("uint8_t[]", end_view),
        count,
        ffi.from_buffer("uint8_t[]", signs),
        ffi.from_buffer("uint8_t[]", answers),
    )
    if good != count:
        raise _refuse_end(end_view, good, size)
    for one, key in zip(kept, each_key, strict=True):
        if one.prepared is _NULL:
            one.meet(key)
    return bytes(answers)
