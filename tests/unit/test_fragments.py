"""Signed envelopes over GATT: fragments of any size, in order, or not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.devices.fragments import (
    REFUSED,
    TAKEN,
    Assembly,
    answer,
    parse_answer,
    split,
)
from edge.errors import Reason, RefusedError
from firmware_sim import ble_envelope


def test_a_fragment_says_whether_it_is_the_first_the_last_and_its_place() -> None:
    """By hand: 7 bytes in values of 4 are 3, 3 and 1 behind their heads."""
    assert [one.hex() for one in split(b"ABCDEFG", 4)] == [
        "80" + b"ABC".hex(),
        "01" + b"DEF".hex(),
        "42" + b"G".hex(),
    ]
    assert [one.hex() for one in split(b"A", 4)] == ["c0" + b"A".hex()]


@given(st.lists(st.binary(min_size=1, max_size=2000), max_size=4), st.integers(2, 515))
def test_what_was_split_comes_together_again(messages: list[bytes], size: int) -> None:
    """By the gateway's own splitter and by the simulated device's, which is another."""
    for cut in (split, ble_envelope.fragments):
        assembly = Assembly()
        found = []
        for message in messages:
            for fragment in cut(message, size):
                assert len(fragment) <= size
                whole = assembly.add(fragment)
                if whole is not None:
                    found.append(whole)
        assert found == messages
        assert assembly.broken_count == 0


@given(st.binary(min_size=200, max_size=900), st.data())
def test_a_lost_fragment_loses_its_envelope_and_no_other(
    message: bytes, data: st.DataObject
) -> None:
    fragments = list(split(message, 20))
    lost = data.draw(st.integers(0, len(fragments) - 1))
    assembly = Assembly()
    heard = [*fragments[:lost], *fragments[lost + 1 :], *split(b"the next", 20)]
    found = [whole for one in heard if (whole := assembly.add(one)) is not None]
    assert found == [b"the next"]
    assert assembly.broken_count == (1 if lost else 0)  # of a lost head nobody knows


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_garbage_makes_no_more_than_garbage(values: list[bytes]) -> None:
    assembly = Assembly()
    for value in values:
        whole = assembly.add(value)
        assert whole is None or len(whole) <= sum(map(len, values))


def test_an_envelope_that_never_ends_is_refused_at_its_limit() -> None:
    assembly = Assembly()
    *most, last = split(bytes(65_537), 65_000)
    for one in most:
        assert assembly.add(one) is None
    with pytest.raises(RefusedError, match="more than 65536") as refused:
        assembly.add(last)
    assert refused.value.reason is Reason.TOO_LARGE


def test_an_answer_is_a_sequence_and_a_verdict() -> None:
    assert answer(300, TAKEN).hex() == "2c01000000000000" + "00"
    assert parse_answer(answer(2**64 - 1, REFUSED)) == (2**64 - 1, REFUSED)
    assert ble_envelope.parse_answer(answer(300, REFUSED)) == (300, REFUSED)
    with pytest.raises(RefusedError, match="not 9"):
        parse_answer(b"\x00")
