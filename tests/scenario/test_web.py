"""The web application over real sockets, and its page in a real browser."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edge.devices.metrics import make_reading
from edge.errors import Reason
from edge.model import (
    NO_FLAGS,
    Attestation,
    CommitReport,
    Firing,
    LiveFiring,
    LiveReading,
)
from edge.web import app as app_module
from edge.web import live as live_module
from edge.web.app import make_app, serve
from edge.web.live import Live

TOKEN = "a-token-of-the-ledger"
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>alert(1)</script>"
BROWSER = shutil.which("chromium")
BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)
LEDGER = {
    "checkpoint": b"clinic.example/ward-3\n1\n",
    "tile/0/000.p/1": bytes(32),
    "tile/entries/x001/067": b"\x00\x01a",
}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def reading(
    patient: str | None,
    values: Mapping[str, str],
    device: str = "",
    age_ms: int = 0,
) -> LiveReading:
    made = make_reading(None, {name: Decimal(text) for name, text in values.items()})
    return LiveReading(
        device or f"monitor-{patient}",
        patient,
        "mqtt",
        Attestation.DEVICE,
        NO_FLAGS,
        now_ms() - age_ms,
        made,
    )


def firing(phase: str, patient: str, rule: str, priority: str) -> LiveFiring:
    made = Firing(
        "spo2-low",
        bytes(32),
        rule,
        priority,
        phase,
        f"patient:{patient}",
        now_ms(),
        {"spo2": 85},
        "spo2 < 90",
    )
    return LiveFiring(made, None, patient, f"{patient}-{rule}-{phase}")


def report(
    *readings: LiveReading,
    firings: tuple[LiveFiring, ...] = (),
    refusals: tuple[tuple[str, Reason, str], ...] = (),
) -> CommitReport:
    totals = {"received": 1207, "committed": 1190, "duplicates": 9, "refused": 8}
    return CommitReport(now_ms(), 345, False, readings, firings, refusals, totals)


@asynccontextmanager
async def served(
    live: Live, resource: Callable[[str], bytes | None] = LEDGER.get, port: int = 0
) -> AsyncIterator[str]:
    runner, port = await serve(make_app(live, resource, TOKEN), "127.0.0.1", port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=10)
    ) as session:
        yield session


async def next_event(answer: aiohttp.ClientResponse) -> Any:
    line = await answer.content.readline()
    assert line.startswith(b"data: "), line
    assert await answer.content.readline() == b"\n"
    return json.loads(line.removeprefix(b"data: "))


# ---- Who may ask, and what ----


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("LocalHost:8080", 200),
        ("[::1]:1", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:80@evil.example", 421),
        ("localhost:", 421),
        ("192.168.1.5:8080", 421),
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/live", "/ledger/checkpoint"])
async def test_only_loopback_names_are_answered(
    client: aiohttp.ClientSession, host: str, status: int, path: str
) -> None:
    """DNS rebinding: a web site's own name that resolves to this machine."""
    async with served(Live()) as url:
        headers = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
        async with client.get(url + path, headers=headers) as answer:
            assert answer.status == status


async def test_a_request_without_or_with_two_hosts_is_refused() -> None:
    async with served(Live()) as url:
        port = int(url.rpartition(":")[2])
        for hosts in (b"", b"Host: localhost\r\nHost: evil.example\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /api/live HTTP/1.1\r\n" + hosts + b"\r\n")
            status = await asyncio.wait_for(reader.readline(), 5)
            assert status.split()[1] in (b"400", b"421")
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_nothing_can_be_changed_here(
    client: aiohttp.ClientSession, method: str
) -> None:
    async with served(Live()) as url:
        for path in ("/", "/api/live", "/ledger/checkpoint", "/nothing"):
            async with client.request(method, url + path) as answer:
                assert answer.status == 405
                assert answer.headers["Allow"] == "GET,HEAD"


