"""Alarms to a real web server that fails, hangs, dies and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import apsw
import pytest
from aiohttp import web
from workbench import Mailbox, SignedDevice, a_ward, make_gateway

from edge import config
from edge.config import Settings, Webhook
from edge.delivery import webhook
from edge.delivery.webhook import WebhookSender
from edge.errors import ConfigurationError
from edge.gateway import Core
from edge.model import CommitReport, Firing, Verdict
from edge.store.database import DATABASE_NAME, FRAME_BITS, open_reader, rows
from edge.store.reader import Reader

SECRET = "a secret of the clinic's pager"


@dataclass
class Pager:
    """A receiver; `mood` is the status that it answers, 0 for none at all."""

    mood: int = 200
    port: int = 0
    taken: list[dict[str, object]] = field(default_factory=list)
    tries: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.tries += 1
        body = await request.read()
        told = dict(
            part.split("=", 1) for part in request.headers["Iomt-Signature"].split(",")
        )
        signed = told["t"].encode() + b"." + body
        mac = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(mac, told["v1"])
        if self.mood == 0:
            await asyncio.sleep(60)
        if self.mood == 200:
            firing = json.loads(body)
            assert firing["id"] == request.headers["Iomt-Id"]
            self.taken.append(firing)
        return web.Response(status=self.mood, headers={"Location": "http://[::1]:1/"})

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.taken) < count:
                await asyncio.sleep(0.01)

    def pressures(self) -> list[object]:
        return [one["values"]["systolic"] for one in self.taken]  # type: ignore[index]


@contextlib.asynccontextmanager
async def listening(pager: Pager) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/alarm", pager.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", pager.port).start()
    pager.port = runner.addresses[0][1]
    try:
        yield
    finally:
        await runner.cleanup()


def settings_with(directory: Path, pager: Pager) -> Settings:
    secret = directory / "webhook.secret"
    if not secret.exists():
        settings = make_gateway(directory)
        secret.write_text(SECRET)
        secret.chmod(0o600)
    settings = config.load(directory / "iomt.toml")
    url = f"http://127.0.0.1:{pager.port}/alarm"
    return replace(settings, webhook=Webhook(url, secret))


@contextlib.asynccontextmanager
async def sending(settings: Settings) -> AsyncIterator[tuple[Core, Mailbox]]:
    async with a_ward(settings) as (core, mail):
        assert settings.webhook is not None
        with contextlib.closing(
            Reader(settings.directory, core.keyring.master)
        ) as reader:
            sender = WebhookSender(settings.webhook, reader, core.intake)
            task = asyncio.create_task(sender.run())
            yield core, mail
            await asyncio.sleep(0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WAIT_FIRST_S", 0.02)
    monkeypatch.setattr(webhook, "WAIT_LAST_S", 0.1)
    monkeypatch.setattr(webhook, "TIMEOUT_S", 0.3)


async def alarms(mail: Mailbox, monitor: SignedDevice, *pressures: int) -> None:
    """Each an alarm, and its end."""
    for pressure in pressures:
        for value in (pressure, 120):
            payload = monitor.envelope(systolic_pressure=value)
            assert (await mail.send("monitor", payload)).verdict is Verdict.COMMITTED


async def test_every_firing_arrives_once_in_order_and_signed(tmp_path: Path) -> None:
    pager = Pager()
    async with listening(pager):
        settings = settings_with(tmp_path, pager)
        async with sending(settings) as (_, mail):
            await alarms(mail, SignedDevice("monitor"), 190, 191, 192)
            await pager.until(6)
    assert pager.pressures() == [190, 120, 191, 120, 192, 120]
    assert [one["phase"] for one in pager.taken] == ["start", "end"] * 3
    assert {one["patient"] for one in pager.taken} == {"P-1"}
    with contextlib.closing(open_reader(settings.directory)) as store:
        outcomes = rows(store, "SELECT delivered_ms > 0, attempts FROM deliveries")
    assert outcomes == [(1, 1)] * 6


@pytest.mark.parametrize("mood", [500, 404, 302, 0])
async def test_what_is_not_taken_is_tried_again_and_nobody_waits(
    tmp_path: Path, mood: int
) -> None:
    """A receiver that refuses, sends elsewhere or hangs: acknowledgements go on."""
    pager = Pager(mood=mood)
    async with listening(pager):
        settings = settings_with(tmp_path, pager)
        async with sending(settings) as (_, mail):
            await alarms(mail, SignedDevice("monitor"), 190, 191)
            async with asyncio.timeout(5):
                while pager.tries < 2:
                    await asyncio.sleep(0.01)
            assert not pager.taken
            pager.mood = 200
            await pager.until(4)
    assert pager.pressures() == [190, 120, 191, 120]
    with contextlib.closing(open_reader(settings.directory)) as store:
        [(most,)] = rows(store, "SELECT max(attempts) FROM deliveries")
    assert most > 1


async def test_a_restart_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Also with what fired while nobody listened, and nothing twice."""
    pager, monitor = Pager(), SignedDevice("monitor")
    async with listening(pager):
        settings = settings_with(tmp_path, pager)
        async with sending(settings) as (_, mail):
            await alarms(mail, monitor, 190)
            await pager.until(2)
    async with sending(settings_with(tmp_path, pager)) as (_, mail):
        await alarms(mail, monitor, 191)  # the receiver is away
    async with listening(pager), sending(settings_with(tmp_path, pager)):
        await pager.until(4)
        await asyncio.sleep(0.1)
    assert pager.pressures() == [190, 120, 191, 120]


