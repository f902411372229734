"""`iomt device add D --ble`: who is near, which of them it is, and pairing with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from edge.errors import ConfigurationError

if TYPE_CHECKING:
    from bleak.backends.device import BLEDevice

    from edge.sources.ble_pairing import Nearby

NAME_WIDTH = 24


def choose(*, pairing: bool) -> str:
    """The address of the device that the person at the terminal picks.

    ConfigurationError where there is no adapter, nobody near, or nothing picked.
    """
    return asyncio.run(_choose(pairing=pairing))


def pair_known(address: str) -> None:
    """Pair with the device of this address, which has to be near."""
    asyncio.run(_pair_known(address.upper()))


async def _choose(*, pairing: bool) -> str:
    from edge.sources import ble_pairing  # noqa: PLC0415 - not every command needs it
    from edge.sources.ble_words import RADIO_ERRORS, explain  # noqa: PLC0415

    print(f"looking for {ble_pairing.SCAN_S:.0f} s; is the device switched on?")
    try:
        found = await ble_pairing.nearby()
    except RADIO_ERRORS as error:
        raise ConfigurationError([f"Bluetooth: {explain(error)}"]) from error
    one = await _pick(found)
    if pairing:
        await _pair(one.device)
    return one.address


async def _pair_known(address: str) -> None:
    from edge.sources import ble_pairing  # noqa: PLC0415 - as above
    from edge.sources.ble_words import RADIO_ERRORS, explain  # noqa: PLC0415

    print(f"looking for {address}, {ble_pairing.SCAN_S:.0f} s at most")
    try:
        device = await ble_pairing.found(address)
    except RADIO_ERRORS as error:
        raise ConfigurationError([f"Bluetooth: {explain(error)}"]) from error
    if device is None:
        raise ConfigurationError([f"--ble: {address} is not near, or asleep"])
    await _pair(device)


async def _pick(found: list[Nearby]) -> Nearby:
    if not found:
        raise ConfigurationError(["Bluetooth: no device is near"])
    print(f"{'':>3}  {'signal':>8}  {'name':<{NAME_WIDTH}}  {'address':<17}  services")
    for number, one in enumerate(found, 1):
        name = f"{one.name:<{NAME_WIDTH}.{NAME_WIDTH}}"
        words = one.words or "(says none)"
        print(f"{number:>3}  {one.signal_dbm:>4} dBm  {name}  {one.address}  {words}")
    said = await _ask("which one (a number, nothing for none)? ")
    if not said.isdigit() or not 1 <= int(said) <= len(found):
        raise ConfigurationError(["no device was chosen"])
    return found[int(said) - 1]


async def _pair(device: BLEDevice) -> None:
    """Bond with it; a person may go on without a bond, where pairing fails."""
    from edge.sources import ble_pairing  # noqa: PLC0415 - as above
    from edge.sources.ble_words import RADIO_ERRORS, explain  # noqa: PLC0415

    async def ask() -> int | None:
        said = await _ask("the number that the device shows: ")
        return int(said) if said.isdigit() and len(said) <= 6 else None

    async def confirm(number: int) -> bool:
        return _yes(await _ask(f"does the device show {number:06} (y/n)? "))

    def show(number: str) -> None:
        print(f"type {number} on the device")

    try:
        said = await ble_pairing.pair(device, ask=ask, confirm=confirm, show=show)
    except RADIO_ERRORS as error:
        print(f"not paired: {explain(error)}")
        if _yes(await _ask("enrol it without a bond (y/n)? ")):
            return
        raise ConfigurationError(["the device is not enrolled"]) from error
    print("paired")
    for what, text in said.items():
        print(f"  {what}: {text}")


async def _ask(question: str) -> str:
    try:
        return (await asyncio.to_thread(input, question)).strip()
    except EOFError:  # nobody is there to answer
        return ""


def _yes(said: str) -> bool:
    return said.lower() in ("y", "yes")
