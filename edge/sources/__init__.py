"""The doors: each turns what a device sends into an Arrival and awaits its Outcome."""

from __future__ import annotations

from typing import Protocol

from edge.model import Arrival


class Door(Protocol):
    """What a source needs of the intake (edge.intake.Intake is one)."""

    @property
    def congested(self) -> bool:
        """Whether to stop reading the socket until `relieved` returns."""

    def submit(self, arrival: Arrival) -> None:
        """Take a message; its `settle` is called once, after it is durable."""

    async def relieved(self) -> None:
        """Return once the intake takes messages again."""
