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
from .gather import candidates, disagreeing, gather, numbers

_STEPS = 3  # whose losses are compared


def compared(
    effort: Effort, runs: dict[str, Candidate], failed: Results, **options: Any
) -> Results:
    """All in turn; and why others could not be made."""
    return interleaved(runs, reference="raw", **effort.options() | options) | failed


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
    losses: dict[str, list[float]] = {}

    def runner(name: str, program: Program, donate: bool) -> Candidate:
        run, carry = program.jit(program.step, donate), program.carry
        seen = losses[name] = []

        def advance() -> None:
            nonlocal carry
            carry, loss = run(carry, batch)
            jax.block_until_ready(loss)
            if len(seen) < _STEPS:
                seen.append(float(loss))

        return advance

    programs, failed = gather("example")
    if donating:
        programs.pop("torch", None)
        programs["raw donating"] = gather("example", only=("raw",))[0]["raw"]
    runs = {k: runner(k, p, donating and k != "raw") for k, p in programs.items()}
    found = compared(effort, runs, failed, warm=10)
    return found | disagreeing(losses)


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

    That the libraries agree is seen on one block.
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

    one, _ = gather("normed", 1)
    seen = {k: numbers(*p.jit(p.step)(p.carry, batch)) for k, p in one.items()}
    runs, failed = candidates("normed", runner, n, limit=effort.limit)
    found = several(runs, reference="raw", warm=0, **effort.options())
    failed |= disagreeing(seen)
    return {
        part: {k: v.get(part) or v[""] for k, v in found.items()} | failed
        for part in found["raw"]
    }


def first_call(effort: Effort, depth: int, scanned: bool) -> Results:
    """Tracing, compiling and running, with nothing in JAX's caches."""
    batch = values.pairs(values.WIDTH)
    seen: dict[str, list[float]] = {}

    def runner(name: str, program: Program) -> Candidate:
        def run() -> float:
            jax.clear_caches()
            start = time.perf_counter()
            carry, loss = again(program)(program.carry, batch)
            jax.block_until_ready(loss)
            seconds = time.perf_counter() - start
            seen[name] = numbers(carry, loss)
            return seconds

        return run

    programs, failed = gather("deep", depth, scanned, limit=effort.limit)
    runs = {name: runner(name, program) for name, program in programs.items()}
    return compared(effort, runs, failed, warm=0) | disagreeing(seen)
