"""The gateway's virtual Bluetooth adapter: an HCI controller behind TCP (H4 frames).

    gateway's host stack ── HCI over TCP ── Controller ── LocalLink ── peripherals

One host at a time, as a USB adapter has. Each attachment gets a controller that was
never used before. When the host goes, by a close or a kill, the peripherals see what
they would see on the air: the link times out, and they advertise again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from bumble import hci, ll
from bumble.controller import Controller
from bumble.core import InvalidArgumentError, InvalidPacketError
from bumble.link import LocalLink
from bumble.transport.common import PacketParser

READ_SIZE = 65536
UNREAD_SIZE_MAX = 1 << 20  # a host that stopped reading is taken to be gone
SETTLE_S = 0.05  # the link delivers in later turns of the loop: peripherals must hear
log = logging.getLogger("ward.hci")


class HciServer:
    """Serves one controller of `link`; start() it, and close() it at the end."""

    def __init__(self, link: LocalLink) -> None:
        self._link = link
        self._server: asyncio.Server | None = None
        self._attached: asyncio.StreamWriter | None = None
        self._detached = asyncio.Event()
        self._count = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port, which differs from `port` where that is 0."""
        self._server = await asyncio.start_server(self._serve, host, port)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening and detach the host."""
        if self._server is not None:
            self._server.close()
        if self._attached is not None:
            self._attached.close()
            await self._detached.wait()
            await asyncio.sleep(SETTLE_S)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._attached is not None:
            log.warning("a second host is turned away")
            writer.close()
            return
        self._attached = writer
        self._detached.clear()
        self._count += 1
        controller = Controller(f"gateway-{self._count}", link=self._link)
        controller.set_packet_sink(_HostSink(writer))
        try:
            await _feed(reader, controller)
        except (ConnectionError, InvalidPacketError) as error:
            log.warning("the host is detached: %s", error)
        finally:
            self._detach(controller)
            self._attached = None
            self._detached.set()
            writer.close()

    def _detach(self, controller: Controller) -> None:
        controller.set_packet_sink(None)
        controller.pending_le_connection = None
        timeout = hci.HCI_ErrorCode.CONNECTION_TIMEOUT_ERROR
        for connection in controller.le_connections.values():
            with contextlib.suppress(InvalidArgumentError):  # the peripheral went first
                connection.send_ll_control_pdu(ll.TerminateInd(timeout))
        self._link.remove_controller(controller)


class _HostSink:
    """Where the controller's packets for the host go."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._transport = writer.transport

    def on_packet(self, packet: bytes) -> None:
        """Write one H4 frame; a host that does not read is dropped, not waited for."""
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > UNREAD_SIZE_MAX:
            log.warning("the host does not read: detached")
            self._transport.abort()
            return
        self._transport.write(packet)


async def _feed(reader: asyncio.StreamReader, controller: Controller) -> None:
    parser = PacketParser(controller)
    while frames := await reader.read(READ_SIZE):
        parser.feed_data(frames)
