"""What topics mean here: where a reading comes from, and who may listen to what. Pure.

iomt/v1/<device>/<stream>    readings, published by devices (docs/wire-format.md)
iomt/v1/alerts/...           alerts, for viewers
iomt/v1/live/<device>        readings as they are committed, for viewers
iomt/v1/<device>/receipt     receipts, for the device itself (ledger/receipt.py)
iomt/v1/<device>/cmd         commands, for the device itself: nothing is sent there yet
"""

from __future__ import annotations

from typing import NamedTuple

from edge.devices.mapped import Mapping, find
from edge.errors import Reason
from edge.model import is_name

DEVICE = "device"  # the roles that authentication gives
VIEWER = "viewer"
ROOT = ("iomt", "v1")
ALERTS = (*ROOT, "alerts")
LIVE = (*ROOT, "live")
OWN_TOPICS = ("cmd", "receipt")
_SHOWN_LENGTH = 128  # of a topic of up to 65,535 bytes, in a refusal


class Route(NamedTuple):
    """Where a message belongs; with a refusal where it may not go there."""

    device: str
    stream: str
    refusal: tuple[Reason, str] | None
    mapping: bytes = b""  # the rule to read it by, where the topic is not ours


def route(
    topic: str, role: str, user: str | None, mappings: tuple[Mapping, ...] = ()
) -> Route:
    """The route of a message that a connection of this role and user publishes."""
    mapping = b""
    mapped = find(mappings, topic) if mappings else None
    if mapped is not None:
        mapping = mapped[0].rule
        levels = [*ROOT, mapped[1], mapped[0].stream]
    else:
        levels = topic.split("/", 4)
    if (
        len(levels) != 4
        or tuple(levels[:2]) != ROOT
        or not all(map(is_name, levels[2:]))
    ):
        shown = topic[:_SHOWN_LENGTH]
        detail = f"topic {shown!r} is not iomt/v1/<device>/<stream>"
        return Route("", "", (Reason.WRONG_TOPIC, detail))
    device, stream = levels[2:]
    refusal = None
    if role != DEVICE:
        refusal = Reason.NOT_AUTHORISED, f"a {role} may not publish"
    elif user is not None and user != device:
        refusal = Reason.NOT_AUTHORISED, "topic belongs to another device"
    return Route(device, stream, refusal, mapping)


def may_subscribe(topic_filter: str, role: str, user: str | None) -> bool:
    """Whether a well-formed filter is granted to this role and user."""
    levels = tuple(topic_filter.split("/"))
    if role == VIEWER:
        return any(
            len(levels) > len(one) and levels[: len(one)] == one
            for one in (ALERTS, LIVE)
        )
    if role != DEVICE or user is None or not is_name(user):
        return False
    return levels in [(*ROOT, user, own) for own in OWN_TOPICS]


def allowed(role: str, user: str | None) -> str:
    """In words, what this role and user may subscribe to."""
    if role == VIEWER:
        return " and ".join("/".join((*one, "#")) for one in (ALERTS, LIVE))
    if user is None or not is_name(user):
        return "nothing: it gave no user name"
    return " and ".join("/".join((*ROOT, user, own)) for own in OWN_TOPICS)


def is_alert(topic_filter: str) -> bool:
    """Whether a filter that was granted covers alerts, and nothing but alerts."""
    return tuple(topic_filter.split("/", len(ALERTS))[: len(ALERTS)]) == ALERTS


def is_live(topic: str) -> bool:
    """Whether a topic, or a filter that was granted, is of live readings alone."""
    return tuple(topic.split("/", len(LIVE))[: len(LIVE)]) == LIVE


def is_filter(topic_filter: str) -> bool:
    """Whether a topic filter is well formed (section 4.7.1)."""
    levels = topic_filter.split("/")
    return (
        bool(topic_filter)
        and all(
            level in ("+", "#") or not ("+" in level or "#" in level)
            for level in levels
        )
        and "#" not in levels[:-1]
    )


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a well-formed filter covers a topic (section 4.7)."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False  # section 4.7.2: wildcards do not reach the server's own topics
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True  # "a/#" covers "a" too: the loop got here with a's levels used
        if i >= len(levels) or level not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)
