"""The two processes of a measurement: a gateway on a fresh directory, and its load.

Nothing here knows what is measured. A gateway is stopped as an operator would, and its
ledger is exported and verified with the user's own commands before its numbers count.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peers
from mqtt_load import Measured, Phase, device_names, seed_of

from edge import config, control
from edge.init import initialise
from edge.ledger import core
from edge.store.database import TILE_DIRECTORY, open_reader, rows

ORIGIN = "bench.example/ward"
PREFIX = "bed-"
STOP_TIMEOUT_S = 30.0
PROGRAM = ("-m", "edge")


class Load:
    """The load's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("mqtt_load.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the load ended; see its message above")
        return line

    def run(self, phase: Phase) -> Measured:
        """One phase; returns when its last acknowledgement is in."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(phase)) + "\n")
        self._process.stdin.flush()
        return Measured(**json.loads(self._read()))

    def close(self) -> None:
        """Kill it: it holds nothing."""
        self._process.kill()
        self._process.communicate()


@dataclass(slots=True)
class Gateway:
    """A gateway that runs, and its directory."""

    directory: Path
    configuration: Path
    port: int
    pid: int

    def enrol(self, count: int, *, unsigned: bool = False) -> None:
        """`count` devices, which sign or do not, each at a patient of its own."""
        for device in device_names(PREFIX, count):
            how = {"kind": "unsigned"}
            if not unsigned:
                public_key = core.public_key(seed_of(device)).hex()
                how = {"kind": "signed", "public_key": public_key}
            for operation, arguments in (
                ("device-add", {"name": device} | how),
                ("patient-add", {"name": f"P-{device}"}),
                ("device-assign", {"name": device, "patient": f"P-{device}"}),
            ):
                control.call(self.directory, operation, arguments)

    def query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Rows of the database, read beside the gateway."""
        with closing(open_reader(self.directory)) as connection:
            return rows(connection, sql, values)

    def stored_size(self) -> tuple[int, int]:
        """(bytes of the database with what is still in its WAL, of the tile files)."""
        with closing(open_reader(self.directory)) as connection:
            pages, size = (
                int(connection.pragma(name)) for name in ("page_count", "page_size")
            )
        tiles = (self.directory / TILE_DIRECTORY).rglob("*")
        return pages * size, sum(one.stat().st_size for one in tiles if one.is_file())

    def commits_per_s(self, measured: Measured) -> float:
        """Commits with readings, over the measured span."""
        [(count,)] = self.query(
            "SELECT COUNT(*) FROM batches WHERE time_ms BETWEEN ? AND ?",
            (measured.begin_ms, measured.end_ms),
        )
        return float(count) / measured.elapsed_s


@contextmanager
def running(
    parent: Path,
    contracts: Mapping[str, str] | None = None,
    *,
    more: str = "",
    program: Sequence[str] = PROGRAM,
) -> Iterator[Gateway]:
    """`iomt run` on a fresh directory; at the end stopped, checked and removed.

    With the contracts of `iomt init`, or these texts by their names, and `more` at the
    end of its configuration. Of another program than `iomt` the ledger is not checked.
    """
    top = Path(tempfile.mkdtemp(prefix="iomt-bench-", dir=parent))
    try:
        port = peers.free_port()
        text = config.TEMPLATE.format(path=top / "iomt.toml", origin=ORIGIN)
        text = text.replace("127.0.0.1:1883", f"127.0.0.1:{port}")
        text = text.replace("127.0.0.1:8080", "127.0.0.1:0")
        text = text.replace('# clock = "auto"  ', 'clock = "trusted"  ')
        configuration = initialise(top, ORIGIN, text + more)
        settings = config.load(configuration)
        if contracts is not None and settings.contracts is not None:
            shutil.rmtree(settings.contracts)
            settings.contracts.mkdir()
            for name, content in contracts.items():
                (settings.contracts / f"{name}.toml").write_text(content)
        if not settings.clock_trusted or settings.mqtt is None:
            raise RuntimeError("the template of the configuration has changed")
        with (top / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *program, "run", "--config", str(configuration)],
                stdout=log,
                stderr=log,
            )
        try:
            try:
                peers.wait_for_port(port, process)
            except (RuntimeError, TimeoutError) as error:
                error.add_note((top / "log").read_text())
                raise
            gateway = Gateway(settings.directory, configuration, port, process.pid)
            yield gateway
            process.send_signal(signal.SIGTERM)
            if process.wait(STOP_TIMEOUT_S) != 0:
                raise RuntimeError(f"the gateway failed:\n{(top / 'log').read_text()}")
        finally:
            process.kill()
            process.wait()
        if program == PROGRAM:
            verify_ledger(gateway, top / "exported")
    finally:
        shutil.rmtree(top)


def verify_ledger(gateway: Gateway, exported: Path) -> None:
    """Export and verify as a user would; CalledProcessError where it does not hold."""

    def iomt(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "edge", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    where = ("--config", str(gateway.configuration))
    iomt("ledger", "export", str(exported), *where)
    vkey = iomt("ledger", "vkey", *where).strip()
    iomt("verify", str(exported), "--vkey", vkey)


def check_counts(gateway: Gateway, acknowledged: int) -> None:
    """RuntimeError unless all that was acknowledged was committed, and no more."""
    counters = dict(gateway.query("SELECT name, value FROM counters"))
    found = tuple(
        counters.get(name, 0)
        for name in ("received", "committed", "duplicates", "refused")
    )
    if found != (acknowledged, acknowledged, 0, 0):
        raise RuntimeError(
            f"{acknowledged} acknowledged; received, committed, duplicates, refused: "
            f"{found}"
        )
