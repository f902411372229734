"""What an administrator may change: patients, devices, assignments.

The same code serves `iomt device add` beside a running gateway (through its local
socket) and without one. Each change is one commit: its rows, and its entries on the
ledger, which name random ids and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from edge import cbor
from edge.clock import Clock
from edge.contracts.evaluation import RELEASED
from edge.devices.mac_envelope import KEY_SIZE as SHARED_KEY_SIZE
from edge.devices.registry import Assignment, Device, DeviceKind, Registry
from edge.errors import ConfigurationError, NotFoundError
from edge.intake import Intake
from edge.ledger import device_key
from edge.ledger.batch import DeviceEnrolment, DeviceRevocation
from edge.model import Attestation, Flag, Kind, Record, is_name
from edge.open_batch import Change
from edge.store import shared_keys
from edge.store.commit import Class, Slot, SqlValue
from edge.store.keys import Keys, patient_associated
from edge.store.vault import seal, unseal

REF_SIZE = 16
_NAME_RULE = (
    "device {name!r}: 1 to 64 of A–Z a–z 0–9 . _ -, and none of alerts, cmd, receipt"
)
PATIENT_NAME_LENGTH_MAX = 128
ADDRESS = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", re.ASCII)


class Patients:
    """The patients by random reference, and by the name the clinic gave."""

    def __init__(self, known: Mapping[str, tuple[int, str]], last_id: int = 0) -> None:
        self._by_ref = dict(known)
        self._last_id = max([last_id, *(id_ for id_, _ in known.values())])
        self._leaving: set[str] = set()
        self._by_name = {name: ref for ref, (_, name) in known.items()}

    def id_of(self, ref: str) -> int | None:
        """The store's id of the patient of this reference (hex)."""
        found = self._by_ref.get(ref)
        return found[0] if found else None

    def name_of(self, ref: str) -> str | None:
        """The clinic's name of the patient of this reference (hex)."""
        found = self._by_ref.get(ref)
        return found[1] if found else None

    def ref_of(self, name: str) -> str | None:
        """The reference (hex) of the patient of this name, unless on the way out."""
        ref = self._by_name.get(name)
        return None if ref in self._leaving else ref

    def taken(self, name: str) -> bool:
        """Whether a patient of this name is there, on the way out or not."""
        return name in self._by_name

    def leave(self, ref: str) -> None:
        """A patient is on the way out: nothing new may begin for them."""
        self._leaving.add(ref)

    def remove(self, ref: str) -> None:
        """A patient is gone."""
        _, name = self._by_ref.pop(ref)
        del self._by_name[name]
        self._leaving.discard(ref)

    def put(self, ref: str, id_: int, name: str) -> None:
        """Add a patient."""
        self._by_ref[ref] = (id_, name)
        self._by_name[name] = ref
        self._last_id = max(self._last_id, id_)

    def next_id(self) -> int:
        """One above the highest id that there ever was."""
        return self._last_id + 1


