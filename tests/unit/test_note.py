"""Signed notes and checkpoints: strict where two readings would be possible."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RejectError
from edge.ledger import note, tlog
from edge.ledger.note import Checkpoint, Verifier

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
LOG = Verifier("clinic.example/ward-3", PUBLIC)
TEXT = "clinic.example/ward-3\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
SIGNED = note.sign_note(TEXT, LOG, KEY.sign)


def signed_by(names: list[str]) -> bytes:
    """The note with a signature line for each of these names."""
    lines = [note.sign_note(TEXT, Verifier(name, PUBLIC), KEY.sign) for name in names]
    tails = [one.decode().rpartition("\n\n")[2] for one in lines]
    return f"{TEXT}\n{''.join(tails)}".encode()


def test_a_verifier_key_is_name_key_id_and_type_with_key() -> None:
    """Computed here by hand, as the specification's section on key ids says."""
    key = b"\x01" + PUBLIC
    key_id = sha256(b"clinic.example/ward-3\n" + key).digest()[:4]
    assert LOG.key_id == key_id
    assert LOG.vkey == f"clinic.example/ward-3+{key_id.hex()}+{b64encode(key).decode()}"
    assert note.parse_vkey(LOG.vkey) == LOG


@given(st.binary(min_size=32, max_size=32))
def test_every_verifier_key_is_read_back(key: bytes) -> None:
    """Base64 may hold a plus sign, which also separates the parts."""
    verifier = Verifier("log", key)
    assert note.parse_vkey(verifier.vkey) == verifier


VKEY = LOG.vkey
ENCODED = VKEY.split("+", 2)[2]


@pytest.mark.parametrize(
    ("vkey", "reason"),
    [
        ("", "a verifier key is"),
        (f"{LOG.name}+{LOG.key_id.hex()}", "a verifier key is"),
        (VKEY[:-1], "base64"),
        (VKEY + "\n", "base64"),
        ("x" + VKEY, "the key id should be"),
        (f"{LOG.name}+{LOG.key_id.hex().upper()}+{ENCODED}", "the key id should be"),
        (VKEY.replace("ward-3", "ward 3"), "name of a key"),
        (VKEY.replace(LOG.name, ""), "name of a key"),
        (VKEY.replace(LOG.name, "\udc80"), "name of a key"),
        (VKEY.replace("+AQ", "+Ag"), "type 0x01"),
        ("log+00000000+", "type 0x01"),
        ("log+00000000+" + b64encode(bytes([1] * 32)).decode(), "31 bytes"),
        ("log+00000000+" + b64encode(bytes([4] * 34)).decode(), "33 bytes"),
        ("log+00000000+" + b64encode(bytes([6] * 33)).decode(), "32 bytes"),
        (VKEY.replace("+AQ", "+BA"), "the key id should be"),
    ],
)
def test_a_verifier_key_with_a_mistake_is_refused(vkey: str, reason: str) -> None:
    with pytest.raises(RejectError, match=reason):
        note.parse_vkey(vkey)


def test_a_note_is_text_empty_line_and_signature() -> None:
    line = b64encode(LOG.key_id + KEY.sign(TEXT.encode())).decode()
    assert f"{TEXT}\n— {LOG.name} {line}\n".encode() == SIGNED


def test_verified_and_unverified_signatures_are_kept_apart() -> None:
    opened = note.open_note(signed_by(["other", LOG.name]), [LOG])
    assert opened.text == TEXT
    assert [one.name for one in opened.verified] == [LOG.name]
    assert [one.name for one in opened.unverified] == ["other"]


def test_a_note_with_many_signatures_is_read() -> None:
    """At least 16 are demanded by the specification, for witnesses."""
    names = [f"witness-{at}" for at in range(99)]
    opened = note.open_note(signed_by([*names, LOG.name]), [LOG])
    assert [one.name for one in opened.unverified] == names
    with pytest.raises(RejectError, match="more than 100 signatures"):
        note.open_note(signed_by([*names, "one more", LOG.name][:99] * 2), [LOG])


def test_the_note_is_divided_at_its_last_empty_line() -> None:
    text = "first\n\nsecond\n"
    assert note.open_note(note.sign_note(text, LOG, KEY.sign), [LOG]).text == text


def test_a_note_that_no_known_key_signed_is_refused() -> None:
    with pytest.raises(RejectError, match="not signed by a key that we know"):
        note.open_note(signed_by(["other"]), [LOG])
    with pytest.raises(RejectError, match="not signed by a key that we know"):
        note.open_note(SIGNED, [])
    assert note.parse_note(SIGNED).signatures[0].name == LOG.name


def test_one_wrong_signature_of_a_known_key_refuses_the_note() -> None:
    """Even beside a good one: somebody tried something."""
    other = Verifier(
        "other", Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    )
    wrong = note.Signature("other", other.key_id, bytes(64)).line.encode()
    with pytest.raises(RejectError, match="signature by other is wrong"):
        note.open_note(SIGNED + wrong, [LOG, other])
    assert note.open_note(SIGNED + wrong, [LOG]).verified
    short = note.Signature(LOG.name, LOG.key_id, bytes(63)).line.encode()
    with pytest.raises(RejectError, match="is wrong"):
        note.open_note(SIGNED + short, [LOG])
    with pytest.raises(ValueError, match="two verifiers"):
        note.open_note(SIGNED, [LOG, LOG])


