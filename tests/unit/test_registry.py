"""The sequences of a device: what is new, what came before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.devices.registry import GAPS_MAX, HASHES_KEPT, Novelty, SequenceWindow

A, B = b"a" * 16, b"b" * 16


def test_the_first_number_may_be_any_and_lower_ones_are_still_new() -> None:
    """A device may start anywhere, and two first envelopes may overtake each other."""
    window = SequenceWindow()
    assert window.classify(1000, A) is Novelty.NEW
    window.accept(1000, A)
    assert window.classify(999, B) is Novelty.NEW


def test_the_same_number_is_a_duplicate_or_an_equivocation_by_its_bytes() -> None:
    window = SequenceWindow()
    window.accept(5, A)
    assert window.classify(5, A) is Novelty.DUPLICATE
    assert window.classify(5, B) is Novelty.EQUIVOCATION


def test_a_number_in_a_gap_is_new_once() -> None:
    window = SequenceWindow()
    window.accept(1, A)
    window.accept(5, A)
    assert window.classify(3, B) is Novelty.NEW
    window.accept(3, B)
    assert window.classify(3, B) is Novelty.DUPLICATE
    assert window.classify(2, A) is Novelty.NEW
    assert window.classify(4, A) is Novelty.NEW


def test_after_a_restart_an_old_number_is_unverified_until_it_is_recalled() -> None:
    window = SequenceWindow()
    window.accept(0, A)
    again = SequenceWindow.decode(window.encode())
    assert again.classify(0, A) is Novelty.UNVERIFIED
    recalled_before = again.recalled
    again.recall({0: A})
    assert (recalled_before, again.recalled) == (False, True)
    assert again.classify(0, A) is Novelty.DUPLICATE
    assert again.classify(0, B) is Novelty.EQUIVOCATION


def test_gaps_and_hashes_are_bounded_and_a_forgotten_gap_counts_as_used() -> None:
    """A device that loses every second message must not grow our memory."""
    window = SequenceWindow()
    for sequence in range(0, 20 * HASHES_KEPT, 2):
        window.accept(sequence, A)
    assert len(SequenceWindow.decode(window.encode()).encode()) < 20 * GAPS_MAX
    assert window.classify(1, A) is Novelty.UNVERIFIED
    assert window.classify(20 * HASHES_KEPT - 3, A) is Novelty.NEW


@given(st.lists(st.integers(0, 60), max_size=80))
def test_every_number_is_new_exactly_once_in_any_order(numbers: list[int]) -> None:
    """Against a set: with few gaps nothing is forgotten."""
    window, used = SequenceWindow(), set()
    for number in numbers:
        novelty = window.classify(number, A)
        assert (novelty is Novelty.NEW) == (number not in used)
        if novelty is Novelty.NEW:
            window.accept(number, A)
            used.add(number)
        window = SequenceWindow.decode(window.encode())  # a restart changes nothing


def test_a_gap_is_told_when_it_opens_and_not_when_it_is_filled() -> None:
    window = SequenceWindow()
    assert window.accept(1000, A) is None  # the first is any number
    assert window.accept(1001, A) is None
    assert window.accept(1005, A) == (1002, 1004)
    assert window.accept(1003, A) is None
    assert window.accept(1006, A) is None
