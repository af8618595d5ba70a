"""How the small computations are measured: one function for each kind of row."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from effort import Effort
from program import Program
from timing import Candidate, Results, interleaved, several

from . import values
from .gather import candidates, disagreeing, gather


def compared(
    effort: Effort, runs: dict[str, Candidate], failed: Results, **options: Any
) -> Results:
    """All in turn; first comes what could not be made, or computes something else."""
    runs = {name: run for name, run in runs.items() if name not in failed}
    return failed | interleaved(runs, reference="raw", **effort.options() | options)


def again(program: Program) -> Callable[..., Any]:
    """The step, compiled as if it were new; JAX remembers the functions it has seen."""
    return program.jit(lambda carry, batch: program.step(carry, batch))


def call(effort: Effort, blocks: int) -> Results:
    """A call of a jitted function that changes the whole state."""
    x = jnp.ones(4)

    def runner(program: Program) -> Candidate:
        run, carry = program.jit(program.step), program.carry
        return lambda: run(carry, x)[1].block_until_ready()

    return compared(effort, *candidates("blocks", runner, blocks))


def step(effort: Effort, donating: bool) -> Results:
    """A training step of the example; the new carry is the next one's."""
    batch = values.pairs()

    def runner(program: Program, donate: bool) -> Candidate:
        run, carry = program.jit(program.step, donate), program.carry

        def advance() -> None:
            nonlocal carry
            carry, loss = run(carry, batch)
            jax.block_until_ready(loss)

        return advance

    programs, failed = gather("example")
    failed |= disagreeing(programs, batch)
    # The check has donated nothing, but it has trained what is changed in place.
    programs, _ = gather("example")
    if donating:
        programs.pop("torch", None)
        plain = gather("example", only=("raw",))[0]["raw"]
        programs["raw donating"] = plain
    runs = {
        name: runner(p, donating and name != "raw") for name, p in programs.items()
    }
    return compared(effort, runs, failed, warm=10)


def eager(effort: Effort) -> Results:
    """The forward pass of the example, operation by operation."""

    def runner(run: Callable[[], Any]) -> Candidate:
        return lambda: jax.block_until_ready(run()[0])

    return compared(effort, *candidates("eager", runner))


def slots(effort: Effort, n: int) -> Results:
    """Tracing a function that sets n slots."""
    found, failed = candidates("slots", lambda run: run, n, limit=effort.limit)
    return compared(effort, found, failed, warm=0)


@functools.cache
def gradient(effort: Effort, n: int) -> dict[str, Results]:
    """The gradient of n blocks: seconds to lower and to compile it, and its lines.

    That the libraries agree is seen on two blocks.
    """
    batch = values.pairs(values.WIDTH)

    def runner(program: Program) -> Candidate:
        def run() -> dict[str, float]:
            start = time.perf_counter()
            lowered = again(program).lower(program.carry, batch)
            found = {"lower": time.perf_counter() - start}
            start = time.perf_counter()
            lowered.compile()
            found["compile"] = time.perf_counter() - start
            return found | {"lines": len(lowered.as_text().splitlines())}

        return run

    checked, _ = gather("normed", 2)
    failed = disagreeing(checked, batch, steps=1)
    runs, broken = candidates("normed", runner, n, limit=effort.limit)
    failed |= broken
    runs = {name: run for name, run in runs.items() if name not in failed}
    found = several(runs, reference="raw", warm=0, **effort.options())
    return {
        part: failed | {k: v.get(part) or v[""] for k, v in found.items()}
        for part in found["raw"]
    }


def first_call(effort: Effort, depth: int, scanned: bool) -> Results:
    """Tracing, compiling and running, with nothing in JAX's caches."""
    batch = values.pairs(values.WIDTH)

    def runner(program: Program) -> Candidate:
        def run() -> float:
            jax.clear_caches()
            start = time.perf_counter()
            jax.block_until_ready(again(program)(program.carry, batch)[1])
            return time.perf_counter() - start

        return run

    checked, _ = gather("deep", 2, scanned)
    failed = disagreeing(checked, batch, steps=1)
    runs, broken = candidates("deep", runner, depth, scanned)
    return compared(effort, runs, failed | broken, warm=0)
