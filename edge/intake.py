"""The one path of a reading: decode, admit, evaluate, commit, settle.

    submit ──► turn ──► admission ──► contracts ──► open batch ──► writer ──► settle
              (what the sockets          (one Machine,     (one in flight, on its
               held at once)              in order)         own thread)

Everything but the writer runs on the event loop, at once and in order: there is no
queue between the stages. A message is answered only after the commit that holds it.

A commit is paced by a token bucket, so that a reading that finds the store idle commits
at once and a busy ward pays a few flushes a second. An alarm, a due timer, a change by
an administrator and MESSAGES_TRIGGER waiting messages need no token.

After a failure of the writer nothing is answered any more: `failed` is called and the
process stops.

Safe mode (after an abnormal exit): one message a commit, its digest durable
before it is looked at, so that the next start knows what killed the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edge import cbor
from edge.admission import Admission, Admitted, Repeated, digest_of
from edge.clock import Clock
from edge.config import Pace
from edge.contracts.evaluation import Evaluator
from edge.devices.registry import ENVELOPES, Registry
from edge.errors import DurabilityError, RefusedError
from edge.ledger.batch import ClockTick
from edge.model import (
    Arrival,
    CommitReport,
    Firing,
    Flag,
    Kind,
    LiveFiring,
    Outcome,
    Record,
)
from edge.open_batch import Answered, Change, Names, OpenBatch
from edge.pace import TokenBucket
from edge.store.commit import (
    GATEWAY_SLOT,
    Committed,
    Slot,
    SqlValue,
    Writer,
)

T = TypeVar("T")

MESSAGES_TRIGGER = 256
TURN_MESSAGES_MAX = 256  # so that a turn holds the loop for some 50 ms at the most
TURN_DELAY_S = 0.01  # fewer, larger turns: a third less CPU at 500 readings a second
OPEN_SIZE_MAX = 4 << 20
OPEN_MESSAGES_MAX = 8192
TICK_INTERVAL_S = 10.0
STATE_INTERVAL_MS = 60_000
SAFE_MODE_MESSAGES = 100
_CLEAR_SUSPECT: tuple[str, tuple[SqlValue, ...]] = (
    "DELETE FROM meta WHERE key = 'suspect'",
    (),
)
_CLEAR_ROLLBACK: tuple[str, tuple[SqlValue, ...]] = (
    "DELETE FROM meta WHERE key = 'rollback_alarm'",
    (),
)

log = logging.getLogger("edge.intake")


@dataclass(frozen=True, slots=True)
class Stores:
    """What the intake needs of the store, as the gateway opened it."""

    writer: Writer
    boot_id: bytes
    totals: Counter[str]
    patients: Names
    safe_mode: bool = False
    deliver: bool = False


class Receipts(Protocol):
    """Who tells devices, with a signature, what became of their messages."""

    def wants(self, arrival: Arrival) -> bool:
        """Whether to be told of this message."""

    def committed(self, answered: Sequence[Answered], committed: Committed) -> None:
        """The messages of one commit are durable."""


class Intake:
    """Takes messages from the doors and answers them when they are durable."""

    def __init__(
        self,
        stores: Stores,
        registry: Registry,
        admission: Admission,
        evaluator: Evaluator,
        clock: Clock,
        pace: Pace,
        failed: Callable[[Exception], None],
    ) -> None:
        self._stores = stores
        self._registry = registry
        self._admission = admission
        self.evaluator = evaluator
        self._clock = clock
        self._bucket = TokenBucket(pace)
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._loop = asyncio.get_running_loop()
        self._turn: deque[Arrival] = deque()
        self._turn_size = 0
        self._turn_due = False
        self._took = False
        self._receipts: Receipts | None = None
        self._open = self._new_batch()
        self._batch_number = 0
        self._in_flight: asyncio.Task[None] | None = None
        self._commit_began_s = 0.0
        self._commit_timer: asyncio.TimerHandle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._relief = asyncio.Event()
        self._blocked = ""
        self._stopped = False
        self._state_due_ms = 0
        self._outbox_released = 0
        self._views_open = False
        self._held: deque[tuple[CommitReport, int]] = deque()
        self._safe_left = SAFE_MODE_MESSAGES if stores.safe_mode else 0
        self._safe_task: asyncio.Task[None] | None = None
        self._safe_arrival: Arrival | None = None
        self._administering: set[asyncio.Future[None]] = set()
        self.on_commit: list[Callable[[CommitReport], None]] = []
        self.before_commit: list[Callable[[], Callable[[Writer], None] | None]] = []
        self.totals = stores.totals
        self.tree_size = stores.writer.tree_size

    def _new_batch(self) -> OpenBatch:
        return OpenBatch(
            self._registry,
            self._stores.patients,
            deliver=self._stores.deliver,
            wants_receipt=self._receipts.wants if self._receipts else None,
        )

    # ---- Doors ----

    @property
    def congested(self) -> bool:
        """Whether doors should stop reading their sockets."""
        batch = self._open.batch
        return bool(
            self._blocked
            or self._stopped
            or batch.size + self._turn_size > OPEN_SIZE_MAX
            or len(self._turn) + batch.message_count > OPEN_MESSAGES_MAX
        )

    async def relieved(self) -> None:
        """Return once messages are taken again."""
        while self.congested:
            self._relief.clear()
            await self._relief.wait()

    def submit(self, arrival: Arrival) -> None:
        """Take a message; its `settle` is called after the commit that holds it."""
        self._took = True
        self._turn.append(arrival)
        self._turn_size += len(arrival.payload)
        if self._safe_left:
            if self._safe_task is None:
                self._safe_task = self._loop.create_task(self._run_safe(), name="safe")
        else:
            self._schedule_turn()

    def _schedule_turn(self) -> None:
        """Run a turn soon; a little later when nothing can be committed yet anyway."""
        if self._turn_due:
            return
        self._turn_due = True
        if self._bucket.has_token() or len(self._turn) >= TURN_MESSAGES_MAX:
            self._loop.call_soon(self._run_turn)
        else:
            self._loop.call_later(TURN_DELAY_S, self._run_turn)

    def block(self, reason: str) -> None:
        """Stop taking messages while `reason` is not empty."""
        if reason != self._blocked:
            log.warning("intake %s", f"stops: {reason}" if reason else "goes on")
        self._blocked = reason
        if not self.congested:
            self._relief.set()

    @property
    def blocked(self) -> str:
        """Why no messages are taken, empty when they are."""
        return self._blocked

    # ---- The turn ----

    def _run_turn(self) -> None:
        """What the sockets held: verified with one call, then taken in order."""
        self._turn_due = False
        count = min(len(self._turn), TURN_MESSAGES_MAX)
        arrivals = [self._turn.popleft() for _ in range(count)]
        self._turn_size -= sum(len(one.payload) for one in arrivals)
        self._do(lambda: self._admit(arrivals))
        self._consider_commit()
        if self._turn:
            self._schedule_turn()

    def _do(self, step: Callable[[], None]) -> None:
        """Run a step that changes what the next commit holds, unless we have failed.

        Whatever it raises stops the process: half of it may be noted as done by then (a
        sequence as used, a rule as fired), so that going on could acknowledge a reading
        that no commit holds. If a message does it again, safe mode finds it.
        """
        if self._stopped:
            return
        try:
            step()
        except Exception as error:  # any: see above
            log.critical("the intake failed", exc_info=True)
            self._fail(error)

    def _admit(self, arrivals: Sequence[Arrival]) -> None:
        now_ms, synced = self._clock.now_ms(), self._clock.synced
        decisions = self._admission.decide(arrivals, now_ms, synced=synced)
        for arrival, decision in zip(arrivals, decisions, strict=True):
            match decision:
                case Admitted():
                    outcome = self._take(decision)
                case Repeated():
                    outcome = self._open.repeat(arrival, decision, now_ms)
                case RefusedError():
                    outcome = self._open.refuse(arrival, decision, now_ms)
            self._open.answer(arrival, outcome)
        self._schedule_deadline()

    def _take(self, admitted: Admitted) -> Outcome:
        record, window = admitted.record, None
        if admitted.device.kind in ENVELOPES:
            window = self._admission.window(admitted.device)
        outcome = self._open.take(admitted, window)
        self._open.fire(self.evaluator.feed(record, admitted.readings), record)
        return outcome

    def _change(self, change: Change) -> None:
        self._open.change(change)
        for record, _ in change.records:
            self._open.fire(self.evaluator.feed(record), record)

    # ---- Timers ----

    def _schedule_deadline(self) -> None:
        """Have a tick record made when the next timer of a contract is due."""
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None
        due_ms = self.evaluator.machine.next_deadline_ms()
        if due_ms is not None and not self._stopped:
            delay_s = max(0, due_ms - self._clock.now_ms()) / 1000
            self._deadline_timer = self._loop.call_later(delay_s, self._deadline)

    def _deadline(self) -> None:
        self._deadline_timer = None
        now_ms = self._clock.now_ms()
        due_ms = self.evaluator.machine.next_deadline_ms()
        if due_ms is not None and due_ms <= now_ms:
            flags = Flag(0) if self._clock.synced else Flag.UNSYNCED
            tick = Record(Kind.TICK, now_ms, cbor.encode({}), flags=flags)
            self._open.batch.add(tick, GATEWAY_SLOT)
            self._open.urgent = True
            self._do(lambda: self._open.fire(self.evaluator.feed(tick), tick))
        self._schedule_deadline()
        self._consider_commit()

    def alarm(self, rule: str, phase: str, detail: str) -> None:
        """A technical alarm of the gateway itself, committed like any firing."""
        self._raise(rule, phase, detail)
        self._consider_commit()

    def _raise(self, rule: str, phase: str, detail: str) -> None:
        now_ms = self._clock.now_ms()
        firing = Firing(
            contract="gateway",
            contract_hash=bytes(32),
            rule=rule,
            priority="technical",
            phase=phase,
            subject="gateway:",
            at_ms=now_ms,
            values={},
            detail=detail,
        )
        self._open.fire([firing], Record(Kind.TICK, now_ms, b""))

    def event_slot(self, subject: str) -> Slot:
        """Where a record about a contract's subject has its frame."""
        return self._open.event_slot(subject)[1]

    # ---- Commit ----

    async def administer(self, change: Callable[[int], Change]) -> None:
        """Return once the change is durable and applied.

        `change` is called at once with the received_ms it happens at, after everything
        that was submitted before it has been taken.
        """
        done: asyncio.Future[None] = self._loop.create_future()

        def finish() -> None:
            self._administering.discard(done)
            if not done.done():
                done.set_result(None)

        self._administering.add(done)
        self._take_all()  # what came before the change is taken before it
        self._do(lambda: self._change(change(self._clock.now_ms())))
        self._open.applied.append(finish)
        self._consider_commit()
        if self._stopped and not done.done():
            raise DurabilityError("the gateway has stopped")
        await done

    def _take_all(self) -> None:
        """Take everything that was submitted, in safe mode too: without its digests."""
        if self._safe_arrival is not None:
            self._take_safely()
        while self._turn and not self._stopped:
            self._run_turn()

    async def committed(self) -> None:
        """Return once everything that was submitted or changed so far is durable."""
        self._take_all()
        await self._commit_all()

    async def maintain(self, step: Callable[[Writer], T]) -> T:
        """Run a step on the writer's thread between two commits.

        Whatever it raises stops the process, as a failed commit does.
        """
        if self._stopped:
            raise DurabilityError("the gateway has stopped")
        try:
            return await self._loop.run_in_executor(
                self._thread, step, self._stores.writer
            )
        except Exception as error:  # any: see above
            self._fail(error)
            raise

    @property
    def committing_s(self) -> float:
        """How long the commit that is under way takes by now; 0 where none is."""
        if self._in_flight is None:
            return 0.0
        return self._loop.time() - self._commit_began_s

    def now_ms(self) -> int:
        """The gateway's clock, which records go by."""
        return self._clock.now_ms()

    @property
    def boot_id(self) -> bytes:
        """The random id of this start."""
        return self._stores.boot_id

    def give_receipts(self, receipts: Receipts) -> None:
        """Have `receipts` told of the messages that it wants to be told of."""
        self._receipts = receipts
        self._open.wants_receipt = receipts.wants

    def start(
        self,
        entries: Sequence[bytes],
        rollback: str = "",
        statements: Sequence[tuple[str, tuple[SqlValue, ...]]] = (),
    ) -> None:
        """Begin: the start's own entries are the first commit.

        `rollback` says why a new epoch begins; its alarm is in the same commit, and so
        are the statements' rows.
        """
        self._open.batch.entries += entries
        self._open.batch.statements += statements
        if rollback:
            self._raise("rollback", "start", rollback)
            self._open.batch.statements.append(_CLEAR_ROLLBACK)
        self._open.urgent = True
        self._schedule_deadline()
        self._consider_commit()

    def report(self, firings: tuple[LiveFiring, ...]) -> CommitReport:
        """A report of firings that an earlier process committed."""
        return CommitReport(
            time_ms=self._clock.now_ms(),
            tree_size=self.tree_size,
            clock_synced=self._clock.synced,
            readings=(),
            firings=firings,
            refusals=(),
            totals=dict(self.totals),
        )

    def open_views(
        self, late: tuple[LiveFiring, ...] = (), outbox_last: int = 0
    ) -> None:
        """Begin to show commits; first the alerts that an earlier process did not.

        Until this is called nothing counts as shown, so that a command that opens the
        store for a moment takes no alert away from the views of the next gateway.
        """
        if late:
            self._held.appendleft((self.report(late), outbox_last))
        self._views_open = True
        self._show_held()

    def _consider_commit(self) -> None:
        """Start a commit if there is something, none is in flight, and it may."""
        opened = self._open
        if self._stopped or self._in_flight is not None or opened.batch.empty:
            return
        if not opened.urgent and opened.batch.message_count < MESSAGES_TRIGGER:
            # What was refused, or is there already, must not use up the flushes that
            # a good reading commits with at once.
            wait_s = self._bucket.wait_s(spare=not opened.batch.has_news)
            if wait_s > 0:
                self._retry_within(wait_s)
                return
        self._do(self._start_commit)

    def _retry_within(self, wait_s: float) -> None:
        due_s = self._loop.time() + wait_s
        if self._commit_timer is not None:
            if self._commit_timer.when() <= due_s:
                return
            self._commit_timer.cancel()
        self._commit_timer = self._loop.call_at(due_s, self._retry)

    def _retry(self) -> None:
        self._commit_timer = None
        self._consider_commit()

    def _start_commit(self) -> None:
        if self._commit_timer is not None:
            self._commit_timer.cancel()
            self._commit_timer = None
        opened, self._open = self._open, self._new_batch()
        batch = opened.batch
        batch.time_ms = self._clock.now_ms()
        batch.clock_synced = self._clock.synced
        batch.outbox_done, self._outbox_released = self._outbox_released, 0
        batch.number = self._batch_number
        opened.end()
        batch.steps += [step for ask in self.before_commit if (step := ask())]
        if batch.has_leaves:
            self._batch_number += 1
            if batch.time_ms >= self._state_due_ms or opened.snapshot:
                batch.contract_state = self.evaluator.machine.snapshot()
                self._state_due_ms = batch.time_ms + STATE_INTERVAL_MS
        if not self.congested:
            self._relief.set()
        self._commit_began_s = self._loop.time()
        self._in_flight = self._loop.create_task(self._commit(opened), name="commit")

    async def _commit(self, opened: OpenBatch) -> None:
        try:
            committed = await self._loop.run_in_executor(
                self._thread, self._stores.writer.commit, opened.batch
            )
        except Exception as error:
            # Whatever it was, nothing may be answered now.
            log.critical("a commit failed", exc_info=True)
            self._fail(error)
            return
        finally:
            self._in_flight = None
        self._release(opened, committed)
        self._restart_tick_timer()
        if not self._stopped:
            self._consider_commit()

    def abandon(self, error: Exception) -> None:
        """Commit and answer nothing any more: what is signed from now on is wrong."""
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Answer nothing any more; the process stops and the next start recovers."""
        self._stopped = True
        self._cancel_timers()
        for waiting in self._administering:
            if not waiting.done():
                waiting.set_exception(error)
        self._failed(error)

    def _release(self, opened: OpenBatch, committed: Committed) -> None:
        """Only here anything becomes visible: the commit is durable."""
        self.totals.update(opened.batch.counts)
        self.tree_size = committed.tree_size
        for settle, outcome in opened.settles:
            _call(settle, outcome)
        for applied in opened.applied:
            _call(applied)
        if opened.refusals:  # one line a commit: a flood must not fill the disk
            # What a message said is personal and stays out of the log; the sender has
            # the detail in its answer, an administrator with `iomt quarantine`.
            device, reason, _ = opened.refusals[-1]
            log.info(
                "refused %d messages, the last of %s: %s",
                len(opened.refusals),
                device if self._registry.find(device) else "an unknown device",
                reason,
            )
        if self._receipts is not None:
            _call(self._receipts.committed, opened.answered, committed)
        report = opened.report(self._stores.boot_id, committed, self.totals)
        self._held.append((report, committed.outbox_last))
        self._show_held()

    def _show_held(self) -> None:
        """Show what is durable, once there is something to show it on."""
        while self._held and self._views_open:
            report, outbox_last = self._held.popleft()
            for listener in self.on_commit:
                _call(listener, report)
            self._outbox_released = outbox_last or self._outbox_released

    def _restart_tick_timer(self) -> None:
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        if not self._stopped:
            self._tick_timer = self._loop.call_later(TICK_INTERVAL_S, self._tick)

    def _tick(self) -> None:
        """Nothing was committed for a while: say in public that we are alive."""
        tick = ClockTick(self._stores.boot_id, self._clock.now_ms(), self._clock.synced)
        self._open.batch.entries.append(tick.encode())
        self._open.urgent = True
        self._consider_commit()

    # ---- Safe mode ----

    async def _run_safe(self) -> None:
        """One message a commit, its digest durable before anyone looks at it."""
        while self._turn and self._safe_left and not self._stopped:
            self._safe_arrival = arrival = self._turn.popleft()
            await self._mark({"suspect": digest_of(arrival.payload)})
            if self._safe_arrival is not None:  # no change has hurried it on
                self._take_safely()
            await self._commit_all()
            self._safe_left -= 1
            if not self._safe_left:
                log.warning("safe mode ends: %d messages went well", SAFE_MODE_MESSAGES)
                await self._mark({"abnormal_exits": 0})
        self._safe_task = None
        if self._turn:
            self._run_turn()

    def _take_safely(self) -> None:
        arrival, self._safe_arrival = self._safe_arrival, None
        if arrival is None:
            return
        # In the message's own commit: once it is durable it is no suspect.
        self._open.batch.statements.append(_CLEAR_SUSPECT)
        self._turn_size -= len(arrival.payload)
        self._do(lambda: self._admit([arrival]))

    async def _commit_all(self) -> None:
        """Return once nothing is open or in flight, or the gateway has failed."""
        while not self._stopped and (self._in_flight or not self._open.batch.empty):
            self._open.urgent = True
            self._consider_commit()
            if self._in_flight is not None:
                await asyncio.shield(self._in_flight)

    async def _mark(self, values: dict[str, SqlValue]) -> None:
        if self._stopped:
            return
        try:
            await self._loop.run_in_executor(
                self._thread, self._stores.writer.mark, values
            )
        except DurabilityError as error:
            self._fail(error)

    # ---- End ----

    async def stop(self) -> None:
        """Commit what is open, settle it, and release the writer thread."""
        if self._safe_task is not None:
            await self._safe_task
        while self._turn and not self._stopped:
            self._run_turn()
        await self._commit_all()
        marks: dict[str, SqlValue] = {"running": None, "suspect": None}
        if self._took:  # a command that only opens the store proves nothing
            marks["abnormal_exits"] = 0
        await self._mark(marks)
        self._stopped = True
        self._cancel_timers()
        self._thread.shutdown()

    def _cancel_timers(self) -> None:
        for timer in (self._commit_timer, self._deadline_timer, self._tick_timer):
            if timer is not None:
                timer.cancel()


def _call(function: Callable[..., None], *arguments: object) -> None:
    """Call what waits for a commit; its own failure is not the intake's.

    The commit is durable by then: a door or a view that fails must not keep the others
    from their answers.
    """
    try:
        function(*arguments)
    except Exception:  # any: see above
        log.exception("a listener failed after a commit")
