"""The live page, its stream of snapshots, and the ledger for whoever reads its tiles.

    GET /                  the page: one HTML, one CSS, one JS, nothing from outside
    GET /api/live          one Snapshot (edge/web/live.py), JSON
    GET /events            the same as server-sent events, one `data:` line each
    GET /ledger/<path>     C2SP tlog-tiles; needs `Authorization: Bearer <token>`
    GET /healthz           200 `ok`, or 503 and why no readings are taken

The page has no login: it is for this machine, or through an SSH tunnel to it. So that
no web site can read it through a browser here (DNS rebinding), every request must name
a loopback host; so that none can use up the streams, a browser's request from another
site is refused where it would cost something.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from hmac import compare_digest
from importlib.resources import files

from aiohttp import web

from edge.web.live import Live, Snapshot

STREAMS_MAX = 32
STREAM_WRITE_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 2.0
RETRY_AFTER_S = 5
READ_METHODS = frozenset({"GET", "HEAD"})
LOOPBACK_HOST = re.compile(
    r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE
)
OWN_SITES = frozenset({"same-origin", "none"})  # Sec-Fetch-Site

CHECKPOINT_PATH = "checkpoint"
CHECKPOINT_HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "Cache-Control": "private, max-age=1",
}
TILE_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Cache-Control": "private, max-age=31536000, immutable",
}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PAGE_FILES = {  # path: file of this package, content type
    "/": ("templates/live.html", "text/html"),
    "/static/live.css": ("static/live.css", "text/css"),
    "/static/live.js": ("static/live.js", "text/javascript"),
    "/static/icon.svg": ("static/icon.svg", "image/svg+xml"),
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    live: Live, resource: Callable[[str], bytes | None], token: str
) -> web.Application:
    """The application; `token` opens the ledger and must not be empty.

    `resource` (Reader.resource) may block: it is called on one thread of its own, and
    on no other, so that its SQLite connection is never used by two at once.
    """
    if not token:
        raise ValueError("an empty token would open the ledger to everybody")
    app = web.Application(middlewares=[_only_from_here])
    app.on_response_prepare.append(_secure)
    _Page().add_to(app)
    _Stream(live).add_to(app)
    _Ledger(resource, token).add_to(app)

    async def health(_: web.Request) -> web.Response:
        if live.blocked:
            return web.Response(status=503, text=f"no readings taken: {live.blocked}\n")
        return web.Response(text="ok\n")

    app.router.add_get("/healthz", health)
    return app


async def serve(
    app: web.Application, host: str, port: int
) -> tuple[web.AppRunner, int]:
    """Serve until `await runner.cleanup()`; the runner and the port (for port 0).

    Open streams are ended at the clean-up and do not hold it up. OSError where the
    address cannot be had.
    """
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S, handle_signals=False
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])


@web.middleware
async def _only_from_here(request: web.Request, handler: Handler) -> web.StreamResponse:
    hosts = request.headers.getall("Host", [])
    if len(hosts) != 1 or not LOOPBACK_HOST.fullmatch(hosts[0]):
        raise web.HTTPMisdirectedRequest(text="only for this machine's own names\n")
    if request.method not in READ_METHODS:
        raise web.HTTPMethodNotAllowed(request.method, sorted(READ_METHODS))
    return await handler(request)


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


class _Page:
    """The page's files, read once."""

    def __init__(self) -> None:
        package = files("edge.web")
        self._bodies = {
            path: (package.joinpath(name).read_bytes(), content_type)
            for path, (name, content_type) in PAGE_FILES.items()
        }

    def add_to(self, app: web.Application) -> None:
        for path in self._bodies:
            app.router.add_get(path, self._get)

    async def _get(self, request: web.Request) -> web.Response:
        body, content_type = self._bodies[request.path]
        return web.Response(body=body, content_type=content_type, charset="utf-8")


class _Stream:
    """Snapshots, once and as a stream. One encoding is shared by all who get it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._encoded: tuple[Snapshot | None, bytes] = (None, b"")
        self._streams: set[asyncio.Task[None]] = set()

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/api/live", self._get_one)
        app.router.add_get("/events", self._get_stream, allow_head=False)
        app.on_shutdown.append(self._end)

    def _encode(self, snapshot: Snapshot) -> bytes:
        if self._encoded[0] is not snapshot:
            text = json.dumps(snapshot, separators=(",", ":"))
            self._encoded = (snapshot, text.encode())
        return self._encoded[1]

    async def _get_one(self, request: web.Request) -> web.Response:
        _refuse_other_sites(request)
        body = self._encode(self._live.snapshot())
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _get_stream(self, request: web.Request) -> web.StreamResponse:
        _refuse_other_sites(request)
        if len(self._streams) >= STREAMS_MAX:
            raise web.HTTPServiceUnavailable(
                text=f"{STREAMS_MAX} pages are open already\n",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        stream = asyncio.create_task(self._send(request, response), name="events")
        self._streams.add(stream)
        stream.add_done_callback(self._streams.discard)
        try:
            await asyncio.wait({stream})
        finally:
            stream.cancel()
        if not stream.cancelled():
            stream.result()
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse) -> None:
        """Until the reader goes, stops reading, or the application ends."""
        try:
            await response.prepare(request)
            async with aclosing(self._live.subscribe()) as snapshots:
                async for snapshot in snapshots:
                    async with asyncio.timeout(STREAM_WRITE_TIMEOUT_S):
                        await response.write(
                            b"data: " + self._encode(snapshot) + b"\n\n"
                        )
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()

    async def _end(self, _: web.Application) -> None:
        streams = list(self._streams)
        for stream in streams:
            stream.cancel()
        if streams:
            await asyncio.wait(streams)


def _refuse_other_sites(request: web.Request) -> None:
    site = request.headers.get("Sec-Fetch-Site", "none")
    if site not in OWN_SITES:
        raise web.HTTPForbidden(text="not for other sites\n")


class _Ledger:
    """The log's resources, to holders of the token."""

    def __init__(self, resource: Callable[[str], bytes | None], token: str) -> None:
        self._resource = resource
        self._expected = f"Bearer {token}".encode()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-reader")

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/ledger/{path:.+}", self._get)
        app.on_cleanup.append(self._close)

    async def _get(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "")
        if not compare_digest(given.encode(errors="surrogateescape"), self._expected):
            raise web.HTTPUnauthorized(
                text="needs the ledger's token\n",
                headers={"WWW-Authenticate": 'Bearer realm="ledger"'},
            )
        path = request.match_info["path"]
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(self._thread, self._resource, path)
        if body is None:
            raise web.HTTPNotFound(text="the log has no such resource\n")
        headers = CHECKPOINT_HEADERS if path == CHECKPOINT_PATH else TILE_HEADERS
        return web.Response(body=body, headers=headers)

    async def _close(self, _: web.Application) -> None:
        await asyncio.to_thread(self._thread.shutdown)
