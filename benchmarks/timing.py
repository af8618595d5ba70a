"""Timing: candidates in turn in one process, or fresh processes for what is cold."""

import contextlib
import gc
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

Candidate = Callable[[], Any]
"""What is timed; or it returns a float, or several by name, which it has found."""


class Spread(NamedTuple):
    """The median and the quartiles of several runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        if len(values) < 2:
            return cls(*3 * values)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


class Measured(NamedTuple):
    """What was found for one library; or, instead, why nothing was."""

    value: Spread | None = None
    """In seconds, or whatever the row counts."""

    ratio: Spread | None = None
    """To the reference; each run is compared with the reference's of the same round."""

    runs: int = 0
    failed: str = ""


Results = dict[str, Measured]


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Interrupts what takes longer, as soon as Python is at work."""

    def interrupt(_: int, frame: types.FrameType | None) -> None:
        # There, Python would print the exception, and go on.
        if frame is None or frame.f_code.co_name == "_xla_gc_callback":
            return
        raise TimeoutError(f"> {seconds:.0f} s")

    old = signal.signal(signal.SIGALRM, interrupt)
    # Again and again, as an exception is lost if it comes in the middle of a callback.
    signal.setitimer(signal.ITIMER_REAL, seconds, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def numbers(run: Candidate) -> dict[str, float]:
    """What one run has found; by default, its seconds."""
    start = time.perf_counter()
    found = run()
    if isinstance(found, dict):
        return found
    seconds = found if isinstance(found, float) else time.perf_counter() - start
    return {"seconds": seconds}


def interleaved(
    candidates: dict[str, Candidate], seconds: float, reference: str, **options: Any
) -> Results:
    """The same where each run finds one number."""
    found = several(candidates, seconds, reference, **options)
    return {name: next(iter(parts.values())) for name, parts in found.items()}


def several(
    candidates: dict[str, Candidate],
    seconds: float,
    reference: str,
    *,
    least: int = 5,
    limit: float = 60,
    warm: int = 2,
    alone: float | None = None,
) -> dict[str, dict[str, Measured]]:
    """Runs all candidates in turn, in a new order in each round.

    The first round does not count for those that have two others.

    Arguments:
        candidates: what is compared.
        seconds: the time for all of them together. A candidate that has used up its
            share sits out the other rounds, so that slow ones leave time for the rest.
        reference: the candidate to which the ratios are.
        least: rounds in which all take part, but those that are too slow for that.
        limit: a candidate of which one run takes longer, in seconds, is given up.
        warm: runs before the first round: to compile, and to settle.
        alone: what is too slow for more rounds, in seconds; by default ``seconds``.

    Returns:
        For each candidate what was measured, by name; the name is "" if nothing was.
    """
    players = [_Player(name, run, limit) for name, run in candidates.items()]
    for player in players:
        for _ in range(warm):
            player.play()
    share = seconds / max(1, len(players))
    alone = seconds if alone is None else alone
    for player in players:
        player.start()
    order, count = random.Random(0), 0
    gc.collect()
    gc.freeze()  # Collections in the middle of a run look only at what is new.
    while playing := [p for p in players if p.goes_on(count < least, share, alone)]:
        order.shuffle(playing)
        for player in playing:
            player.play()
        count += 1
    gc.unfreeze()
    base = next((p.rounds for p in players if p.name == reference), [])
    return {player.name: player.result(base) for player in players}


class _Player:
    """A candidate, and what it has found in each round."""

    def __init__(self, name: str, run: Candidate, limit: float) -> None:
        self.name, self.run, self.limit = name, run, limit
        self.failed = ""
        self.start()

    def start(self) -> None:
        self.rounds: list[dict[str, float]] = []
        self.spent = 0.0

    def goes_on(self, few: bool, share: float, alone: float) -> bool:
        """Each plays once; slow ones leave when they have used up their share."""
        if self.failed or not self.rounds:
            return not self.failed
        return self.spent < share or (few and self.spent < alone)

    def play(self) -> None:
        if self.failed:
            return
        start = time.perf_counter()
        try:
            with limited(self.limit):
                self.rounds.append(numbers(self.run))
        except Exception as error:
            self.failed = reason(error)
        self.spent += time.perf_counter() - start

    def result(self, base: list[dict[str, float]]) -> dict[str, Measured]:
        """Compares each round with the same round of the reference."""
        if self.failed:
            return {"": Measured(failed=self.failed)}
        first = 1 if len(self.rounds) > 2 else 0
        parts = {}
        for part in self.rounds[0]:
            values = [r[part] for r in self.rounds[first:]]
            pairs = zip(values, base[first:], strict=False)
            # Bytes, say, can be none.
            ratios = [value / other[part] for value, other in pairs if other[part]]
            ratio = Spread.of(ratios) if ratios else None
            parts[part] = Measured(Spread.of(values), ratio, len(values))
        return parts


def fresh(
    commands: dict[str, list[str]],
    repeats: int,
    reference: str = "",
    *,
    limit: float = 120,
    warm: int = 1,
) -> Results:
    """The same for cold things: each command prints one number, in its own process.

    The first runs are not counted: they bring files into memory, and write bytecode.
    """

    def candidate(command: list[str]) -> Candidate:
        return lambda: ask(command, limit)

    candidates = {name: candidate(command) for name, command in commands.items()}
    # The process has a limit of its own.
    options: Any = {"limit": 2 * limit, "alone": float("inf"), "warm": warm}
    return interleaved(candidates, 0, reference, least=repeats, **options)


def ask(command: list[str], limit: float) -> float:
    """The number that a Python process prints last."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # Installed libraries have theirs, too.
    try:
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=limit,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"> {limit:.0f} s") from None
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no output"])[-1])
    return float(json.loads(done.stdout.splitlines()[-1]))


def reason(error: Exception) -> str:
    """Why there is no figure, in one short line."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, TimeoutError):
        return lines[0]
    return f"{type(error).__name__}: {lines[0]}"[:160]