async def test_every_answer_carries_the_security_headers(
    client: aiohttp.ClientSession,
) -> None:
    async with served(Live()) as url:
        for path in (
            "/",
            "/static/live.js",
            "/api/live",
            "/events",
            "/no",
            "/ledger/x",
        ):
            async with client.get(url + path) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'self'" in policy
                assert "frame-ancestors 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/events", "/api/live"])
async def test_a_page_of_another_site_gets_no_snapshots(
    client: aiohttp.ClientSession, path: str
) -> None:
    """Such a page cannot read them, but it could use up the streams."""
    async with served(Live()) as url:
        for site, status in (("cross-site", 403), ("same-origin", 200)):
            headers = {"Sec-Fetch-Site": site}
            async with client.get(url + path, headers=headers) as answer:
                assert answer.status == status


# ---- Snapshots ----


async def test_one_snapshot_is_json(client: aiohttp.ClientSession) -> None:
    live = Live()
    live.update(report(reading("Bed 1", {"spo2": "97"})))
    async with served(live) as url, client.get(url + "/api/live") as answer:
        assert answer.content_type == "application/json"
        snapshot = await answer.json()
    assert snapshot["tiles"][0]["values"]["spo2"]["text"] == "97"


async def test_a_stream_brings_the_state_at_once_and_each_update(
    client: aiohttp.ClientSession,
) -> None:
    live = Live()
    live.update(report(reading("Bed 1", {"spo2": "97"})))
    async with served(live) as url, client.get(url + "/events") as answer:
        assert answer.content_type == "text/event-stream"
        first = await next_event(answer)
        assert first["tiles"][0]["values"]["spo2"]["text"] == "97"
        live.update(report(reading("Bed 1", {"spo2": "88"})))
        second = await next_event(answer)
        assert second["tiles"][0]["values"]["spo2"]["text"] == "88"


async def test_streams_are_limited_and_a_closed_one_makes_room(
    client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "STREAMS_MAX", 1)
    monkeypatch.setattr(live_module, "HEARTBEAT_S", 0.6)
    live = Live()
    async with served(live) as url:
        async with client.get(url + "/events") as answer:
            await next_event(answer)
            async with client.get(url + "/events") as refused:
                assert refused.status == 503
                assert refused.headers["Retry-After"] == "5"
            async with client.get(url + "/api/live") as one:
                assert one.status == 200
        async with asyncio.timeout(8):  # noticed at the next write
            while True:
                async with client.get(url + "/events") as again:
                    if again.status == 200:
                        break
                await asyncio.sleep(0.2)


