"""The log's entries and the tree under a batch entry (docs/ledger-format.md)."""

from __future__ import annotations

import hashlib
import hmac

import ledger_files
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import cbor
from edge.errors import RejectError
from edge.ledger import batch, tlog
from edge.model import Attestation

BOOT = bytes(range(16))
ROOT = bytes(range(32, 64))
BATCH = batch.Batch(BOOT, 7, 1_790_000_000_123, synchronised=True, root=ROOT)
TIMES = st.integers(0, 2**63 - 1)
IDS = st.binary(min_size=16, max_size=16)
HASHES = st.binary(min_size=32, max_size=32)
TEXTS = st.text(min_size=1, max_size=20)
ENTRIES = st.one_of(
    st.builds(batch.Batch, IDS, TIMES, TIMES, st.booleans(), HASHES),
    st.builds(batch.EpochStart, TEXTS, TIMES),
    st.builds(
        batch.GatewayStart,
        IDS,
        TIMES,
        st.booleans(),
        TEXTS,
        HASHES,
        HASHES,
        st.lists(HASHES, max_size=3).map(tuple),
    ),
    st.builds(batch.ClockTick, IDS, TIMES, st.booleans()),
    st.builds(batch.DeviceEnrolment, IDS, TIMES, st.just(Attestation.DEVICE), HASHES),
    st.builds(batch.DeviceEnrolment, IDS, TIMES, st.just(Attestation.GATEWAY)),
    st.builds(batch.DeviceRevocation, IDS, TIMES),
    st.builds(batch.DeviceKey, IDS, st.just(7), HASHES, TIMES.filter(lambda t: t > 6)),
)


def test_a_batch_entry_has_the_bytes_of_the_document() -> None:
    """Written by hand from section 2, so that encoder and decoder cannot err alike."""
    by_hand = (
        "01"  # type
        "a5"  # map of 5
        "0150000102030405060708090a0b0c0d0e0f"  # boot id
        "0207"  # batch number
        "031b000001a0c4506c7b"  # time_ms
        "0401"  # clock synchronised
        "055820202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
    )
    assert BATCH.encode().hex() == by_hand
    assert batch.decode_entry(bytes.fromhex(by_hand)) == BATCH


@given(ENTRIES)
def test_every_entry_is_read_back(entry: batch.Entry) -> None:
    assert batch.decode_entry(entry.encode()) == entry


@given(ENTRIES, st.data())
def test_a_changed_entry_is_refused_or_another_entry(
    entry: batch.Entry, data: st.DataObject
) -> None:
    """No two byte strings mean the same entry; nothing but RejectError is raised."""
    content = bytearray(entry.encode())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        found = batch.decode_entry(bytes(content))
    except RejectError:
        return
    assert found != entry
    assert found.encode() == bytes(content)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({1: BOOT[:15]}, "field 1 is not a string of 16 bytes"),
        ({1: "0123456789abcdef"}, "field 1"),
        ({2: -1}, "field 2 is not 0 to"),
        ({2: True}, "field 2 is not a number"),
        ({3: 2**63}, "field 3 is not 0 to"),
        ({4: 2}, "field 4 is not 0 to 1"),
        ({4: False}, "field 4 is not a number"),
        ({5: ROOT + b"\0"}, "field 5"),
        ({6: 1}, "unknown field 6"),
        ({"x": 1}, "unknown field 'x'"),
        ({5: None}, "field 5"),
    ],
)
def test_a_batch_entry_with_a_wrong_field_is_refused_with_its_number(
    changes: dict[object, object], reason: str
) -> None:
    good: dict[object, object] = {1: BOOT, 2: 7, 3: 1, 4: 1, 5: ROOT}
    batch.decode_entry(b"\x01" + cbor.encode(good))
    with pytest.raises(RejectError, match=reason):
        batch.decode_entry(b"\x01" + cbor.encode(good | changes))


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (2, {1: "", 2: 1}, "field 1 is not a text"),
        (2, {1: b"o", 2: 1}, "field 1 is not a text"),
        (5, {1: BOOT, 2: 1, 3: 1}, "field 4 is not bytes"),
        (5, {1: BOOT, 2: 1, 3: 0, 4: ROOT}, "unknown field 4"),
        (6, {1: BOOT}, "field 2 is not a number"),
        (0, {}, "no entry begins with 00"),
        (0x7F, {}, "no entry begins with 7f"),
        (1, [], "not a map"),
    ],
)
def test_other_entries_with_a_mistake_are_refused(
    kind: int, body: object, reason: str
) -> None:
    with pytest.raises(RejectError, match=reason):
        batch.decode_entry(bytes([kind]) + cbor.encode(body))


