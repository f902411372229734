"""What people do to alarms and to a contract's params: each a record by a named actor.

Who an actor is, and whether the role is theirs, nobody checks here yet: the door is the
gateway's own socket, which only its user may open (docs/limits.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict

from edge.administration import Patients
from edge.clock import Clock
from edge.contracts.actions import (
    ACKNOWLEDGE,
    PAUSE,
    PAUSE_MAX_MS,
    RELEASE,
    SET,
    Action,
)
from edge.contracts.machine import allowed
from edge.contracts.program import Contract
from edge.contracts.running import AlarmState
from edge.devices.registry import Registry
from edge.errors import ConfigurationError, NotFoundError
from edge.intake import Intake
from edge.model import Flag, Kind, Record
from edge.open_batch import Change

ACTOR_LENGTH_MAX = 64
STANDING = frozenset(
    {
        *(AlarmState.ACTIVE, AlarmState.ESCALATED, AlarmState.LATCHED),
        *(AlarmState.PAUSED, AlarmState.INHIBITED, AlarmState.ACKNOWLEDGED),
    }
)


class Alarms:
    """The operations that the local socket and the commands use."""

    def __init__(
        self, intake: Intake, registry: Registry, patients: Patients, clock: Clock
    ) -> None:
        self._intake = intake
        self._registry = registry
        self._patients = patients
        self._clock = clock

    @property
    def operations(self) -> Mapping[str, Callable[..., Awaitable[object]]]:
        """The operations by their names."""
        return {
            "alarm-list": self.list_alarms,
            "alarm-act": self.act,
            "param-set": self.set_param,
        }

    async def list_alarms(self) -> list[dict[str, object]]:
        """Every rule that is not idle, with the clinic's name of its patient."""
        found = []
        for alarm in self._intake.evaluator.machine.alarms():
            row = asdict(alarm) | {"values": dict(alarm.values)}
            kind, _, key = alarm.subject.partition(":")
            row["patient"] = self._patients.name_of(key) if kind == "patient" else None
            row["device"] = key if kind == "device" else None
            found.append(row)
        return found

    async def act(
        self,
        kind: str,
        contract: str,
        rule: str,
        actor: str,
        *,
        role: str = "",
        patient: str | None = None,
        device: str | None = None,
        for_ms: int = 0,
    ) -> None:
        """Acknowledge, pause or release an alarm; NotFoundError where there is none."""
        if kind not in (ACKNOWLEDGE, PAUSE, RELEASE):
            raise ConfigurationError([f"alarm: nobody can {kind} one"])
        if kind == PAUSE and not 0 < for_ms <= PAUSE_MAX_MS:
            raise ConfigurationError(["--for: a pause lasts up to 60 minutes"])
        found = self._contract(contract)
        subject = self._subject(found, patient, device)
        names = {one.name for one in found.rules}
        names |= {one.on_unknown for one in found.rules if one.on_unknown}
        if rule not in names:
            raise NotFoundError(f"{contract} has no rule {rule!r}")
        wanted = {
            ACKNOWLEDGE: STANDING - {AlarmState.ACKNOWLEDGED},
            RELEASE: STANDING,
            PAUSE: frozenset(AlarmState),
        }[kind]
        standing = [
            one.state
            for one in self._intake.evaluator.machine.alarms()
            if (one.contract, one.rule, one.subject) == (contract, rule, subject)
        ]
        if kind != PAUSE and not wanted.intersection(standing):
            raise NotFoundError(f"no alarm {contract}/{rule} to {kind}")
        await self._commit(
            Action(kind, contract, rule, subject, self._name(actor), role),
            for_ms,
        )

    async def set_param(
        self,
        contract: str,
        param: str,
        value: str,
        actor: str,
        role: str,
        *,
        patient: str | None = None,
        device: str | None = None,
    ) -> None:
        """Set a contract's param for a patient or device."""
        found = self._contract(contract)
        known = next((one for one in found.params if one.name == param), None)
        if known is None:
            raise NotFoundError(f"{contract} has no param {param!r}")
        if known.set_by != f"role:{role}":
            raise ConfigurationError([f"--role: {param} is set by {known.set_by}"])
        if allowed(known, value) is None:
            raise ConfigurationError([f"{param}: {value!r} is not a value it may have"])
        subject = self._subject(found, patient, device)
        action = Action(
            SET, contract, param, subject, self._name(actor), role, value=value
        )
        await self._commit(action, 0)

    # ---- Small parts ----

    def _contract(self, name: str) -> Contract:
        for one in self._intake.evaluator.machine.contracts:
            if one.name == name:
                return one
        raise NotFoundError(f"no contract {name!r} is active")

    def _subject(
        self, contract: Contract, patient: str | None, device: str | None
    ) -> str:
        if contract.subject == "device":
            if device is None or self._registry.find(device) is None:
                raise NotFoundError(f"{contract.name} is about devices: no {device!r}")
            return f"device:{device}"
        ref = self._patients.ref_of(patient) if patient is not None else None
        if ref is None:
            raise NotFoundError(f"{contract.name} is about patients: no {patient!r}")
        return f"patient:{ref}"

    def _name(self, actor: str) -> str:
        if not 1 <= len(actor) <= ACTOR_LENGTH_MAX or not actor.isprintable():
            raise ConfigurationError(
                [f"--as: a name has 1 to {ACTOR_LENGTH_MAX} printable characters"]
            )
        return actor

    async def _commit(self, action: Action, for_ms: int) -> None:
        def change(now_ms: int) -> Change:
            done = action
            if for_ms:
                done = Action(
                    *(action.kind, action.contract, action.name, action.subject),
                    *(action.actor, action.role, now_ms + for_ms),
                )
            record = Record(
                kind=Kind.ACTION,
                received_ms=now_ms,
                original=done.encode(),
                flags=Flag(0) if self._clock.synced else Flag.UNSYNCED,
            )
            slot = self._intake.event_slot(action.subject)
            return Change(records=[(record, slot)])

        await self._intake.administer(change)