async def test_a_reader_that_stops_reading_loses_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise 32 sleeping laptops would lock everybody out."""
    monkeypatch.setattr(app_module, "STREAM_WRITE_TIMEOUT_S", 0.2)
    live = Live()
    live.update(
        report(*(reading(f"Bed {n} " + "x" * 3000, {"spo2": "9"}) for n in range(900)))
    )
    async with served(live) as url:
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await asyncio.to_thread(
                stuck.connect, ("127.0.0.1", int(url.rpartition(":")[2]))
            )
            stuck.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(8):
                while not live._subscribers:
                    await asyncio.sleep(0.01)
                while live._subscribers:
                    await asyncio.sleep(0.05)


async def test_open_streams_do_not_hold_up_the_end(
    client: aiohttp.ClientSession,
) -> None:
    live = Live()
    async with served(live) as url:
        answer = await client.get(url + "/events")
        await next_event(answer)
        started = time.monotonic()
    assert time.monotonic() - started < 1
    assert not live._subscribers
    answer.close()


async def test_an_address_in_use_is_an_error_at_once() -> None:
    async with served(Live()) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match="address"):
            await serve(make_app(Live(), LEDGER.get, TOKEN), "127.0.0.1", port)


async def test_health_says_why_no_readings_are_taken(
    client: aiohttp.ClientSession,
) -> None:
    live = Live()
    async with served(live) as url:
        async with client.get(url + "/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        live.blocked = "disk full"
        async with client.get(url + "/healthz") as answer:
            assert answer.status == 503
            assert "disk full" in await answer.text()


# ---- The ledger ----


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"bearer{TOKEN}",
        f"Basic {TOKEN}",
        "Bearer ☃",
    ],
)
async def test_the_ledger_needs_its_token(
    client: aiohttp.ClientSession, authorization: str | None
) -> None:
    asked: list[str] = []
    headers = {} if authorization is None else {"Authorization": authorization}
    async with (
        served(Live(), asked.append) as url,
        client.get(url + "/ledger/checkpoint", headers=headers) as answer,
    ):
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert asked == []


async def test_ledger_resources_come_byte_for_byte_with_their_caching(
    client: aiohttp.ClientSession,
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with served(Live()) as url:
        for path, expected in LEDGER.items():
            async with client.get(f"{url}/ledger/{path}", headers=headers) as answer:
                assert await answer.read() == expected
                kind, caching = (
                    answer.headers["Content-Type"],
                    answer.headers["Cache-Control"],
                )
                if path == "checkpoint":
                    assert kind == "text/plain; charset=utf-8"
                    assert caching == "private, max-age=1"
                else:
                    assert kind == "application/octet-stream"
                    assert "immutable" in caching
        for path in ("tile/0/999", "..%2fkeys", "checkpoint/"):
            async with client.get(f"{url}/ledger/{path}", headers=headers) as answer:
                assert answer.status == 404
                assert answer.headers["Cache-Control"] == "no-store"


async def test_the_ledger_is_read_on_one_thread_that_is_not_the_loops(
    client: aiohttp.ClientSession,
) -> None:
    """Its SQLite connection must not be used by two at once; the loop must not wait."""
    threads: set[int] = set()
    inside = 0

    def slow(_: str) -> bytes:
        nonlocal inside
        inside += 1
        assert inside == 1
        threads.add(threading.get_ident())
        time.sleep(0.02)
        inside -= 1
        return b"x"

    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with served(Live(), slow) as url:

        async def get() -> int:
            async with client.get(url + "/ledger/checkpoint", headers=headers) as a:
                return a.status

        assert await asyncio.gather(*(get() for _ in range(8))) == [200] * 8
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_empty_token_is_refused() -> None:
    """`Authorization: Bearer ` would open the ledger to everybody."""
    with pytest.raises(ValueError, match="token"):
        make_app(Live(), LEDGER.get, "")


def test_the_page_has_no_inline_script_and_nothing_from_outside() -> None:
    package = Path(app_module.__file__).parent
    for name, _ in app_module.PAGE_FILES.values():
        text = (package / name).read_text()
        outside = text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in outside
        assert "https:" not in outside
        for word in (
            "innerHTML",
            "insertAdjacent",
            "document.write",
            "style=",
            "eval(",
        ):
            assert word not in text, (name, word)


# ---- The page in a browser ----


class Browser:
    """A page of headless Chromium, asked over the DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0

    async def call(self, method: str, **params: object) -> Any:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=20)
            if message.get("id") == number:
                return message["result"]

    async def text(self, expression: str) -> str:
        result = await self.call("Runtime.evaluate", expression=f"String({expression})")
        # Without a value it threw: the page is not there yet.
        return str(result["result"].get("value", "undefined"))

    async def until(self, expression: str, wait_s: float = 20) -> None:
        """Return once the expression is true in the page."""
        deadline = time.monotonic() + wait_s
        while await self.text(f"!!({expression})") != "true":
            if time.monotonic() > deadline:
                body = await self.text("document.body.innerText")
                pytest.fail(f"never true: {expression}\n{body}")
            await asyncio.sleep(0.05)


async def until_written(port_file: Path) -> str:
    async with asyncio.timeout(20):
        while not (port_file.exists() and port_file.read_text().count("\n")):
            await asyncio.sleep(0.05)
    return port_file.read_text().split("\n", 1)[0]


