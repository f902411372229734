"""The Record Access Control Point 0x2A52: asking a device for its stored records.

    op code    1   1 report, 2 delete, 3 abort, 4 report their number
                   5 number of records (an answer), 6 response code (an answer)
    operator   1   0 none, 1 all, 2 up to, 3 from, 4 within, 5 first, 6 last
    operand    n   of a request with operator 2 or 3: filter 1, value; with 4: filter 1,
                   lowest value, highest value
                   of answer 5: count 2; of answer 6: requested op code 1, response 1

The filter is 1 the sequence number (of a continuous glucose sensor: the time offset), 2
bytes, or 2 the user-facing time, 7 bytes. Records arrive as notifications of their own
characteristic; the answer is an indication of this one and comes after the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from edge.devices.profiles.date_time import Timestamp
from edge.devices.profiles.fields import Fields

UUID = "2a52"
SEQUENCE_MAX = 0xFFFF


class OpCode(IntEnum):
    """What is asked or answered."""

    REPORT = 1
    DELETE = 2
    ABORT = 3
    REPORT_NUMBER = 4
    NUMBER = 5
    RESPONSE = 6


class Operator(IntEnum):
    """Which records are meant."""

    NONE = 0
    ALL = 1
    UP_TO = 2
    FROM = 3
    WITHIN = 4
    FIRST = 5
    LAST = 6


class Filter(IntEnum):
    """By what they are compared."""

    SEQUENCE = 1
    TIME = 2


class Response(IntEnum):
    """How a request ended."""

    SUCCESS = 1
    OP_CODE_NOT_SUPPORTED = 2
    INVALID_OPERATOR = 3
    OPERATOR_NOT_SUPPORTED = 4
    INVALID_OPERAND = 5
    NO_RECORDS = 6
    ABORT_UNSUCCESSFUL = 7
    NOT_COMPLETED = 8
    OPERAND_NOT_SUPPORTED = 9


Bound = int | Timestamp
_OPERAND_COUNT = {Operator.UP_TO: 1, Operator.FROM: 1, Operator.WITHIN: 2}


@dataclass(frozen=True, slots=True)
class Request:
    """What is written to the device. `bounds` are all sequence numbers or all times.

    One for UP_TO and FROM, the lowest and the highest for WITHIN, none otherwise.
    """

    op_code: OpCode
    operator: Operator
    bounds: tuple[Bound, ...] = ()

    def __post_init__(self) -> None:
        if len(self.bounds) != _OPERAND_COUNT.get(self.operator, 0):
            raise ValueError(f"{self.operator.name} with {len(self.bounds)} bounds")
        if (self.operator is Operator.NONE) != (self.op_code is OpCode.ABORT):
            raise ValueError(f"{self.op_code.name} with {self.operator.name}")
        if self.op_code in (OpCode.NUMBER, OpCode.RESPONSE):
            raise ValueError(f"{self.op_code.name} is an answer")
        if len({type(bound) for bound in self.bounds}) > 1:
            raise ValueError("a sequence number and a time in one request")

    @classmethod
    def from_bytes(cls, value: bytes) -> Request:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("record access request", value)
        try:
            op_code = OpCode(fields.unsigned("op code", 1))
            operator = Operator(fields.unsigned("operator", 1))
            bounds: tuple[Bound, ...] = ()
            count = _OPERAND_COUNT.get(operator, 0)
            if count:
                which = Filter(fields.unsigned("filter", 1))
                bounds = tuple(_bound(fields, which) for _ in range(count))
            fields.end()
            return cls(op_code, operator, bounds)
        except ValueError as error:
            raise fields.refusal(str(error)) from error

    def __bytes__(self) -> bytes:
        """The value; OverflowError for a sequence number beyond 2 bytes."""
        out = bytes((self.op_code, self.operator))
        for place, bound in enumerate(self.bounds):
            which, octets = _bound_bytes(bound)
            out += (b"" if place else bytes((which,))) + octets
        return out


def _bound_bytes(bound: Bound) -> tuple[Filter, bytes]:
    if isinstance(bound, Timestamp):
        return Filter.TIME, bytes(bound)
    return Filter.SEQUENCE, bound.to_bytes(2, "little")


def _bound(fields: Fields, which: Filter) -> Bound:
    if which is Filter.TIME:
        return Timestamp.read(fields, "time")
    return fields.unsigned("sequence number", 2)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the device indicates: a `count` of records, or how `request` ended.

    `request` is an OpCode and `response` a Response, or a reserved number.
    """

    count: int | None = None
    request: int = 0
    response: int = 0

    @classmethod
    def from_bytes(cls, value: bytes) -> Answer:
        """RefusedError MALFORMED names the field where `value` goes wrong."""
        fields = Fields("record access answer", value)
        op_code = fields.unsigned("op code", 1)
        fields.unsigned("operator", 1)  # none, but some devices send what was asked
        if op_code == OpCode.NUMBER:
            answer = cls(count=fields.unsigned("number of records", 2))
        elif op_code == OpCode.RESPONSE:
            request = fields.unsigned("requested op code", 1)
            answer = cls(request=request, response=fields.unsigned("response", 1))
        else:
            raise fields.refusal(f"op code {op_code} is no answer")
        fields.end()
        return answer

    def __bytes__(self) -> bytes:
        if self.count is not None:
            return bytes((OpCode.NUMBER, 0)) + self.count.to_bytes(2, "little")
        return bytes((OpCode.RESPONSE, 0, self.request, self.response))

    @property
    def words(self) -> str:
        """How it ended, for a person."""
        try:
            return Response(self.response).name.lower().replace("_", " ")
        except ValueError:
            return f"response {self.response}"
