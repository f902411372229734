"""Where a new device brings its claim code and gets its certificate, over TLS.

    POST /enrol    {"claim": "ABCD-EFGH-JKLM", "csr": PEM}   at most 16 KiB of JSON
        200  {"device", "certificate": PEM, "ca": PEM, "mqtt": "HOST:PORT", "names"}
        400  {"error": reason}   no JSON, or not these texts
        403  {"error": reason}   the claim or the CSR is no good
    GET /ca.pem    the certificates of the gateway's authority

A device that knows nothing yet gets /ca.pem from whoever answers, compares the SHA-256
of the first certificate (DER) with the one in its QR code, and only then says its
claim, over TLS that this certificate vouches for.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from ssl import SSLContext

from aiohttp import web

from edge.errors import RejectError

BODY_SIZE_MAX = 16 * 1024
SHUTDOWN_TIMEOUT_S = 2.0

Redeem = Callable[[str, bytes], Awaitable[dict[str, object]]]


def make_app(redeem: Redeem, authority_pem: Callable[[], str]) -> web.Application:
    """The two resources; `redeem(claim, CSR)` raises RejectError."""

    async def enrol(request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
            claim, csr = body["claim"], body["csr"]
            if not isinstance(claim, str) or not isinstance(csr, str):
                raise TypeError("claim and csr are texts")
            octets = csr.encode()  # JSON can write half of a UTF-16 pair
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return web.json_response({"error": f"not a request: {error}"}, status=400)
        try:
            return web.json_response(await redeem(claim.strip().upper(), octets))
        except RejectError as error:
            return web.json_response({"error": str(error)}, status=403)

    async def authority(_: web.Request) -> web.Response:
        return web.Response(text=authority_pem(), content_type="application/x-pem-file")

    app = web.Application(client_max_size=BODY_SIZE_MAX)
    app.router.add_post("/enrol", enrol)
    app.router.add_get("/ca.pem", authority)
    return app


async def serve(
    app: web.Application, host: str, port: int, context: SSLContext
) -> tuple[web.AppRunner, int]:
    """Serve until `await runner.cleanup()`; OSError where the address is taken."""
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S, handle_signals=False
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=context).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner, int(runner.addresses[0][1])
