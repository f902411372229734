"""The life of one rule for one subject.

              TRUE, for "for" without a break      `delay` over, no inhibitor, rate free
    IDLE ───► PENDING ─────────────────────► READY ───► ACTIVE ───► IDLE
                │  ▲                           │ over     │ "start"    "end"
                └──┘ FALSE, gap over `fresh`   ▼          │
                                             IDLE         ├─ over, `latch` ─► LATCHED
                                                          └─ inhibitor ─► INHIBITED

*Over* is: `rearm` is TRUE and `when` is not; without a `rearm`, `when` is FALSE.
UNKNOWN neither starts nor ends anything. A PENDING rule outlives an UNKNOWN only while
the last usable samples, none older than their `fresh`, still make it TRUE; to get READY
it must be TRUE itself at that moment. LATCHED ends by a person's release, or is ACTIVE
again where no inhibitor is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.contracts.program import Rule
from edge.contracts.state import (
    ACTIVE,
    IDLE,
    INHIBITED,
    LATCHED,
    PENDING,
    READY,
    RuleState,
    Subject,
)

# rule index, name, phase of the firing, and Firing's more fields
Fire = Callable[..., None]


@dataclass(slots=True)
class Turn:
    """One evaluation of a subject at a time; `could` looks at the held samples."""

    subject: Subject
    at_ms: int
    fire: Fire
    could: Callable[[int], bool | None]


def step(
    turn: Turn, rule: Rule, index: int, holds: bool | None, ends: bool | None
) -> None:
    """Bring a rule to where its `when` (`holds`) and `rearm` (`ends`) lead it."""
    now, at_ms = turn.subject.rules[index], turn.at_ms
    over = (holds is False) if rule.rearm is None else bool(ends and not holds)
    if 0 <= now.paused_ms <= at_ms:
        now.paused_ms = -1
        if now.phase in (ACTIVE, LATCHED):
            turn.fire(index, rule.name, "resumed")
    if now.phase in (ACTIVE, INHIBITED):
        _go_on(turn, rule, index, now, over=over)
    elif now.phase == LATCHED:
        if holds and not _inhibited(turn, rule):
            _start(turn, rule, index, now)
    else:
        _approach(turn, rule, index, now, holds, over=over)
    if now.phase in (ACTIVE, LATCHED):
        _escalate(turn, rule, index, now)


def _go_on(turn: Turn, rule: Rule, index: int, now: RuleState, *, over: bool) -> None:
    covered = _inhibited(turn, rule)
    if over and rule.latch:
        now.phase = LATCHED
        turn.fire(index, rule.name, "latched")
    elif over:
        _end(now)
        turn.fire(index, rule.name, "end")
    elif covered and now.phase == ACTIVE:
        now.phase = INHIBITED
        turn.fire(index, rule.name, "inhibited")
    elif not covered and now.phase == INHIBITED:
        now.phase = ACTIVE
        turn.fire(index, rule.name, "start")


def _approach(
    turn: Turn,
    rule: Rule,
    index: int,
    now: RuleState,
    holds: bool | None,
    *,
    over: bool,
) -> None:
    if now.phase == IDLE and holds:
        now.phase, now.since_ms = PENDING, turn.at_ms
    if now.phase == PENDING:
        if holds and turn.at_ms - now.since_ms >= rule.for_ms:
            now.phase, now.since_ms = READY, turn.at_ms
        elif holds is False or (holds is None and not turn.could(index)):
            now.phase, now.since_ms = IDLE, -1
    elif now.phase == READY and over:
        now.phase, now.since_ms = IDLE, -1
    if (
        now.phase == READY
        and turn.at_ms - now.since_ms >= rule.delay_ms
        and not _inhibited(turn, rule)
        and _rate_allows(rule, now, turn.at_ms)
    ):
        _start(turn, rule, index, now)


def _start(turn: Turn, rule: Rule, index: int, now: RuleState) -> None:
    now.phase, now.since_ms = ACTIVE, turn.at_ms
    now.acked_by, now.steps = "", 0
    if rule.max_rate is not None:
        now.starts = [*now.starts, turn.at_ms][-rule.max_rate[0] :]
    turn.fire(index, rule.name, "start")


def _end(now: RuleState) -> None:
    now.phase, now.since_ms = IDLE, -1
    now.acked_by, now.steps = "", 0


def _inhibited(turn: Turn, rule: Rule) -> bool:
    rules = turn.subject.rules
    return any(rules[one].phase == ACTIVE for one in rule.inhibited_by)


def _rate_allows(rule: Rule, now: RuleState, at_ms: int) -> bool:
    if rule.max_rate is None:
        return True
    most, span_ms = rule.max_rate
    return len(now.starts) < most or now.starts[0] <= at_ms - span_ms


def _escalate(turn: Turn, rule: Rule, index: int, now: RuleState) -> None:
    if now.acked_by or now.paused_ms >= 0:
        return
    while (
        now.steps < len(rule.escalate)
        and turn.at_ms - now.since_ms >= rule.escalate[now.steps].after_ms
    ):
        to = rule.escalate[now.steps].to
        now.steps += 1
        turn.fire(index, rule.name, "escalate", to=to)


def step_unknown(turn: Turn, rule: Rule, index: int, unknown: bool) -> None:
    """Say when a rule with `on_unknown` stays UNKNOWN, and when it is known again."""
    now, label = turn.subject.rules[index], rule.on_unknown or ""
    if not unknown:
        now.known_once, now.unknown_ms = True, -1
        if now.lost:
            now.lost, now.lost_acked_by = False, ""
            turn.fire(index, label, "end")
    elif now.known_once and not now.lost:
        if now.unknown_ms < 0:
            now.unknown_ms = turn.at_ms
        if turn.at_ms - now.unknown_ms > rule.fresh_ms:
            now.lost, now.unknown_ms = True, turn.at_ms
            turn.fire(index, label, "start")
