"""The ward's memory: keys that stay, sequences that never come twice."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from firmware_sim.state import RESERVE, StateError, WardState

TAKE_FOR_EVER = """
import sys
from pathlib import Path
from firmware_sim.state import WardState
state = WardState(Path(sys.argv[1]))
state.enrol(["a", "b"])
while True:
    print(state.next_sequence("a"), flush=True)
"""


def test_a_kill_skips_sequences_and_never_uses_one_twice(tmp_path: Path) -> None:
    """kill -9 in the middle of a run, three times; all numbers seen are new."""
    seen: set[int] = set()
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", TAKE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            taken = [int(process.stdout.readline()) for _ in range(RESERVE + 200)]
            os.kill(process.pid, signal.SIGKILL)
            # what was printed before the kill reached it counts as used too
            lines = process.stdout.read().split(b"\n")
            taken += [int(line) for line in lines[:-1]]
        assert taken == list(range(taken[0], taken[0] + len(taken)))
        assert not seen.intersection(taken)
        seen.update(taken)


def test_a_clean_stop_leaves_no_gap(tmp_path: Path) -> None:
    """The next run goes on where this one ended."""
    state = WardState(tmp_path)
    state.enrol(["a"])
    used = [state.next_sequence("a") for _ in range(5)]
    state.close()
    again = WardState(tmp_path)
    assert again.next_sequence("a") == used[-1] + 1
    again.close()


def test_sequences_of_unsent_messages_are_used_again_after_a_clean_stop(
    tmp_path: Path,
) -> None:
    """They never left the process, so they are no gap either."""
    state = WardState(tmp_path)
    state.enrol(["a"])
    for _ in range(10):
        state.next_sequence("a")
    state.give_back("a", 8)
    state.close()
    again = WardState(tmp_path)
    assert again.next_sequence("a") == 8
    again.close()


def test_keys_stay_and_only_their_owner_may_read_them(tmp_path: Path) -> None:
    """A new key would make the enrolled device a stranger."""
    state = WardState(tmp_path / "ward")
    state.enrol(["a", "b"])
    keys = [state.signer(name).public_key for name in ("a", "b")]
    assert keys[0] != keys[1]
    state.close()
    again = WardState(tmp_path / "ward")
    again.enrol(["a", "b", "c"])
    assert [again.signer(name).public_key for name in ("a", "b")] == keys
    again.close()
    for path in (tmp_path / "ward").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_wards_cannot_share_a_directory(tmp_path: Path) -> None:
    """They would use the same sequences."""
    state = WardState(tmp_path)
    with pytest.raises(StateError, match="another ward"):
        WardState(tmp_path)
    state.close()
    WardState(tmp_path).close()


@pytest.mark.parametrize("content", ["", "{", '{"version": 9}'])
def test_a_damaged_file_is_named_and_not_replaced(tmp_path: Path, content: str) -> None:
    """Starting over would send sequences that were used before."""
    path = tmp_path / "ward.json"
    path.write_text(content)
    with pytest.raises(StateError, match=r"ward\.json"):
        WardState(tmp_path)
    assert path.read_text() == content
