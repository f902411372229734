"""What lets MQTT sessions outlive the process: the store, through the intake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from edge.intake import Intake
from edge.store import sessions
from edge.store.commit import Writer


class SessionKeeper:
    """Keeps the listener's sessions (sources.mqtt_session.Keeper)."""

    def __init__(self, intake: Intake, kept: list[bytes]) -> None:
        self._intake = intake
        self._kept = kept

    def load(self) -> list[bytes]:
        """What was kept when the process began."""
        return self._kept

    def now_ms(self) -> int:
        """The gateway's clock."""
        return self._intake.now_ms()

    async def save(self, changes: Mapping[str, bytes | None]) -> None:
        """Return once these are durable; DurabilityError where that failed."""
        # A commit that took sessions along has its turn on the writer's thread first: a
        # task of it is on its way there, and tasks run in the order they were made.
        await asyncio.sleep(0)
        await self._intake.maintain(
            lambda writer: writer.transact(lambda: sessions.write(writer, changes))
        )

    def save_with_commits(self, changes: Callable[[], dict[str, bytes | None]]) -> None:
        """Have what `changes` gives written in each commit that comes."""

        def step() -> Callable[[Writer], None] | None:
            changed = changes()
            return (lambda writer: sessions.write(writer, changed)) if changed else None

        self._intake.before_commit.append(step)
