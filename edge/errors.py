"""The whole exception tree, split by what the caller must do.

    GatewayError
      RejectError        the input is wrong: refuse it with this text, keep it, go on
      RefusedError       the same for a message at a door, with the Reason to count
      ConfigurationError the person who runs the gateway must change a file or command
      BusyError          another process holds the data directory: stop, or ask it
      NotFoundError      no such thing: say so
        ErasedError      there was, and its key or bytes were destroyed on purpose
      DurabilityError    a write or flush failed: stop the process, restart recovers
      IntegrityError     what is stored does not verify: stop, a person must look

None of them is for a mistake in our own code: that is an AssertionError, TypeError or
ValueError and stops the process.
"""

from __future__ import annotations

from enum import StrEnum


class GatewayError(Exception):
    """The root; never raised itself."""


class RejectError(GatewayError):
    """Input that is not what its format says; the text names the place."""


class Reason(StrEnum):
    """Why a message was refused: the key of a counter and of its quarantine row."""

    UNKNOWN_DEVICE = "unknown-device"
    WRONG_TOPIC = "wrong-topic"
    NOT_AUTHORISED = "not-authorised"
    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad-signature"
    EQUIVOCATION = "equivocation"  # the same sequence with other bytes
    IMPLAUSIBLE_CLOCK = "implausible-clock"
    UNKNOWN_UNIT = "unknown-unit"
    TOO_LARGE = "too-large"
    POISON = "poison"  # killed the process before


class RefusedError(GatewayError):
    """A message that is refused: `reason` is counted, the text goes to its sender."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class ConfigurationError(GatewayError):
    """Mistakes in a configuration, contract or command: all of them at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BusyError(GatewayError):
    """Another process holds the data directory."""


class NotFoundError(GatewayError):
    """No device, patient or reading of that name."""


class ErasedError(NotFoundError):
    """It was forgotten: an erasure or a retention policy removed it."""


class DurabilityError(GatewayError):
    """A write, flush or commit failed; nothing after it may be believed."""


class IntegrityError(GatewayError):
    """What is stored contradicts itself or its signature."""
