"""Keys and sealing.

    keys/log.key       32-byte Ed25519 seed of the log, hexadecimal
    keys/master.key    32-byte master key, hexadecimal (or another source: keysource.py)
    keys/access.token  what opens the local doors (tile server, alert subscriptions)

All three are 0600 files; a file that others may read is refused. The chain of keys:

    master ─wraps─► gateway key, patient keys ─wrap─► episode keys ─seal─► frames

An *episode* is one device in one assignment for at most a day (an hour while nobody is
assigned): whoever destroys a patient's key makes that patient's episodes unreadable and
nobody else's. Wrapping and sealing are both AES-256-GCM-SIV under a random nonce:

    sealed = nonce[12] || AES-256-GCM-SIV(key, nonce, plaintext, associated data)

The associated data say what the thing is and where it belongs, so that a sealed thing
moved to another place does not open. GCM-SIV (RFC 8452) rather than GCM, because a
repeated nonce then tells only that two plaintexts are equal.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from edge.errors import ConfigurationError, IntegrityError

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16
LOG_KEY, MASTER_KEY, ACCESS_TOKEN = "log.key", "master.key", "access.token"


def seal(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """nonce || ciphertext || tag under a fresh random nonce."""
    nonce = os.urandom(NONCE_SIZE)
    return nonce + AESGCMSIV(key).encrypt(nonce, plaintext, associated)


def unseal(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    """The plaintext; IntegrityError when key, bytes or place are not the right ones."""
    if len(sealed) < NONCE_SIZE + TAG_SIZE:
        raise IntegrityError(f"sealed bytes end early ({len(sealed)} bytes)")
    try:
        return AESGCMSIV(key).decrypt(
            sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], associated
        )
    except InvalidTag as error:
        raise IntegrityError(
            "sealed bytes do not open: altered, moved, or another key"
        ) from error


def new_key() -> bytes:
    """32 random bytes."""
    return os.urandom(KEY_SIZE)


@dataclass(frozen=True, slots=True)
class Keyring:
    """The contents of the keys directory; repr shows none of it."""

    log_seed: bytes
    master: bytes
    access_token: str

    def __repr__(self) -> str:
        return "Keyring(...)"


def write_secret(path: Path, text: str) -> None:
    """A new 0600 file, durable; FileExistsError where one stands already."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """fsync of a directory, so that the names in it survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_keys(directory: Path) -> None:
    """Make the three files; refuses a directory that holds one of them already."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    for name in (LOG_KEY, MASTER_KEY, ACCESS_TOKEN):
        if (directory / name).exists():
            raise ConfigurationError([f"{directory / name}: exists already"])
    write_secret(directory / LOG_KEY, secrets.token_hex(KEY_SIZE))
    write_secret(directory / MASTER_KEY, secrets.token_hex(KEY_SIZE))
    write_secret(directory / ACCESS_TOKEN, secrets.token_urlsafe(24))
    sync_directory(directory.parent)  # the directory itself may be new


def load_keys(
    directory: Path, source: str | None = None, store: Path | None = None
) -> Keyring:
    """The keys; ConfigurationError names each file that is missing, open or bad.

    `source` is the configured source of the master key, None to take what is there;
    `store` the data directory, where that is not the one above.
    """
    from edge.store import keysource  # noqa: PLC0415 - it seals with this module

    problems: list[str] = []
    seed_text = read_secret(directory / LOG_KEY, problems)
    token = read_secret(directory / ACCESS_TOKEN, problems)
    try:
        seed = bytes.fromhex(seed_text)
    except ValueError:
        seed = b""
    if seed_text and len(seed) != KEY_SIZE:
        problems.append(f"{directory / LOG_KEY}: not {KEY_SIZE} bytes in hexadecimal")
    master = b""
    try:
        master = keysource.load_master(directory, source, store)
    except ConfigurationError as error:
        problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    return Keyring(seed, master, token)


def read_secret(path: Path, problems: list[str]) -> str:
    """The text of a 0600 file, or "" and what is wrong with it in `problems`."""
    try:
        mode = path.stat().st_mode
        text = path.read_text().strip()
    except FileNotFoundError:
        problems.append(f"{path}: missing; `iomt init DIR` makes the keys")
        return ""
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read ({error})")
        return ""
    if mode & 0o077:
        problems.append(f"{path}: others may read it; chmod 600 {path}")
    if not text:
        problems.append(f"{path}: empty")
    return text
