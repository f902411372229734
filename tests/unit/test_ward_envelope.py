"""The devices' own codec, against cbor2 and a second Ed25519, and the vector files."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from firmware_sim.envelope import (
    METRIC_KEYS,
    Sample,
    Signer,
    Tagged,
    cbor,
    number,
    payload,
    senml,
)

VECTORS = Path(__file__).parents[1] / "vectors"
ITEMS = st.recursive(
    st.integers(-(2**64), 2**64 - 1) | st.binary() | st.text() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=30)
        | st.dictionaries(st.integers(-100, 2**40) | st.text(), inner, max_size=30)
    ),
    max_leaves=30,
)
DECIMALS = st.builds(
    lambda mantissa, exponent: Decimal(mantissa).scaleb(exponent),
    st.integers(-(10**9), 10**9),
    st.integers(-9, 9),
)


@given(ITEMS)
def test_cbor2_has_the_same_deterministic_bytes(item: object) -> None:
    """An encoder that we did not write agrees, byte for byte.

    cbor2's canonical mode sorts by length first (RFC 7049); the two orders are the
    same for maps whose keys are all numbers, so its decoder judges the others.
    """
    encoded = cbor(item)
    assert cbor2.loads(encoded) == item
    if not _has_text_keys(item):
        assert encoded == cbor2.dumps(item, canonical=True)


def _has_text_keys(item: object) -> bool:
    if isinstance(item, dict):
        mixed = any(not isinstance(key, int) or key < 0 for key in item)
        return mixed or any(map(_has_text_keys, item.values()))
    return isinstance(item, list) and any(map(_has_text_keys, item))


def test_map_keys_stand_in_the_order_of_their_encoded_bytes() -> None:
    """The example of RFC 8949 section 4.2.1: 10, 100, -1, "z", "aa"."""
    encoded = cbor({"aa": 0, 100: 0, -1: 0, "z": 0, 10: 0})
    assert encoded.hex() == "a50a001864002000617a0062616100"


def test_what_has_no_encoding_is_a_type_error() -> None:
    """A float slipped in is a mistake of ours and not a message."""
    with pytest.raises(TypeError):
        cbor(36.7)
    with pytest.raises(ValueError, match="64 bits"):
        cbor(2**64)


@given(DECIMALS)
def test_a_number_is_exactly_its_decimal(value: Decimal) -> None:
    """cbor2 reads tag 4 as a Decimal of its own."""
    assert cbor2.loads(cbor(number(value))) == value


def test_a_decimal_fraction_has_the_bytes_of_the_document() -> None:
    """c4 82 20 19 016f is 36.7 in docs/wire-format.md."""
    assert cbor(number(Decimal("36.7"))).hex() == "c4822019016f"
    assert cbor(number(Decimal("37.0"))).hex() == "c48220190172"


def test_an_envelope_is_the_cose_message_of_the_document() -> None:
    """Decoded by cbor2, verified by libsodium."""
    signer = Signer(bytes(range(32)))
    samples = [
        Sample({"heart_rate": Decimal(72), "acvpu": "A"}, offset_ms=-5),
        Sample({"body_temperature": Decimal("36.7")}),
    ]
    body = payload("bed-1", "vitals", 7, 1_790_000_000_000, samples, backlog=True)
    message = cbor2.loads(signer.envelope(body))
    assert message.tag == 18
    protected, unprotected, signed, signature = message.value
    kid = hashlib.sha256(signer.public_key).digest()[:8]
    assert cbor2.loads(protected) == {1: -8, 4: kid}
    assert unprotected == {}
    assert cbor2.loads(signed) == {
        1: "bed-1",
        2: "vitals",
        3: 7,
        4: 1_790_000_000_000,
        5: [{0: -5, 1: 72, 13: "A"}, {3: Decimal("36.7")}],
        6: True,
    }
    structure = cbor2.dumps(["Signature1", protected, b"iomt/reading/v1", signed])
    VerifyKey(signer.public_key).verify(structure, signature)


def test_an_envelope_without_backlog_says_nothing_about_it() -> None:
    """Key 6 is true or absent."""
    assert 6 not in cbor2.loads(payload("d", "s", 1, 1, [Sample({"spo2": 97})]))


def test_the_metric_keys_are_those_of_the_document() -> None:
    """Read from the table of docs/wire-format.md, so neither moves alone."""
    document = (VECTORS.parents[1] / "docs" / "wire-format.md").read_text()
    rows = [line.split("|") for line in document.splitlines() if "| `" in line]
    table = {
        row[2].strip(" `"): int(row[1])
        for row in rows
        if row[1].strip().isdigit() and row[2].strip().startswith("`")
    }
    assert {name: key for name, key in table.items() if name in METRIC_KEYS} == (
        METRIC_KEYS
    )
    assert len(table) >= len(METRIC_KEYS) == 16


def test_senml_carries_unit_and_time_of_its_own() -> None:
    """Seconds since 1970 with the milliseconds, and a name after the base name."""
    body = senml("bed-5", 1_790_000_000_123, "body_temperature", "Cel", Decimal("36.7"))
    assert json.loads(body, parse_float=Decimal) == [
        {
            "bn": "bed-5/",
            "n": "body_temperature",
            "u": "Cel",
            "v": Decimal("36.7"),
            "t": Decimal("1790000000.123"),
        }
    ]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The script that writes the vectors."""
    spec = importlib.util.spec_from_file_location(
        "make_envelopes", VECTORS / "make_envelopes.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_vectors_are_what_their_generator_writes(
    generator: ModuleType,
) -> None:
    """A vector changed by hand, or a codec that changed, shows here."""
    committed = {
        path.name: path.read_text() for path in (VECTORS / "envelope").glob("*.json")
    }
    assert committed == generator.vectors()


def test_the_vectors_cover_both_answers_and_every_reason() -> None:
    """At least 12 good ones, 25 bad ones, and each reason an envelope can have."""
    vectors = [json.loads(p.read_text()) for p in (VECTORS / "envelope").glob("*.json")]
    reasons = {vector["reason"] for vector in vectors if "reason" in vector}
    assert reasons == {"malformed", "bad-signature", "wrong-topic", "too-large"}
    assert sum("reason" in vector for vector in vectors) >= 25
    assert sum("fields" in vector for vector in vectors) >= 12
    assert all(vector["why"] for vector in vectors)


def test_a_good_vector_says_its_fields_also_to_cbor2() -> None:
    """The expectations were not made by the decoder under test."""
    path = VECTORS / "envelope" / "good-monitor.json"
    vector = json.loads(path.read_text())
    _, _, signed, _ = cbor2.loads(bytes.fromhex(vector["envelope"])).value
    assert signed.hex() == vector["payload"]
    (reading,) = cbor2.loads(signed)[5]
    (expected,) = vector["fields"]["readings"]
    names = {key: name for name, key in METRIC_KEYS.items()}
    assert {names[k]: str(v) for k, v in reading.items()} == expected["values"]


def test_a_tag_wraps_any_item() -> None:
    """The bad vectors need tags that no device sends."""
    assert cbor(Tagged(2, b"\x01")).hex() == "c24101"