def test_a_repeated_signature_counts_once() -> None:
    """A quorum must not be filled by one witness twice."""
    line = SIGNED.rpartition(b"\n\n")[2]
    assert len(note.open_note(SIGNED + line, [LOG]).verified) == 1


def test_a_changed_byte_anywhere_refuses_the_note() -> None:
    for at in range(len(SIGNED)):
        for bit in (1, 0x20, 0x80):
            changed = bytearray(SIGNED)
            changed[at] ^= bit
            with pytest.raises(RejectError):
                note.open_note(bytes(changed), [LOG])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        TEXT.encode(),
        SIGNED[:-1],
        SIGNED + b"\n",
        SIGNED + b"more\n",
        SIGNED.replace(b"\n", b"\r\n"),
        SIGNED.replace("—".encode(), b"-"),
        SIGNED.replace(b"ward-3 ", b"ward-3  "),
        SIGNED[:-1] + b" \n",
        b"\xff" + SIGNED,
        TEXT.encode() + "\n— name AAAAAA==\n".encode(),
        TEXT.encode() + "\n— na+me AAAAAAA=\n".encode(),
        b"x" * note.NOTE_SIZE_MAX + SIGNED,
    ],
)
def test_what_is_not_a_note_is_refused(content: bytes) -> None:
    with pytest.raises(RejectError):
        note.parse_note(content)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_parsing_a_note_gives_a_note_or_a_refusal(content: bytes) -> None:
    try:
        parsed = note.parse_note(content)
    except RejectError:
        return
    lines = "".join(one.line for one in parsed.signatures)
    assert f"{parsed.text}\n{lines}".encode() == content


@pytest.mark.parametrize("text", ["no line feed", "a tab\t\n"])
def test_we_sign_no_text_that_we_would_not_read(text: str) -> None:
    with pytest.raises(ValueError, match="lines without control"):
        note.sign_note(text, LOG, KEY.sign)


def test_a_text_with_control_characters_is_refused_though_it_is_signed() -> None:
    """It could show on a terminal as something else than what was signed."""
    text = "clinic.example\x1b[2K\n"
    signature = note.Signature(LOG.name, LOG.key_id, KEY.sign(text.encode()))
    with pytest.raises(RejectError, match="control character at byte 14"):
        note.open_note(f"{text}\n{signature.line}".encode(), [LOG])


def test_base64_has_one_form_for_each_value() -> None:
    """Stray bits, missing padding, white space: other bytes with the same meaning."""
    assert note.decode_base64("AAE=") == b"\0\1"
    for text in ("AAF=", "AAE", "AA E=", "AAE=\n", "AAE==", "-_8=", "AAÉ="):
        with pytest.raises(RejectError, match="base64"):
            note.decode_base64(text)


def test_a_checkpoint_is_origin_size_and_root() -> None:
    empty = Checkpoint("clinic.example/ward-3", 0, tlog.EMPTY_ROOT)
    assert empty.text == TEXT
    assert note.parse_checkpoint(TEXT) == empty
    extended = Checkpoint("o", 2**63 - 1, bytes(32), ("one", "two"))
    assert note.parse_checkpoint(extended.text) == extended


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has the lines"),
        ("o\n1\n", "has the lines"),
        (f"o\n1\n{'A' * 43}=", "has the lines"),
        (f"\n1\n{'A' * 43}=\n", "line 1"),
        (f"o\n01\n{'A' * 43}=\n", "line 2"),
        (f"o\n-1\n{'A' * 43}=\n", "line 2"),
        (f"o\n+1\n{'A' * 43}=\n", "line 2"),
        (f"o\n 1\n{'A' * 43}=\n", "line 2"),
        (f"o\n1_0\n{'A' * 43}=\n", "line 2"),
        (f"o\n١\n{'A' * 43}=\n", "line 2"),
        (f"o\n\n{'A' * 43}=\n", "line 2"),
        (f"o\n{2**63}\n{'A' * 43}=\n", "line 2"),
        (f"o\n{'1' * 5000}\n{'A' * 43}=\n", "line 2"),
        ("o\n1\nAAAA\n", "line 3"),
        (f"o\n1\n{'A' * 42}B=\n", "line 3"),
        (f"o\n0\n{'A' * 43}=\n", "line 3"),
        (f"o\n1\n{'A' * 43}=\next\n\n", "line 5"),
    ],
)
def test_a_checkpoint_with_a_mistake_is_refused_with_its_line(
    text: str, reason: str
) -> None:
    with pytest.raises(RejectError, match=reason):
        note.parse_checkpoint(text)


# --- cosignatures -------------------------------------------------------------------

WITNESS = Verifier("witness.example/w1", PUBLIC, note.COSIGNATURE)
PQ = Verifier("pq.example", bytes(1312), note.ML_DSA_44)
TIME_S = 1_679_315_147
COSIGNED = SIGNED + note.cosign(TEXT, WITNESS, TIME_S, KEY.sign).line.encode()


