"""C2SP signed notes and tlog checkpoints.

    <origin>                              the text: lines of UTF-8 without control
    <size, decimal>                       characters; here a checkpoint
    <base64 of the root hash>
    <an empty line>
    — <key name> <base64 of key id (4 bytes) || signature>        one or more

The text ends with its last line feed and is what is signed. A verifier key is written
`<name>+<key id, 8 hex digits>+<base64 of type || public key>`, with

    key id = SHA-256(name || 0x0a || type || public key)[:4]

    0x01  Ed25519: 64 bytes over the text; how a log signs
    0x04  Ed25519 cosignature: timestamp (seconds since 1970, 8 bytes, big-endian) and
          64 bytes over "cosignature/v1\ntime <timestamp>\n" || text; how a witness does
    0x06  ML-DSA-44 cosignature: recognised, not understood, so it proves nothing here

Signatures of unknown keys are allowed and believed nothing; a bad signature of a known
key refuses the note. Base64 is the standard alphabet with padding, in its only
canonical form.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from edge.errors import RejectError
from edge.ledger import ed25519
from edge.ledger.tlog import EMPTY_ROOT, HASH_SIZE, SIZE_MAX

NOTE_SIZE_MAX = 128 * 1024  # 16 ML-DSA-44 cosignatures are 53 kB
SIGNATURE_COUNT_MAX = 100
NAME_SIZE_MAX = 255
ED25519 = 0x01
COSIGNATURE = 0x04
ML_DSA_44 = 0x06
KEY_ID_SIZE = 4
TIMESTAMP_SIZE = 8
TIMESTAMP_MAX_S = 2**63 - 1
_KEY_SIZES = {
    ED25519: ed25519.PUBLIC_KEY_SIZE,
    COSIGNATURE: ed25519.PUBLIC_KEY_SIZE,
    ML_DSA_44: 1312,
}
_MARK = "— "  # U+2014 and a space

Check = Callable[[bytes, bytes, bytes], bool]  # public key, message, signature
Sign = Callable[[bytes], bytes]  # message to Ed25519 signature


def decode_base64(text: str) -> bytes:
    """The bytes of canonical base64 (RFC 4648 section 4), else RejectError."""
    try:
        content = b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RejectError(f"{text[:40]!r} is not base64") from error
    if b64encode(content).decode() != text:
        raise RejectError(f"{text[:40]!r} is not base64 in its canonical form")
    return content


def is_key_name(name: str) -> bool:
    """Whether `name` may name a key: not empty, no space, no plus, no control."""
    return (
        0 < len(name.encode(errors="replace")) <= NAME_SIZE_MAX
        and name.isprintable()
        and not any(one.isspace() or one == "+" for one in name)
    )


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key that may sign notes under a name; `kind` is its signature type."""

    name: str
    public_key: bytes
    kind: int = ED25519

    def __post_init__(self) -> None:
        if not is_key_name(self.name):
            raise RejectError(f"{self.name[:40]!r} cannot be the name of a key")
        if self.kind not in _KEY_SIZES:
            raise RejectError(f"a key of unknown type 0x{self.kind:02x}")
        if len(self.public_key) != _KEY_SIZES[self.kind]:
            raise RejectError(
                f"a key of type 0x{self.kind:02x} and {len(self.public_key)} bytes"
            )

    @property
    def _key(self) -> bytes:
        return bytes([self.kind]) + self.public_key

    @property
    def understood(self) -> bool:
        """Whether its signatures can be checked here."""
        return self.kind != ML_DSA_44

    @property
    def key_id(self) -> bytes:
        """The four bytes that go before its signatures."""
        return sha256(self.name.encode() + b"\n" + self._key).digest()[:KEY_ID_SIZE]

    @property
    def vkey(self) -> str:
        """The key as text, which `parse_vkey` reads."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(self._key).decode()}"

    def has_made(self, signature: Signature, message: bytes, check: Check) -> bool:
        """Whether it signed the text `message` so; only for a key that is understood.

        `check` verifies plain Ed25519.
        """
        signed = signature.signature
        if self.kind == COSIGNATURE:
            time_s = int.from_bytes(signed[:TIMESTAMP_SIZE], "big")
            if time_s > TIMESTAMP_MAX_S:
                return False
            message = cosigned_message(message, time_s)
            signed = signed[TIMESTAMP_SIZE:]
        if len(signed) != ed25519.SIGNATURE_SIZE:
            return False
        return check(self.public_key, message, signed)


def parse_vkey(text: str) -> Verifier:
    """The verifier key of this text; RejectError tells what is wrong with it."""
    parts = text.split("+", 2)  # base64 may hold a plus, names may not
    if len(parts) != 3:
        raise RejectError("a verifier key is <name>+<key id>+<base64>")
    name, key_id, encoded = parts
    key = decode_base64(encoded)
    if not key or key[0] not in _KEY_SIZES:
        raise RejectError("only keys of type 0x01, 0x04 and 0x06 are understood")
    verifier = Verifier(name, key[1:], key[0])
    if verifier.key_id.hex() != key_id:
        raise RejectError(f"the key id should be {verifier.key_id.hex()}")
    return verifier


def cosigned_message(text: bytes, time_s: int) -> bytes:
    """What a cosignature of type 0x04 is over."""
    return b"cosignature/v1\ntime %d\n" % time_s + text


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line, which says nothing yet about who made it."""

    name: str
    key_id: bytes
    signature: bytes

    @property
    def time_s(self) -> int:
        """The timestamp of a cosignature, in seconds since 1970."""
        return int.from_bytes(self.signature[:TIMESTAMP_SIZE], "big")

    @property
    def line(self) -> str:
        """The line as it stands in a note, line feed included."""
        encoded = b64encode(self.key_id + self.signature).decode()
        return f"{_MARK}{self.name} {encoded}\n"


