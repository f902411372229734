"""What the ward's devices remember: DIR/ward.json, readable by its owner only.

    {"version": 1, "devices": {"bed-1-monitor": {"seed": "<64 hex>", "next": 1000}}}

`seed` is the device's Ed25519 key. `next` is the first sequence that a new run may use:
it is written ahead in reserves of 1,000 before any of them is sent, so a kill skips
sequences and never uses one twice. A clean stop writes the exact number, because each
skipped range is a gap that the gateway has to remember. The file is replaced as a
whole: temporary file, fsync, rename, fsync of the directory. DIR/ward.lock is held
meanwhile, so two wards cannot send with the same keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path

from firmware_sim.envelope import Signer

RESERVE = 1000
VERSION = 1
SEED_SIZE = 32
OWNER_ONLY = 0o600


class StateError(Exception):
    """The ward's directory cannot be used; the text says why."""


@dataclass(slots=True)
class _Device:
    signer: Signer
    next: int  # the next sequence that this run uses
    reserved: int  # the first sequence that the file does not cover


def replace_file(path: Path, content: bytes) -> None:
    """Write `path` so that after a crash it holds the old bytes or the new ones."""
    temporary = path.with_name(path.name + ".tmp")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()  # a leftover may have other permissions
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(temporary, flags, OWNER_ONLY), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class WardState:
    """The keys and sequences of all signing devices; close() it to keep no gaps."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = directory / "ward.json"
        self._lock = os.open(
            directory / "ward.lock", os.O_RDWR | os.O_CREAT, OWNER_ONLY
        )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._devices = self._load()
        except BlockingIOError:
            os.close(self._lock)
            raise StateError(f"another ward uses {directory}") from None
        except StateError:
            os.close(self._lock)
            raise

    def _load(self) -> dict[str, _Device]:
        try:
            stored = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StateError(f"{self._path} is not JSON: {error}") from error
        if stored.get("version") != VERSION:
            raise StateError(f"{self._path} is not of version {VERSION}")
        return {
            name: _Device(
                Signer(bytes.fromhex(device["seed"])), device["next"], device["next"]
            )
            for name, device in stored["devices"].items()
        }

    def _save(self) -> None:
        devices = {
            name: {"seed": device.signer.seed.hex(), "next": device.reserved}
            for name, device in self._devices.items()
        }
        content = json.dumps({"version": VERSION, "devices": devices}, indent=1)
        replace_file(self._path, content.encode())

    def enrol(self, names: list[str]) -> None:
        """Make a key for each device that has none yet, and keep it."""
        missing = [name for name in names if name not in self._devices]
        for name in missing:
            self._devices[name] = _Device(Signer(os.urandom(SEED_SIZE)), 1, 1)
        if missing:
            self._save()

    def signer(self, name: str) -> Signer:
        """The key of a device that was enrolled."""
        return self._devices[name].signer

    def next_sequence(self, name: str) -> int:
        """A sequence that no run of this device has used or will use again."""
        device = self._devices[name]
        if device.next >= device.reserved:
            for other in self._devices.values():  # one write serves all of them
                other.reserved = max(other.reserved, other.next + RESERVE)
            self._save()
        sequence = device.next
        device.next += 1
        return sequence

    def give_back(self, name: str, sequence: int) -> None:
        """Sequences from `sequence` on were never handed out of the process."""
        device = self._devices[name]
        device.next = min(device.next, sequence)

    def close(self) -> None:
        """Keep the exact next sequences and let another ward have the directory."""
        for device in self._devices.values():
            device.reserved = device.next
        self._save()
        os.close(self._lock)
