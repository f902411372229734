"""The tlog-policy file: every mistake has its line, and the quorum is what it says."""

from __future__ import annotations

from itertools import combinations

import ledger_files
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import RejectError
from edge.ledger import note, policy
from edge.ledger.note import Verifier
from edge.ledger.policy import Group, Policy, parse_policy

LOG = ledger_files.VERIFIER


def witness(number: int, kind: int = note.COSIGNATURE) -> Verifier:
    seed = number.to_bytes(32, "big")
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Verifier(f"w{number}.example", key, kind)


KEYS = {f"w{at}": witness(at).vkey for at in range(1, 7)}
DEFINED = "".join(f"witness {name} {vkey}\n" for name, vkey in KEYS.items())
TWO_LEVELS = f"""{DEFINED}
group X 2 w1 w2 w3
group Y any w4 w5 w6
group both all X Y
quorum both
"""


def parsed(text: str) -> Policy:
    return parse_policy(text.encode())


# --- what is read -------------------------------------------------------------------


def test_a_policy_of_logs_witnesses_groups_and_quorum_is_read() -> None:
    found = parsed(
        "# whoever may look\n"
        f"log {LOG.vkey} https://clinic.example/ledger/\n"
        "\n \t \n"
        f"\twitness  w1 \t{KEYS['w1']}  https://w1.example/ \n"
        f"witness w2 {KEYS['w2']}\n"
        "  # one is enough\n"
        "group some any w1 w2\n"
        "quorum some\n"
    )
    assert found == Policy(
        logs=(LOG,),
        witnesses={"w1": witness(1), "w2": witness(2)},
        groups={"some": Group(1, ("w1", "w2"))},
        quorum="some",
    )


def test_the_smallest_policies_are_read() -> None:
    """Only the quorum is mandatory."""
    assert parsed("quorum none\n") == Policy((), {}, {}, None)
    assert parsed("quorum none") == Policy((), {}, {}, None)
    assert parsed(f"witness w {KEYS['w1']}\nquorum w\n").quorum == "w"


def test_lines_may_follow_the_quorum() -> None:
    found = parsed(f"quorum none\n{DEFINED}log {LOG.vkey}\n")
    assert len(found.witnesses) == 6
    assert found.logs == (LOG,)


def test_all_any_and_a_number_are_thresholds() -> None:
    for word, threshold in (("all", 3), ("any", 1), ("1", 1), ("2", 2), ("3", 3)):
        groups = parsed(f"{DEFINED}group g {word} w1 w3 w5\nquorum g").groups
        assert groups["g"] == Group(threshold, ("w1", "w3", "w5"))


def test_a_name_is_octets_and_need_not_be_text() -> None:
    """A Kelvin sign is no K, and what is not UTF-8 has names too."""
    key = [KEYS[name].encode() for name in ("w1", "w2", "w3")]
    found = parse_policy(
        b"witness K %s\nwitness \xe2\x84\xaa %s\nwitness \xff\x80 %s\n" % tuple(key)
        + b"group all all K \xe2\x84\xaa \xff\x80\n# \xff\nquorum all\n"
    )
    assert len(found.witnesses) == 3
    assert not found.is_met(list(found.witnesses)[:2])
    assert found.is_met(found.witnesses)
    with pytest.raises(RejectError, match="line 2: no witness or group"):
        parse_policy(b"witness K %s\nquorum \xe2\x84\xaa\n" % key[0])


def test_only_space_and_tab_separate_items() -> None:
    """To Python's own split a no-break space is one too."""
    for space in ("\u00a0", "\u2003", "\u0085", "\u2028"):
        with pytest.raises(RejectError, match=r"line 1: 'witness.* is not log"):
            parsed(f"witness{space}w {KEYS['w1']}\nquorum none")
        name = f"a{space}b"
        found = parsed(f"witness {name} {KEYS['w1']}\nquorum {name}\n")
        assert list(found.witnesses) == [name]