class Administration:
    """Validates changes and has the intake commit them."""

    def __init__(
        self,
        intake: Intake,
        registry: Registry,
        patients: Patients,
        keys: Keys,
        clock: Clock,
        master: bytes,
    ) -> None:
        self._intake = intake
        self._registry = registry
        self._patients = patients
        self._keys = keys
        self._clock = clock
        self._master = master
        self.more: dict[str, Callable[..., Awaitable[object]]] = {}
        self.on_revoke: list[Callable[[str], None]] = []
        self._enrolling: dict[str, str] = {}  # Bluetooth address -> device name

    @property
    def operations(self) -> Mapping[str, Callable[..., Awaitable[object]]]:
        """The operations by the name that the local socket and the CLI use."""
        return {
            "patient-add": self.add_patient,
            "device-add": self.add_device,
            "device-assign": self.assign_device,
            "device-revoke": self.revoke_device,
            **self.more,
        }

    async def add_patient(self, name: str) -> str:
        """Add a patient under the clinic's own name for them; their reference."""
        if not 0 < len(name) <= PATIENT_NAME_LENGTH_MAX or not name.isprintable():
            most = PATIENT_NAME_LENGTH_MAX
            raise ConfigurationError(
                [f"patient: the name must have 1 to {most} printable characters"]
            )
        if self._patients.taken(name):
            raise ConfigurationError([f"patient {name!r} is there already"])
        ref, id_ = os.urandom(REF_SIZE), self._patients.next_id()
        wrapped = self._keys.new_patient(ref)
        key = unseal(self._master, wrapped, patient_associated(ref, "key"))
        sealed_name = seal(key, name.encode(), patient_associated(ref, "name"))
        values = (id_, ref, self._keys.tag(name), sealed_name, wrapped)

        def change(now_ms: int) -> Change:
            insert = "INSERT INTO patients VALUES (?, ?, ?, ?, ?, ?)"
            return Change(statements=[(insert, (*values, now_ms))])

        self._patients.put(ref.hex(), id_, name)
        await self._intake.administer(change)
        return ref.hex()

    async def add_device(
        self,
        name: str,
        kind: str,
        public_key: str | None = None,
        address: str | None = None,
        shared_key: str | None = None,
    ) -> None:
        """Enrol a device.

        `public_key` is hexadecimal, for kind `signed` only, `shared_key` for `shared`.
        """
        key = self._check_device(name, kind, public_key, address)
        secret = _shared_key(kind, shared_key)
        device = Device(
            id=self._registry.next_device_id(),
            name=name,
            ref=os.urandom(REF_SIZE),
            kind=DeviceKind(kind),
            public_key=key,
            address=address.upper() if address else None,
            shared_key=secret,
        )
        values = (device.id, name, device.ref, kind, key, device.address)
        attestation = Attestation.DEVICE if key else Attestation.GATEWAY

        def change(now_ms: int) -> Change:
            insert = "INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?, ?, NULL)"
            entry = DeviceEnrolment(device.ref, now_ms, attestation, key)
            statements: list[tuple[str, tuple[SqlValue, ...]]] = [
                (insert, (*values, now_ms))
            ]
            if secret is not None:
                where = self._keys.gateway, device.id, device.ref
                statements.append(shared_keys.statement(*where, secret))
            return Change(
                statements=statements,
                entries=[entry.encode()],
                applied=lambda: self._registry.put(device),
            )

        # Its name and its address are taken.
        self._registry.put(replace(device, revoked=True))
        if device.address is not None:
            self._enrolling[device.address] = name
        try:
            await self._intake.administer(change)
        finally:
            self._enrolling.pop(device.address or "", None)

    def check_name(self, name: str) -> None:
        """ConfigurationError where no device can have this name."""
        if not is_name(name):
            raise ConfigurationError([_NAME_RULE.format(name=name)])

    def _check_device(
        self, name: str, kind: str, public_key: str | None, address: str | None
    ) -> bytes | None:
        problems = []
        if not is_name(name):
            problems.append(_NAME_RULE.format(name=name))
        elif self._registry.find(name) is not None:
            problems.append(f"device {name!r} is there already")
        if kind not in set(DeviceKind):
            problems.append(f"kind {kind!r}: one of {', '.join(DeviceKind)}")
        if (kind == DeviceKind.SIGNED) != (public_key is not None):
            problems.append("a public key belongs to a signed device, and only there")
        if kind == DeviceKind.BLE and address is None:
            problems.append("a Bluetooth device has an address")
        if kind in (DeviceKind.UNSIGNED, DeviceKind.SHARED) and address is not None:
            problems.append("an address belongs to a device that sends over Bluetooth")
        if address is not None and not ADDRESS.fullmatch(address):
            problems.append(f"address {address!a}: not like F0:12:34:56:78:9A")
        taken = {**self._enrolling, **self._registry.radio_addresses()}
        if address is not None and (owner := taken.get(address.upper())):
            # Its readings would go to one of the two, and to the wrong patient.
            problems.append(f"address {address}: it is {owner!r}; revoke that first")
        key = None
        if public_key is not None:
            try:
                key = bytes.fromhex(public_key)
                fault = device_key.key_fault(key)
            except ValueError:
                fault = "not hexadecimal"
            if fault:
                problems.append(f"public key: {fault}")
        if problems:
            raise ConfigurationError(problems)
        return key

    async def assign_device(self, name: str, patient: str | None) -> None:
        """Put a device at a patient, or (None) release it."""
        device = self.known(name)
        assignment = None
        if patient is not None:
            ref = self._patients.ref_of(patient)
            if ref is None:
                raise NotFoundError(f"no patient {patient!r}; `iomt patient add` first")
            assignment = Assignment(
                id=self._registry.next_assignment_id(),
                ref=os.urandom(REF_SIZE),
                patient=self._patients.id_of(ref) or 0,
                patient_ref=bytes.fromhex(ref),
            )

        def change(now_ms: int) -> Change:
            change = self.released(device, now_ms)
            if assignment is not None:
                insert = "INSERT INTO assignments VALUES (?, ?, ?, ?, ?, NULL)"
                values = (assignment.id, assignment.ref, device.id, assignment.patient)
                change.statements.append((insert, (*values, now_ms)))
            record = self.assignment_record(device, assignment, now_ms)
            change.records.append(record)
            # At once, so that record order decides whose the next reading is.
            self._registry.put(replace(device, assignment=assignment))
            return change

        await self._intake.administer(change)

    def released(self, device: Device, now_ms: int) -> Change:
        """The beginning of a change that ends the device's assignment."""
        release = (
            "UPDATE assignments SET until_ms = ? WHERE device = ? AND until_ms IS NULL"
        )
        return Change(statements=[(release, (now_ms, device.id))])

    def assignment_record(
        self, device: Device, to: Assignment | None, now_ms: int
    ) -> tuple[Record, Slot]:
        body: dict[int, object] = {2: device.ref}
        if to is not None:
            body |= {1: to.ref, 3: to.patient_ref}
        left = self._left_alone(device, to)
        if left is not None:
            body[RELEASED] = left
        one = to or device.assignment
        slot = Slot(
            device.id, one.id if one else 0, one.patient if one else 0, Class.EVENTS
        )
        record = Record(
            kind=Kind.ASSIGNMENT,
            received_ms=now_ms,
            original=cbor.encode(body),
            device=device.name,
            flags=Flag(0) if self._clock.synced else Flag.UNSYNCED,
            assignment=to.ref if to else None,
        )
        return record, slot

    def _left_alone(self, device: Device, to: Assignment | None) -> bytes | None:
        """The patient who has no device any more once this one has gone, or None."""
        was = device.assignment
        if was is None or (to is not None and to.patient == was.patient):
            return None
        for one in self._registry.all():
            stays = one.id != device.id and not one.revoked and one.assignment
            if stays and stays.patient == was.patient:
                return None
        return was.patient_ref

    async def revoke_device(self, name: str) -> None:
        """Refuse whatever the device sends from now on, and release it."""
        device = self.known(name)

        def change(now_ms: int) -> Change:
            change = self.released(device, now_ms)
            if device.assignment is not None:
                record = self.assignment_record(device, None, now_ms)
                change.records.append(record)
            revoke = "UPDATE devices SET revoked_ms = ? WHERE id = ?"
            change.statements.append((revoke, (now_ms, device.id)))
            change.entries.append(DeviceRevocation(device.ref, now_ms).encode())
            self._registry.put(replace(device, revoked=True, assignment=None))
            return change

        await self._intake.administer(change)
        for listener in self.on_revoke:
            listener(name)

    def known(self, name: str) -> Device:
        device = self._registry.find(name)
        if device is None or device.revoked:
            raise NotFoundError(f"no device {name!r} is enrolled")
        return device


def _shared_key(kind: str, text: str | None) -> bytes | None:
    """The shared key of a device of this kind, from hexadecimal digits."""
    if (kind == DeviceKind.SHARED) != (text is not None):
        problem = "a shared key belongs to a device of kind shared, and only there"
        raise ConfigurationError([problem])
    if text is None:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != SHARED_KEY_SIZE or len(set(key)) == 1:
        problem = f"shared key: not {SHARED_KEY_SIZE} random bytes in hexadecimal"
        raise ConfigurationError([problem])
    return key


def software_hash(files: Mapping[str, bytes]) -> bytes:
    """SHA-256 over the program's files, in the order of their names."""
    total = hashlib.sha256()
    for name in sorted(files):
        total.update(hashlib.sha256(name.encode()).digest())
        total.update(hashlib.sha256(files[name]).digest())
    return total.digest()