@dataclass(frozen=True, slots=True)
class UnverifiedNote:
    """A note that is well formed and that nobody has checked."""

    text: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """A note in which no signature of a known key is bad."""

    text: str
    verified: tuple[Signature, ...]  # one for each key
    unverified: tuple[Signature, ...]  # of unknown keys
    not_understood: tuple[Signature, ...] = ()  # of known keys of type 0x06

    def signature_by(self, verifier: Verifier) -> Signature | None:
        """The verified signature of this key."""
        return _find(verifier, self.verified)

    def mentions(self, verifier: Verifier) -> bool:
        """Whether this key, of a type that is not understood, claims to have signed."""
        return _find(verifier, self.not_understood) is not None


def _find(verifier: Verifier, among: Sequence[Signature]) -> Signature | None:
    key = (verifier.name, verifier.key_id)
    return next((one for one in among if (one.name, one.key_id) == key), None)


def parse_note(content: bytes) -> UnverifiedNote:
    """The parts of a note, without checking a signature."""
    if len(content) > NOTE_SIZE_MAX:
        raise RejectError(f"a note of more than {NOTE_SIZE_MAX} bytes")
    try:
        whole = content.decode()
    except UnicodeDecodeError as error:
        raise RejectError(f"not UTF-8 at byte {error.start}") from error
    for at, one in enumerate(whole):
        if one < " " and one != "\n":
            offset = len(whole[:at].encode())
            raise RejectError(f"control character at byte {offset}")
    text, blank, tail = whole.rpartition("\n\n")
    if not blank or not text or not tail.endswith("\n"):
        raise RejectError("a note is text, an empty line and lines of signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURE_COUNT_MAX:
        raise RejectError(f"more than {SIGNATURE_COUNT_MAX} signatures")
    return UnverifiedNote(text + "\n", tuple(map(_parse_signature, lines)))


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not space or not is_key_name(name):
        raise RejectError(f"{line[:40]!r} is not a line of a signature")
    content = decode_base64(encoded)
    if len(content) <= KEY_ID_SIZE:
        raise RejectError(f"the signature by {name} is too short")
    return Signature(name, content[:KEY_ID_SIZE], content[KEY_ID_SIZE:])


def check_note(
    content: bytes, verifiers: Sequence[Verifier], check: Check = ed25519.verify
) -> Note:
    """The note, if none of the signatures that known keys made is bad.

    None of them need have signed it: that is for the caller to ask.
    """
    parsed = parse_note(content)
    known = {(one.name, one.key_id): one for one in verifiers}
    if len(known) != len(verifiers):
        raise ValueError("two verifiers of one name and key id")
    verified: dict[tuple[str, bytes], Signature] = {}
    unverified, not_understood = [], []
    message = parsed.text.encode()
    for signature in parsed.signatures:
        key = (signature.name, signature.key_id)
        verifier = known.get(key)
        if verifier is None:
            unverified.append(signature)
        elif not verifier.understood:
            not_understood.append(signature)
        elif verifier.has_made(signature, message, check):
            verified.setdefault(key, signature)
        else:
            raise RejectError(f"the signature by {signature.name} is wrong")
    return Note(
        parsed.text, tuple(verified.values()), tuple(unverified), tuple(not_understood)
    )


def open_note(
    content: bytes, verifiers: Sequence[Verifier], check: Check = ed25519.verify
) -> Note:
    """The note, if known keys have signed it and none of their signatures is bad."""
    note = check_note(content, verifiers, check)
    if not note.verified:
        raise RejectError("not signed by a key that we know")
    return note


def sign_note(text: str, verifier: Verifier, sign: Sign) -> bytes:
    """A note of this text with one signature, made by calling `sign`."""
    if not text.endswith("\n") or any(one < " " and one != "\n" for one in text):
        raise ValueError("a note's text is lines without control characters")
    signature = Signature(verifier.name, verifier.key_id, sign(text.encode()))
    return f"{text}\n{signature.line}".encode()


def cosign(text: str, verifier: Verifier, time_s: int, sign: Sign) -> Signature:
    """The cosignature of a witness (type 0x04) over a note's text at `time_s`.

    Its `line` goes to the end of the note. `sign` is called once.
    """
    if verifier.kind != COSIGNATURE or not 0 <= time_s <= TIMESTAMP_MAX_S:
        raise ValueError("a witness signs with type 0x04, seconds since 1970")
    signed = sign(cosigned_message(text.encode(), time_s))
    timestamp = time_s.to_bytes(TIMESTAMP_SIZE, "big")
    return Signature(verifier.name, verifier.key_id, timestamp + signed)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log says about itself: this many entries have this root hash."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The text of the note that carries it."""
        lines = (self.origin, str(self.size), b64encode(self.root).decode())
        return "\n".join((*lines, *self.extensions, ""))


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text; RejectError names the line."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop():
        raise RejectError("a checkpoint has the lines origin, size and root")
    origin, size_text, root_text, *extensions = lines
    if not origin:
        raise RejectError("line 1: the origin is empty")
    if len(size_text) > len(str(SIZE_MAX)) or not (
        size_text.isascii() and size_text.isdigit()
    ):
        raise RejectError(f"line 2: {size_text[:40]!r} is not a size")
    size = int(size_text)
    if str(size) != size_text or size > SIZE_MAX:
        raise RejectError(f"line 2: {size_text} is not a size in its shortest form")
    try:
        root = decode_base64(root_text)
    except RejectError as error:
        raise RejectError(f"line 3: {error}") from error
    if len(root) != HASH_SIZE:
        raise RejectError(f"line 3: a root hash of {len(root)} bytes")
    if size == 0 and root != EMPTY_ROOT:
        raise RejectError("line 3: not the root of an empty tree")
    if not all(extensions):
        raise RejectError(f"line {lines.index('', 3) + 1}: an empty extension line")
    return Checkpoint(origin, size, root, tuple(extensions))