def test_keys_of_ml_dsa_are_read_and_told_apart() -> None:
    pq = ledger_files.ML_DSA_WITNESS
    log = Verifier("pq-log.example", bytes(1312), note.ML_DSA_44)
    found = parsed(f"log {log.vkey}\nwitness w {pq.vkey}\nquorum w\n")
    assert found.logs == (log,)
    assert found.witnesses == {"w": pq}
    assert not found.logs[0].understood


# --- mistakes -----------------------------------------------------------------------

SMALL_ORDER = Verifier("small.example", bytes(32), note.COSIGNATURE).vkey
SAME_KEY = Verifier("other.example", witness(1).public_key, note.COSIGNATURE).vkey
SAME_LOG_KEY = Verifier("other.example", LOG.public_key).vkey
RAW = b"witness w w.example+00000000+AAAA"


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("", ["line 1: the end, and no quorum line"]),
        (DEFINED, ["line 7: the end, and no quorum line"]),
        ("quorum none\nquorum none", ["line 2: a quorum stands in line 1 already"]),
        ("quorum", ["line 1: not of the form `quorum <name>|none`"]),
        ("quorum none none", ["line 1: not of the form `quorum"]),
        ("quorum w1", ["line 1: no witness or group 'w1' stands above"]),
        (
            f"quorum w1\nwitness w1 {KEYS['w1']}",
            ["line 1: no witness or group 'w1' stands above"],
        ),
        ("Quorum none\nquorum none", ["line 1: 'Quorum' is not log, witness,"]),
        ("quorum none # all\n", ["line 1: not of the form"]),
        ("log\nquorum none", ["line 1: not of the form `log <vkey> [<url>]`"]),
        (f"log {LOG.vkey} u more\nquorum none", ["line 1: not of the form `log"]),
        ("log nonsense\nquorum none", ["line 1: a verifier key is"]),
        (f"log {LOG.vkey}x\nquorum none", ["line 1: "]),
        (
            f"log {KEYS['w1']}\nquorum none",
            ["line 1: a log's key is of type 0x01 or 0x06, not 0x04"],
        ),
        (
            f"log {LOG.vkey}\nlog {SAME_LOG_KEY}\nquorum none",
            ["line 2: the key of other.example stands in line 1"],
        ),
        ("witness w1\nquorum none", ["line 1: not of the form `witness <name>"]),
        (f"witness w {KEYS['w1']} u m\nquorum none", ["line 1: not of the form"]),
        (
            f"witness w {LOG.vkey}\nquorum none",
            ["line 1: a witness's key is of type 0x04 or 0x06, not 0x01"],
        ),
        (
            f"witness w {SMALL_ORDER}\nquorum none",
            ["line 1: the key of small.example: a point of small order"],
        ),
        (
            f"witness a {KEYS['w1']}\nwitness b {SAME_KEY}\nquorum none",
            ["line 2: the key of other.example stands in line 1"],
        ),
        (
            f"witness a {KEYS['w1']}\nwitness a {KEYS['w2']}\nquorum a",
            ["line 2: 'a' is defined in line 1 already"],
        ),
        (f"witness none {KEYS['w1']}\nquorum none", ["line 1: nothing may be called"]),
        ("group g any\nquorum none", ["line 1: not of the form `group <name>"]),
        (f"{DEFINED}group none any w1\nquorum none", ["line 7: nothing may be called"]),
        (
            f"{DEFINED}group w2 any w1\nquorum none",
            ["line 7: 'w2' is defined in line 2 already"],
        ),
        (
            f"{DEFINED}group g any none\nquorum g",
            ["line 7: no witness or group 'none' stands above"],
        ),
        (
            f"{DEFINED}group g any g\nquorum g",
            ["line 7: no witness or group 'g' stands above"],
        ),
        (
            f"{DEFINED}group g any h\ngroup h any w1\nquorum g",
            ["line 7: no witness or group 'h' stands above"],
        ),
        (
            f"{DEFINED}group g any w1 w1\nquorum g",
            ["line 7: 'w1' is a member of a group in line 7 already"],
        ),
        (
            f"{DEFINED}group g any w1\ngroup h any w2 w1\nquorum g",
            ["line 8: 'w1' is a member of a group in line 7 already"],
        ),
        *(
            (
                f"{DEFINED}group g {k} w1 w2\nquorum g",
                [f"line 7: {k!r} is not all, any or 1 to 2"],
            )
            for k in ("0", "3", "02", "-1", "+1", "1.0", "ALL", "some", "9" * 40, "²")
        ),
        (
            f"witness a nonsense\ngroup g any b\nfoo\nwitness c {KEYS['w1']}\nquorum a",
            ["line 1: ", "line 2: no witness or group 'b'", "line 3: 'foo'"],
        ),
    ],
)
def test_every_mistake_is_told_with_its_line(text: str, mistakes: list[str]) -> None:
    with pytest.raises(RejectError) as caught:
        parsed(text)
    told = str(caught.value).split("; ")
    assert len(told) == len(mistakes), told
    for one, expected in zip(told, mistakes, strict=True):
        assert one.startswith(expected)


