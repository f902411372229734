"""Who is enrolled, who wears what, and which sequences a device has used.

Pure state, loaded from the store at the start and changed as commits become durable
(devices, assignments) or as messages are admitted (sequences).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

from edge import cbor
from edge.errors import IntegrityError, RejectError

GAPS_MAX = 64
HASHES_KEPT = 1024
SEQUENCE_MAX = 2**64 - 1


class DeviceKind(StrEnum):
    """How a device's messages are to be read."""

    SIGNED = "signed"
    SHARED = "shared"  # a MAC under a key that the gateway has too
    UNSIGNED = "unsigned"
    BLE = "ble"
    TYPED = "typed"  # people say what they saw


ENVELOPES = frozenset({DeviceKind.SIGNED, DeviceKind.SHARED})  # they have sequences


@dataclass(frozen=True, slots=True)
class Assignment:
    """A device at a patient; `ref` and `patient_ref` are random and mean nothing."""

    id: int
    ref: bytes
    patient: int
    patient_ref: bytes


@dataclass(frozen=True, slots=True)
class Device:
    """An enrolled device."""

    id: int
    name: str
    ref: bytes
    kind: DeviceKind
    public_key: bytes | None = None
    address: str | None = None
    assignment: Assignment | None = None
    revoked: bool = False
    former_key: bytes | None = None  # the one before, taken until that time
    former_until_ms: int = 0
    shared_key: bytes | None = field(default=None, repr=False)


class Registry:
    """The devices by name and by radio address, and every assignment there ever was."""

    def __init__(
        self, devices: Iterable[Device] = (), assignments: Iterable[Assignment] = ()
    ) -> None:
        self._devices: dict[str, Device] = {}
        self._assignments = {one.ref: one for one in assignments}
        for device in devices:
            self.put(device)

    def put(self, device: Device) -> None:
        """Add a device or replace the one of its name."""
        self._devices[device.name] = device
        if device.assignment is not None:
            self._assignments[device.assignment.ref] = device.assignment

    def note(self, assignment: Assignment) -> None:
        """Add an assignment that lies in the past."""
        self._assignments[assignment.ref] = assignment

    def find(self, name: str) -> Device | None:
        """The device of this name, revoked or not."""
        return self._devices.get(name)

    def all(self) -> list[Device]:
        """Every device, in the order of enrolment."""
        return list(self._devices.values())

    def radio_addresses(self) -> Mapping[str, str]:
        """Address to name of the devices that may send over Bluetooth."""
        return {
            one.address: one.name
            for one in self._devices.values()
            if one.address and not one.revoked
        }

    def patient_ref(self, assignment: bytes | None) -> bytes | None:
        """Whose readings bear this assignment reference."""
        found = self._assignments.get(assignment) if assignment else None
        return found.patient_ref if found else None

    def next_device_id(self) -> int:
        """One above the highest id in use; ids are never used again."""
        return max((one.id for one in self._devices.values()), default=0) + 1

    def next_assignment_id(self) -> int:
        """One above the highest id in use."""
        return max((one.id for one in self._assignments.values()), default=0) + 1


class Novelty(Enum):
    """What a sequence number says about the message that bears it."""

    NEW = "new"
    DUPLICATE = "duplicate"
    EQUIVOCATION = "equivocation"
    UNVERIFIED = "unverified"  # used before, but we no longer know with which bytes


class SequenceWindow:
    """The sequences of one device: a high-water mark, open gaps, recent hashes.

    Whatever is above the mark or in a gap is new. A device may skip numbers (QoS 0,
    reserves after a restart), so gaps are remembered and may be filled later; of more
    than GAPS_MAX the oldest is forgotten, and a number in it then counts as used.
    Stored as CBOR [high, [[first, last], ...]]; the hashes are kept in memory only and
    recalled from the stored records when an old number comes after a restart.
    """

    __slots__ = ("_gaps", "_hashes", "_high", "recalled")

    def __init__(self, high: int = -1, gaps: Iterable[tuple[int, int]] = ()) -> None:
        self._high = high
        self._gaps = list(gaps)
        self._hashes: dict[int, bytes] = {}
        self.recalled = high < 0

    def classify(self, sequence: int, digest: bytes) -> Novelty:
        """What this message is; nothing changes."""
        if sequence > self._high or self._gap_of(sequence) is not None:
            return Novelty.NEW
        kept = self._hashes.get(sequence)
        if kept is None:
            return Novelty.UNVERIFIED
        return Novelty.DUPLICATE if kept == digest else Novelty.EQUIVOCATION

    def accept(self, sequence: int, digest: bytes) -> tuple[int, int] | None:
        """Note a new sequence as used; the gap that it opens, where it opens one.

        What is below a device's first sequence is no gap: it begins with any number.
        """
        gap = None
        if sequence > self._high:
            if sequence > self._high + 1:
                gap = (self._high + 1, sequence - 1) if self._high >= 0 else None
                self._gaps.append((self._high + 1, sequence - 1))
                if len(self._gaps) > GAPS_MAX:
                    del self._gaps[0]
            self._high = sequence
        else:
            place = self._gap_of(sequence)
            if place is None:
                raise ValueError(f"sequence {sequence} is used already")
            first, last = self._gaps[place]
            parts = [(first, sequence - 1), (sequence + 1, last)]
            self._gaps[place : place + 1] = [one for one in parts if one[0] <= one[1]]
            if len(self._gaps) > GAPS_MAX:
                del self._gaps[0]
        self._keep(sequence, digest)
        return gap

    def recall(self, hashes: Mapping[int, bytes]) -> None:
        """Take the hashes of stored records (oldest first) back into memory."""
        newer = self._hashes
        self._hashes = {}
        for sequence, digest in (*hashes.items(), *newer.items()):
            self._hashes.pop(sequence, None)
            self._keep(sequence, digest)
        self.recalled = True

    def _keep(self, sequence: int, digest: bytes) -> None:
        self._hashes[sequence] = digest
        if len(self._hashes) > HASHES_KEPT:
            del self._hashes[next(iter(self._hashes))]

    def _gap_of(self, sequence: int) -> int | None:
        for place, (first, last) in enumerate(self._gaps):
            if first <= sequence <= last:
                return place
        return None

    def encode(self) -> bytes:
        """The stored form."""
        return cbor.encode([self._high, self._gaps])

    @classmethod
    def decode(cls, state: bytes) -> SequenceWindow:
        """The window of a stored form."""
        try:
            stored: Any = cbor.decode(state)
            high, gaps = stored
            return cls(int(high), [(int(first), int(last)) for first, last in gaps])
        except (RejectError, TypeError, ValueError) as error:
            raise IntegrityError(f"sequence state is damaged: {error}") from error
