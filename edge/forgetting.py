"""Whose data they are, and their end: claims, corrections, merges, erasure, retention.

Each change is a commit with a record that says so (docs/ledger-format.md section 3). An
erasure is two: the intent, after which nothing new begins for the patient, and the
completion, once the last key and frame are gone. In between the store is worked on in
short turns of the writer's thread; a gateway that ends meanwhile goes on at its next
start. Alarms are not raised, and not taken back, for what changes its patient.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import IntEnum

from edge import cbor
from edge.administration import REF_SIZE, Administration, Patients
from edge.clock import Clock
from edge.config import Retention
from edge.contracts.evaluation import FORGOTTEN, RELEASED
from edge.devices.registry import Assignment, Device, Registry
from edge.errors import ConfigurationError, NotFoundError
from edge.intake import Intake
from edge.ledger.batch import reading_id
from edge.model import Flag, Kind, Record
from edge.open_batch import Change
from edge.store import forget, transfer
from edge.store.commit import GATEWAY_SLOT, Class, Slot, Writer
from edge.store.reader import Reader

ANSWER_WITHIN_S = 45.0  # the local socket gives up after a minute
RESUME_WITHIN_S = 10.0
TRUNCATE_RETRY_S = 0.25
TRUNCATE_WARN_COUNT = 120
RETENTION_INTERVAL_S = 3600.0
RETENTION_PAUSE_S = 0.02
DAY_MS = 24 * 3600 * 1000
GATEWAY_EVENTS = GATEWAY_SLOT._replace(retention=Class.EVENTS)
_INSERT_ASSIGNMENT = "INSERT INTO assignments VALUES (?, ?, ?, ?, ?, ?)"
_OLD_CELLS = (
    "Flash keeps old cells for a while, and copies of the disk what they hold: who has "
    "them, "
)
PHYSICAL = {
    "file": "logical only: the master key is a file on this machine. "
    + _OLD_CELLS
    + "and that file, may still open what was erased. What left this machine before "
    "(alerts, exports, backups of the key ring) is not called back.",
    "credential": "logical on this disk; without the system's credential its old cells "
    "open nothing. " + _OLD_CELLS + "and the credential, may still open what was "
    "erased. What left this machine before is not called back.",
    "passphrase": "logical on this disk; without the passphrase its old cells open "
    "nothing. " + _OLD_CELLS + "and the passphrase, may still open what was erased. "
    "What left this machine before is not called back.",
}

log = logging.getLogger("edge.forgetting")


class Moved(IntEnum):
    """What a transfer's record says."""

    CLAIM = 0
    CORRECTION = 1
    MERGE = 2


@dataclass(frozen=True, slots=True)
class _Patient:
    id: int
    ref: bytes