@pytest.mark.parametrize("octet", [0x00, 0x08, 0x0B, 0x0C, 0x0D, 0x1B, 0x1F, 0x7F])
def test_a_control_character_is_refused_with_its_line_and_column(octet: int) -> None:
    content = b"# first\nquorum none" + bytes([octet]) + b"\n"
    with pytest.raises(RejectError, match=f"line 2: .*0x{octet:02x} in column 12"):
        parse_policy(content)
    comment = b"#" + bytes([octet]) + b"\nquorum none\n"
    with pytest.raises(RejectError, match="line 1: "):
        parse_policy(comment)


def test_two_keys_of_one_name_and_id_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four bytes of a key id can be made to collide: then nobody knows who signed."""
    monkeypatch.setattr(Verifier, "key_id", bytes(4))
    log = Verifier("same.example", LOG.public_key)
    one, other = (
        Verifier("same.example", witness(at).public_key, note.COSIGNATURE)
        for at in (1, 2)
    )
    for first, second in (
        (f"log {log.vkey}", f"witness w {one.vkey}"),
        (f"witness v {other.vkey}", f"witness w {one.vkey}"),
    ):
        reason = "line 2: the key of same.example stands in line 1"
        with pytest.raises(RejectError, match=reason):
            parsed(f"{first}\n{second}\nquorum none")


def test_one_mistake_is_told_once() -> None:
    """Names of lines that are wrong are known, so what uses them is not wrong too."""
    text = "witness a nonsense\ngroup g any a b\ngroup h any g\nquorum h\n"
    with pytest.raises(RejectError) as caught:
        parsed(text)
    assert [one.split(":")[0] for one in str(caught.value).split("; ")] == [
        "line 1",
        "line 2",
    ]


def test_many_mistakes_are_counted() -> None:
    with pytest.raises(RejectError, match=r"line 20: .*; and 5 more$"):
        parsed("nonsense\n" * 24)


def test_the_limits_are_those_that_are_named() -> None:
    """At least 32 of each are asked for; one more than ours is refused."""
    ours = (policy.LOG_COUNT_MAX, policy.WITNESS_COUNT_MAX, policy.GROUP_COUNT_MAX)
    assert min(ours) >= 32
    count = policy.WITNESS_COUNT_MAX
    logs = [f"log {witness(at, note.ED25519).vkey}" for at in range(1, count + 2)]
    witnesses = [
        f"witness w{at} {witness(at + 500).vkey}" for at in range(1, count + 2)
    ]
    groups = [f"group g{at} 1 w{at}" for at in range(1, count + 1)]
    most = [*logs[:-1], *witnesses[:-1], *groups, "quorum g1"]
    found = parsed("\n".join(most))
    assert (len(found.logs), len(found.witnesses), len(found.groups)) == ours
    for more, word in (
        (logs[-1], "log"),
        (witnesses[-1], "witness"),
        ("group x 1 g1", "group"),
    ):
        with pytest.raises(RejectError, match=f"line 194: more than 64 lines `{word}`"):
            parsed("\n".join([*most, more]))
    with pytest.raises(RejectError, match="a policy of more than"):
        parse_policy(b"#" * (policy.POLICY_SIZE_MAX + 1))


# --- what it decides ----------------------------------------------------------------


def test_two_levels_of_groups_decide_as_the_specification_says() -> None:
    """Its own example: two of the X and one of the Y, over all 64 sets of signers."""
    found = parsed(TWO_LEVELS)
    for count in range(7):
        for chosen in map(set, combinations(KEYS, count)):
            x = len(chosen & {"w1", "w2", "w3"})
            y = len(chosen & {"w4", "w5", "w6"})
            assert found.is_met(chosen) is (x >= 2 and y >= 1)
            assert (not found.lacking(chosen)) is found.is_met(chosen)


@pytest.mark.parametrize(
    ("signers", "lacking"),
    [
        (
            "",
            [
                "2 of X, Y (group both)",
                "2 of w1, w2, w3 (group X)",
                "1 of w4, w5, w6 (group Y)",
            ],
        ),
        ("w2 w5", ["1 of X (group both)", "1 of w1, w3 (group X)"]),
        ("w1 w3", ["1 of Y (group both)", "1 of w4, w5, w6 (group Y)"]),
        ("w1 w3 w6", []),
    ],
)
def test_what_is_lacking_names_the_witnesses_of_each_group(
    signers: str, lacking: list[str]
) -> None:
    assert parsed(TWO_LEVELS).lacking(signers.split()) == lacking


def test_a_quorum_of_one_witness_or_none_needs_no_group() -> None:
    one = parsed(f"{DEFINED}quorum w2\n")
    assert one.is_met({"w2"})
    assert one.lacking({"w1"}) == ["witness w2"]
    none = parsed(f"{DEFINED}quorum none\n")
    assert none.is_met(set())
    assert none.lacking(set()) == []


def test_the_deepest_chain_of_groups_is_decided() -> None:
    lines = [f"witness w {KEYS['w1']}", "group g1 all w"]
    lines += [f"group g{at} all g{at - 1}" for at in range(2, 65)]
    found = parsed("\n".join([*lines, "quorum g64"]))
    assert found.is_met({"w"})
    assert len(found.lacking(set())) == 64


def test_the_cosigners_of_a_note_are_named_as_in_the_policy() -> None:
    checkpoint = ledger_files.signed_checkpoint(1, bytes(32))
    content = ledger_files.cosigned(
        checkpoint, ["witness-3.example", "witness-1.example"]
    )
    content += ledger_files.ml_dsa_line()
    found = parsed(ledger_files.policy_text())
    checked = note.check_note(content, [*found.logs, *found.witnesses.values()])
    cosigned = found.cosignatures(checked)
    assert list(cosigned) == ["w1", "w3"]
    assert {one.time_s for one in cosigned.values()} == {ledger_files.COSIGNED_S}
    assert found.is_met(cosigned)


# --- anything -----------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        *("log", "witness", "group", "quorum", "none", "all", "any", "0", "1", "2"),
        *("a", "b", "w1", "#", LOG.vkey, KEYS["w1"], KEYS["w2"], "\t", "é", "\x7f"),
    ]
)
LINES = st.lists(st.lists(WORDS, max_size=6).map(" ".join), max_size=12)


@given(st.binary(max_size=200) | LINES.map("\n".join).map(str.encode))
def test_parsing_a_policy_gives_a_policy_or_a_refusal(content: bytes) -> None:
    """And what it gives can be evaluated, for nobody and for everybody."""
    try:
        found = parse_policy(content)
    except RejectError:
        return
    assert found.is_met(found.witnesses)
    assert found.is_met(()) is (found.quorum is None)
