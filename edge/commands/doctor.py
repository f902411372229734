"""`iomt doctor`: what here would make a gateway fail or lag.

One line for each check, `ok`, `warn` or `FAIL`; exit status 1 where one fails. Without
--config or --data only the machine is looked at. Nothing is changed.
"""

from __future__ import annotations

import argparse
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge.commands.place import Commands, Place, find_place
from edge.errors import ConfigurationError

OK, WARN, FAIL = "ok", "warn", "FAIL"
PRIVATE_MODE = 0o077  # bits of which a secret file or directory has none
MIB = 1 << 20


class Finding(NamedTuple):
    """What one check says: OK, WARN or FAIL, about what, and why."""

    verdict: str
    about: str
    text: str


def add_to(commands: Commands) -> None:
    """Add this file's commands to the parser."""
    one = commands.add_parser("doctor", help="check this machine and installation")
    where = one.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", type=Path)
    where.add_argument("--data", metavar="DIR", type=Path)
    one.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    findings = [*_core(), _clock()]
    if options.config is not None or options.data is not None:
        try:
            place = find_place(options)
        except ConfigurationError as error:
            findings += [Finding(FAIL, "configuration", one) for one in error.problems]
        else:
            findings += _installation(place)
    for one in findings:
        print(f"{one.verdict:<5} {one.about:<14} {one.text}")
    return 1 if any(one.verdict == FAIL for one in findings) else 0


def _core() -> Iterator[Finding]:
    """The native core: which backend hashes and why, and whether all hash rightly."""
    try:
        from edge.ledger import core  # noqa: PLC0415 - it may not be built
    except ConfigurationError as error:
        yield Finding(FAIL, "core", "; ".join(error.problems))
        return
    except ImportError as error:
        yield Finding(FAIL, "core", str(error))
        return
    found = core.report()
    where = f"Python {sys.version.split()[0]}, built with {found.compiler}"
    yield Finding(OK, "core", f"backend {found.backend}: {found.why}; {where}")
    for one in found.measured:
        few = f"; fewer than {one.fewest} go to {one.few}" if one.few else ""
        time = f"{one.leaf_ns:.0f} ns a leaf, {one.node_ns:.0f} ns a node"
        yield Finding(
            OK,
            "core",
            f"{one.name} ×{one.lanes}: {time if one.leaf_ns else 'not timed'}{few}",
        )
    for name in found.failed:
        yield Finding(FAIL, "core", f"{name} computes wrong hashes and is not used")
    passed = f"{len(found.measured)} of {len(found.measured) + len(found.failed)}"
    lacking = f"; this CPU has no {', '.join(found.unusable)}" if found.unusable else ""
    yield Finding(
        FAIL if found.failed else OK,
        "core",
        f"self-test passed by {passed} backends{lacking}; "
        f"calibrated in {found.calibration_ms:.1f} ms",
    )
    signing = core.active_signatures()
    others = [name for name in core.signature_backends() if name != signing]
    also = f"; also usable: {', '.join(others)}" if others else ""
    yield Finding(OK, "core", f"Ed25519 backend {signing}{also}")


def _clock() -> Finding:
    from edge.clock import kernel_says_synced  # noqa: PLC0415

    if kernel_says_synced():
        return Finding(OK, "clock", "synchronised")
    return Finding(
        WARN,
        "clock",
        "not synchronised: records will say so, and no device is refused for its time",
    )


def _installation(place: Place) -> Iterator[Finding]:
    settings = place.settings
    if settings is None:
        yield Finding(WARN, "configuration", f"none found around {place.directory}")
    else:
        yield Finding(OK, "configuration", f"readable; the log is {settings.origin}")
    if not place.directory.is_dir():
        yield Finding(FAIL, "store", f"{place.directory} is no directory")
        return
    free = shutil.disk_usage(place.directory).free // MIB
    reserve = settings.free_reserve_mb if settings else 0
    enough = f"{free} MiB free, {reserve} MiB kept in reserve"
    if free <= reserve:
        yield Finding(FAIL, "store", f"{enough}: the gateway takes no readings")
    else:
        yield Finding(WARN if free < 2 * reserve else OK, "store", enough)
    yield from _modes(place)


def _modes(place: Place) -> Iterator[Finding]:
    """Keys and database must be nobody else's to read."""
    secrets = [place.keys, *sorted(place.keys.glob("*"))]
    secrets += sorted(place.directory.glob("*.db*"))
    secrets = [path for path in secrets if path.exists()]
    if place.keys not in secrets:
        yield Finding(FAIL, "files", f"{place.keys}: there are no keys")
    wrong = 0
    for path in secrets:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & PRIVATE_MODE:
            wrong += 1
            yield Finding(FAIL, "files", f"{path}: mode {mode:04o} lets others in")
    if not wrong:
        yield Finding(OK, "files", f"{len(secrets)} secret files are their owner's own")
