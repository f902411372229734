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
from collections.abc import Callable
from collections.abc import Mapping as Table
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from edge.devices.mapped import DEVICE_LEVEL, Field, Mapping, Rule, check_rule
from edge.errors import ConfigurationError, RejectError
from edge.ledger.batch import APPROVERS_MAX
from edge.ledger.ed25519 import key_fault
from edge.model import is_name
from edge.mqtt_limits import Limits as MqttLimits

P = TypeVar("P")
D = TypeVar("D")

ORIGIN_PATTERN = re.compile(r"[A-Za-z0-9._/-]{1,128}")
ADAPTER_PATTERN = re.compile(r"bluez|hci-tcp:[A-Za-z0-9.:\[\]-]+:\d{1,5}")
FREE_RESERVE_MIN_MB = 16
RETENTION_DAYS_MAX = 36_500
APPROVER_PATTERN = re.compile(r"[A-Za-z0-9._@-]{1,64}")
HOST_PATTERN = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.(?!-)[A-Za-z0-9-]{1,63}){0,9}")
NAMES_MAX = 16
MAPPINGS_MAX = 64
BROKER_PORTS = {"mqtts": 8883, "mqtt": 1883}
BROKER_TOPICS_MAX = 32
CLIENT_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,23}")  # what every broker takes
AHEAD_MAX_S, BEHIND_MAX_S, YEAR_S = 300, 30 * 86_400, 366 * 86_400
LIMIT_MAX = 2**31 - 1
WINDOW_MAX = 65_534  # packet identifiers have 16 bits, and 0 is none
MASTER_SOURCES = ("file", "credential", "passphrase")
SIGNERS = ("native", "openssl")


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
class Broker:
    """A clinic's own MQTT broker, and who we are to it (docs/mqtt.md section 7)."""

    host: str
    port: int
    tls: bool
    topics: tuple[str, ...]
    client_id: str
    version: str  # "5" or "3.1.1"
    user: str | None = None
    password: Path | None = None  # a 0600 file
    ca: Path | None = None  # PEM; the system's authorities without it


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
    mqtt_tls: Address | None
    enrol: Address | None
    names: tuple[str, ...]
    allow_tls_12: bool
    ble_adapter: str | None
    web: Address | None
    contracts: Path | None
    source_bytes: bytes
    checkpoint_copy: Path | None = None
    retention: Retention = Retention()
    watchdog: Path | None = None
    webhook: Webhook | None = None
    quorum: int = 0  # approvals that a contract needs; 0: the directory decides
    approvers: tuple[tuple[str, bytes], ...] = ()  # name, Ed25519 public key
    broker: Broker | None = None
    mappings: tuple[Mapping, ...] = ()
    signer: str = SIGNERS[0]
    ble_delete_stored: bool = True
    ahead_max_s: int = AHEAD_MAX_S
    behind_max_s: int = BEHIND_MAX_S
    mqtt_limits: MqttLimits = field(default_factory=MqttLimits)


class _Table:
    """One section of the file; remembers which keys were asked for."""

    def __init__(self, name: str, table: Table[str, object], report: _Report) -> None:
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


def _one_of(names: Table[str, object]) -> Callable[[object], str]:
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


