"""The C2SP tlog-policy file: whose checkpoint counts, and which witnesses it needs.

    log <vkey> [<url>]                         any one of the logs may have signed
    witness <name> <vkey> [<url>]
    group <name> all|any|<k> <member>...       k of its members: witnesses, groups
    quorum <name>|none                         exactly one such line

One item after another, separated by spaces and tabs; lines that are empty or begin with
`#` mean nothing. A group and the quorum name what stands above them. Names are octets
that are compared and not understood, so a line need not be UTF-8 but for its vkey. The
octets allowed are tab, line feed, 0x20 to 0x7e and 0x80 to 0xff.

A log's key is of type 0x01, a witness's of type 0x04; type 0x06 (ML-DSA-44) is read for
both, and no signature of it is ever counted. Refused beyond the specification: a number
with a leading zero, a key that is no proper point of the curve (`ed25519.key_fault`:
one signature would do for many messages), two keys of one name and key id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from edge.errors import RejectError
from edge.ledger import ed25519
from edge.ledger.note import (
    COSIGNATURE,
    ED25519,
    ML_DSA_44,
    Note,
    Signature,
    Verifier,
    parse_vkey,
)

POLICY_SIZE_MAX = 512 * 1024  # 128 vkeys of ML-DSA-44 are 230 kB
LOG_COUNT_MAX = 64
WITNESS_COUNT_MAX = 64
GROUP_COUNT_MAX = 64
MISTAKES_SHOWN_MAX = 20
NO_QUORUM = "none"
_SPACE = re.compile(r"[ \t]+")
_FORBIDDEN = re.compile(rb"[^\t\x20-\x7e\x80-\xff]")
_THRESHOLD = re.compile(r"[1-9][0-9]{0,4}")


@dataclass(frozen=True, slots=True)
class Group:
    """Witnesses and earlier groups, of which `threshold` must have witnessed."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that obeys all the rules; `quorum` is None where none is asked for.

    Witnesses and groups are by their names in the file, which a key's name need not be.
    """

    logs: tuple[Verifier, ...]
    witnesses: Mapping[str, Verifier]
    groups: Mapping[str, Group]
    quorum: str | None

    def cosignatures(self, note: Note) -> dict[str, Signature]:
        """The good cosignature of each witness that made one, by the witness's name."""
        found = {
            name: note.signature_by(verifier)
            for name, verifier in self.witnesses.items()
        }
        return {name: one for name, one in found.items() if one is not None}

    def is_met(self, cosigners: Collection[str]) -> bool:
        """Whether these witnesses are enough."""
        return self.quorum is None or self._has_witnessed(self.quorum, cosigners)

    def lacking(self, cosigners: Collection[str]) -> list[str]:
        """What is missing, one text for each group that could still bring the quorum.

        Empty exactly when `is_met`.
        """
        if self.quorum is None:
            return []
        return self._lacking(self.quorum, cosigners)

    def _has_witnessed(self, name: str, cosigners: Collection[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in cosigners
        had = sum(self._has_witnessed(one, cosigners) for one in group.members)
        return had >= group.threshold

    def _lacking(self, name: str, cosigners: Collection[str]) -> list[str]:
        # Each name is a member at most once, so this visits each at most once.
        group = self.groups.get(name)
        if group is None:
            return [] if name in cosigners else [f"witness {name}"]
        rest = [one for one in group.members if not self._has_witnessed(one, cosigners)]
        wanted = group.threshold - (len(group.members) - len(rest))
        if wanted <= 0:
            return []
        found = [f"{wanted} of {', '.join(rest)} (group {name})"]
        for one in rest:
            if one in self.groups:
                found += self._lacking(one, cosigners)
        return found


def parse_policy(content: bytes) -> Policy:
    """The policy of this file; RejectError tells each mistake with its line."""
    if len(content) > POLICY_SIZE_MAX:
        raise RejectError(f"a policy of more than {POLICY_SIZE_MAX} bytes")
    parser = _Parser()
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            parser.take(line, number)
        except RejectError as error:
            parser.mistakes.append(f"line {number}: {error}")
    if not parser.quorum_line:
        parser.mistakes.append(f"line {len(lines)}: the end, and no quorum line")
    if parser.mistakes:
        shown = parser.mistakes[:MISTAKES_SHOWN_MAX]
        more = len(parser.mistakes) - len(shown)
        raise RejectError("; ".join(shown) + (f"; and {more} more" if more else ""))
    return Policy(
        tuple(parser.logs), parser.witnesses, parser.groups, parser.quorum or None
    )


class _Parser:
    """What the lines so far have defined.

    A name is defined even where the rest of its line is wrong, so that one mistake is
    told once.
    """

    def __init__(self) -> None:
        self.mistakes: list[str] = []
        self.logs: list[Verifier] = []
        self.witnesses: dict[str, Verifier] = {}
        self.groups: dict[str, Group] = {}
        self.quorum = ""
        self.quorum_line = 0
        self._lines: dict[str, int] = {}  # where each name was defined
        self._members: dict[str, int] = {}  # where each became a group's member
        self._keys: dict[tuple[str, bytes], int] = {}
        self._ids: dict[tuple[str, bytes], int] = {}
        self._counts = {"log": 0, "witness": 0, "group": 0}

    def take(self, line: bytes, number: int) -> None:
        forbidden = _FORBIDDEN.search(line)
        if forbidden:
            octet, place = forbidden[0][0], forbidden.start() + 1
            raise RejectError(f"the control character 0x{octet:02x} in column {place}")
        # Octets that are not UTF-8 come back as surrogates: one text for each octets.
        text = line.decode(errors="surrogateescape").strip(" \t")
        if not text or text.startswith("#"):
            return
        word, *items = _SPACE.split(text)
        if word not in _FORMS:
            raise RejectError(f"{_shown(word)} is not log, witness, group or quorum")
        form, least, most, define = _FORMS[word]
        if not least <= len(items) <= most:
            if word == "quorum":  # it is there, if wrong: that is not told twice
                self.quorum_line = self.quorum_line or number
            raise RejectError(f"not of the form {form}")
        define(self, items, number)

    def _count(self, word: str, most: int) -> None:
        self._counts[word] += 1
        if self._counts[word] > most:
            raise RejectError(f"more than {most} lines `{word}`")

    def _log(self, items: Sequence[str], number: int) -> None:
        self._count("log", LOG_COUNT_MAX)
        self.logs.append(self._key("log", items[0], ED25519, number))

    def _witness(self, items: Sequence[str], number: int) -> None:
        self._count("witness", WITNESS_COUNT_MAX)
        self._define(items[0], number)
        self.witnesses[items[0]] = self._key("witness", items[1], COSIGNATURE, number)

    def _group(self, items: Sequence[str], number: int) -> None:
        self._count("group", GROUP_COUNT_MAX)
        name, threshold, *members = items
        try:
            self._join(members, number)
        finally:  # only now: a group is not its own member
            self._define(name, number)
        wanted = {"all": str(len(members)), "any": "1"}.get(threshold, threshold)
        if not _THRESHOLD.fullmatch(wanted) or int(wanted) > len(members):
            raise RejectError(
                f"{_shown(threshold)} is not all, any or 1 to {len(members)}"
            )
        self.groups[name] = Group(int(wanted), tuple(members))

    def _join(self, members: Sequence[str], number: int) -> None:
        for one in members:
            self._check_known(one)
            if one in self._members:
                line = self._members[one]
                raise RejectError(
                    f"{_shown(one)} is a member of a group in line {line} already"
                )
            self._members[one] = number

    def _quorum(self, items: Sequence[str], number: int) -> None:
        if self.quorum_line:
            raise RejectError(f"a quorum stands in line {self.quorum_line} already")
        self.quorum_line = number
        if items[0] != NO_QUORUM:
            self._check_known(items[0])
            self.quorum = items[0]

    def _define(self, name: str, number: int) -> None:
        if name == NO_QUORUM:
            raise RejectError(f"nothing may be called {NO_QUORUM}")
        if name in self._lines:
            raise RejectError(
                f"{_shown(name)} is defined in line {self._lines[name]} already"
            )
        self._lines[name] = number

    def _check_known(self, name: str) -> None:
        if name not in self._lines:
            raise RejectError(f"no witness or group {_shown(name)} stands above")

    def _key(self, role: str, vkey: str, kind: int, number: int) -> Verifier:
        verifier = parse_vkey(vkey)
        if verifier.kind not in (kind, ML_DSA_44):
            raise RejectError(
                f"a {role}'s key is of type 0x{kind:02x} or 0x{ML_DSA_44:02x}, "
                f"not 0x{verifier.kind:02x}"
            )
        fault = ed25519.key_fault(verifier.public_key) if verifier.understood else ""
        if fault:
            raise RejectError(f"the key of {verifier.name}: {fault}")
        same = self._keys.setdefault((role, verifier.public_key), number)
        if same == number:
            same = self._ids.setdefault((verifier.name, verifier.key_id), number)
        if same != number:
            raise RejectError(f"the key of {verifier.name} stands in line {same}")
        return verifier


_Define = Callable[[_Parser, Sequence[str], int], None]
_ANY_COUNT = POLICY_SIZE_MAX
_FORMS: dict[str, tuple[str, int, int, _Define]] = {
    "log": ("`log <vkey> [<url>]`", 1, 2, _Parser._log),
    "witness": ("`witness <name> <vkey> [<url>]`", 2, 3, _Parser._witness),
    "group": ("`group <name> all|any|<k> <name>...`", 3, _ANY_COUNT, _Parser._group),
    "quorum": ("`quorum <name>|none`", 1, 1, _Parser._quorum),
}


def _shown(word: str) -> str:
    """A word of the file, short and printable enough for a message."""
    return repr(word[:40])
