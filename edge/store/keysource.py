"""Where the master key comes from, and which one it is while it changes.

    [gateway] master = "file"         keys/master.key      64 hexadecimal digits, 0600
                       "credential"   $CREDENTIALS_DIRECTORY/iomt-master, the same text
                       "passphrase"   keys/master.sealed   JSON, 0600:

    {"format": "iomt/master-sealed@v1", "n": 131072, "r": 8, "p": 1,
     "salt": <32 hex>, "sealed": <hex of AES-256-GCM-SIV under scrypt(passphrase)>}

The associated data of the seal are all members but `sealed`, so that weaker parameters
cannot be put in. A passphrase is taken from `iomt --passphrase-fd N`, else from the
systemd credential `iomt-passphrase`, else from the terminal: never from a word of the
command line or an environment variable, which other processes may read.

A rotation puts a second key beside the first (`.new`, or the credential
`iomt-master-new`) before it re-wraps what the first one wraps, in one transaction. So
at any moment one of the two opens the store, and only the store can say which: `load`
asks it, and `settle` makes that one the only one.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import os
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import apsw
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from edge import cbor
from edge.config import MASTER_SOURCES
from edge.errors import ConfigurationError, DurabilityError, IntegrityError
from edge.store import vault
from edge.store.database import BUSY_TIMEOUT_MS, DATABASE_NAME
from edge.store.keys import Keys

FILE, CREDENTIAL, PASSPHRASE = MASTER_SOURCES
SEALED_KEY = "master.sealed"
NEW = ".new"
MASTER_CREDENTIAL, PASSPHRASE_CREDENTIAL = "iomt-master", "iomt-passphrase"
NEW_CREDENTIAL = "iomt-master-new"

SEALED_FORMAT = "iomt/master-sealed@v1"
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 17, 8, 1  # 128 MiB, about 0.5 s on a desktop core
SCRYPT_MEMORY_MAX = 1 << 30
SALT_SIZE = 16
PASSPHRASE_LENGTH_MIN, PASSPHRASE_SIZE_MAX = 12, 1024

log = logging.getLogger("edge.keys")


# ---- The passphrase ----


@dataclass(slots=True)
class Passphrase:
    """Where this process's passphrase comes from; asked once, shown nowhere."""

    descriptor: int | None = None
    _known: str | None = field(default=None, repr=False)

    def get(self) -> str:
        """The passphrase; ConfigurationError where there is no way to ask."""
        if self._known is None:
            self._known = self._read() or _ask("passphrase of the master key: ")
        return self._known

    def choose(self) -> str:
        """A new passphrase, typed twice at a terminal; refused when too short."""
        chosen = self._read()
        if chosen is None:
            chosen = _ask("new passphrase of the master key: ")
            if _ask("the same again: ") != chosen:
                raise ConfigurationError(["the two passphrases differ"])
        if len(chosen) < PASSPHRASE_LENGTH_MIN:
            raise ConfigurationError(
                [f"a passphrase needs at least {PASSPHRASE_LENGTH_MIN} characters"]
            )
        self._known = chosen
        return chosen

    def _read(self) -> str | None:
        """What the descriptor or the credential holds; None to ask a person."""
        if self._known is not None:
            return self._known
        credential = _credential(PASSPHRASE_CREDENTIAL)
        if self.descriptor is not None:
            place = f"--passphrase-fd {self.descriptor}"
            content = _read_line(self.descriptor, place)
        elif credential is not None and credential.exists():
            place, content = str(credential), _read_credential(credential)
        else:
            return None
        try:
            text = content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise ConfigurationError([f"{place}: no UTF-8"]) from None
        if not text:
            raise ConfigurationError([f"{place}: holds no passphrase"])
        return unicodedata.normalize("NFC", text)


_passphrase = Passphrase()


def passphrase() -> Passphrase:
    """This process's passphrase."""
    return _passphrase


def use_descriptor(descriptor: int) -> None:
    """Have this process read its passphrase from an open file descriptor."""
    _passphrase.descriptor = descriptor


def _read_line(descriptor: int, place: str) -> bytes:
    content = b""
    try:
        while b"\n" not in content and len(content) <= PASSPHRASE_SIZE_MAX:
            more = os.read(descriptor, PASSPHRASE_SIZE_MAX)
            if not more:
                break
            content += more
    except OSError as error:
        raise ConfigurationError([f"{place}: {error}"]) from error
    line, _, _ = content.partition(b"\n")
    if len(line) > PASSPHRASE_SIZE_MAX:
        raise ConfigurationError([f"{place}: more than {PASSPHRASE_SIZE_MAX} bytes"])
    return line