class Forgetting:
    """The operations on whole patients and on the past, and the retention policy.

    `on_forget` is called with the clinic's name of each patient who is gone, for the
    views that hold it.
    """

    def __init__(
        self,
        administration: Administration,
        intake: Intake,
        registry: Registry,
        patients: Patients,
        reader: Reader,
        clock: Clock,
        retention: Retention,
        master: str = "file",
    ) -> None:
        self._administration = administration
        self._intake = intake
        self._registry = registry
        self._patients = patients
        self._reader = reader
        self._clock = clock
        self._retention = retention
        self._master = master
        self._tasks: set[asyncio.Task[str]] = set()
        self.on_forget: list[Callable[[str], None]] = []

    @property
    def operations(self) -> Mapping[str, Callable[..., Awaitable[object]]]:
        """The operations by the name that the local socket and the CLI use."""
        return {
            "patient-erase": self.erase_patient,
            "patient-merge": self.merge_patients,
            "device-claim": self.claim_readings,
            "device-correct": self.correct_patient,
        }

    # ---- Erasure ----

    async def erase_patient(self, name: str) -> dict[str, object]:
        """Forget a patient; the receipt, which says whether all of it is done."""
        await self._intake.committed()  # the store is asked whose devices there were
        patient = self._patient(name)
        change = await self._commit(lambda now_ms: self._intent(patient, now_ms))
        self._tell(name)
        gone = forget.Destroyed()
        task = self._begin(patient, name, gone)
        completed = None
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                completed = await asyncio.shield(task)
        return {
            "patient": patient.ref.hex(),
            "state": "completed" if completed else "under way",
            "intent": self._id(change),
            "completion": completed,
            **asdict(gone),
            "physical": PHYSICAL[self._master],
        }

    def _intent(self, patient: _Patient, now_ms: int) -> Change:
        """Nothing new begins for the patient: devices go, contracts end."""
        insert = "INSERT INTO erasures (patient, ref, started_ms) VALUES (?, ?, ?)"
        change = Change(
            statements=[(insert, (patient.id, patient.ref, now_ms))], snapshot=True
        )
        ever = self._reader.devices_of(patient.id)
        for device in self._registry.all():
            one = device.assignment
            if one is not None and one.patient == patient.id:
                change.statements += self._administration.released(
                    device, now_ms
                ).statements
                device = replace(device, assignment=None)  # noqa: PLW2901
                self._registry.put(device)
            elif one is not None or device.id not in ever:
                continue
            body = {2: device.ref, FORGOTTEN: 1}
            slot = Slot(device.id, 0, 0, Class.EVENTS)
            record = self._record(Kind.ASSIGNMENT, body, now_ms, device)
            change.records.append((record, slot))
        change.records.append(self._erasure(forget.Phase.INTENT, patient.ref, now_ms))
        self._patients.leave(patient.ref.hex())
        return change

    def _begin(
        self, patient: _Patient, name: str | None, gone: forget.Destroyed
    ) -> asyncio.Task[str]:
        task = asyncio.create_task(self._finish(patient, name, gone), name="erasure")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _finish(
        self, patient: _Patient, name: str | None, gone: forget.Destroyed
    ) -> str:
        """Destroy, step by step, and commit that it is done; the record's name."""
        steps: Iterator[None] | None = None

        def step(writer: Writer) -> bool:
            nonlocal steps
            steps = steps or forget.destroy(writer, patient.id, gone)
            return next(steps, _END) is not _END

        while await self._intake.maintain(step):
            pass
        await self._truncate()
        self._reader.forget_keys()

        def completion(now_ms: int) -> Change:
            update = (
                "UPDATE erasures SET completed_ms = ? "
                "WHERE patient = ? AND completed_ms IS NULL"
            )
            return Change(
                statements=[(update, (now_ms, patient.id))],
                records=[self._erasure(forget.Phase.COMPLETED, patient.ref, now_ms)],
                snapshot=True,
            )

        change = await self._commit(completion)
        if name is not None:
            self._patients.remove(patient.ref.hex())
            self._tell(name)
        log.info("erasure of patient %s completed", patient.ref.hex())
        return self._id(change)

    async def _truncate(self) -> None:
        """Cut the WAL, which holds pages as they were; a reader may be in the way."""
        tries = 0
        while not await self._intake.maintain(forget.truncate_wal):
            tries += 1
            if tries == TRUNCATE_WARN_COUNT:
                log.warning("an erasure waits for a long read of the store to end")
            await asyncio.sleep(TRUNCATE_RETRY_S)

    async def resume(self) -> None:
        """Complete what an earlier process began and destroyed (store/forget.py)."""
        tasks = [
            self._begin(_Patient(id_, ref), None, forget.Destroyed())
            for id_, ref in self._reader.erasures_pending()
        ]
        if tasks:
            await asyncio.wait(tasks, timeout=RESUME_WITHIN_S)

    async def stop(self) -> None:
        """Leave what is under way to the next start."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- Transfers ----

    async def merge_patients(self, name: str, into: str) -> dict[str, object]:
        """Two records of one person become one: everything of `name` is of `into`."""
        if name == into:
            raise ConfigurationError(["merge: a patient into themselves"])
        patient, target = self._patient(name), self._patient(into)
        moved: list[int] = []

        def change(now_ms: int) -> Change:
            made = Change(snapshot=True)
            for device in self._registry.all():
                one = device.assignment
                if one is not None and one.patient == patient.id:
                    self._reassign(made, device, target, now_ms)
            body = {1: Moved.MERGE.value, 3: target.ref, RELEASED: patient.ref}
            slot = Slot(0, 0, target.id, Class.EVENTS)
            made.records.append((self._record(Kind.TRANSFER, body, now_ms, None), slot))
            made.steps.append(
                lambda writer: moved.append(
                    transfer.merge(writer, patient.id, target.id)
                )
            )
            self._patients.leave(patient.ref.hex())
            return made

        made = await self._commit(change)
        self._patients.remove(patient.ref.hex())
        await self._overwrite(name)
        return {"record": self._id(made), "episodes": sum(moved)}

    async def correct_patient(
        self, name: str, was: str, patient: str
    ) -> dict[str, object]:
        """A device was at another patient than its newest assignment to `was` says."""
        await self._intake.committed()  # the newest assignment may be under way
        device = self._device(name)
        wrong, right = self._patient(was), self._patient(patient)
        if wrong.id == right.id:
            raise ConfigurationError(["correct: that is the same patient"])
        moved: list[int] = []
        one = device.assignment
        current = one is not None and one.patient == wrong.id
        if one is not None and one.patient == wrong.id:
            assignment = one.id
        else:
            found = self._reader.last_assignment(device.id, wrong.id)
            if found is None:
                raise NotFoundError(f"device {name!r} was never at {was!r}")
            assignment, _ = found

        def change(now_ms: int) -> Change:
            made = Change(snapshot=True)
            if current:
                self._reassign(made, device, right, now_ms)
            body = {1: Moved.CORRECTION.value, 2: device.ref, 3: right.ref}
            slot = Slot(device.id, assignment, right.id, Class.EVENTS)
            made.records.append(
                (self._record(Kind.TRANSFER, body, now_ms, device), slot)
            )
            made.steps.append(
                lambda writer: moved.append(
                    transfer.correct(writer, assignment, wrong.id, right.id)
                )
            )
            return made

        made = await self._commit(change)
        await self._overwrite(None)
        return {"record": self._id(made), "episodes": sum(moved)}

    async def claim_readings(
        self, name: str, patient: str, begin_ms: int, end_ms: int
    ) -> dict[str, object]:
        """What a device sent at nobody within a time was of a patient."""
        if begin_ms > end_ms:
            raise ConfigurationError(["claim: --from is after --to"])
        device, target = self._device(name), self._patient(patient)
        one = Assignment(
            self._registry.next_assignment_id(),
            os.urandom(REF_SIZE),
            target.id,
            target.ref,
        )
        moved: list[int] = []

        def change(now_ms: int) -> Change:
            last_ms = min(end_ms, now_ms)
            values = (one.id, one.ref, device.id, target.id, begin_ms, last_ms)
            self._registry.note(one)
            body = {
                1: Moved.CLAIM.value,
                2: device.ref,
                3: target.ref,
                6: begin_ms,
                7: last_ms,
            }
            slot = Slot(device.id, one.id, target.id, Class.EVENTS)
            return Change(
                statements=[(_INSERT_ASSIGNMENT, values)],
                records=[(self._record(Kind.TRANSFER, body, now_ms, device), slot)],
                steps=[
                    lambda writer: moved.append(
                        transfer.claim(
                            writer, device.id, target.id, one.id, (begin_ms, last_ms)
                        )
                    )
                ],
                snapshot=True,
            )

        made = await self._commit(change)
        await self._overwrite(None)
        return {"record": self._id(made), "frames": sum(moved)}

    def _reassign(
        self, made: Change, device: Device, to: _Patient, now_ms: int
    ) -> None:
        """A device goes on at another patient, as an assignment of its own."""
        one = Assignment(
            self._registry.next_assignment_id(), os.urandom(REF_SIZE), to.id, to.ref
        )
        made.statements += self._administration.released(device, now_ms).statements
        values = (one.id, one.ref, device.id, to.id, now_ms, None)
        made.statements.append((_INSERT_ASSIGNMENT, values))
        made.records.append(self._administration.assignment_record(device, one, now_ms))
        self._registry.put(replace(device, assignment=one))

    async def _overwrite(self, name: str | None) -> None:
        """After a transfer: no old wrap in the WAL, no old key or name in memory."""
        self._reader.forget_keys()
        if name is not None:
            self._tell(name)
        await self._intake.maintain(forget.truncate_wal)

    # ---- Retention ----

    async def keep_retention(self) -> None:
        """Apply the retention policy now and then, for ever."""
        while True:
            await self.apply_retention()
            await asyncio.sleep(RETENTION_INTERVAL_S)

    async def apply_retention(self) -> int:
        """Remove what is older than its class may become; returns how many frames.

        While our clock is not synchronised nothing is removed: a clock that is years
        ahead would empty the store.
        """
        total = 0
        for which, days in (
            (Class.READINGS, self._retention.readings_days),
            (Class.EVENTS, self._retention.events_days),
        ):
            if days is None:
                continue
            if not self._clock.synced:
                log.warning("retention waits: our clock is not synchronised")
                return total
            removed = await self._remove_old(
                which, self._clock.now_ms() - days * DAY_MS
            )
            if removed:
                log.info("retention removed %d frames of %s", removed, which.name)
            total += removed
        return total

    async def _remove_old(self, which: Class, before_ms: int) -> int:
        total, sweeping = 0, None

        def remove(writer: Writer) -> int | None:
            return forget.remove_old(writer, which, before_ms)

        def sweep(writer: Writer) -> bool:
            nonlocal sweeping
            if sweeping is None:
                forget.remove_empty_episodes(writer, before_ms)
                sweeping = forget.sweep(writer)
            return next(sweeping, _END) is not _END

        while (count := await self._intake.maintain(remove)) is not None:
            total += count
            await asyncio.sleep(RETENTION_PAUSE_S)
        more = bool(total)
        while more:
            more = await self._intake.maintain(sweep)
            await asyncio.sleep(RETENTION_PAUSE_S)
        return total

    # ---- Small parts ----

    def _patient(self, name: str) -> _Patient:
        ref = self._patients.ref_of(name)
        id_ = self._patients.id_of(ref) if ref is not None else None
        if ref is None or id_ is None:
            raise NotFoundError(f"no patient {name!r}")
        return _Patient(id_, bytes.fromhex(ref))

    def _device(self, name: str) -> Device:
        device = self._registry.find(name)
        if device is None:
            raise NotFoundError(f"no device {name!r}")
        return device

    def _record(
        self, kind: Kind, body: Mapping[int, object], now_ms: int, device: Device | None
    ) -> Record:
        return Record(
            kind=kind,
            received_ms=now_ms,
            original=cbor.encode(dict(body)),
            device=device.name if device else None,
            flags=Flag(0) if self._clock.synced else Flag.UNSYNCED,
        )

    def _erasure(
        self, phase: forget.Phase, ref: bytes, now_ms: int
    ) -> tuple[Record, Slot]:
        body = {forget.PHASE: phase.value, RELEASED: ref}
        return self._record(Kind.ERASURE, body, now_ms, None), GATEWAY_EVENTS

    async def _commit(self, change: Callable[[int], Change]) -> Change:
        made: list[Change] = []

        def make(now_ms: int) -> Change:
            made.append(change(now_ms))
            return made[0]

        await self._intake.administer(make)
        return made[0]

    def _id(self, change: Change) -> str:
        """The name of a change's last record, which says what was done."""
        if change.batch is None:
            raise ValueError("a change that was not committed")
        boot, number = self._intake.boot_id, change.batch.number
        return reading_id(boot, number, change.leaves[-1], 0)

    def _tell(self, name: str) -> None:
        for listener in self.on_forget:
            listener(name)


_END = object()
