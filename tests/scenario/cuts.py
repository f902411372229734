"""Ends a piece of code at any chosen step that it takes on the disk.

A step is a call of os.open that makes a file, os.write, os.fsync, os.rename, os.unlink
or os.mkdir; it is cut before it happens or right after. What SQLite does inside one
transaction is not cut here: tests/crash does that.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from edge.errors import GatewayError

STEPS = ("open", "write", "fsync", "rename", "unlink", "mkdir")
STEPS_MAX = 400


class CutError(BaseException):
    """The power went; no `except Exception` of the code may see it."""


def all_cuts(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
) -> Iterator[str]:
    """Run `work` once for each step and side, cut there; the last run is whole.

    Yields after every cut, with the step's name, so that the test looks at what is left
    and sets the scene anew.
    """
    for number in range(STEPS_MAX):
        with monkeypatch.context() as patch:
            name = _cut_at(patch, number // 2, after=bool(number % 2))
            try:
                work()
            except CutError:
                pass
            else:
                return
        yield f"{'after' if number % 2 else 'before'} step {number // 2}, {name[0]}"
    raise AssertionError(f"more than {STEPS_MAX // 2} steps")


def all_failures(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]
) -> Iterator[str]:
    """The same with a full disk: the step fails and the program goes on."""
    for number in range(STEPS_MAX):
        with monkeypatch.context() as patch:
            full = OSError(errno.ENOSPC, "no space left")
            name = _cut_at(patch, number, after=False, error=full)
            try:
                work()
            except GatewayError:
                pass
            else:
                return
        yield f"step {number}, {name[0]}"
    raise AssertionError(f"more than {STEPS_MAX} steps")


def _cut_at(
    patch: pytest.MonkeyPatch,
    place: int,
    *,
    after: bool,
    error: BaseException | None = None,
) -> list[str]:
    left, own = [place], threading.current_thread()
    name: list[str] = []

    def wrap(step: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            if threading.current_thread() is not own:
                return real(*values, **options)  # of a gateway of another test
            if step == "open" and not values[1] & os.O_CREAT:
                return real(*values, **options)
            left[0] -= 1
            if left[0] != -1:
                return real(*values, **options)
            name.append(step)
            if after:
                with suppress(OSError):  # a directory that is there already
                    real(*values, **options)
            raise error or CutError(step)

        return call

    for step in STEPS:
        patch.setattr(os, step, wrap(step, getattr(os, step)))
    return name
