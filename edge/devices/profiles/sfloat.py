"""SFLOAT, the 16-bit decimal float of IEEE 11073-20601, little-endian in GATT.

    bit 15..12   exponent, two's complement, -8..7
    bit 11..0    mantissa, two's complement, -2048..2047
    value        mantissa * 10**exponent

    0x07fe +INFINITY   0x07ff NaN   0x0800 NRes   0x0801 reserved   0x0802 -INFINITY

The five special values have the exponent 0; the same mantissa with another exponent is
an ordinary number (0xf7fe is 204.6).
"""

from __future__ import annotations

from decimal import Context, Decimal

SIZE = 2
NAN = 0x07FF
NRES = 0x0800  # not at this resolution
POSITIVE_INFINITY = 0x07FE
NEGATIVE_INFINITY = 0x0802
RESERVED = 0x0801
SPECIAL = frozenset({NAN, NRES, POSITIVE_INFINITY, NEGATIVE_INFINITY, RESERVED})
_EXACT = Context(prec=28)  # four digits and an exponent: nothing is ever rounded


def decode(octets: bytes) -> Decimal | None:
    """The number in these 2 bytes, None for one of the five that are not numbers."""
    word = int.from_bytes(octets, "little")
    if word in SPECIAL:
        return None
    mantissa = word & 0x0FFF
    if mantissa >= 0x0800:
        mantissa -= 0x1000
    exponent = word >> 12
    if exponent >= 8:
        exponent -= 16
    return Decimal(mantissa).scaleb(exponent, _EXACT)


def encode(value: Decimal | None) -> bytes:
    """The 2 bytes of `value`, NaN for None; trailing zeros are kept where they fit.

    ValueError for a number that an SFLOAT cannot hold exactly.
    """
    if value is None:
        return NAN.to_bytes(SIZE, "little")
    if not value.is_finite():
        raise ValueError(f"{value} is no number")
    exponent = int(value.as_tuple().exponent)
    # The nearest exponent to the value's own that holds its digits without loss.
    for candidate in sorted(range(-8, 8), key=lambda e: (abs(e - exponent), e)):
        mantissa = value.scaleb(-candidate, _EXACT)
        if mantissa == mantissa.to_integral_value() and -2048 <= mantissa <= 2047:
            word = (candidate & 0xF) << 12 | (int(mantissa) & 0x0FFF)
            if word not in SPECIAL:
                return word.to_bytes(SIZE, "little")
    raise ValueError(f"{value} does not fit into an SFLOAT")
