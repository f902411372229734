"""A device's new signing key: its entry, and how long the old one is still good.

What the old key signed stays provable: the ledger keeps the enrolment with it, and the
new key stands in an entry of its own (0x0b). The grace is for what a device signed
before it changed and has not sent yet; 0 ends the old key at once, as when it leaked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from hashlib import sha256

import apsw

from edge.administration import Administration
from edge.devices.registry import Device, DeviceKind, Registry
from edge.errors import ConfigurationError
from edge.intake import Intake
from edge.ledger import device_key
from edge.ledger.batch import DeviceKey
from edge.open_batch import Change
from edge.store import device_keys

GRACE_MAX_H = 30 * 24  # what is older than that is refused anyway
HOUR_MS = 3_600_000


class Rekeying:
    """Replaces the keys that devices sign with.

    `on_end` is told a device's name when its key of before is good no more, at once.
    """

    def __init__(
        self,
        administration: Administration,
        intake: Intake,
        registry: Registry,
        connection: apsw.Connection,
    ) -> None:
        self._administration = administration
        self._intake = intake
        self._registry = registry
        self._connection = connection
        self._changing: set[int] = set()
        self.on_end: list[Callable[[str], None]] = []

    @property
    def operations(self) -> Mapping[str, Callable[..., Awaitable[object]]]:
        """The operations by their names."""
        return {"device-key": self.replace_key}

    async def replace_key(self, name: str, public_key: str, grace_h: int) -> int:
        """Have a device sign with this key (hexadecimal); until when the old is taken.

        ConfigurationError where it cannot be, with nothing changed.
        """
        device, keys, key = self.check(name, public_key, grace_h)
        until_ms = 0

        def change(now_ms: int) -> Change:
            nonlocal until_ms
            until_ms = now_ms + grace_h * HOUR_MS
            entry = DeviceKey(device.ref, now_ms, key, until_ms)
            more = device_keys.replaced(keys, key, now_ms, until_ms)
            update = "UPDATE devices SET public_key = ? WHERE id = ?"
            # At once: after its entry in the log a key that leaked signs nothing more.
            self._registry.put(
                replace(
                    device,
                    public_key=key,
                    former_key=device.public_key,
                    former_until_ms=until_ms,
                )
            )
            return Change(
                statements=[
                    (update, (key, device.id)),
                    device_keys.statement(device.id, more),
                ],
                entries=[entry.encode()],
            )

        self._changing.add(device.id)
        try:
            await self._intake.administer(change)
        finally:
            self._changing.discard(device.id)
        if not grace_h:
            for listener in self.on_end:
                listener(device.name)
        return until_ms

    def has_ended(self, device: Device, key_info: bytes) -> bool:
        """Whether this key (SHA-256 of its SubjectPublicKeyInfo) signs no more for it.

        No for one that it never signed with.
        """
        now_ms = self._intake.now_ms()
        return any(
            one.until_ms is not None
            and one.until_ms <= now_ms
            and sha256(device_key.subject_public_key_info(one.key)).digest() == key_info
            for one in device_keys.keys_of(self._connection, device.id)
        )

    def check(
        self, name: str, public_key: str, grace_h: int
    ) -> tuple[Device, list[device_keys.SigningKey], bytes]:
        """(the device, its keys so far, the new one); ConfigurationError otherwise."""
        device = self._administration.known(name)
        keys = device_keys.keys_of(self._connection, device.id)
        if device.kind is not DeviceKind.SIGNED and device.public_key is None:
            raise ConfigurationError([f"device {device.name} signs nothing"])
        if not 0 <= grace_h <= GRACE_MAX_H:
            raise ConfigurationError([f"grace: 0 to {GRACE_MAX_H} hours"])
        try:
            key = bytes.fromhex(public_key)
            fault = device_key.key_fault(key)
        except ValueError:
            fault = "not hexadecimal"
        if fault:
            raise ConfigurationError([f"public key: {fault}"])
        if any(one.key == key for one in keys):
            problem = "public key: the device signs with it, or did so before"
            raise ConfigurationError([problem])
        if device.id in self._changing:
            raise ConfigurationError([f"device {device.name}: its key is changing"])
        return device, keys, key
