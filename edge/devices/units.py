"""Units: from what a sensor says to what a metric is in. UCUM names, exact decimals.

    value in the metric's unit = (value + add) × numerator / denominator

rounded half to even at PLACES decimal places where the quotient does not end. A unit
that is not in the table is refused, never guessed. Molar glucose is by the molar mass
of glucose, 180.156 g/mol; pressures by 1 mm[Hg] = 133.322387415 Pa.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

from edge.devices.metrics import Metric

PLACES = Decimal("0.0001")
_EXACT = Context(prec=64, rounding=ROUND_HALF_EVEN)
_MERCURY = "133.322387415"


class _Rule(NamedTuple):
    add: Decimal
    numerator: Decimal
    denominator: Decimal


def _rule(add: str = "0", by: str = "1", over: str = "1") -> _Rule:
    return _Rule(Decimal(add), Decimal(by), Decimal(over))


_RULES: Mapping[str, Mapping[str, _Rule]] = {
    "Cel": {"K": _rule("-273.15"), "[degF]": _rule("-32", "5", "9")},
    "mm[Hg]": {
        "Pa": _rule(over=_MERCURY),
        "kPa": _rule(by="1000", over=_MERCURY),
        "mbar": _rule(by="100", over=_MERCURY),
    },
    "mg/dL": {"mmol/L": _rule(by="18.0156"), "g/L": _rule(by="100")},
    "kg": {"g": _rule(over="1000"), "[lb_av]": _rule(by="0.45359237")},
    "mV": {"V": _rule(by="1000"), "uV": _rule(over="1000")},
    "/min": {"Hz": _rule(by="60"), "/s": _rule(by="60"), "/h": _rule(over="60")},
    "%": {"1": _rule(by="100")},
}


def is_known(metric: Metric, unit: str) -> bool:
    """Whether values of this unit can be brought into the metric's."""
    return (
        unit == metric.unit
        or unit in metric.senml_units
        or unit in _RULES.get(metric.unit, {})
    )


def converted(metric: Metric, value: Decimal, unit: str) -> Decimal:
    """The value in the metric's unit; KeyError for a unit that is not known."""
    if unit == metric.unit or unit in metric.senml_units:
        return value
    add, numerator, denominator = _RULES[metric.unit][unit]
    product = _EXACT.multiply(_EXACT.add(value, add), numerator)
    quotient = _EXACT.divide(product, denominator)
    if quotient == quotient.quantize(PLACES, context=_EXACT):
        return quotient
    return quotient.quantize(PLACES, context=_EXACT)


def known(metric: Metric) -> list[str]:
    """The units that can be brought into the metric's, for a message to a person."""
    return sorted({metric.unit, *metric.senml_units, *_RULES.get(metric.unit, {})})
