"""What a person does to an alarm or a contract's parameter: a record of its own.

The original of a record of kind 7 (docs/ledger-format.md section 3):

    {1: kind, 2: contract, 3: rule or param, 4: subject, 5: actor, 6: role,
     7: until_ms (pause), 8: value (set)}

It takes effect in record order, in a replay as in everyday work.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge import cbor
from edge.errors import RejectError

ACKNOWLEDGE, PAUSE, RELEASE, SET = "acknowledge", "pause", "release", "set"
KINDS = (ACKNOWLEDGE, PAUSE, RELEASE, SET)
PAUSE_MAX_MS = 60 * 60_000
_TEXTS = {1: "kind", 2: "contract", 3: "name", 4: "subject", 5: "actor", 6: "role"}


@dataclass(frozen=True, slots=True)
class Action:
    """An acknowledgement, pause or release of a rule's alarm, or a param set.

    `name` is the rule's (or its on_unknown's), or the param's.
    """

    kind: str
    contract: str
    name: str
    subject: str
    actor: str
    role: str
    until_ms: int = 0
    value: str = ""

    def encode(self) -> bytes:
        """The record's original."""
        fields: dict[int, object] = {
            key: getattr(self, name) for key, name in _TEXTS.items()
        }
        if self.kind == PAUSE:
            fields[7] = self.until_ms
        if self.kind == SET:
            fields[8] = self.value
        return cbor.encode(fields)

    @classmethod
    def decode(cls, original: bytes) -> Action:
        """The action of a record's original; RejectError names what is wrong."""
        fields = cbor.decode(original)
        if not isinstance(fields, dict):
            raise RejectError("action: not a map")
        texts = {}
        for key, name in _TEXTS.items():
            value = fields.pop(key, None)
            if not isinstance(value, str):
                raise RejectError(f"action: field {key} is no text")
            texts[name] = value
        if texts["kind"] not in KINDS:
            raise RejectError("action: field 1 is no kind of action")
        until_ms, value = 0, ""
        if texts["kind"] == PAUSE:
            until_ms = fields.pop(7, None)
            if not isinstance(until_ms, int) or isinstance(until_ms, bool):
                raise RejectError("action: field 7 is no time")
        if texts["kind"] == SET:
            value = fields.pop(8, None)
            if not isinstance(value, str):
                raise RejectError("action: field 8 is no text")
        if fields:
            raise RejectError("action: a field too many")
        return cls(**texts, until_ms=until_ms, value=value)
