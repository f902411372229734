"""Writes tests/vectors/store/v1: a data directory as version 1 of the store left it.

Only the program of that time can write it, so it runs on a copy of that commit:

    git archive b6f6937 | tar -x -C OLD
    cp edge/ledger/_core*.so OLD/edge/ledger/
    cd OLD && PYTHONPATH=.:tests/scenario python …/tests/vectors/make_store_v1.py DIR

In it are two patients, one with an alarm; a signed device at each, an unsigned one at
nobody; a refused message; 260 devices for a full tile, one revoked; and two starts. The
keys in it are of no other use.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from workbench import Mailbox, SignedDevice, a_ward, make_gateway

DEVICE_COUNT = 260


async def write(directory: Path) -> None:
    """The store, as the program that is imported writes it."""
    settings = make_gateway(directory)
    one, two = SignedDevice("monitor"), SignedDevice("other", seed=bytes(32))
    unsigned = b'[{"n":"body_temperature","u":"Cel","v":36.7}]'
    async with a_ward(settings) as (core, mail):
        change = core.administration
        await change.add_patient("P-2")
        await change.add_device("other", "signed", two.public_key)
        await change.assign_device("other", "P-2")
        await mail.send("monitor", one.envelope(spo2=97))
        await mail.send("thermometer", unsigned)
        for number in range(DEVICE_COUNT):
            await change.add_device(f"d{number}", "unsigned")
        await change.revoke_device("d7")
        await mail.send("monitor", b"garbage")
    async with a_ward(settings) as (core, mail):
        await mail.send("monitor", one.envelope(spo2=80))
        await mail.send("other", two.envelope())
        assert Mailbox(core)
    (settings.directory / "gateway.lock").unlink()
    template = (directory / "iomt.toml").read_text()
    template = template.replace(str(directory / "iomt.toml"), "iomt.toml")
    (directory / "iomt.toml").write_text(template)


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    shutil.rmtree(target, ignore_errors=True)
    asyncio.run(write(target))
