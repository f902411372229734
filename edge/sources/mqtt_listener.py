"""The MQTT endpoint: MQTT 3.1.1 and 5.0 over TCP or TLS, QoS 0 and 1. No broker.

With a broker in between, a device's PUBACK says nothing about the ledger; here it is
written only after the commit that holds the reading. All acknowledgements of one commit
that belong to one connection leave in one write: the syscalls, not the parsing, are
what bounds the rate.

A session that its client wants to keep (3.1.1: clean session 0; 5: a session expiry)
outlives the connection and, with a Keeper, the gateway: mqtt_session.py. Retained
messages are not kept; the flag is ignored. Sessions belong to user and client id
together, so no user can take over another's.

A will is submitted like a message of QoS 0 when the connection ends without DISCONNECT
and its client does not come back within the will delay; except when it is we who shut
down: that says nothing about the device.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from ssl import SSLContext

from edge.devices.mapped import Mapping
from edge.mqtt_limits import Limits
from edge.sources import Door
from edge.sources.mqtt_connection import (
    PAYLOAD_KEPT_SIZE,
    PAYLOAD_SIZE_MAX,
    Connection,
)
from edge.sources.mqtt_packets import Publish, Will
from edge.sources.mqtt_properties import Code, Property, number
from edge.sources.mqtt_session import Feed, Keeper, Session
from edge.sources.mqtt_sessions import Sessions
from edge.sources.mqtt_topics import is_alert, is_live

LOG_LINES_MAX = 20  # per period, over all connections
LOG_PERIOD_S = 10.0
PRINCIPALS_KEPT_MAX = 4_096  # of those whose messages were refused

# Called for a client of a TLS listener with user name, password and its certificate
# (DER, its chain checked, or None); gives role and user, or None to refuse.
Identify = Callable[[str, bytes, bytes | None], tuple[str, str] | None]

# Called with user name ("" when anonymous) and password; gives "device", "viewer" or
# None to refuse. What it gives for ("", b"") is what anonymous peers may do. It runs on
# the event loop: a slow password hash belongs behind a cache.
Authenticate = Callable[[str, bytes], str | None]


class RateLimitedLog:
    """A logger that a flood of bad peers cannot fill the disk with.

    The first line of a period says how many lines the one before swallowed.
    """

    def __init__(
        self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._period_start = clock()
        self._count = 0

    def warning(self, text: str, *arguments: object) -> None:
        """Something a person should look at."""
        self._write(logging.WARNING, text, arguments)

    def info(self, text: str, *arguments: object) -> None:
        """Everyday life."""
        self._write(logging.INFO, text, arguments)

    def _write(self, level: int, text: str, arguments: tuple[object, ...]) -> None:
        now = self._clock()
        if now - self._period_start >= LOG_PERIOD_S:
            swallowed = self._count - LOG_LINES_MAX
            self._period_start, self._count = now, 0
            if swallowed > 0:
                self._logger.warning("%d more lines like these left out", swallowed)
        self._count += 1
        if self._count <= LOG_LINES_MAX:
            self._logger.log(level, text, *arguments)


class RefusalQuota:
    """How much of one principal may be refused before it is slowed down.

    Nothing is dropped: its connections are not read for a while, so that a device gone
    mad, or a flood of bad signatures, costs no more than so many a second.
    """

    def __init__(
        self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst = per_s, burst
        self._clock = clock
        self._spent: dict[str, tuple[float, float]] = {}  # (how many, by when)

    def spend(self, principal: str) -> float:
        """One more was refused; how long to wait before more is read, in seconds."""
        count = self._count(principal) + 1
        self._spent.pop(principal, None)
        self._spent[principal] = (count, self._clock())
        if len(self._spent) > PRINCIPALS_KEPT_MAX:
            del self._spent[next(iter(self._spent))]
        return max(0.0, count - self._burst) / self._rate

    def wait_s(self, principal: str) -> float:
        """How long it has to wait now, in seconds."""
        return max(0.0, self._count(principal) - self._burst) / self._rate

    def _count(self, principal: str) -> float:
        now = self._clock()
        count, then = self._spent.get(principal, (0.0, now))
        return max(0.0, count - (now - then) * self._rate)


class MqttListener:
    """Accepts MQTT clients on one address and submits what they publish to `door`."""

    def __init__(
        self,
        door: Door,
        *,
        authenticate: Authenticate,
        limits: Limits | None = None,
        feed: Feed | None = None,
        keeper: Keeper | None = None,
        identify: Identify | None = None,
        mappings: tuple[Mapping, ...] = (),
    ) -> None:
        self.door = door
        self.authenticate = authenticate
        self.identify = identify
        self.mappings = mappings
        self.limits = limits or Limits()
        self.log = RateLimitedLog(logging.getLogger("edge.mqtt"))
        self.refusals = RefusalQuota(
            self.limits.refusals_per_s, self.limits.refusals_burst
        )
        self.violations = RefusalQuota(
            self.limits.violations_per_s, self.limits.violations_burst
        )
        self.sessions = Sessions(self.limits, self.log, feed, keeper)
        self.closing = False
        self._servers: list[asyncio.Server] = []
        self._connections: dict[Connection, None] = {}  # in the order they came
        self._holders: dict[str, Connection] = {}  # by their session's name
        self._wills: dict[str, asyncio.TimerHandle] = {}
        self._to_flush: list[Connection] = []
        self._congested: deque[Connection] = deque()  # wait for the door
        self._relief: asyncio.Task[None] | None = None
        self.dropped_count = 0  # messages for clients that were away too long
        self._quiet = asyncio.Event()  # while closing: nothing is pending
        self._empty = asyncio.Event()  # while closing: no connection is left

    async def start(self, host: str, port: int, ssl: SSLContext | None = None) -> None:
        """Listen; port 0 takes a free one. OSError when the address cannot be had.

        Called again it listens on a further address.
        """
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self),
            host,
            port,
            ssl=ssl,
            ssl_handshake_timeout=self.limits.connect_timeout_s if ssl else None,
        )
        self._servers.append(server)

    @property
    def ports(self) -> list[int]:
        """The ports that are listened on, in the order of `start`."""
        return [int(one.sockets[0].getsockname()[1]) for one in self._servers]

    @property
    def port(self) -> int:
        """The first port; RuntimeError before `start`."""
        if not self._servers:
            raise RuntimeError("the listener is not listening")
        return self.ports[0]

    @property
    def connection_count(self) -> int:
        """Open sockets, with those that have not sent CONNECT yet."""
        return len(self._connections)

    async def close(self, *, wait: bool = True) -> None:
        """Stop accepting and reading, let commits in flight be answered, say goodbye.

        Waits at most `close_timeout_s` for the door to settle what it has, so the door
        must still be committing (`wait` False: it has failed and will not), and
        `linger_s` for the peers to go.
        """
        self.closing = True
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.stop_reading()
        if wait:
            await self._within(self.limits.close_timeout_s, self._quiet)
        for connection in list(self._connections):
            connection.disconnect(Code.SHUTTING_DOWN, "the gateway shuts down")
        await self._within(self.limits.linger_s + 1.0, self._empty)
        for waiting in self._wills.values():
            waiting.cancel()
        await self.sessions.close()
        if self._relief is not None:
            self._relief.cancel()
            await asyncio.gather(self._relief, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()

    async def _within(self, timeout_s: float, event: asyncio.Event) -> None:
        self._note_progress()
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            self.log.warning("closing without %d peers", len(self._connections))

    def _note_progress(self) -> None:
        if not any(connection.pending_count for connection in self._connections):
            self._quiet.set()
        if not self._connections:
            self._empty.set()

    def publish(self, topic: str, payload: bytes, user: str | None = None) -> int:
        """Send to every matching subscriber; returns how many. Never waits.

        `user` where only that user's may match. Call it after the commit that holds
        what `payload` tells. At QoS 1 a subscriber who is away gets it on coming back,
        as long as `kept_for_absent_max` later ones have not pushed it out.
        """
        count = 0
        sessions = self.sessions.all() if user is None else self.sessions.of_user(user)
        for session in list(sessions):
            qos = session.granted(topic)
            if qos is None:
                continue
            packet = Publish(topic, payload, qos)
            holder = self._holders.get(session.name)
            if holder is not None:
                count += not holder.closing and holder.send(packet)
            elif qos and not is_alert(topic):
                kept_max = (
                    self.limits.live_for_absent_max
                    if is_live(topic)
                    else self.limits.kept_for_absent_max
                )
                if not session.window.keep(packet, kept_max):
                    self.dropped_count += 1
        return count

    def is_followed(self, topic: str, user: str) -> bool:
        """Whether a session of this user, connected or kept, subscribes to a topic."""
        for session in self.sessions.of_user(user):  # asked for each message
            if session.subscriptions and session.granted(topic) is not None:
                return True
        return False

    def follows_live(self, user: str) -> bool:
        """Whether a session of this user, connected or kept, follows live readings."""
        sessions = self.sessions.of_user(user)
        return any(is_live(one) for each in sessions for one in each.subscriptions)

    def close_user(self, user: str) -> None:
        """Disconnect whoever is connected as this user: it may not be so any more."""
        for connection in list(self._holders.values()):
            if connection.user == user:
                connection.disconnect(Code.NOT_AUTHORISED, "revoked, or a new key")

    def feed_grew(self) -> None:
        """The feed has more to tell to those who follow it."""
        for connection in list(self._holders.values()):
            connection.pump()

    # What connections ask of the listener

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; False when there are too many.

        The oldest that has sent nothing good and follows nothing makes way for it, so
        that connections that only stand there keep nobody out.
        """
        if self.closing:
            return False
        if len(self._connections) >= self.limits.connections_max:
            idle = (one for one in self._connections if not one.is_tried)
            oldest = next(idle, None)
            if oldest is None:
                return False
            del self._connections[oldest]
            oldest.make_way()
        self._connections[connection] = None
        return True

    def register(
        self, connection: Connection, *, clean: bool, expiry_s: int
    ) -> tuple[Session, bool]:
        """Give the session to `connection`, and say whether there was one before.

        An earlier holder is disconnected.
        """
        user, client_id = connection.user, connection.client_id
        session, present = self.sessions.begin(
            user, client_id, clean=clean, expiry_s=expiry_s
        )
        earlier = self._holders.get(session.name)
        self._holders[session.name] = connection
        will = self._wills.pop(session.name, None)
        if will is not None and present:
            will.cancel()  # it came back in time
        if earlier is not None:
            earlier.disconnect(Code.SESSION_TAKEN_OVER, "the client connected again")
        return session, present

    def bury(self, connection: Connection, will: Will) -> None:
        """A client vanished: its will is submitted, after the delay it asked for."""
        session = connection.session
        delay_s = number(will.properties, Property.WILL_DELAY_S, 0)
        if session is None or not min(delay_s, session.expiry_s):
            connection.submit_will(will)
            return
        if session.connected:  # on another connection: it is not dead
            return
        self._wills[session.name] = asyncio.get_running_loop().call_later(
            min(delay_s, session.expiry_s), self._submit_late, connection, will
        )

    def _submit_late(self, connection: Connection, will: Will) -> None:
        assert connection.session is not None  # noqa: S101 - see bury
        self._wills.pop(connection.session.name, None)
        if not self.closing:
            connection.submit_will(will)

    def assign_client_id(self) -> str:
        """A client id that no session has, nor a client's from before our restart."""
        return f"iomt-{secrets.token_hex(8)}"

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)
        session = connection.session
        if session is not None and self._holders.get(session.name) is connection:
            del self._holders[session.name]
            self.sessions.leave(session)
        if self.closing:
            self._note_progress()

    def flush_soon(self, connection: Connection) -> None:
        """Flush at the end of this loop turn, with all others that were touched."""
        if not self._to_flush:
            asyncio.get_running_loop().call_soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        touched, self._to_flush = self._to_flush, []
        for connection in touched:
            connection.flush()
        if self.closing:
            self._note_progress()

    def wait_for_relief(self, connection: Connection) -> None:
        """Call its `relieved` when the door takes messages; in order of asking."""
        self._congested.append(connection)
        if self._relief is None or self._relief.done():
            self._relief = asyncio.create_task(self._wake_all(), name="mqtt relief")

    async def _wake_all(self) -> None:
        while self._congested:
            await self.door.relieved()
            # One that fills the door again goes to the end of the queue.
            while self._congested and not self.door.congested:
                self._congested.popleft().relieved()
            await asyncio.sleep(0)


__all__ = [
    "PAYLOAD_KEPT_SIZE",
    "PAYLOAD_SIZE_MAX",
    "Authenticate",
    "Limits",
    "MqttListener",
    "RateLimitedLog",
]
