"""FLOAT, the 32-bit decimal float of IEEE 11073-20601, little-endian in GATT.

    bit 31..24   exponent, two's complement, -128..127
    bit 23..0    mantissa, two's complement, -8388608..8388607
    value        mantissa * 10**exponent

    0x007ffffe +INFINITY   0x007fffff NaN   0x00800000 NRes   0x00800001 reserved
    0x00800002 -INFINITY

As with SFLOAT, the five special values have the exponent 0; the same mantissa with
another exponent is an ordinary number.
"""

from __future__ import annotations

from decimal import Context, Decimal

SIZE = 4
NAN = 0x007FFFFF
NRES = 0x00800000  # not at this resolution
POSITIVE_INFINITY = 0x007FFFFE
NEGATIVE_INFINITY = 0x00800002
RESERVED = 0x00800001
SPECIAL = frozenset({NAN, NRES, POSITIVE_INFINITY, NEGATIVE_INFINITY, RESERVED})
_EXACT = Context(prec=28)  # seven digits and an exponent: nothing is ever rounded
_EXPONENTS = range(-128, 128)
_MANTISSA_MAX = 0x7FFFFF


def decode(octets: bytes) -> Decimal | None:
    """The number in these 4 bytes, None for one of the five that are not numbers."""
    word = int.from_bytes(octets, "little")
    if word in SPECIAL:
        return None
    mantissa = word & 0x00FFFFFF
    if mantissa > _MANTISSA_MAX:
        mantissa -= 0x01000000
    exponent = int.from_bytes(octets[3:4], "little", signed=True)
    return Decimal(mantissa).scaleb(exponent, _EXACT)


def encode(value: Decimal | None) -> bytes:
    """The 4 bytes of `value`, NaN for None; trailing zeros are kept where they fit.

    ValueError for a number that a FLOAT cannot hold exactly.
    """
    if value is None:
        return NAN.to_bytes(SIZE, "little")
    if not value.is_finite():
        raise ValueError(f"{value} is no number")
    exponent = int(value.as_tuple().exponent)
    # The nearest exponent to the value's own that holds its digits without loss.
    for candidate in sorted(_EXPONENTS, key=lambda e: (abs(e - exponent), e)):
        mantissa = value.scaleb(-candidate, _EXACT)
        if mantissa != mantissa.to_integral_value():
            continue
        if not -_MANTISSA_MAX - 1 <= mantissa <= _MANTISSA_MAX:
            continue
        word = (candidate & 0xFF) << 24 | (int(mantissa) & 0x00FFFFFF)
        if word not in SPECIAL:
            return word.to_bytes(SIZE, "little")
    raise ValueError(f"{value} does not fit into a FLOAT")