@asynccontextmanager
async def browser(
    url: str, profile: Path, client: aiohttp.ClientSession, size: str = "1400,900"
) -> AsyncIterator[Browser]:
    assert BROWSER is not None
    process = await asyncio.create_subprocess_exec(
        BROWSER,
        *BROWSER_FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={size}",
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await until_written(profile / "DevToolsActivePort")
        async with client.get(f"http://127.0.0.1:{port}/json/list") as answer:
            targets = await answer.json(content_type=None)
        page = next(t for t in targets if t["type"] == "page")
        async with client.ws_connect(
            page["webSocketDebuggerUrl"], max_msg_size=1 << 26
        ) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


def ward() -> Live:
    live = Live()
    live.update(
        report(
            reading("Bed 1", {"heart_rate": "72.0", "spo2": "85"}),
            reading("Bed 2", {"heart_rate": "0.0", "spo2": "97"}),
            reading("Bed 3", {"heart_rate": "66"}, age_ms=40_000),
            reading(HOSTILE, {"systolic_pressure": "121", "diastolic_pressure": "79"}),
            reading(None, {"glucose": "104"}, device="spare-1"),
            firings=(
                firing("start", "Bed 1", "low", "high"),
                firing("start", "Bed 2", "lost", "medium"),
                firing("end", "Bed 2", "lost", "medium"),
            ),
            refusals=((HOSTILE, Reason.BAD_SIGNATURE, HOSTILE),),
        )
    )
    return live


needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine (apt install chromium)"
)


