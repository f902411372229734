"""A checked contract: what the language makes of a file and the evaluators run.

Times in milliseconds; values in fixed point, value × `scale`, rounded. An expression is
a tree of tuples, so that it can be hashed, compared and walked by any evaluator:

    numbers   ("const", n)  ("input", i)  ("param", i)  ("let", i)  ("table", i)
              ("window", i, "mean")  ("sum", ((k, NODE), ...)), each NODE times k
              ("max", (NODE, ...))  ("min", (NODE, ...))  ("if", TRUTH, NODE, NODE)
    truths    ("truth", True)  ("let", i)  ("<", NODE, NODE) and the other five
              ("missing", (NODE, ...))  ("silent", i)  ("not", TRUTH)
              ("and", (TRUTH, ...))  ("or", (TRUTH, ...))
              ("at_least", n, (TRUTH, ...))  ("if", TRUTH, TRUTH, TRUTH)

`i` is an index into the contract's inputs, params, lets, tables or windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

Tree: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A checked expression: its tree, the inputs it reads and the most it can cost.

    `inputs` are those that it names directly or through lets, tables and windows.
    """

    source: str
    tree: Tree
    inputs: frozenset[int]
    cost: int


@dataclass(frozen=True, slots=True)
class Input:
    """A metric that a contract reads. After `fresh_ms` without a sample it is UNKNOWN.

    `letters` are those of a metric that is a letter, its value their index; else "".
    """

    name: str
    metric: str
    unit: str
    scale: int
    fresh_ms: int
    letters: str = ""


@dataclass(frozen=True, slots=True)
class Param:
    """What a role may set for a subject; UNKNOWN until then where no default is.

    `choices` is empty where any number from `low` to `high` may stand. A set value
    lasts `expires_ms`, for ever where that is 0.
    """

    name: str
    unit: str
    scale: int
    low: int
    high: int
    choices: tuple[int, ...]
    default: int | None
    set_by: str  # role:NAME
    expires_ms: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """The samples of an input in the last `count` buckets of `bucket_ms`."""

    name: str
    input: int
    bucket_ms: int
    count: int
    keep: frozenset[str]
    filled: int = 0  # its values are UNKNOWN while fewer buckets hold a sample


@dataclass(frozen=True, slots=True)
class Table:
    """Points of a number: `points[i]` up to and with `bounds[i]`, the last beyond."""

    name: str
    of: Tree
    bounds: tuple[int, ...]
    points: tuple[int, ...]  # one more than bounds


@dataclass(frozen=True, slots=True)
class Let:
    """A named expression; `truth` tells whether it is true or false, not a number."""

    name: str
    program: Program
    truth: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an escalation."""

    after_ms: int
    to: str  # role:NAME


@dataclass(frozen=True, slots=True)
class Shown:
    """A value that stands in a rule's firings: its key there, and what it is."""

    name: str
    tree: Tree
    truth: bool


@dataclass(frozen=True, slots=True)
class Rule:
    """`when` it holds for `for_ms` it fires; `rearm` ends it (None: not `when`).

    `inputs` are the indexes of the inputs that either names, `fresh_ms` the longest
    freshness among those of `when` (0 where it names none); `on_unknown` is the label
    of its technical firing; `inhibited_by` the indexes of rules above it; `max_rate`
    (starts, in how many ms).
    """

    name: str
    priority: str
    when: Program
    for_ms: int
    rearm: Program | None
    on_unknown: str | None
    inputs: tuple[int, ...]
    fresh_ms: int
    delay_ms: int = 0
    latch: bool = False
    max_rate: tuple[int, int] | None = None
    escalate: tuple[Step, ...] = ()
    inhibited_by: tuple[int, ...] = ()
    show: tuple[Shown, ...] = ()
    retrospective: bool = False


@dataclass(frozen=True, slots=True)
class Contract:
    """A checked contract; `hash` is the SHA-256 of its file, `cost` in steps a reading.

    `silents` are the inputs that silent() asks about. `state_bytes` bounds what one
    subject takes in a snapshot. `carry` says that a later
    version of equal `schema` takes its state over.
    """

    name: str
    version: int
    hash: bytes
    subject: str
    inputs: tuple[Input, ...]
    rules: tuple[Rule, ...]
    cost: int
    title: str = ""
    params: tuple[Param, ...] = ()
    windows: tuple[Window, ...] = ()
    tables: tuple[Table, ...] = ()
    lets: tuple[Let, ...] = ()
    silents: frozenset[int] = frozenset()
    state_bytes: int = 0
    carry: bool = False
    schema: bytes = b""
    source: str = ""  # the text of its file


def parts_of(tree: Tree) -> list[Tree]:
    """The nodes right below this one."""
    found: list[Tree] = []
    for part in tree[1:]:
        if not isinstance(part, tuple):
            continue
        if part and isinstance(part[0], str):
            found.append(part)
        elif tree[0] == "sum":
            found += [one for _, one in part]
        else:
            found += part
    return found