async def test_a_receiver_that_stays_away_is_an_alarm_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "FAILING_S", 0.1)
    pager = Pager(mood=503)
    told: list[Firing] = []

    def note(report: CommitReport) -> None:
        told.extend(
            one.firing for one in report.firings if one.firing.contract == "gateway"
        )

    async with listening(pager):
        settings = settings_with(tmp_path, pager)
        async with sending(settings) as (core, mail):
            core.intake.on_commit.append(note)
            await alarms(mail, SignedDevice("monitor"), 190)
            async with asyncio.timeout(5):
                while not told:
                    await asyncio.sleep(0.01)
            pager.mood = 200
            await pager.until(4)  # the alarm about it is delivered as well
    assert [(one.rule, one.phase) for one in told] == [
        ("webhook", "start"),
        ("webhook", "end"),
    ]
    assert "answered 503" in told[0].detail


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('webhook = "http://pager.example/x"', "https is needed"),
        ('webhook = "ftp://pager.example/x"', "is not https"),
        ('webhook = "https://me:pw@pager.example/"', "without a user's name"),
        ('webhook = "https://pager.example:x/"', "no web address"),
        ('webhook = "https://pager.example/"\n#', "come together"),
    ],
)
def test_an_address_that_would_tell_strangers_is_refused(
    tmp_path: Path, line: str, reason: str
) -> None:
    make_gateway(tmp_path)
    text = (tmp_path / "iomt.toml").read_text()
    text = text.replace("[alerts]", f'[alerts]\n{line}\nsecret = "s"', 1)
    if line.endswith("#"):
        text = text.replace('\n#\nsecret = "s"', "", 1)
    with pytest.raises(ConfigurationError, match=reason):
        config.parse(text, "iomt.toml", tmp_path)


def test_a_secret_that_others_may_read_or_guess_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "s"
    with pytest.raises(ConfigurationError, match="s: "):
        webhook.load_secret(file)
    file.write_text(SECRET)
    file.chmod(0o644)
    with pytest.raises(ConfigurationError, match="others may read"):
        webhook.load_secret(file)
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(ConfigurationError, match="16 characters"):
        webhook.load_secret(file)


async def test_a_damaged_alarm_stops_neither_the_others_nor_the_gateway(
    tmp_path: Path,
) -> None:
    pager, monitor = Pager(mood=500), SignedDevice("monitor")
    async with listening(pager):
        settings = settings_with(tmp_path, pager)
        async with sending(settings) as (core, mail):
            await alarms(mail, monitor, 190, 191)
            await core.administration.add_patient("P-2")  # notes that all were shown
    connection = apsw.Connection(str(settings.directory / DATABASE_NAME))
    [(frame, sealed)] = rows(
        connection,
        "SELECT f.id, f.sealed FROM frames f JOIN deliveries d ON d.batch = f.id >> ? "
        "WHERE f.class = 2 ORDER BY d.id LIMIT 1",
        (FRAME_BITS,),
    )
    damaged = sealed[:-1] + bytes([sealed[-1] ^ 1])
    connection.execute("UPDATE frames SET sealed = ? WHERE id = ?", (damaged, frame))
    connection.close()
    pager.mood = 200
    async with listening(pager), sending(settings_with(tmp_path, pager)):
        await pager.until(4)
    told = [one["phase"] for one in pager.taken if one["contract"] != "gateway"]
    assert told == ["end", "start", "end"]
