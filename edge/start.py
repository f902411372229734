"""What a start of the gateway enters into the log, and what it finds changed.

    [epoch start, enrolments, contract entries again]   the first commit of an epoch
    [authority]                                         where the approvers changed
    gateway start                                       hashes of all that decides

    meta `start_hashes`   CBOR {name: hash, or an array of them} of the start before

A hash that differs from the start before is told: in the log file, and as a firing
`gateway/changed` in the ledger, so that a later look at an alarm can say which program
and which rules were at work.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import apsw

from edge import cbor
from edge.administration import software_hash
from edge.config import Settings
from edge.contracts.language import load_directory
from edge.contracts.program import Contract
from edge.devices.registry import Registry
from edge.errors import ConfigurationError, NotFoundError
from edge.ledger.batch import Authority, GatewayStart
from edge.ledger.lifecycle import Lifecycle
from edge.store import contract_log, epochs
from edge.store.database import meta

HASHES_KEY = "start_hashes"

log = logging.getLogger("edge.start")


def program_version() -> str:
    """The version of the installed package."""
    try:
        return version("iomt-edge-gateway")
    except PackageNotFoundError:
        return "0+unknown"


def program_hashes() -> tuple[bytes, bytes]:
    """SHA-256 over all files of the program, and over those of its C core alone."""
    top = Path(__file__).parent
    files = {
        str(one.relative_to(top)): one.read_bytes()
        for end in ("py", "so")
        for one in top.rglob(f"*.{end}")
    }
    compiled = {name: body for name, body in files.items() if name.endswith(".so")}
    return software_hash(files), software_hash(compiled)


def load_contracts(directory: Path | None) -> list[Contract]:
    """Every *.toml of the directory; ConfigurationError lists all mistakes."""
    if directory is None:
        return []
    try:
        # As bytes: the contract's hash covers the file as it is, line ends included.
        texts = {
            one.name: one.read_bytes().decode()
            for one in sorted(directory.glob("*.toml"))
        }
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{directory}: {error}"]) from error
    return load_directory(texts)


@dataclass(frozen=True, slots=True)
class Rules:
    """Which contracts this start begins with, and what the log says of contracts.

    `entry` is the authority that this start has to enter, None where it stands already.
    """

    contracts: list[Contract]
    lifecycle: Lifecycle
    entry: Authority | None


def rules(settings: Settings, connection: apsw.Connection) -> Rules:
    """The contracts of the log where the configuration names a quorum, or of the files.

    NotFoundError where the text of an active contract is lost, ConfigurationError where
    this program cannot read it.
    """
    known = [entry for _, entry in contract_log.load(connection)]
    lifecycle = contract_log.lifecycle(known)
    entry = _authority(settings, lifecycle)
    if entry is not None:
        lifecycle.take(entry)
    if not settings.quorum:
        return Rules(load_contracts(settings.contracts), lifecycle, entry)
    found = []
    for one in lifecycle.active():
        text = contract_log.text_of(connection, one.contract)
        if text is None:
            raise NotFoundError(
                f"the text of contract {one.name} {one.contract.hex()[:16]} is not in "
                "this store: it cannot be active"
            )
        found += load_directory({f"{one.name} (active, proposal {one.sequence})": text})
    if not found:
        log.warning("no contract is active: nothing raises an alarm")
    return Rules(found, lifecycle, entry)


def _authority(settings: Settings, lifecycle: Lifecycle) -> Authority | None:
    """The authority of the configuration where it is not the one of the log."""
    stands = lifecycle.authority
    before = (stands.quorum, stands.approvers) if stands else (0, ())
    if before == (settings.quorum, settings.approvers):
        return None
    return Authority(settings.origin, 0, settings.quorum, settings.approvers)


@dataclass(frozen=True, slots=True)
class Begin:
    """The start's own entries, the rows that go with them, and what has changed."""

    entries: list[bytes]
    statements: list[contract_log.Statement]
    changed: str


def begin(
    settings: Settings,
    connection: apsw.Connection,
    registry: Registry,
    begun: Rules,
    boot_id: bytes,
    *,
    tree_size: int,
    now_ms: int,
    synced: bool,
) -> Begin:
    """What the first commit of this process holds."""
    entries: list[bytes] = []
    about: list[tuple[int, bytes]] = [
        (index, entry.encode()) for index, entry in contract_log.load(connection)
    ]
    moved = bool(about) and not tree_size
    if not tree_size:
        entries += epochs.first_entries(connection, settings.origin, registry, now_ms)
        again = contract_log.dated(contract_log.load(connection), now_ms)
        about = [(len(entries) + place, body) for place, body in enumerate(again)]
        entries += again
    if begun.entry is not None:
        [body] = contract_log.dated([(0, begun.entry)], now_ms)
        about.append((tree_size + len(entries), body))
        entries.append(body)
    statements = []
    if begun.entry is not None or moved:
        statements.append(contract_log.replaced(about))
    software, core = program_hashes()
    start = GatewayStart(
        boot_id=boot_id,
        time_ms=now_ms,
        synchronised=synced,
        version=program_version(),
        software=software,
        configuration=hashlib.sha256(settings.source_bytes).digest(),
        contracts=tuple(one.hash for one in begun.contracts),
        core=core,
    )
    entries.append(start.encode())
    hashes: dict[str, object] = {
        "code": start.software,
        "core": start.core,
        "configuration": start.configuration,
    }
    if not settings.quorum:  # otherwise each change of contracts is an entry of its own
        hashes["contracts"] = sorted(start.contracts)
    changed = _changed(meta(connection, HASHES_KEY), hashes)
    if changed is None or changed:
        values = HASHES_KEY, cbor.encode(hashes)
        statements.append(("INSERT OR REPLACE INTO meta VALUES (?, ?)", values))
    return Begin(entries, statements, changed or "")


def _changed(stored: object, hashes: dict[str, object]) -> str | None:
    """What differs from the start before, in words; None where there was none."""
    before = cbor.decode(stored) if isinstance(stored, bytes) else None
    if not isinstance(before, dict):
        return None
    parts = [
        f"{name} {_short(before.get(name))} -> {_short(now)}"
        for name, now in hashes.items()
        if before.get(name) != now
    ]
    return "; ".join(parts)


def _short(value: object) -> str:
    hashes: Sequence[object] = value if isinstance(value, list) else [value]
    names = [one.hex()[:12] for one in hashes if isinstance(one, bytes)]
    return ",".join(names) or "none"
