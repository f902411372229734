"""The machine: readings in, firings out. Deterministic, integers only, no clock.

Time is what the caller says: `received_ms` of the records in their order, never going
back. What falls due between two records falls due at its own deadline: a firing's
`at_ms` does not depend on when somebody called `advance`, and due work at a time is
done before a record of that same time. So the same records give the same firings for
any batching, any ticks, and after a restore at any index.

An input of a subject is, at time t,

    known     its newest sample, until `fresh` has passed since it came (t - at > fresh)
    UNKNOWN   never sent, older than that, or called unknown by the device it came from

What a rule makes of it is in rules.py. reference.py is the same once more, written for
reading and not for speed; the tests hold the two together.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from edge import cbor
from edge.contracts import state
from edge.contracts.actions import ACKNOWLEDGE, PAUSE, RELEASE, SET, Action
from edge.contracts.expression import literal
from edge.contracts.program import Contract, Input, Param
from edge.contracts.running import (
    SUBJECTS_MAX,
    Alarm,
    Running,
    Value,
    number_of,
    standing,
    started,
)
from edge.contracts.shortcut import EVALUATE, WAKE, Known, Take
from edge.contracts.state import ACTIVE, IDLE, INHIBITED, LATCHED, NEVER, Subject
from edge.model import Firing

__all__ = ["SUBJECTS_MAX", "Machine"]

PLANS_MAX = 256  # remembered combinations of metrics in one reading
TIMERS_SLACK = 256  # timers, beside two for each subject, before they are rebuilt


class _Share(NamedTuple):
    """What a reading with certain metrics is to one contract.

    `take` takes the inputs `known`, each (index, its number's place), and `lost` are
    made unknown. `fresh_ms` is the shortest freshness of those: before it has passed a
    subject where all is quiet has nothing new due.
    """

    running: Running
    by_device: bool
    take: Take
    known: tuple[Known, ...]
    lost: tuple[int, ...]
    fresh_ms: int


class _Plan(NamedTuple):
    """What is to be done with readings of certain metrics."""

    numbers: list[tuple[int, str, int, str]]  # place, metric, scale, letters
    shares: list[_Share]


class Machine:
    """Evaluates contracts over readings; holds the state of every subject.

    Contracts are worked through in the order of their names.
    """

    def __init__(self, contracts: Sequence[Contract]) -> None:
        if len({contract.name for contract in contracts}) != len(contracts):
            raise ValueError("two contracts of one name")
        self._now_ms = 0
        self._timers: list[tuple[int, str, str]] = []  # heap: deadline, name, subject
        self._timers_max = TIMERS_SLACK
        self._work_with([Running(one) for one in contracts])

    def _work_with(self, running: Iterable[Running]) -> None:
        """Have these at work, and no others."""
        by_name = {one.contract.name: one for one in running}
        self._running = dict(sorted(by_name.items()))
        self._plans: dict[tuple[tuple[str, ...], tuple[str, ...]], _Plan] = {}
        inputs = [item for one in by_name.values() for item in one.contract.inputs]
        numbers = dict.fromkeys(map(_number, inputs))
        self._places = {number: place for place, number in enumerate(numbers)}
        self._numbers = [0] * len(self._places)  # of the reading at hand

    @property
    def contracts(self) -> list[Contract]:
        """Those at work, in their order."""
        return [one.contract for one in self._running.values()]

    # ---- Readings ----

    def observe(
        self,
        received_ms: int,
        device: str,
        patient: str | None,
        values: Mapping[str, Value],
        unknown: Collection[str] = (),
    ) -> list[Firing]:
        """What fires when a device's reading arrives, after what fell due before it.

        `values` are the reading's known metrics; `unknown` names those that it sent but
        that nobody may rely on (implausible, or no contact): they become UNKNOWN at
        once, unless the value at hand is another device's. A reading that comes late
        (store and forward) is for `late`: this takes all as measured now.
        """
        firings = self.advance(received_ms)
        numbers, shares = self._plan(values, unknown)
        x, wrong = self._numbers, self._convert(numbers, values)
        by_patient = None if patient is None else f"patient:{patient}"
        by_device = f"device:{device}"
        for running, of_device, take, known, lost, fresh_ms in shares:
            key = by_device if of_device else by_patient
            if key is None:
                continue
            subject = running.subjects.get(key)
            if subject is None:
                subject = running.admit(key, received_ms, firings)
                if subject is None:
                    continue
            if wrong and (first := _first(known, wrong)):
                running.fault(subject, received_ms, first, firings)
                continue
            try:
                todo = take(subject, x, received_ms, device)
            except Exception as error:  # noqa: BLE001 - as in Running.evaluate
                detail = f"{type(error).__name__}: {error}"
                running.fault(subject, received_ms, detail, firings)
                continue
            moved = False
            if todo & EVALUATE or lost:
                for index in lost:
                    running.lose(subject, index, received_ms, device)
                moved = running.evaluate(subject, received_ms, firings)
            if not known and subject.is_new(running.contract):
                del running.subjects[key]
            elif moved or todo & WAKE or subject.queued_ms > received_ms + fresh_ms:
                self._wake(running, subject)
        return firings

    def _convert(
        self, numbers: list[tuple[int, str, int, str]], values: Mapping[str, Value]
    ) -> dict[int, str]:
        """Fill in a reading's numbers; what is wrong with those that are none."""
        wrong: dict[int, str] = {}
        for place, metric, scale, letters in numbers:
            try:
                self._numbers[place] = number_of(values[metric], scale, letters)
            except (ArithmeticError, ValueError) as error:
                wrong[place] = str(error)
        return wrong

    def late(
        self,
        received_ms: int,
        device: str,
        patient: str | None,
        values: Mapping[str, Value],
        device_time_ms: int,
    ) -> list[Firing]:
        """The findings of a reading that came late, which changes nothing else."""
        firings = self.advance(received_ms)
        detail = f"late: device time {device_time_ms}"
        for running in self._running.values():
            key = running.key(device, patient)
            if key is not None:
                firings += running.findings(key, received_ms, values, detail)
        return firings

    def _plan(self, values: Mapping[str, Value], unknown: Collection[str]) -> _Plan:
        key = (tuple(values), tuple(sorted(unknown)) if unknown else ())
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= PLANS_MAX:
                self._plans.clear()
            plan = self._plans[key] = self._new_plan(values, unknown)
        return plan

    def _new_plan(self, values: Collection[str], unknown: Collection[str]) -> _Plan:
        places = self._places
        shares = []
        for running in self._running.values():
            inputs = running.contract.inputs
            lost = [i for i, one in enumerate(inputs) if one.metric in unknown]
            known = tuple(
                (index, places[_number(one)])
                for index, one in enumerate(inputs)
                if one.metric in values and index not in lost
            )
            touched = [*lost, *(index for index, _ in known)]
            if touched:
                fresh_ms = min(inputs[index].fresh_ms for index in touched)
                by_device = running.contract.subject == "device"
                take = running.taking(known)
                more = (known, tuple(lost), fresh_ms)
                shares.append(_Share(running, by_device, take, *more))
        needed = {place for share in shares for _, place in share.known}
        numbers = [
            (place, *number) for number, place in places.items() if place in needed
        ]
        return _Plan(numbers, shares)

    # ---- Time ----

    def advance(self, now_ms: int) -> list[Firing]:
        """What falls due up to and with `now_ms`, by deadline, contract and subject."""
        if now_ms < self._now_ms:
            raise AssertionError(f"time went back from {self._now_ms} to {now_ms}")
        firings: list[Firing] = []
        timers = self._timers
        while timers and timers[0][0] <= now_ms:
            at_ms, name, key = heapq.heappop(timers)
            found = self._timer(at_ms, name, key)
            if found is None:
                continue  # forgotten, or an earlier timer took its place
            running, subject = found
            self._now_ms = at_ms
            subject.queued_ms = NEVER
            due_ms = running.due_ms(subject, at_ms - 1)
            if due_ms == at_ms:
                subject.expire(running.contract, at_ms)
                running.evaluate(subject, at_ms, firings)
                if subject.is_new(running.contract):
                    del running.subjects[key]
                    continue
                due_ms = running.due_ms(subject, at_ms)
            self._queue(running, subject, due_ms)
        self._now_ms = now_ms
        if len(timers) > self._timers_max:
            self._rebuild_timers()
        return firings

    def _timer(self, at_ms: int, name: str, key: str) -> tuple[Running, Subject] | None:
        """Whose timer this is, where it still counts."""
        running = self._running.get(name)
        subject = running.subjects.get(key) if running is not None else None
        if running is None or subject is None or subject.queued_ms != at_ms:
            return None
        return running, subject

    def next_deadline_ms(self) -> int | None:
        """When something falls due next if no reading comes; None if nothing does."""
        timers = self._timers
        while timers:
            at_ms, name, key = timers[0]
            found = self._timer(at_ms, name, key)
            if found is not None:
                running, subject = found
                if running.due_ms(subject, self._now_ms) == at_ms:
                    return at_ms
                subject.queued_ms = NEVER
                self._wake(running, subject)
            heapq.heappop(timers)
        return None

    def _wake(self, running: Running, subject: Subject) -> None:
        """Have a timer for the subject when it is due, or before."""
        self._queue(running, subject, running.due_ms(subject, self._now_ms))

    def _queue(self, running: Running, subject: Subject, due_ms: int) -> None:
        if due_ms < subject.queued_ms:
            subject.queued_ms = due_ms
            entry = (due_ms, running.contract.name, subject.key)
            heapq.heappush(self._timers, entry)

    def _rebuild_timers(self) -> None:
        self._timers.clear()
        for running in self._running.values():
            for subject in running.subjects.values():
                subject.queued_ms = running.due_ms(subject, self._now_ms)
                if subject.queued_ms != NEVER:
                    entry = (subject.queued_ms, running.contract.name, subject.key)
                    self._timers.append(entry)
        heapq.heapify(self._timers)
        self._timers_max = 2 * len(self._timers) + TIMERS_SLACK

    # ---- People ----

    def act(self, now_ms: int, action: Action) -> list[Firing]:
        """What a person's action fires; nothing where it does not fit what is there."""
        firings = self.advance(now_ms)
        running = self._running.get(action.contract)
        if running is None:
            return firings
        if action.kind == SET:
            self._set(running, action, now_ms, firings)
            return firings
        subject = running.subjects.get(action.subject)
        if subject is None:
            return firings
        for index, rule in enumerate(running.contract.rules):
            if action.name == rule.name:
                _act_on(running, subject, index, action, now_ms, firings)
            elif action.name == rule.on_unknown and action.kind == ACKNOWLEDGE:
                now = subject.rules[index]
                if now.lost and not now.lost_acked_by:
                    now.lost_acked_by = action.actor
                    firings.append(
                        running.firing(
                            *(subject, index, action.name, "acknowledged", now_ms),
                            actor=action.actor,
                        )
                    )
        subject.settle(running.contract)
        running.evaluate(subject, now_ms, firings)
        if subject.is_new(running.contract):
            del running.subjects[subject.key]
        else:
            self._wake(running, subject)
        return firings

    def _set(
        self, running: Running, action: Action, now_ms: int, firings: list[Firing]
    ) -> None:
        for index, param in enumerate(running.contract.params):
            if param.name != action.name or action.role != param.set_by[5:]:
                continue
            value = allowed(param, action.value)
            if value is None:
                return
            subject = running.admit(action.subject, now_ms, firings)
            if subject is None:
                return
            subject.params[index], subject.set_ms[index] = value, now_ms
            running.evaluate(subject, now_ms, firings)
            self._wake(running, subject)

    def release(self, now_ms: int, subject: str) -> list[Firing]:
        """Forget a subject (`patient:<id>` or `device:<name>`), as on its discharge.

        Ends what is active for it. Without this a subject of rules with `on_unknown`,
        with silent() or with params that were set is kept for ever.
        """
        firings = self.advance(now_ms)
        for running in self._running.values():
            found = running.subjects.pop(subject, None)
            if found is not None:
                firings += running.end_all(found, now_ms)
        return firings

    # ---- Contracts ----

    def activate(self, now_ms: int, contract: Contract) -> list[Firing]:
        """Have a contract at work from now on, in place of the one of its name.

        Where it says `state = "carry"` and the schemas are equal it goes on with the
        state; otherwise what the one before has started ends.
        """
        firings = self.advance(now_ms)
        before = self._running.get(contract.name)
        running = Running(contract)
        others = [one for one in self._running.values() if one is not before]
        self._work_with([*others, running])
        if before is not None:
            if contract.carry and contract.schema == before.contract.schema:
                for key, subject in sorted(before.subjects.items()):
                    packed = cbor.decode(state.pack(subject, cbor.Encodings()))
                    running.subjects[key] = state.unpack(packed, contract)
                running.refused = before.refused
            else:
                detail = f"replaced by version {contract.version}"
                firings += before.end(now_ms, detail)
        for subject in running.subjects.values():
            running.evaluate(subject, now_ms, firings)
        self._rebuild_timers()
        return firings

    def deactivate(self, now_ms: int, digest: bytes) -> list[Firing]:
        """End a contract by its hash, with everything that it has started."""
        firings = self.advance(now_ms)
        for running in self._running.values():
            if running.contract.hash == digest:
                firings += running.end(now_ms, "the contract is not active any more")
        others = (r for r in self._running.values() if r.contract.hash != digest)
        self._work_with(list(others))
        self._rebuild_timers()
        return firings

    # ---- What is there ----

    def active(self) -> list[Firing]:
        """The start of everything that has not ended, and what became of it since.

        For a view that begins anew, such as the page after a restart. The values are
        those of now.
        """
        firings: list[Firing] = []
        for running in self._running.values():
            for subject in running.subjects.values():
                for index, rule in enumerate(running.contract.rules):
                    now = subject.rules[index]
                    for name in started(rule, now):
                        own = name == rule.name
                        at_ms = now.since_ms if own else now.unknown_ms
                        firings += [
                            running.firing(subject, index, name, phase, at_ms, **more)
                            for phase, more in standing(now, own=own)
                        ]
        return firings

    def alarms(self) -> list[Alarm]:
        """Every rule that is not idle, by contract, subject and rule."""
        return [
            alarm
            for running in self._running.values()
            for alarm in running.alarms(self._now_ms)
        ]

    # ---- Snapshots ----

    def snapshot(self) -> bytes:
        """The whole state (format: state.py), for `restore` into the same contracts."""
        contracts, known = list[state.Packed](), cbor.Encodings()
        for running in self._running.values():
            subjects = sorted(running.subjects.items())
            packed: list[object] = [state.pack(one, known) for _, one in subjects]
            contract = running.contract
            head = (contract.name, contract.hash, contract.schema)
            contracts.append((*head, running.refused, packed))
        return state.encode(self._now_ms, contracts)

    def restore(self, data: bytes) -> list[str]:
        """Take the state of a snapshot in place of this one; what could not be taken.

        A contract takes the state of its very hash. One of the same name with another
        hash takes it where it says `state = "carry"` and the schemas are equal; other
        state is dropped, and a sentence says so. Raises RejectError, with nothing
        changed, for bytes that are no snapshot.
        """
        now_ms, states = state.decode(data)
        dropped: list[str] = []
        found: list[tuple[Running, str | None, dict[str, Subject]]] = []
        here = {one.contract.hash: one for one in self._running.values()}
        for name, digest, schema, refused, packed in states:
            running = here.get(digest) or self._heir(name, schema)
            if running is not None:
                subjects = [state.unpack(item, running.contract) for item in packed]
                found.append((running, refused, {s.key: s for s in subjects}))
            elif packed:
                dropped.append(
                    f"contract {name} ({digest.hex()[:12]}) is not active any more: "
                    f"its state of {len(packed)} subjects is dropped"
                )
        for running in self._running.values():
            running.subjects, running.refused = {}, None
        for running, refused, taken in found:
            running.subjects, running.refused = taken, refused
        self._now_ms = now_ms
        self._rebuild_timers()
        return dropped

    def _heir(self, name: str, schema: bytes) -> Running | None:
        """The later version of a contract that goes on with its state."""
        running = self._running.get(name)
        if running is None or not running.contract.carry:
            return None
        return running if running.contract.schema == schema else None


def _number(item: Input) -> tuple[str, int, str]:
    """What an input's number is of: inputs where this is equal share it."""
    return item.metric, item.scale, item.letters


def _first(known: Iterable[Known], wrong: Mapping[int, str]) -> str:
    """What is wrong with the first of these that is no number; "" where all are."""
    return next((wrong[place] for _, place in known if place in wrong), "")


def allowed(param: Param, text: str) -> int | None:
    """What a param is set to by this text, None where that may not be."""
    try:
        value = literal(text, param.scale)
    except ValueError:
        return None
    if param.choices:
        return value if value in param.choices else None
    return value if param.low <= value <= param.high else None


def _act_on(
    running: Running,
    subject: Subject,
    index: int,
    action: Action,
    now_ms: int,
    firings: list[Firing],
) -> None:
    """An acknowledgement, a pause or a release of the rule's own alarm."""
    now, phase = subject.rules[index], ""
    if action.kind == ACKNOWLEDGE:
        if now.phase in (ACTIVE, LATCHED, INHIBITED) and not now.acked_by:
            now.acked_by, phase = action.actor, "acknowledged"
    elif action.kind == PAUSE:
        if action.until_ms > now_ms:
            now.paused_ms, phase = action.until_ms, "paused"
    elif action.kind == RELEASE and now.phase == LATCHED:
        now.phase, now.since_ms = IDLE, -1
        now.acked_by, now.steps = "", 0
        phase = "end"
    if phase:
        firings.append(
            running.firing(
                *(subject, index, "", phase, now_ms),
                until_ms=action.until_ms if phase == "paused" else 0,
                actor=action.actor,
            )
        )
