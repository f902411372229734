"""Who a client is: certificates of our own authority, passwords, claim codes.

    certificate   names a device (CN) whose enrolled TLS key this is
    password      of a device that cannot do better; random, made here, shown once
    access token  of the viewer
    claim code    good once, for ten minutes: a device sends it with a CSR for its own
                  key and gets its certificate

What is stored: meta `tls-<device>` = SHA-256 of the device's TLS key (SPKI), and meta
`password-<device>` = salt (16 bytes) || SHA-256(salt || password). A plain hash is
enough, because no person chooses a password here: each has 144 random bits.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import apsw
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.administration import Administration
from edge.devices.registry import Device, DeviceKind, Registry
from edge.errors import ConfigurationError, NotFoundError, RejectError
from edge.intake import Intake
from edge.open_batch import Change
from edge.rekeying import GRACE_MAX_H, Rekeying
from edge.store.certificates import (
    Authority,
    PublicKey,
    identity_of,
    key_of_request,
)
from edge.store.database import rows

CLAIM_LIFE_S = 600.0
CLAIMS_MAX = 64
CLAIM_GROUPS, CLAIM_GROUP = 3, 4  # 12 letters of 31: 59 bits
CLAIM_LETTERS = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"  # none that looks like another
WRONG_CLAIMS_MAX = 20  # in one life of a claim, from all together
SALT_SIZE = 16
TLS_KEY, PASSWORD_KEY = "tls-", "password-"
DEVICE, VIEWER = "device", "viewer"
_PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


@dataclass(frozen=True, slots=True)
class _Claim:
    device: str
    until_s: float  # of the monotonic clock
    grace_h: int | None = None  # for a new signing key: how long the old one is good


class Identities:
    """Knows who may speak as which device, and makes that known to more of them.

    `on_change` is told a device's name when what it was let in by is good no more.
    """

    def __init__(
        self,
        administration: Administration,
        rekeying: Rekeying,
        intake: Intake,
        registry: Registry,
        connection: apsw.Connection,
        access_token: str,
        authority: Callable[[], Authority],
    ) -> None:
        self._administration = administration
        self._rekeying = rekeying
        self._intake = intake
        self._registry = registry
        self._token = access_token.encode()
        self._make_authority = authority
        self._made: Authority | None = None
        self._claims: dict[str, _Claim] = {}
        self._wrong_s: list[float] = []
        self.on_change: list[Callable[[str], None]] = []
        self.place: dict[str, object] = {}  # where devices connect; empty: nowhere
        self._tls = _stored(connection, TLS_KEY)
        self._passwords = _stored(connection, PASSWORD_KEY)
        rekeying.on_end.append(self.closed)

    def authority(self) -> Authority:
        """Our own certificate authority, made when somebody first needs it."""
        if self._made is None:
            self._made = self._make_authority()
        return self._made

    @property
    def operations(self) -> Mapping[str, Callable[..., Awaitable[object]]]:
        """The operations by their names."""
        return {
            "device-enrol": self.enrol,
            "device-certificate": self.certificate,
            "device-password": self.password,
        }

    # ---- At the door ----

    def identify(
        self, user: str, password: bytes, certificate: bytes | None
    ) -> tuple[str, str] | None:
        """(role, user) of a client on a TLS listener, None to refuse it."""
        if certificate is not None:
            try:
                name, key = identity_of(certificate)
            except RejectError:
                return None
            device = self._known(name)
            # As the viewer's user a device would have the viewer's sessions.
            if device is None or user not in ("", name) or name == VIEWER:
                return None
            good = hmac.compare_digest(self._tls.get(device.id, b""), key)
            # A key that a device signs with is let in no longer than it signs.
            good = good and not self._rekeying.has_ended(device, key)
            return (DEVICE, name) if good else None
        if user == VIEWER:
            good = hmac.compare_digest(password, self._token)
            return (VIEWER, VIEWER) if good else None
        device = self._known(user)
        stored = self._passwords.get(device.id, b"") if device else b""
        if device is None or not stored:
            return None
        salt, wanted = stored[:SALT_SIZE], stored[SALT_SIZE:]
        found = hashlib.sha256(salt + password).digest()
        return (DEVICE, device.name) if hmac.compare_digest(found, wanted) else None

    def _known(self, name: str) -> Device | None:
        device = self._registry.find(name)
        return None if device is None or device.revoked else device

    # ---- Claims ----

    async def enrol(self, device: str, grace_h: int | None = None) -> dict[str, object]:
        """A claim code for a device, new or enrolled; and where it has to be taken.

        With `grace_h` the claim gives an enrolled device a new signing key as well; the
        key before it is taken for as many hours more.
        """
        if "enrol" not in self.place:
            raise ConfigurationError(
                ["[enrol] listen: not set, or no gateway runs: nobody could claim it"]
            )
        now_s = time.monotonic()
        self._drop_old(now_s)
        if len(self._claims) >= CLAIMS_MAX:
            raise ConfigurationError([f"{CLAIMS_MAX} claims are open already"])
        code = "-".join(
            "".join(secrets.choice(CLAIM_LETTERS) for _ in range(CLAIM_GROUP))
            for _ in range(CLAIM_GROUPS)
        )
        known = self._registry.find(device)
        if device == VIEWER:
            raise ConfigurationError([f"{device!r} is the viewer's name over MQTT"])
        if known is None:
            self._administration.check_name(device)
        elif known.revoked or known.kind in (DeviceKind.BLE, DeviceKind.TYPED):
            raise ConfigurationError([f"device {device!r} cannot speak MQTT"])
        if grace_h is not None:
            if known is None or known.kind is not DeviceKind.SIGNED:
                raise ConfigurationError([f"device {device!r} signs nothing yet"])
            if not 0 <= grace_h <= GRACE_MAX_H:
                raise ConfigurationError([f"grace: 0 to {GRACE_MAX_H} hours"])
        self._claims[code] = _Claim(device, now_s + CLAIM_LIFE_S, grace_h)
        fingerprint = self.authority().fingerprint
        return {"claim": code, "ca_sha256": fingerprint, **self.place}

    def _drop_old(self, now_s: float) -> None:
        for code, claim in list(self._claims.items()):
            if claim.until_s <= now_s:
                del self._claims[code]
        self._wrong_s = [one for one in self._wrong_s if one > now_s - CLAIM_LIFE_S]

    async def redeem(self, code: str, request: bytes) -> dict[str, object]:
        """A device's certificate for its claim; RejectError with the reason.

        A claim is used up by a request that is good, not by one that is not.
        """
        self._drop_old(time.monotonic())
        if len(self._wrong_s) >= WRONG_CLAIMS_MAX:
            raise RejectError("too many wrong claims; try again in ten minutes")
        claim = self._claims.get(code)
        if claim is None:
            self._wrong_s.append(time.monotonic())
            raise RejectError("no such claim, or it is older than ten minutes")
        self.authority().issue(request, claim.device)  # whether it is any good
        known = self._registry.find(claim.device)
        public = _signing_key(key_of_request(request)).hex()
        try:
            if claim.grace_h is not None:
                self._rekeying.check(claim.device, public, claim.grace_h)
            del self._claims[code]  # before anything waits: no second device has it
            if known is None:
                await self._administration.add_device(claim.device, "signed", public)
            elif claim.grace_h is not None:
                await self._rekeying.replace_key(claim.device, public, claim.grace_h)
            row = await self.certificate(claim.device, request)
        except NotFoundError as error:
            raise RejectError(str(error)) from error
        except ConfigurationError as error:
            raise RejectError("; ".join(error.problems)) from error
        return {"device": claim.device, **row}

    # ---- Certificates and passwords ----

    async def certificate(self, device: str, request: bytes | str) -> dict[str, object]:
        """A certificate for the key of a CSR; the one before is good no more.

        An Ed25519 key has to be the one that the device signs with; a P-256 key may be
        another.
        """
        found = self._administration.known(device)
        octets = request.encode() if isinstance(request, str) else request
        try:
            pem, key = self.authority().issue(octets, device)
            public = key_of_request(octets)
        except RejectError as error:
            raise ConfigurationError([str(error)]) from error
        if isinstance(public, ed25519.Ed25519PublicKey) and (
            found.kind is DeviceKind.SIGNED
            and public.public_bytes_raw() != found.public_key
        ):
            raise ConfigurationError(
                ["CSR: an Ed25519 key, but not the one that the device signs with"]
            )
        await self._put(TLS_KEY, found, key, self._tls)
        return {"certificate": pem, "ca": self.authority().pem, **self.place}

    async def password(self, device: str) -> dict[str, object]:
        """A new password of a device, which is shown this once."""
        found = self._administration.known(device)
        text, salt = secrets.token_urlsafe(18), os.urandom(SALT_SIZE)
        stored = salt + hashlib.sha256(salt + text.encode()).digest()
        await self._put(PASSWORD_KEY, found, stored, self._passwords)
        return {"password": text, "ca": self.authority().pem, **self.place}

    async def _put(
        self, prefix: str, device: Device, value: bytes, cache: dict[int, bytes]
    ) -> None:
        def change(_: int) -> Change:
            statement = _PUT, (f"{prefix}{device.id}", value)
            return Change(statements=[statement])

        replaced = device.id in cache
        await self._intake.administer(change)
        cache[device.id] = value
        if replaced:
            self.closed(device.name)

    def closed(self, device: str) -> None:
        """Whoever is connected as this device has to show again who they are."""
        for listener in self.on_change:
            listener(device)


def _signing_key(key: PublicKey) -> bytes:
    """The key as a device is enrolled with it (edge/ledger/device_key.py)."""
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key.public_bytes_raw()
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _stored(connection: apsw.Connection, prefix: str) -> dict[int, bytes]:
    """The rows of this prefix, by the device's id."""
    found = rows(
        connection,
        "SELECT key, value FROM meta WHERE key >= ?1 AND key < ?1 || '~'",
        (prefix,),
    )
    return {int(key.removeprefix(prefix)): bytes(value) for key, value in found}
