"""All MQTT sessions: who has one, which outlive their connection, which are kept.

A session is made durable before its SUBACK leaves, for from then on the client relies
on it. How far it has acknowledged is written with the next commit, whatever that is
about: a crash in between repeats what was acknowledged since, and loses nothing.

How many are kept is bounded. When there are too many, the one that goes is a device's
that was away the longest, then a viewer's: the alerts of a nurse's tablet outlive the
receipts of a hundred sensors.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from edge.errors import DurabilityError, RejectError
from edge.sources import mqtt_topics
from edge.sources.mqtt_session import Feed, Keeper, Session, decode
from edge.sources.mqtt_window import SendWindow

if TYPE_CHECKING:
    from edge.mqtt_limits import Limits
    from edge.sources.mqtt_listener import RateLimitedLog

SECOND_MS = 1000
NANOSECONDS_PER_MS = 1_000_000


class Sessions:
    """The sessions of one listener; `keeper` None keeps them in memory only."""

    def __init__(
        self,
        limits: Limits,
        log: RateLimitedLog,
        feed: Feed | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._limits = limits
        self._log = log
        self.feed = feed
        self._keeper = keeper
        self._sessions: dict[str, Session] = {}
        self._of_user: dict[str, dict[str, Session]] = {}
        self._dirty: dict[str, Session] = {}
        self._gone: set[str] = set()
        self._kept: set[str] = set()  # names that the keeper may hold
        self._then: list[Callable[[], None]] = []
        self._saving: asyncio.Task[None] | None = None
        self._load()

    def _load(self) -> None:
        if self._keeper is None:
            return
        last = self.feed.last if self.feed is not None else 0
        now_ms = self._keeper.now_ms()
        for one in self._keeper.load():
            try:
                session = decode(one, self._limits.send_window_max, last, now_ms)
            except RejectError as error:
                self._log.warning("a session that was kept is damaged: %s", error)
                continue
            self._kept.add(session.name)
            self._add(session)
        self.expire()

    # ---- Who has one ----

    def find(self, user: str | None, client_id: str) -> Session | None:
        """The session of this user's client."""
        return self._sessions.get(f"{user or ''}\0{client_id}")

    def of_user(self, user: str) -> Iterable[Session]:
        """All sessions of a user."""
        return self._of_user.get(user, {}).values()

    def all(self) -> Iterable[Session]:
        """All sessions."""
        return self._sessions.values()

    def begin(
        self, user: str | None, client_id: str, *, clean: bool, expiry_s: int
    ) -> tuple[Session, bool]:
        """The session of a client that connects, and whether it was there before."""
        self.expire()
        session = self.find(user, client_id)
        if session is not None and (clean or not session.expiry_s):
            self.end(session)
            session = None
        present = session is not None
        if session is None:
            session = Session(user, client_id, SendWindow(self._limits.send_window_max))
            session.seen = session.again = self.feed.last if self.feed else 0
            self._add(session)
        elif self.feed is not None and session.follows:
            missed = self.feed.first - session.seen - 1
            if missed > 0:
                self._log.warning(
                    "%r was away too long: %d alerts are no longer kept for it",
                    client_id[:64],
                    missed,
                )
        session.expiry_s = min(expiry_s, self._limits.session_expiry_max_s)
        session.connected = True
        session.live_from = self.feed.last if self.feed else 0
        if present:
            self.save(session)
        return session, present

    def leave(self, session: Session) -> None:
        """Its connection is gone."""
        session.connected = False
        if not session.keeps:
            self.end(session)
            return
        session.away_since_ms = self._now_ms()
        self.note(session)
        self._make_room(session.user)

    def end(self, session: Session) -> None:
        """Nothing of it remains."""
        name = session.name
        if self._sessions.get(name) is not session:
            return
        del self._sessions[name]
        own = self._of_user.get(session.user or "", {})
        own.pop(name, None)
        if not own:
            self._of_user.pop(session.user or "", None)
        self._dirty.pop(name, None)
        if name in self._kept:
            self._gone.add(name)

    def expire(self) -> None:
        """End the sessions whose time is over."""
        now_ms = self._now_ms()
        for session in list(self._sessions.values()):
            age_ms = now_ms - session.away_since_ms
            if not session.connected and age_ms > session.expiry_s * SECOND_MS:
                self.end(session)

    def forget(self, _patient: str) -> None:
        """A patient was erased: of alerts that wait for an absent client none stays.

        They are read from the store again, under new packet identifiers; the store no
        longer has those of the patient. Live readings are in no store that they could
        be read from again, so all that wait are gone.
        """
        for session in self._sessions.values():
            if not session.connected:
                acknowledged = session.acknowledged
                session.again = max(session.again, session.seen)
                session.window.forget(mqtt_topics.is_live)
                session.seen = acknowledged

    def _add(self, session: Session) -> None:
        self._sessions[session.name] = session
        self._of_user.setdefault(session.user or "", {})[session.name] = session

    def _make_room(self, user: str | None) -> None:
        """End one session, where this user's, or all together, are too many."""
        for sessions, count_max in (
            (self.of_user(user or ""), self._limits.sessions_per_user_max),
            (self.all(), self._limits.sessions_max),
        ):
            away = [one for one in sessions if not one.connected]
            if len(away) > count_max:
                oldest = min(away, key=lambda one: (one.follows, one.away_since_ms))
                self._log.warning(
                    "too many sessions are kept: that of %r ends", oldest.client_id[:64]
                )
                self.end(oldest)

    def _now_ms(self) -> int:
        if self._keeper is not None:
            return self._keeper.now_ms()
        return time.monotonic_ns() // NANOSECONDS_PER_MS

    # ---- What is kept ----

    def note(self, session: Session) -> None:
        """It has changed; that becomes durable with the next commit."""
        if session.keeps and self._keeper is not None:
            self._gone.discard(session.name)
            self._dirty[session.name] = session
        elif session.name in self._kept:
            self._gone.add(session.name)

    def save(self, session: Session, then: Callable[[], None] = lambda: None) -> None:
        """Make it durable now, and call `then` once it is."""
        self.note(session)
        if self._keeper is None or not (self._dirty or self._gone or self._then):
            then()
            return
        self._then.append(then)
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_all(), name="mqtt sessions")

    def changes(self) -> dict[str, bytes | None]:
        """What is not kept yet, or no longer true; taken as kept from here on."""
        changed: dict[str, bytes | None] = {
            name: session.encode() for name, session in self._dirty.items()
        }
        changed.update(dict.fromkeys(self._gone))
        self._kept |= self._dirty.keys()
        self._kept -= self._gone
        self._dirty.clear()
        self._gone.clear()
        return changed

    async def _save_all(self) -> None:
        assert self._keeper is not None  # noqa: S101 - else nothing is saved
        while self._then or self._dirty:
            then, self._then = self._then, []
            try:
                await self._keeper.save(self.changes())
            except DurabilityError:
                return  # the gateway stops; nobody is told of what is not durable
            for call in then:
                call()
            if not self._then:
                return

    async def close(self) -> None:
        """Make durable what is not; everybody is away from here on."""
        if self._saving is not None:
            await self._saving
        if self._keeper is not None and (changed := self.changes()):
            try:
                await self._keeper.save(changed)
            except DurabilityError:
                return  # it failed before: what is kept stands as it was