def _ask(prompt: str) -> str:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise ConfigurationError(
            [
                (
                    "the master key's passphrase: there is no terminal to ask at, no "
                    f"--passphrase-fd N, no systemd credential {PASSPHRASE_CREDENTIAL}"
                )
            ]
        ) from None
    text = unicodedata.normalize("NFC", getpass.getpass(prompt))
    if not text:
        raise ConfigurationError(["no passphrase was given"])
    return text


# ---- The three sources ----


def _credential(name: str) -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) / name if directory else None


def _read_credential(path: Path) -> bytes:
    """Its bytes. systemd shows an ACL as group bits, so only `others` are looked at."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except OSError as error:
        reason = error.strerror or "unreadable"
        raise ConfigurationError([f"credential {path}: {reason}"]) from error
    if mode & 0o007:
        raise ConfigurationError([f"credential {path}: others may read it"])
    if len(content) > PASSPHRASE_SIZE_MAX:
        raise ConfigurationError(
            [f"credential {path}: more than {PASSPHRASE_SIZE_MAX} bytes"]
        )
    return content


def _parse_key(text: str, place: str) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != vault.KEY_SIZE:
        raise ConfigurationError(
            [f"{place}: not {vault.KEY_SIZE} bytes in hexadecimal"]
        )
    return key


def _from_file(path: Path) -> bytes:
    problems: list[str] = []
    text = vault.read_secret(path, problems)
    if problems:
        raise ConfigurationError(problems)
    return _parse_key(text, str(path))


def _from_credential(path: Path) -> bytes:
    content = _read_credential(path)
    return _parse_key(content.decode(errors="replace"), f"credential {path}")


def load_sealed(path: Path) -> bytes:
    """The master key of a master.sealed; ConfigurationError names it."""
    problems: list[str] = []
    text = vault.read_secret(path, problems)
    if problems:
        raise ConfigurationError(problems)
    return unseal_master(text, _passphrase.get, str(path))


def _derive(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    kdf = Scrypt(salt=salt, length=vault.KEY_SIZE, n=n, r=r, p=p)
    return kdf.derive(passphrase.encode())


def _sealed_associated(members: Mapping[str, object]) -> bytes:
    return cbor.encode([members[one] for one in ("format", "n", "r", "p", "salt")])


def seal_master(master: bytes, passphrase: str) -> str:
    """The content of master.sealed."""
    salt = os.urandom(SALT_SIZE)
    members: dict[str, object] = {
        "format": SEALED_FORMAT,
        "n": SCRYPT_N,
        "r": SCRYPT_R,
        "p": SCRYPT_P,
        "salt": salt.hex(),
    }
    key = _derive(passphrase, salt, SCRYPT_N, SCRYPT_R, SCRYPT_P)
    sealed = vault.seal(key, master, _sealed_associated(members))
    return json.dumps(members | {"sealed": sealed.hex()})


def unseal_master(text: str, passphrase: Callable[[], str], place: str) -> bytes:
    """The master key; ConfigurationError for another format or passphrase.

    The passphrase is asked for only once the format is known to be right.
    """
    try:
        members = json.loads(text)
        if members["format"] != SEALED_FORMAT:
            raise ValueError("another format")
        n, r, p = (int(members[one]) for one in ("n", "r", "p"))
        salt, sealed = bytes.fromhex(members["salt"]), bytes.fromhex(members["sealed"])
        if min(n, r, p) < 1 or n & (n - 1) or n < 2:
            raise ValueError("parameters that scrypt does not have")
        if 128 * n * r * p > SCRYPT_MEMORY_MAX:
            raise ValueError("parameters that ask for more than 1 GiB")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError([f"{place}: no sealed master key ({error})"]) from None
    key = _derive(passphrase(), salt, n, r, p)
    try:
        master = vault.unseal(key, sealed, _sealed_associated(members))
    except IntegrityError:
        raise ConfigurationError(
            [f"{place}: the passphrase does not open it, or the file was altered"]
        ) from None
    if len(master) != vault.KEY_SIZE:
        raise ConfigurationError([f"{place}: holds no {vault.KEY_SIZE}-byte key"])
    return master


# ---- Loading ----


@dataclass(frozen=True, slots=True)
class Place:
    """One source, in one keys directory: the key, and the one that follows it."""

    source: str
    current: Path
    new: Path

    def read(self, path: Path) -> bytes:
        """The master key of one of the two paths; ConfigurationError names it."""
        if self.source == CREDENTIAL:
            return _from_credential(path)
        return _from_file(path) if self.source == FILE else load_sealed(path)


def place_of(keys: Path, source: str | None = None) -> Place:
    """The place of a configured source; of what is there, where none is configured."""
    if source is None:
        source = FILE
        if not (keys / vault.MASTER_KEY).exists():
            if (keys / SEALED_KEY).exists():
                source = PASSPHRASE
            elif _credential(MASTER_CREDENTIAL) is not None:
                source = CREDENTIAL
    if source == CREDENTIAL:
        current, new = _credential(MASTER_CREDENTIAL), _credential(NEW_CREDENTIAL)
        if current is None or new is None:
            raise ConfigurationError(
                [
                    (
                        f"credential {MASTER_CREDENTIAL}: $CREDENTIALS_DIRECTORY is "
                        "not set; systemd sets it for a unit with "
                        "LoadCredentialEncrypted="
                    )
                ]
            )
        return Place(source, current, new)
    name = vault.MASTER_KEY if source == FILE else SEALED_KEY
    return Place(source, keys / name, keys / (name + NEW))


def load_master(
    keys: Path, source: str | None = None, store: Path | None = None
) -> bytes:
    """The master key that opens the store.

    `store` is the data directory, asked only while there are two keys. A
    ConfigurationError names the file or the credential, and never its content.
    """
    place = place_of(keys, source)
    _refuse_other_kind(keys, place)
    if not place.new.exists():
        return place.read(place.current)
    return _opening(place, store or keys.parent)[1]


def in_force(place: Place, store: Path) -> Path:
    """Which of a place's two paths holds the key that opens the store."""
    return _opening(place, store)[0] if place.new.exists() else place.current


