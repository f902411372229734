"""All power-cut states and all faults, not the sample that `make test` takes.

    python tests/crash/soak.py [--seed N] [--mixed N]

Prints what it tried; exit status 1 if anything broke a promise. The recorded days have
new keys and times in each run, so that a seed names the choices and not the bytes; the
broken states are printed with what was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import time
from collections.abc import Sequence

from faults import attempts, check_faults, every_fault
from recovery import BrokenError, check_cut_recoveries, check_states, scratch
from states import states_of
from workload import full_day, recorded

RECOVERIES_COUNT, CUTS_COUNT = 100, 12


def _tell(what: str, count: int, started: float, broken: Sequence[object]) -> bool:
    took_s = time.monotonic() - started
    print(
        f"{what:34} {count:6} tried {len(broken):4} broken {took_s:7.1f} s", flush=True
    )
    for one in broken[:20]:
        print(f"    {one}")
    return not broken


async def soak(seed: int, mixed_count: int) -> bool:
    """Whether everything held."""
    started = time.monotonic()
    with scratch() as place:
        story = await recorded(place, full_day)
    operations = len(story.recorder.operations)
    every = states_of(story.recorder, mixed_count)
    print(f"seed {seed}: {operations} operations, {len(every)} states", flush=True)
    count, broken = await check_states(story, every, seed)
    sound = _tell("different states of power cuts", count, started, _lines(broken))

    started = time.monotonic()
    some = random.Random(seed).sample(every, min(RECOVERIES_COUNT, len(every)))
    count, broken = await check_cut_recoveries(story, some, seed, CUTS_COUNT)
    sound &= _tell("power cuts during a recovery", count, started, _lines(broken))

    started = time.monotonic()
    calls = await attempts()
    count, failed = await check_faults(every_fault(calls))
    lines = [f"{calls[fault.at]}: {fault}: {error}" for fault, error in failed]
    return sound & _tell("failing calls (EIO, ENOSPC)", count, started, lines)


def _lines(broken: Sequence[tuple[object, BrokenError]]) -> list[str]:
    return [f"{state}: {error}" for state, error in broken]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--mixed", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # the gateway says what fails: here it all shall
    return 0 if asyncio.run(soak(arguments.seed, arguments.mixed)) else 1


if __name__ == "__main__":
    sys.exit(main())
