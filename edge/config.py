"""The configuration: TOML to validated settings, with every default and every limit.

`load` reports all mistakes at once, each as `FILE:LINE: [section] key: reason`. A key
that is not known is a mistake too: a misspelt limit must not be silently ignored. Paths
are relative to the file's directory.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from edge.errors import ConfigurationError

P = TypeVar("P")
D = TypeVar("D")

ORIGIN_PATTERN = re.compile(r"[A-Za-z0-9._/-]{1,128}")
ADAPTER_PATTERN = re.compile(r"bluez|hci-tcp:[A-Za-z0-9.:\[\]-]+:\d{1,5}")
FREE_RESERVE_MIN_MB = 16
RETENTION_DAYS_MAX = 36_500
MASTER_SOURCES = ("file", "credential", "passphrase")


@dataclass(frozen=True, slots=True)
class Address:
    """Host and port of a listener."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a commit may flush the disk (design section 2)."""

    refill_per_s: float
    burst: int


PACES = {"ssd": Pace(4.0, 20), "sd-card": Pace(1.0, 5)}


@dataclass(frozen=True, slots=True)
class Retention:
    """After how many days frames of a class are removed; None keeps them for ever."""

    readings_days: int | None = None
    events_days: int | None = None


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alarms are posted, and the 0600 file with the secret that signs them."""

    url: str
    secret: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a configuration says, checked, with the defaults filled in."""

    origin: str
    directory: Path
    keys: Path
    master: str
    clock_trusted: bool
    pace: Pace
    free_reserve_mb: int
    quarantine_quota_kb: int
    mqtt: Address | None
    ble_adapter: str | None
    web: Address | None
    contracts: Path | None
    source_bytes: bytes
    checkpoint_copy: Path | None = None
    retention: Retention = Retention()
    watchdog: Path | None = None
    webhook: Webhook | None = None
    ble_delete_stored: bool = True


class _Table:
    """One section of the file; remembers which keys were asked for."""

    def __init__(self, name: str, table: Mapping[str, object], report: _Report) -> None:
        self._name, self._table, self._report = name, table, report
        self._known: set[str] = set()

    def get(self, key: str, default: D, parse: Callable[[object], P]) -> P | D:
        """The parsed value, or the default; a ValueError of `parse` is reported."""
        self._known.add(key)
        if key not in self._table:
            return default
        try:
            return parse(self._table[key])
        except ValueError as error:
            self._report.add(self._name, key, str(error))
            return default

    def require(self, key: str, parse: Callable[[object], P]) -> P | None:
        """Like `get`, for a key that must be there."""
        self._known.add(key)
        if key not in self._table:
            self._report.add(self._name, key, "missing")
            return None
        return self.get(key, None, parse)

    def finish(self) -> None:
        """Report the keys that nobody asked for."""
        for key in self._table:
            if key not in self._known:
                known = ", ".join(sorted(self._known))
                self._report.add(self._name, key, f"unknown key; known: {known}")


class _Report:
    """Collects mistakes with their place in the file."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._lines = name, text.splitlines()
        self.problems: list[str] = []

    def add(self, section: str, key: str, reason: str) -> None:
        """One mistake, at the line that holds the key or the section's head."""
        self.problems.append(
            f"{self._name}:{self._line(section, key)}: [{section}] {key}: {reason}"
        )

    def _line(self, section: str, key: str) -> int:
        current, head = "", 1
        for number, line in enumerate(self._lines, 1):
            match = re.match(r"\s*\[([^\[\]]+)\]", line)
            if match:
                current = match.group(1).strip()
                head = number if current == section else head
            elif current == section and re.match(rf"\s*{re.escape(key)}\s*=", line):
                return number
        return head


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text in quotes")
    return value


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be a whole number")
        if not low <= value <= high:
            raise ValueError(f"{value} is not within {low} and {high}")
        return value

    return parse


