"""Reading a GATT value field by field, with the name of the one that is cut short.

GATT integers are little-endian. A field that the value ends in, or bytes behind the
last field, refuse the whole value: "heart rate measurement: ends inside RR-Interval 2".
"""

from __future__ import annotations

from decimal import Decimal

from edge.devices.profiles import float32, sfloat
from edge.errors import Reason, RefusedError


class Fields:
    """A cursor over one characteristic value; `what` names it in a refusal."""

    def __init__(self, what: str, value: bytes) -> None:
        self._what = what
        self._value = value
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether every byte has been read."""
        return self._at == len(self._value)

    @property
    def left_size(self) -> int:
        """How many bytes have not been read."""
        return len(self._value) - self._at

    def octets(self, name: str, size: int) -> bytes:
        """The next `size` bytes; RefusedError MALFORMED if there are fewer."""
        end = self._at + size
        if end > len(self._value):
            place = "before" if self.at_end else "inside"
            raise self.refusal(f"ends {place} {name}")
        octets = self._value[self._at : end]
        self._at = end
        return octets

    def unsigned(self, name: str, size: int) -> int:
        """The next `size` bytes as an unsigned integer."""
        return int.from_bytes(self.octets(name, size), "little")

    def sfloat(self, name: str) -> Decimal | None:
        """The next SFLOAT, None where it is not a number."""
        return sfloat.decode(self.octets(name, sfloat.SIZE))

    def present_sfloat(self, name: str) -> Decimal:
        """The next SFLOAT of an optional field: NaN where it is not a number."""
        value = self.sfloat(name)
        return Decimal("NaN") if value is None else value

    def float32(self, name: str) -> Decimal | None:
        """The next FLOAT, None where it is not a number."""
        return float32.decode(self.octets(name, float32.SIZE))

    def signed(self, name: str, size: int) -> int:
        """The next `size` bytes as a signed integer."""
        return int.from_bytes(self.octets(name, size), "little", signed=True)

    def end(self) -> None:
        """RefusedError MALFORMED if bytes are left."""
        if not self.at_end:
            raise self.refusal(f"{len(self._value) - self._at} bytes after the end")

    def refusal(self, detail: str) -> RefusedError:
        """A MALFORMED refusal that names this value."""
        return RefusedError(Reason.MALFORMED, f"{self._what}: {detail}")