@needs_browser
async def test_the_page_shows_patients_values_and_alarms(
    client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    live = ward()
    async with served(live) as url, browser(url, tmp_path, client) as page:
        await page.until("document.querySelectorAll('.tile').length === 5")
        tiles = json.loads(
            await page.text(
                "JSON.stringify([...document.querySelectorAll('.tile')]"
                ".map(t => t.innerText.replace(/\\s+/g, ' ')))"
            )
        )
        bed_1 = next(t for t in tiles if t.startswith("Bed 1"))
        assert "!!! HIGH SpO2 low" in bed_1
        assert "Heart rate /min 72 " in bed_1
        assert "SpO₂ % 85 " in bed_1
        bed_2 = next(t for t in tiles if t.startswith("Bed 2"))
        assert "Heart rate /min — sensor off" in bed_2
        assert "HIGH" not in bed_2
        bed_3 = next(t for t in tiles if t.startswith("Bed 3"))
        assert "no signal 4" in bed_3
        assert await page.text("document.querySelectorAll('.stale').length") == "1"
        assert any("BP mmHg 121/79" in t for t in tiles)
        unassigned = await page.text("document.querySelector('#unassigned').innerText")
        assert "spare-1" in unassigned
        active = await page.text("document.querySelector('#active').innerText")
        assert "!!! HIGH" in active
        assert "Bed 1" in active
        assert "active since" in active
        ended = await page.text("document.querySelector('#ended').innerText")
        assert "!! MEDIUM" in ended
        assert "ended" in ended
        footer = await page.text("document.querySelector('footer').innerText")
        for words in (
            "1,207",
            "1,190",
            "345",
            "not synchronised",
            "Secondary notification only: not a primary alarm.",
        ):
            assert words in footer
        # What came over the network is text, never markup.
        names = "[...document.querySelectorAll('h3')].map(h => h.textContent)"
        assert HOSTILE in await page.text(f"{names}.join('|')")
        assert await page.text("document.querySelectorAll('main img').length") == "0"
        assert await page.text("document.title") == "(1) Ward"


@needs_browser
async def test_the_page_follows_updates_without_being_loaded_again(
    client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    live = ward()
    async with served(live) as url, browser(url, tmp_path, client) as page:
        await page.until("document.querySelector('.tile.high')")
        assert await page.text("document.querySelector('#lost').hidden") == "true"
        live.update(
            report(
                reading("Bed 1", {"spo2": "96"}),
                firings=(firing("end", "Bed 1", "low", "high"),),
            )
        )
        await page.until("!document.querySelector('.tile.high')")
        await page.until(
            "document.querySelector('#patients').innerText.replace(/\\s+/g, ' ')"
            ".includes('SpO₂ % 96 ')"
        )
        await page.until(
            "document.querySelector('#quiet').innerText === 'No active alarm.'"
        )
        live.blocked = "disk full"
        await page.until("!document.querySelector('#blocked').hidden")
        assert "disk full" in await page.text(
            "document.querySelector('#blocked').innerText"
        )
        live.blocked = ""
        await page.until("document.querySelector('#blocked').hidden")


@needs_browser
async def test_a_lost_connection_is_shown_large_until_the_gateway_is_back(
    client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A frozen page is dangerous: it looks like a patient who is well."""
    lost = "document.querySelector('#lost')"
    live = ward()
    async with AsyncExitStack() as stack:
        async with served(live) as url:
            page = await stack.enter_async_context(browser(url, tmp_path, client))
            await page.until(f"{lost}.hidden")
        await page.until(f"!{lost}.hidden")
        told = await page.text(f"{lost}.innerText")
        assert told.startswith("No connection to the gateway since ")
        assert "What you see is old." in told
        size = f"getComputedStyle({lost}).fontSize"
        assert float((await page.text(size)).removesuffix("px")) >= 18
        assert await page.text("document.title") == "NO CONNECTION · Ward"
        assert await page.text("document.body.className") == "lost"
        port = int(url.rpartition(":")[2])
        async with served(live, port=port):
            await page.until(f"{lost}.hidden")
            assert await page.text("document.body.className") == ""


@needs_browser
async def test_a_gateway_that_falls_silent_counts_as_lost(
    client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """A stopped process keeps its sockets open: only the silence tells."""
    waiting = asyncio.Event()

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        line = await reader.readline()  # empty: the browser connects ahead of need
        path = line.split()[1] if line else b""
        if path == b"/events":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            await waiting.wait()
        elif path in bodies:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + bodies[path])
        writer.close()

    async with served(ward()) as url:
        bodies = {}
        for path in ("/", "/static/live.js", "/static/live.css", "/api/live"):
            async with client.get(url + path) as got:
                kind = f"Content-Type: {got.headers['Content-Type']}\r\n\r\n"
                bodies[path.encode()] = kind.encode() + await got.read()
    script = bodies[b"/static/live.js"]
    assert b"SILENCE_MS = 5000;" in script
    bodies[b"/static/live.js"] = script.replace(
        b"SILENCE_MS = 5000", b"SILENCE_MS = 900"
    )
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with browser(url, tmp_path, client) as page:
        await page.until("document.querySelectorAll('.tile').length === 5")
        await page.until("document.title.startsWith('NO CONNECTION')")
    waiting.set()
    server.close()
    await server.wait_closed()


@needs_browser
@pytest.mark.parametrize("size", ["390,844", "1920,1080"])
async def test_nothing_is_cut_off_at_the_side(
    client: aiohttp.ClientSession, tmp_path: Path, size: str
) -> None:
    width, height = map(int, size.split(","))
    async with served(ward()) as url, browser(url, tmp_path, client) as page:
        await page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await page.until("document.querySelectorAll('.tile').length === 5")
        await page.until(f"window.innerWidth === {width}")
        root = "document.documentElement"
        assert await page.text(f"{root}.scrollWidth - {root}.clientWidth") == "0"
        overflowing = (
            "[...document.querySelectorAll('.tile, .value')]"
            ".filter(n => n.scrollWidth > n.clientWidth + 1)"
            ".map(n => n.innerText).join('|')"
        )
        assert await page.text(overflowing) == ""