def _one_of(names: Mapping[str, object]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in names:
            raise ValueError(f"must be one of {', '.join(map(repr, names))}")
        return str(value)

    return parse


def _pattern(pattern: re.Pattern[str], meaning: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _text(value)
        if not pattern.fullmatch(text):
            raise ValueError(f"{text!r} is not {meaning}")
        return text

    return parse


def _web_address(value: object) -> str:
    """https://…, or http:// to this machine itself: alarms name patients."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no web address: {error}") from None
    if parts.scheme not in ("http", "https") or not host or parts.username:
        raise ValueError(f"{text!r} is not https://HOST/… without a user's name")
    if parts.scheme == "http" and host != "localhost":
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host).is_loopback:
                return text
        raise ValueError(f"{host} is another machine: https is needed")
    return text


def _listen(value: object) -> Address:
    """HOST:PORT; only loopback, because plain text leaves the machine otherwise."""
    host, _, port_text = _text(value).rpartition(":")
    if not host or not port_text.isascii() or not port_text.isdecimal():
        raise ValueError(f"{value!r} is not HOST:PORT")
    port = int(port_text)
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    host = host.removeprefix("[").removesuffix("]")
    if host != "localhost":
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            raise ValueError(f"{host!r} is no IP address or localhost") from None
        if not loopback:
            raise ValueError(
                f"{host} is reachable from other machines and this listener has no TLS "
                "yet: only loopback (127.0.0.1, ::1, localhost) is accepted"
            )
    return Address(host, port)


def parse(text: str, name: str, base: Path) -> Settings:
    """Settings of a configuration file's text; `base` is what its paths start from."""
    report = _Report(name, text)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError([f"{name}: not TOML: {error}"]) from None
    sections = (
        "gateway",
        "store",
        "ledger",
        "retention",
        "watchdog",
        "alerts",
        "mqtt",
        "ble",
        "web",
        "contracts",
    )
    for section, table in tables.items():
        if section not in sections:
            report.add(section, "*", f"unknown section; known: {', '.join(sections)}")
        elif not isinstance(table, dict):
            report.add(section, "*", "must be a section, [" + section + "]")
    opened = {
        section: _Table(section, table if isinstance(table, dict) else {}, report)
        for section in sections
        for table in (tables.get(section, {}),)
    }

    def path(value: object) -> Path:
        return (base / Path(_text(value)).expanduser()).resolve()

    gateway, store, ble = opened["gateway"], opened["store"], opened["ble"]
    origin = gateway.require("origin", _pattern(ORIGIN_PATTERN, "a log's name"))
    directory = gateway.require("data", path)
    keys = gateway.get("keys", None, path)
    master = gateway.get("master", "file", _one_of(dict.fromkeys(MASTER_SOURCES)))
    clock = gateway.get("clock", "auto", _one_of(dict.fromkeys(("auto", "trusted"))))
    medium = store.get("medium", "ssd", _one_of(PACES))
    reserve = store.get("free_reserve_mb", 256, _whole(FREE_RESERVE_MIN_MB, 1 << 20))
    quota = store.get("quarantine_quota_kb", 1024, _whole(64, 1 << 20))
    checkpoint_copy = opened["ledger"].get("checkpoint_copy", None, path)
    days = _whole(1, RETENTION_DAYS_MAX)
    watchdog = opened["watchdog"].get("socket", None, path)
    url = opened["alerts"].get("webhook", None, _web_address)
    secret = opened["alerts"].get("secret", None, path)
    if (url is None) != (secret is None) and "alerts" in tables:
        report.add("alerts", "*", "webhook and secret come together")
    retention = Retention(
        opened["retention"].get("readings_days", None, days),
        opened["retention"].get("events_days", None, days),
    )
    mqtt = opened["mqtt"].get("listen", None, _listen)
    adapter = ble.get("adapter", "bluez", _pattern(ADAPTER_PATTERN, "an adapter"))
    ble_on = ble.get("enabled", False, _switch)
    delete_stored = ble.get("delete_stored", True, _switch)
    web = opened["web"].get("listen", None, _listen)
    contracts = opened["contracts"].get("directory", None, path)
    for table in opened.values():
        table.finish()
    if contracts and not contracts.is_dir():
        report.add("contracts", "directory", f"{contracts} is no directory")
    if report.problems or origin is None or directory is None:
        raise ConfigurationError(report.problems)
    return Settings(
        origin=origin,
        directory=directory,
        keys=keys or directory / "keys",
        master=master,
        clock_trusted=clock == "trusted",
        pace=PACES[medium],
        free_reserve_mb=reserve,
        quarantine_quota_kb=quota,
        mqtt=mqtt,
        ble_adapter=adapter if ble_on else None,
        web=web,
        contracts=contracts,
        source_bytes=text.encode(),
        checkpoint_copy=checkpoint_copy,
        retention=retention,
        watchdog=watchdog,
        webhook=Webhook(url, secret) if url and secret else None,
        ble_delete_stored=delete_stored,
    )


def load(path: Path) -> Settings:
    """Settings of a file; ConfigurationError lists everything that is wrong with it."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path}: cannot be read ({error})"]) from error
    return parse(text, str(path), path.parent)


TEMPLATE = """\
# The gateway's configuration. Every key that is commented out shows its default.
# `iomt run --config {path}` starts the gateway.

[gateway]
origin = "{origin}"      # the ledger's name: choose it once, it is in every proof
data   = "data"                   # database, tiles; relative to this file
# keys  = "data/keys"             # log.key, master.key, access.token
# master = "file"                 # or "credential", "passphrase"; docs/operations.md
# clock = "auto"                  # "trusted": right although no NTP says so

[store]
# medium = "ssd"                  # "sd-card" flushes the disk less often
# free_reserve_mb = 256           # below this the gateway stops taking readings
# quarantine_quota_kb = 1024      # refused messages kept for each sender

[ledger]
# checkpoint_copy = "/media/stick"  # a second medium: shows a store that was set back

[alerts]                          # docs/alarms.md
# webhook = "https://pager.example/iomt"   # plain http on loopback only
# secret  = "data/keys/webhook.secret"     # 0600, at least 16 characters

[watchdog]                        # a second process, `iomt watchdog`: docs/alarms.md
# socket = "/run/iomt/watchdog.sock"

[retention]                       # what is older goes; the ledger itself stays
# readings_days = 30              # kept for ever where it is not said
# events_days = 3650              # alarms, assignments, erasures

[mqtt]
listen = "127.0.0.1:1883"         # plain text: loopback only

[ble]
enabled = false
# adapter = "bluez"               # or "hci-tcp:HOST:PORT", a virtual controller
# delete_stored = true            # on the devices, once it is durable here

[web]
listen = "127.0.0.1:8080"         # plain text: loopback only

[contracts]
directory = "contracts"           # every *.toml in it is active; see docs/contracts.md
"""