def _refuse_other_kind(keys: Path, place: Place) -> None:
    """Say so where the key is there in the other form: half a conversion, or a typo."""
    file, sealed = keys / vault.MASTER_KEY, keys / SEALED_KEY
    there = None
    if place.source == FILE and sealed.exists():
        there = (sealed, PASSPHRASE)
    elif place.source != FILE and file.exists():
        there = (file, FILE)
    if there is None:
        return
    other, source = there
    if not place.current.exists() and not place.new.exists():
        raise ConfigurationError(
            [
                (
                    f"{place.current}: missing, and {other} is there: "
                    f'set [gateway] master = "{source}"'
                )
            ]
        )
    if other == file:
        log.warning(
            "%s lies open beside the %s: `iomt keys passphrase` again, or remove it",
            file,
            place.source,
        )


def _opening(place: Place, store: Path) -> tuple[Path, bytes]:
    """(path, key) of the one of the two that opens the store."""
    path = store / DATABASE_NAME
    if not path.exists():
        raise ConfigurationError(
            [f"{place.new}: a rotation was cut off, and {path} is not there to ask"]
        )
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        with contextlib.closing(connection):
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            return _first_that_opens(place, connection, path)
    except apsw.Error as error:
        raise DurabilityError(f"{path}: {error}") from error


def _first_that_opens(
    place: Place, connection: apsw.Connection, store: Path
) -> tuple[Path, bytes]:
    problems = []
    for path in (place.current, place.new):
        try:
            master = place.read(path)
            Keys(master, connection)
        except ConfigurationError as error:
            problems += error.problems
        except IntegrityError:
            problems.append(f"{path}: does not open {store}")
        else:
            return path, master
    raise ConfigurationError(problems)


def settle(keys: Path, source: str | None, store: Path) -> None:
    """End a rotation that a crash cut off: one key remains, the one that opens.

    The caller holds the data directory's lock. Nothing to do for credentials, which
    are the administrator's to exchange.
    """
    place = place_of(keys, source)
    if place.source == CREDENTIAL or not place.new.exists():
        return
    path, _ = _opening(place, store)
    if path == place.new:
        os.rename(place.new, place.current)
    else:
        os.unlink(place.new)
    vault.sync_directory(keys)
