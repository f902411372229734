"""Mean kinetic temperature in whole numbers (USP <1079.2>, ICH Q1A).

    T_K = (ΔH/R) / -ln( (exp(-ΔH/(R·T_1)) + ... + exp(-ΔH/(R·T_n))) / n )

with ΔH/R = 10,000 K (83.144 kJ/mol). Temperatures come in tenths of a degree Celsius,
and so does the answer. exp(-10000/T) is looked up in a table of whole numbers, made
once with the decimal module, which is exact to the last digit on every machine; from
then on there are only sums of integers and a search. The search is among the values
half way between two tenths, so the answer is the nearest tenth; on the very middle the
higher one.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable
from decimal import Context, Decimal

LOWEST, HIGHEST = -1000, 1500  # -100.0 °C to 150.0 °C: beyond every plausible range
_ACTIVATION_K = Decimal(10_000)
_ZERO_C = Decimal("273.15")
_SCALE = Decimal(10) ** 40
_EXACT = Context(prec=60)


def _weight(tenths: Decimal) -> int:
    """exp(-10000 K / T) × 10^40, rounded."""
    kelvin = _EXACT.add(_ZERO_C, _EXACT.divide(tenths, Decimal(10)))
    exponent = _EXACT.divide(_ACTIVATION_K.copy_negate(), kelvin)
    return int(_EXACT.multiply(_EXACT.exp(exponent), _SCALE).to_integral_value())


@functools.cache
def weight(tenths: int) -> int:
    """What a temperature weighs in the mean; it never falls with the temperature.

    ValueError outside LOWEST to HIGHEST.
    """
    if not LOWEST <= tenths <= HIGHEST:
        raise ValueError(f"{tenths} tenths of a degree Celsius")
    return _weight(Decimal(tenths))


@functools.cache
def _middles() -> list[int]:
    """The weights half way between each two tenths."""
    return [_weight(Decimal(one) + Decimal("0.5")) for one in range(LOWEST, HIGHEST)]


def temperature(weights: int, count: int) -> int:
    """The mean kinetic temperature in tenths of a degree, of the sum of `count`."""
    return LOWEST + bisect_right(_middles(), weights // count)


def mean_kinetic(tenths: Iterable[int]) -> int:
    """The mean kinetic temperature of these, in tenths of a degree Celsius."""
    listed = list(tenths)
    return temperature(sum(map(weight, listed)), len(listed))
