"""A value that a person types in: checked, committed and flagged like a device's.

The device is one of kind `typed`: a place at a patient where people say what no sensor
does (oxygen, consciousness, a manual pressure). What is committed is SenML JSON

    [{"n": METRIC, "u": UNIT, "v" or "vs": VALUE, "t": seconds since 1970}]

as the stream of the person who typed it, with no link and the flag `typed` (32).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal, InvalidOperation

from edge.clock import Clock
from edge.devices.metrics import BY_NAME
from edge.errors import ConfigurationError, DurabilityError
from edge.intake import Intake
from edge.model import Arrival, Outcome, Source, Verdict, is_name

COMMIT_TIMEOUT_S = 30.0  # below the local socket's


class Entering:
    """The operation that the local socket and `iomt enter` use."""

    def __init__(self, intake: Intake, clock: Clock) -> None:
        self._intake = intake
        self._clock = clock

    @property
    def operations(self) -> Mapping[str, Callable[..., Awaitable[object]]]:
        """The operations by their names."""
        return {"enter": self.enter}

    async def enter(
        self, device: str, metric: str, value: str, actor: str, unit: str | None = None
    ) -> None:
        """Commit a value; ConfigurationError with the reason where it is refused.

        A refusal is counted and kept in quarantine like any other.
        """
        payload = self._payload(metric, value, unit)
        if not is_name(actor):
            raise ConfigurationError(
                [f"--as {actor!r}: 1 to 64 of A–Z a–z 0–9 . _ -, and no reserved name"]
            )
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._intake.submit(
            Arrival(
                source=Source.TYPED,
                principal=f"typed:{actor}",
                device=device,
                stream=actor,
                payload=payload,
                settle=settled.set_result,
                user=actor,
                link=None,
            )
        )
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                outcome = await settled
        except TimeoutError:
            raise DurabilityError("the value is not durable: enter it again") from None
        if outcome.verdict is Verdict.REFUSED:
            reason = outcome.reason.value if outcome.reason else "refused"
            raise ConfigurationError([f"{reason}: {outcome.detail}"])

    def _payload(self, name: str, value: str, unit: str | None) -> bytes:
        metric = BY_NAME.get(name)
        if metric is None:
            known = ", ".join(sorted(BY_NAME))
            raise ConfigurationError([f"no metric {name!r}; known: {known}"])
        seconds = f"{self._clock.now_ms() / 1000:.3f}"
        about = f'"n":{json.dumps(name)},"u":{json.dumps(unit or metric.unit)}'
        if metric.letters:
            if value not in metric.letters:
                letters = " ".join(sorted(metric.letters))
                raise ConfigurationError([f"{name}: one of {letters}, not {value!r}"])
            return f'[{{{about},"vs":{json.dumps(value)},"t":{seconds}}}]'.encode()
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite():
            raise ConfigurationError([f"{name}: {value!r} is no number"])
        return f'[{{{about},"v":{number},"t":{seconds}}}]'.encode()
