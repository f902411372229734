"""A record's bytes are the one deterministic encoding of its fields."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge import cbor
from edge.model import Attestation, Flag, Kind, Record

OPTIONAL_TEXT = st.none() | st.text(max_size=30)
OPTIONAL_BYTES = st.none() | st.binary(max_size=30)

RECORDS = st.builds(
    Record,
    st.sampled_from(Kind),
    st.integers(-(2**64), 2**64 - 1) | st.integers(2**40, 2**41),
    st.binary(max_size=30) | st.sampled_from([bytes(n) for n in (255, 256, 65_536)]),
    OPTIONAL_TEXT,
    OPTIONAL_TEXT,
    st.sampled_from(Attestation),
    OPTIONAL_TEXT,
    st.builds(Flag, st.integers(0, 63)),
    OPTIONAL_BYTES,
    OPTIONAL_BYTES,
)


@given(st.lists(RECORDS, min_size=1, max_size=3))
def test_a_record_is_encoded_as_the_map_that_the_format_page_shows(
    records: list[Record],
) -> None:
    """The general encoder is the second opinion; docs/ledger-format.md section 3."""
    for one in records:
        fields = {
            0: 1,
            1: int(one.kind),
            2: one.device,
            3: one.stream,
            4: one.received_ms,
            5: int(one.attestation),
            6: one.link,
            7: int(one.flags),
            8: one.assignment,
            9: one.original,
            10: one.address,
        }
        there = {key: value for key, value in fields.items() if value is not None}
        assert one.encode() == cbor.encode(there)


@given(RECORDS)
def test_a_record_is_read_back_as_it_was(record: Record) -> None:
    assert Record.decode(record.encode()) == record
