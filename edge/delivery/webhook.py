"""Alarms to a web address: each firing one POST, in order, until it is taken.

    POST URL
    Content-Type: application/json
    Iomt-Id: <the firing's name in the ledger>      the same for each try: drop repeats
    Iomt-Signature: t=<seconds since 1970>,v1=<HMAC-SHA-256, hex>   over "<t>.<body>"
    body: as delivery/alerts.py, and "id"

A firing's row in `deliveries` is made in the commit that holds the firing, so that none
is forgotten by a crash; the outcome (when, after how many tries) is written there after
it, in a transaction of its own: a firing and its delivery are two things. Delivered is
what was answered with 2xx. Otherwise it is tried again, after 1 s at first and 5
minutes at last, for ever; later firings wait behind it. After FAILING_S that is a
technical alarm. A kill between the answer and the row repeats it: at least once.

The address is never waited for by anybody else. No redirect is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from edge.config import Webhook
from edge.delivery.alerts import alert_payload
from edge.errors import ConfigurationError, ErasedError, IntegrityError
from edge.intake import Intake
from edge.model import CommitReport, Firing, LiveFiring
from edge.store.commit import Writer
from edge.store.database import rows
from edge.store.reader import Reader, StoredRecord
from edge.store.vault import read_secret

PAGE_COUNT = 50
TIMEOUT_S = 10.0
WAIT_FIRST_S, WAIT_LAST_S = 1.0, 300.0
FAILING_S = 300.0
KEPT_COUNT = 100_000  # outcomes that are remembered
RULE = "webhook"

log = logging.getLogger("edge.webhook")


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A firing that is to be delivered; `row` is its row in `deliveries`."""

    row: int
    batch: int
    leaf: int


@dataclass(frozen=True, slots=True)
class _Done:
    row: int
    delivered_ms: int
    attempts: int


class WebhookSender:
    """Delivers for ever; `run` is a task of the gateway's."""

    def __init__(self, settings: Webhook, reader: Reader, intake: Intake) -> None:
        self._url = settings.url
        self._secret = load_secret(settings.secret)
        self._reader = reader
        self._intake = intake
        self._wake = asyncio.Event()
        self._wake.set()
        self._failing_s: float | None = None  # since when
        self._told = False
        intake.on_commit.append(self._committed)

    def _committed(self, report: CommitReport) -> None:
        if report.firings:
            self._wake.set()

    async def run(self) -> None:
        """Deliver what waits, and what comes."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while page := self._page():
                    await self._deliver(session, page)

    def _page(self) -> list[_Waiting]:
        found = rows(
            self._reader.connection,
            "SELECT id, batch, leaf FROM deliveries WHERE delivered_ms IS NULL "
            "ORDER BY id LIMIT ?",
            (PAGE_COUNT,),
        )
        return [_Waiting(*one) for one in found]

    async def _deliver(
        self, session: aiohttp.ClientSession, page: list[_Waiting]
    ) -> None:
        patients = self._reader.patients()
        done: list[_Done] = []
        written_s = time.monotonic()
        for waiting in page:
            try:
                stored = self._reader.record_at(waiting.batch, waiting.leaf)
            except ErasedError:
                done.append(_Done(waiting.row, 0, 0))  # forgotten before it could go
                continue
            except IntegrityError as error:
                log.error("an alarm cannot go (see `iomt store check`): %s", error)
                done.append(_Done(waiting.row, 0, 0))
                continue
            attempts = 0
            while True:
                attempts += 1
                trouble = await self._post(session, stored, patients)
                if not trouble:
                    break
                await self._write(done)  # the wait may be long
                done = []
                await self._wait(attempts, trouble)
            self._recovered()
            done.append(_Done(waiting.row, time.time_ns() // 1_000_000, attempts))
            if time.monotonic() - written_s > 1:
                await self._write(done)
                done, written_s = [], time.monotonic()
        await self._write(done)

    async def _post(
        self,
        session: aiohttp.ClientSession,
        stored: StoredRecord,
        patients: Mapping[str, tuple[int, str]],
    ) -> str:
        """Try once; what was wrong, or ""."""
        body = _body(stored, patients)
        headers = {
            "Content-Type": "application/json",
            "Iomt-Id": stored.reading_id(0),
            "Iomt-Signature": signature(self._secret, int(time.time()), body),
        }
        try:
            async with session.post(
                self._url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return (
                    ""
                    if answer.ok and answer.status < 300
                    else (f"answered {answer.status}")
                )
        except TimeoutError:
            return f"no answer in {TIMEOUT_S:.0f} s"
        except (aiohttp.ClientError, OSError) as error:
            return type(error).__name__

    async def _wait(self, attempts: int, trouble: str) -> None:
        now_s = time.monotonic()
        if self._failing_s is None:
            self._failing_s = now_s
            log.warning("the webhook does not take an alarm: %s", trouble)
        if not self._told and now_s - self._failing_s >= FAILING_S:
            self._told = True
            self._intake.alarm(RULE, "start", f"alarms are not taken: {trouble}")
        longest_s = min(WAIT_LAST_S, WAIT_FIRST_S * 2 ** min(attempts - 1, 20))
        share = random.uniform(0.5, 1.0)  # noqa: S311 - so that many do not come at once
        await asyncio.sleep(longest_s * share)

    def _recovered(self) -> None:
        if self._failing_s is not None:
            log.info("the webhook takes alarms again")
        if self._told:
            self._intake.alarm(RULE, "end", "alarms are taken again")
        self._failing_s, self._told = None, False

    async def _write(self, done: list[_Done]) -> None:
        if done:
            await self._intake.maintain(lambda writer: _mark(writer, done))


def _mark(writer: Writer, done: list[_Done]) -> None:
    def mark() -> None:
        writer.connection.executemany(
            "UPDATE deliveries SET delivered_ms = ?, attempts = ? WHERE id = ?",
            [(one.delivered_ms, one.attempts, one.row) for one in done],
        )
        writer.connection.execute(
            "DELETE FROM deliveries WHERE id <= ? AND delivered_ms IS NOT NULL",
            (done[-1].row - KEPT_COUNT,),
        )

    writer.transact(mark)


def _body(stored: StoredRecord, patients: Mapping[str, tuple[int, str]]) -> bytes:
    firing = Firing.decode(stored.record.original)
    kind, _, key = firing.subject.partition(":")
    patient = patients.get(key) if kind == "patient" else None
    live = LiveFiring(
        firing,
        key if kind == "device" else None,
        patient[1] if patient else None,
        stored.reading_id(0),
    )
    fields = json.loads(alert_payload(live, stored.record.received_ms))
    return json.dumps(fields | {"id": stored.reading_id(0)}, sort_keys=True).encode()


def signature(secret: bytes, time_s: int, body: bytes) -> str:
    """The header that a receiver checks with the secret that it shares with us."""
    mac = hmac.new(secret, b"%d." % time_s + body, hashlib.sha256).hexdigest()
    return f"t={time_s},v1={mac}"


def load_secret(path: Path) -> bytes:
    """The text of a 0600 file; ConfigurationError where it is none."""
    problems: list[str] = []
    with contextlib.suppress(UnicodeDecodeError):
        text = read_secret(path, problems)
        if not problems and len(text) >= 16:
            return text.encode()
        problems = problems or [f"{path}: a secret has at least 16 characters"]
    raise ConfigurationError(problems or [f"{path}: not text"])
