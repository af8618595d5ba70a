"""Timing of what runs on another device than the one that asks for it."""

import functools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

MOST = 200  # calls without waiting


def wait(arrays: Any) -> None:
    """Until these are there; in PyTorch, until the device has nothing to do."""
    jax.block_until_ready(arrays)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


class Sender:
    """Sends calls one after the other, and waits for the last.

    What it finds are the seconds of a call: "time" until it is done, and of that "sent"
    until the host could go on. Where the two are about the same, it is the host that is
    slow, and the device's own time is less.

    Arguments:
        make: returns what is called, which returns what to wait for. It is made by the
            first call, where it may fail.
        goal: as many calls are sent together as take this long, in seconds.
    """

    def __init__(self, make: Callable[[], Callable[[], Any]], goal: float) -> None:
        self.make, self.goal, self.calls = functools.cache(make), goal, 1

    def __call__(self) -> dict[str, float]:
        run = self.make()
        start = time.perf_counter()
        for _ in range(self.calls):
            out = run()
        sent = time.perf_counter() - start
        wait(out)
        taken, calls = time.perf_counter() - start, self.calls
        self.calls = min(MOST, max(calls, math.ceil(calls * self.goal / taken)))
        return {"time": taken / calls, "sent": sent / calls}


def is_sending(found: dict[str, list[float]]) -> bool:
    """Whether the figures say more of the host than of the device."""
    return found["sent"][0] > 0.9 * found["time"][0]