def test_a_cosignature_is_a_timestamp_and_a_signature_over_time_and_text() -> None:
    """By hand, as tlog-cosignature's sections on the format and the message say."""
    message = b"cosignature/v1\ntime 1679315147\n" + TEXT.encode()
    signed = TIME_S.to_bytes(8, "big") + KEY.sign(message)
    key_id = sha256(b"witness.example/w1\n\x04" + PUBLIC).digest()[:4]
    line = f"— witness.example/w1 {b64encode(key_id + signed).decode()}\n"
    assert line.encode() == COSIGNED.removeprefix(SIGNED)


def test_a_witness_key_of_either_type_is_read_back() -> None:
    for verifier in (WITNESS, PQ):
        assert note.parse_vkey(verifier.vkey) == verifier
    assert WITNESS.key_id != Verifier(WITNESS.name, PUBLIC).key_id
    assert (LOG.understood, WITNESS.understood, PQ.understood) == (True, True, False)
    with pytest.raises(RejectError, match="unknown type 0x05"):
        Verifier("log", PUBLIC, 5)


def test_a_good_cosignature_is_found_with_its_time() -> None:
    opened = note.open_note(COSIGNED, [LOG, WITNESS])
    found = opened.signature_by(WITNESS)
    assert found is not None
    assert found.time_s == TIME_S
    assert opened.signature_by(LOG) is not None
    assert opened.signature_by(Verifier(WITNESS.name, PUBLIC)) is None
    assert not opened.unverified


def wrong_cosignatures() -> list[bytes]:
    good = note.cosign(TEXT, WITNESS, TIME_S, KEY.sign).signature
    return [
        (TIME_S + 1).to_bytes(8, "big") + good[8:],  # another time than was signed
        TIME_S.to_bytes(8, "big") + KEY.sign(TEXT.encode()),  # as a log signs
        good[:-1],
        good + b"\0",
        good[8:],
        b"\0",
        (2**63).to_bytes(8, "big")
        + KEY.sign(note.cosigned_message(TEXT.encode(), 2**63)),
    ]


@pytest.mark.parametrize("signature", wrong_cosignatures())
def test_a_wrong_cosignature_of_a_known_key_refuses_the_note(signature: bytes) -> None:
    """Beside the log's good one too: somebody tried something."""
    line = note.Signature(WITNESS.name, WITNESS.key_id, signature).line.encode()
    with pytest.raises(RejectError, match=r"signature by witness.example/w1 is wrong"):
        note.open_note(SIGNED + line, [LOG, WITNESS])
    assert note.open_note(SIGNED + line, [LOG]).unverified


def test_the_last_second_that_a_timestamp_can_say_is_taken() -> None:
    line = note.cosign(TEXT, WITNESS, 2**63 - 1, KEY.sign).line.encode()
    assert note.open_note(SIGNED + line, [WITNESS]).verified
    for time_s in (-1, 2**63):
        with pytest.raises(ValueError, match="seconds since 1970"):
            note.cosign(TEXT, WITNESS, time_s, KEY.sign)
    with pytest.raises(ValueError, match="type 0x04"):
        note.cosign(TEXT, LOG, 0, KEY.sign)


def test_a_logs_signature_is_no_cosignature_and_the_other_way_round() -> None:
    """One key for both types, which nobody should have; the types stay apart."""
    message = TEXT.encode()
    as_log = note.Signature(WITNESS.name, WITNESS.key_id, KEY.sign(message))
    with pytest.raises(RejectError, match="is wrong"):
        note.open_note(f"{TEXT}\n{as_log.line}".encode(), [WITNESS])
    cosigned = note.cosign(TEXT, WITNESS, TIME_S, KEY.sign).signature
    as_witness = note.Signature(LOG.name, LOG.key_id, cosigned[8:])
    with pytest.raises(RejectError, match="is wrong"):
        note.open_note(f"{TEXT}\n{as_witness.line}".encode(), [LOG])


@pytest.mark.parametrize("signature", [b"\0", bytes(2428), b"anything at all"])
def test_a_signature_of_ml_dsa_is_recognised_and_never_an_error(
    signature: bytes,
) -> None:
    line = note.Signature(PQ.name, PQ.key_id, signature).line.encode()
    opened = note.open_note(SIGNED + line, [LOG, PQ])
    assert opened.mentions(PQ)
    assert opened.signature_by(PQ) is None
    assert [one.name for one in opened.verified] == [LOG.name]
    assert not opened.unverified
    alone = f"{TEXT}\n".encode() + line
    assert note.check_note(alone, [LOG, PQ]).mentions(PQ)
    with pytest.raises(RejectError, match="not signed by a key that we know"):
        note.open_note(alone, [LOG, PQ])


def test_the_cosigned_message_is_that_of_the_specifications_example() -> None:
    """A public fact: origin, size and root of tlog-cosignature's example."""
    message = note.cosigned_message(
        b"example.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n",
        1_679_315_147,
    )
    assert message == (
        b"cosignature/v1\n"
        b"time 1679315147\n"
        b"example.com/behind-the-sofa\n"
        b"20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
