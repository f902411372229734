"""The bytes of the ward's BLE devices, by hand from the GATT specifications."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

pytest.importorskip("bumble", reason="the demo extra is not installed")

from firmware_sim import ble


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("97", "6100"),  # 97 × 10^0
        ("0", "0000"),
        ("36.7", "6ff1"),  # 367 × 10^-1: exponent f, mantissa 16f
        ("97.5", "cff3"),  # 975 = 3cf
        ("-1", "ff0f"),  # mantissa fff
        ("-204.5", "03f8"),  # -2045 = 803: exponent f, the lowest mantissa
    ],
)
def test_an_sfloat_has_a_signed_exponent_above_a_signed_mantissa(
    value: str, expected: str
) -> None:
    """Little-endian; IEEE 11073-20601."""
    assert ble.sfloat(Decimal(value)).hex() == expected


@pytest.mark.parametrize("value", ["2046", "-2046", "1E+8", "1E-9", "NaN", "Infinity"])
def test_what_an_sfloat_cannot_say_is_an_error(value: str) -> None:
    """2046 would mean +infinity."""
    with pytest.raises(ValueError, match="no SFLOAT"):
        ble.sfloat(Decimal(value))


def test_a_heart_rate_carries_contact_and_intervals() -> None:
    """Flags 16: contact supported and detected, RR; 0.75 s is 768 / 1024."""
    value = ble.heart_rate_measurement(Decimal(72), [0.75, 1.0])
    assert value.hex() == "1648" + "0003" + "0004"


def test_a_second_without_a_beat_has_no_interval_flag() -> None:
    """An empty list with the flag set would be malformed."""
    assert ble.heart_rate_measurement(Decimal(45), []).hex() == "062d"


def test_a_slipped_strap_says_that_it_touches_nobody() -> None:
    """Contact supported (04), not detected."""
    assert ble.heart_rate_without_contact().hex() == "0400"


def test_an_oximeter_sends_saturation_before_pulse() -> None:
    """With the status field only where the flag says so."""
    spo2, pulse = Decimal(97), Decimal(71)
    assert ble.plx_continuous(spo2, pulse, status=False).hex() == "0061004700"
    assert ble.plx_continuous(spo2, pulse, status=True).hex() == "0461004700a000"


def test_a_spot_check_carries_its_time() -> None:
    """2026-11-21 14:03:59: year 07ea little-endian, then a byte each."""
    at = datetime(2026, 11, 21, 14, 3, 59, tzinfo=UTC)
    value = ble.plx_spot_check(Decimal("97.5"), Decimal(71), at)
    assert value.hex() == "01" + "cff3" + "4700" + "ea07" + "0b150e033b"


def test_an_address_is_static_random_and_stays() -> None:
    """The two top bits are set (Core 5.4, Vol 6, Part B, 1.3.2.1); one per name."""
    names = [f"bed-{bed}-heart" for bed in range(1, 101)]
    addresses = [ble.static_address(1, name) for name in names]
    assert addresses == [ble.static_address(1, name) for name in names]
    assert len(set(addresses)) == 100
    assert all(int(address[:2], 16) & 0xC0 == 0xC0 for address in addresses)
    assert ble.static_address(2, names[0]) != addresses[0]