def _broker_address(value: object) -> tuple[str, int, bool]:
    """(host, port, whether over TLS) of mqtts://HOST:PORT, mqtt:// to this machine."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ValueError(f"{text!r} is no broker's address: {error}") from None
    if parts.scheme not in BROKER_PORTS or not host or parts.username or parts.path:
        raise ValueError(f"{text!r} is not mqtts://HOST:PORT")
    if parts.scheme == "mqtt" and not _is_own(host):
        raise ValueError(f"{host} is another machine: mqtts is needed")
    return host, port or BROKER_PORTS[parts.scheme], parts.scheme == "mqtts"


def _is_own(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _topic_filters(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or len(value) > BROKER_TOPICS_MAX:
        raise ValueError(f"must be a list of 1 to {BROKER_TOPICS_MAX} topic filters")
    found = tuple(map(_text, value))
    for one in found:
        levels = one.split("/")
        if "#" in levels[:-1] or any(
            ("+" in level or "#" in level) and len(level) > 1 for level in levels
        ):
            raise ValueError(f"{one!r} is no topic filter")
    return found


def _mqtt_limits(value: object) -> MqttLimits:
    """The table [mqtt.limits]: bounds of the listener by their names, whole numbers."""
    known = {one.name for one in fields(MqttLimits)}
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    for name, number in value.items():
        if name not in known:
            raise ValueError(f"{name!r}: there are {', '.join(sorted(known))}")
        window = name in ("receive_max", "send_window_max")
        try:
            _whole(1, WINDOW_MAX if window else LIMIT_MAX)(number)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return MqttLimits(**value)


def _mappings(value: object) -> tuple[Mapping, ...]:
    """The [[mqtt.mapping]] tables (docs/wire-format.md section 5)."""
    if not isinstance(value, list) or len(value) > MAPPINGS_MAX:
        raise ValueError(f"must be at most {MAPPINGS_MAX} tables")
    found = []
    for number, table in enumerate(value, 1):
        try:
            found.append(_mapping(table))
        except (ValueError, RejectError) as error:
            raise ValueError(f"table {number}: {error}") from None
    return tuple(found)


def _mapping(table: object) -> Mapping:
    known = {"topic", "device", "stream", "time", "time_unit", "metrics"}
    if not isinstance(table, dict) or not {"topic", "metrics"} <= set(table) <= known:
        raise ValueError(
            f"needs topic and metrics, and knows {', '.join(sorted(known))}"
        )
    topic = _text(table["topic"])
    device = _text(table["device"]) if "device" in table else ""
    levels = topic.split("/")
    if levels[:2] == ["iomt", "v1"] or "" in levels or "#" in topic:
        raise ValueError(f"topic {topic!r}: not of iomt/v1, no empty level, no #")
    if levels.count(DEVICE_LEVEL) != (not device):
        raise ValueError(f"topic {topic!r}: one level is {DEVICE_LEVEL}, or device is")
    stream = _text(table.get("stream", "json"))
    for name in (stream, device or stream):
        if not is_name(name):
            raise ValueError(f"{name!r} is no device's or stream's name")
    if not isinstance(table["metrics"], dict):
        raise ValueError("metrics is no table")
    found = []
    for metric, where in table["metrics"].items():
        if not isinstance(where, dict) or set(where) != {"path", "unit"}:
            raise ValueError(f"metrics.{metric}: needs path and unit, and nothing else")
        found.append(Field(metric, _text(where["path"]), _text(where["unit"])))
    time_path = _text(table["time"]) if "time" in table else ""
    rule = Rule(tuple(found), time_path, _text(table.get("time_unit", "s")))
    check_rule(rule)
    return Mapping(topic, stream, rule.encode(), device)


def _broker(table: _Table, path: Callable[[object], Path]) -> Broker | None:
    address = table.get("url", None, _broker_address)
    topics = table.get("topics", ("iomt/v1/+/+",), _topic_filters)
    client_id = table.get(
        "client_id", "iomt-gateway", _pattern(CLIENT_ID_PATTERN, "a client id")
    )
    version = table.get("version", "5", _one_of(dict.fromkeys(("5", "3.1.1"))))
    user = table.get("user", None, _text)
    password = table.get("password", None, path)
    ca = table.get("ca", None, path)
    if address is None:
        return None
    host, port, tls = address
    return Broker(host, port, tls, topics, client_id, version, user, password, ca)


def _names(value: object) -> tuple[str, ...]:
    """The host names and addresses that devices know the gateway by."""
    if not isinstance(value, list) or not 1 <= len(value) <= NAMES_MAX:
        raise ValueError(f"must be an array of 1 to {NAMES_MAX} names")
    for one in value:
        text = _text(one)
        try:
            ipaddress.ip_address(text)
        except ValueError:
            if not HOST_PATTERN.fullmatch(text):
                raise ValueError(f"{text!r} is no host name or IP address") from None
    return tuple(map(str, value))


def _address(value: object) -> Address:
    """HOST:PORT, HOST an IP address or localhost."""
    host, _, port_text = _text(value).rpartition(":")
    if not host or not port_text.isascii() or not port_text.isdecimal():
        raise ValueError(f"{value!r} is not HOST:PORT")
    port = int(port_text)
    if port > 65535:
        raise ValueError(f"port {port} is above 65535")
    host = host.removeprefix("[").removesuffix("]")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{host!r} is no IP address or localhost") from None
    return Address(host, port)


def _listen(value: object) -> Address:
    """The same; only loopback, because plain text leaves the machine otherwise."""
    address = _address(value)
    here = address.host == "localhost" or ipaddress.ip_address(address.host).is_loopback
    if not here:
        raise ValueError(
            f"{address.host} is reachable from other machines and this listener "
            "has no TLS: only loopback (127.0.0.1, ::1, localhost) is accepted"
        )
    return address


def _approvers(value: object) -> tuple[tuple[str, bytes], ...]:
    """[[contracts.approver]] name, key: who signs, and their public keys."""
    if not isinstance(value, list) or len(value) > APPROVERS_MAX:
        raise ValueError(f"must be up to {APPROVERS_MAX} tables [[contracts.approver]]")
    found: dict[str, bytes] = {}
    for one in value:
        match one:
            case {"name": str(name), "key": str(text), **more} if not more:
                pass
            case _:
                raise ValueError("each has name and key, texts in quotes, and no more")
        if not APPROVER_PATTERN.fullmatch(name) or name in found:
            raise ValueError(
                f"name {name!r}: 1 to 64 of A–Z a–z 0–9 space . _ @ -, once"
            )
        try:
            key = bytes.fromhex(text)
            fault = key_fault(key)
        except ValueError:
            key, fault = b"", "not hexadecimal"
        if fault or key in found.values():
            raise ValueError(f"key of {name}: {fault or 'is another approver’s'}")
        found[name] = key
    return tuple(found.items())


class _Doors(NamedTuple):
    mqtt: Address | None
    mqtt_tls: Address | None
    enrol: Address | None
    names: tuple[str, ...]
    allow_tls_12: bool


def _doors(mqtt: _Table, enrol: _Table, report: _Report) -> _Doors:
    """Where devices connect."""
    tls = mqtt.get("tls", None, _address)
    names = mqtt.get("names", (), _names)
    versions = {"1.3": False, "1.2": True}
    oldest = mqtt.get("tls_min", "1.3", _one_of(versions))
    claims = enrol.get("listen", None, _address)
    if (tls or claims) and not names:
        report.add("mqtt", "names", "say by which names devices know the gateway")
    if claims and not tls:
        report.add("enrol", "listen", "[mqtt] tls is what a certificate is good for")
    plain = mqtt.get("listen", None, _listen)
    return _Doors(plain, tls, claims, names, versions[oldest])


def _quorum(
    contracts: _Table, report: _Report
) -> tuple[int, tuple[tuple[str, bytes], ...]]:
    """How many of which approvers a contract needs."""
    quorum = contracts.get("quorum", 0, _whole(0, APPROVERS_MAX))
    approvers = contracts.get("approver", (), _approvers)
    if quorum > len(approvers):
        report.add("contracts", "quorum", f"{quorum} of {len(approvers)} approvers")
    if approvers and not quorum:
        report.add("contracts", "quorum", "say how many approvers it takes, 1 or more")
    return quorum, approvers


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
        "enrol",
        "broker",
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
    ledger = opened["ledger"]
    checkpoint_copy = ledger.get("checkpoint_copy", None, path)
    signer = ledger.get("signer", SIGNERS[0], _one_of(dict.fromkeys(SIGNERS)))
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
    doors = _doors(opened["mqtt"], opened["enrol"], report)
    mappings = opened["mqtt"].get("mapping", (), _mappings)
    mqtt_limits = opened["mqtt"].get("limits", MqttLimits(), _mqtt_limits)
    ahead = opened["mqtt"].get("ahead_max_s", AHEAD_MAX_S, _whole(1, BEHIND_MAX_S))
    behind = opened["mqtt"].get("behind_max_s", BEHIND_MAX_S, _whole(60, YEAR_S))
    broker = _broker(opened["broker"], path)
    adapter = ble.get("adapter", "bluez", _pattern(ADAPTER_PATTERN, "an adapter"))
    ble_on = ble.get("enabled", False, _switch)
    delete_stored = ble.get("delete_stored", True, _switch)
    web = opened["web"].get("listen", None, _listen)
    contracts = opened["contracts"].get("directory", None, path)
    quorum, approvers = _quorum(opened["contracts"], report)
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
        mqtt=doors.mqtt,
        mqtt_tls=doors.mqtt_tls,
        enrol=doors.enrol,
        names=doors.names,
        allow_tls_12=doors.allow_tls_12,
        ble_adapter=adapter if ble_on else None,
        web=web,
        contracts=contracts,
        source_bytes=text.encode(),
        checkpoint_copy=checkpoint_copy,
        retention=retention,
        watchdog=watchdog,
        webhook=Webhook(url, secret) if url and secret else None,
        quorum=quorum,
        approvers=approvers,
        broker=broker,
        mappings=mappings,
        signer=signer,
        ble_delete_stored=delete_stored,
        ahead_max_s=ahead,
        behind_max_s=behind,
        mqtt_limits=mqtt_limits,
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
# signer = "native"               # "openssl": the log key signs through OpenSSL
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
# tls   = "0.0.0.0:8883"          # devices elsewhere: docs/device-identity.md
# names = ["gateway.local", "192.168.1.10"]  # by which they know this machine
# tls_min = "1.3"                 # or "1.2" for devices that cannot do better
# ahead_max_s  = 300              # a device's clock may be so far ahead
# behind_max_s = 2592000          # and a stored reading so old: 30 days
# [mqtt.limits]                   # every bound of the listener, docs/mqtt.md section 5
# connections_max = 512

[enrol]                           # where a new device takes its certificate
# listen = "0.0.0.0:8443"

[broker]                          # a broker of the clinic's own: docs/mqtt.md section 7
# url = "mqtts://broker.example:8883"      # plain mqtt:// on loopback only
# topics = ["iomt/v1/+/+"]
# user = "iomt"
# password = "data/keys/broker.password"   # 0600
# ca = "clinic-ca.pem"            # the system's authorities without it
# client_id = "iomt-gateway"      # the session that the broker keeps for us
# version = "5"                   # or "3.1.1"

[ble]
enabled = false
# adapter = "bluez"               # or "hci-tcp:HOST:PORT", a virtual controller
# delete_stored = true            # on the devices, once it is durable here

[web]
listen = "127.0.0.1:8080"         # plain text: loopback only

[contracts]
directory = "contracts"           # every *.toml in it is active; see docs/contracts.md
# quorum = 2                      # then only what approvers have signed is active:
# [[contracts.approver]]          # `iomt contract propose|approve|activate`
# name = "dr.a"
# key  = "..."                    # of `iomt contract key FILE`, 64 hex digits
"""