@pytest.mark.parametrize("contracts", [7, [7], [b"short"], [ROOT, None]])
def test_a_gateway_start_lists_hashes_of_contracts(contracts: object) -> None:
    body = {1: BOOT, 2: 1, 3: 0, 4: "v", 5: ROOT, 6: ROOT, 7: contracts}
    with pytest.raises(RejectError, match="field 7"):
        batch.decode_entry(b"\x03" + cbor.encode(body))


def test_an_empty_or_too_large_entry_is_refused() -> None:
    with pytest.raises(RejectError, match="no entry begins with nothing"):
        batch.decode_entry(b"")
    with pytest.raises(RejectError, match="more than 65535 bytes"):
        batch.decode_entry(bytes(65536))
    with pytest.raises(ValueError, match="epoch start: an entry of 70010 bytes"):
        batch.EpochStart("o" * 70_000, 0).encode()


def test_an_enrolment_has_a_key_exactly_if_the_device_signs() -> None:
    with pytest.raises(ValueError, match="attestation 1"):
        batch.DeviceEnrolment(BOOT, 1, Attestation.GATEWAY, ROOT)
    with pytest.raises(ValueError, match="attestation 1"):
        batch.DeviceEnrolment(BOOT, 1, Attestation.DEVICE)


@given(HASHES, st.integers(0, 2**40))
def test_a_salt_is_the_start_of_an_hmac_over_the_leaf_index(
    key: bytes, index: int
) -> None:
    message = index.to_bytes(8, "big")
    expected = hmac.new(key, message, hashlib.sha256).digest()[:16]
    assert batch.salt(key, index) == expected


def test_a_leaf_is_the_hash_of_salt_and_record() -> None:
    expected = hashlib.sha256(b"\0" + b"s" * 16 + b"record").digest()
    assert batch.batch_leaf(b"s" * 16, b"record") == expected
    with pytest.raises(ValueError, match="a salt of 15 bytes"):
        batch.batch_leaf(b"s" * 15, b"record")


@pytest.mark.parametrize(
    ("count", "total"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (256, 256), (257, 512)]
)
def test_a_batch_is_padded_with_random_hashes_to_a_power_of_two(
    count: int, total: int
) -> None:
    hashes = [tlog.leaf_hash(b"%d" % at) for at in range(count)]
    asked = []

    def randomness(size: int) -> bytes:
        asked.append(size)
        return bytes(at % 251 for at in range(size))

    padded = batch.padded(hashes, randomness)
    assert len(padded) == total
    assert padded[:count] == hashes
    assert asked == ([32 * (total - count)] if total > count else [])
    assert b"".join(padded[count:]) == bytes(
        at % 251 for at in range(32 * (total - count))
    )


def test_a_batch_is_padded_only_with_enough_randomness_and_never_empty() -> None:
    with pytest.raises(ValueError, match="31 random bytes for 1 hashes"):
        batch.padded([ROOT] * 3, lambda _: bytes(31))
    with pytest.raises(ValueError, match="leaf 0"):
        batch.padded([], bytes)


@given(st.integers(0, 7), st.data())
def test_a_path_leads_from_every_leaf_to_the_batch_root(
    height: int, data: st.DataObject
) -> None:
    hashes = [tlog.leaf_hash(b"%d" % at) for at in range(1 << height)]
    index = data.draw(st.integers(0, len(hashes) - 1))
    path = batch.batch_path(hashes, index)
    assert len(path) == height
    found = tlog.root_from_inclusion(index, len(hashes), hashes[index], path)
    assert found == batch.batch_root(hashes) == tlog.tree_root(hashes)


def test_an_unpadded_batch_has_neither_root_nor_path() -> None:
    """Its root would tell a stranger the count of readings."""
    with pytest.raises(ValueError, match="3 leaf hashes are no power of two"):
        batch.batch_root([ROOT] * 3)
    with pytest.raises(ValueError, match="3 leaf hashes"):
        batch.batch_path([ROOT] * 3, 0)
    with pytest.raises(ValueError, match="no leaf 4"):
        batch.batch_path([ROOT] * 4, 4)


def test_the_sample_history_holds_every_kind_of_entry() -> None:
    """Other tests break it on purpose, so it has to have something of each."""
    kinds = {type(one) for one in ledger_files.sample_entries(24)}
    assert len(kinds) == 6
