"""The gateway's side of the watchdog: a datagram now and then, and never a wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path

from edge.intake import Intake

INTERVAL_S = 2.0
COMMIT_MAX_S = 10.0  # a commit that takes longer is no good health


async def beat(path: Path, intake: Intake) -> None:
    """Send heartbeats for ever, while the newest commit goes well.

    Nobody there, or a full socket: it is tried again, and nothing waits for it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        while True:
            if intake.committing_s < COMMIT_MAX_S:
                state = {"pid": os.getpid(), "tree_size": intake.tree_size}
                with contextlib.suppress(OSError):
                    sender.sendto(json.dumps(state).encode(), str(path))
            await asyncio.sleep(INTERVAL_S)
