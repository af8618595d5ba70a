"""How the whole networks are measured: one function for each kind of row.

``kind``, ``size`` and ``examples`` are those of :func:`tasks.batch`.
"""

import functools
import time
from typing import Any

import jax
from effort import Effort
from timing import Candidate, Measured, Results, interleaved, several

from . import cases, tasks
from .check import STEPS, apart, differing
from .tasks import Case

MIB = 2**20
_LONGER = 6


class Stepper:
    """A training step; each goes on from where the last one came to."""

    def __init__(self, case: Case, size: Any, batch: Any, donate: bool = False) -> None:
        program = case.make(size)
        self.run = program.jit(program.step, donate)
        self.carry, self.batch = program.carry, case.place(batch)
        self.losses: list[Any] = []

    def __call__(self) -> None:
        """Takes a step, and waits for it."""
        self.carry, loss = self.run(self.carry, self.batch)
        jax.block_until_ready(loss)
        if len(self.losses) < STEPS:
            self.losses.append(loss)


def step(
    effort: Effort, kind: str, size: Any, examples: int, donate: bool = False
) -> Results:
    """A training step of each library; donating, beside plain JAX that does not.

    The first two losses must be equal.
    """
    batch, found, runs = tasks.batch(kind, size, examples), cases(kind), {}
    if donate:
        runs["raw"] = Stepper(found["raw"], size, batch)
        found["raw donating"] = found.pop("raw")
        found.pop("torch", None)
    runs |= {name: Stepper(case, size, batch, donate) for name, case in found.items()}
    # Of a step that takes half a second, more than a few are wanted.
    options = effort.options() | {"seconds": _LONGER * effort.seconds}
    results = interleaved(runs, reference="raw", warm=STEPS, **options)
    ran = {name: run for name, run in runs.items() if not results[name].failed}
    # In a ResNet of full size, rounding has grown to 1e-4 of the third loss.
    losses = {name: [float(x) for x in run.losses[:2]] for name, run in ran.items()}
    return results | {
        name: Measured(failed=f"computes something else: {losses[name]}")
        for name in differing(apart(losses))
    }


def compiler(case: Case, size: Any, batch: Any, donate: bool = False) -> Candidate:
    """Compiles a training step from a cold start; finds its times, and its sizes."""
    program, batch = case.make(size), case.place(batch)

    def run() -> dict[str, float]:
        jax.clear_caches()
        start = time.perf_counter()
        lowered = program.jit(program.step, donate).lower(program.carry, batch)
        middle = time.perf_counter()
        compiled = lowered.compile()
        end = time.perf_counter()
        # Those of the libraries hold JAX's.
        memory = getattr(compiled, "compiled", compiled).memory_analysis()
        return {
            "lower": middle - start,
            "compile": end - middle,
            "temporary": memory.temp_size_in_bytes / MIB,
            "arguments": memory.argument_size_in_bytes / MIB,
            "outputs": memory.output_size_in_bytes / MIB,
            "shared": memory.alias_size_in_bytes / MIB,
        }

    return run


@functools.cache
def compilation(
    effort: Effort, kind: str, size: Any, examples: int, donate: bool = False
) -> dict[str, Results]:
    """Seconds to "lower" and to "compile" a training step; its memory, in MiB.

    Memory is "temporary", and that of "arguments" and "outputs", of which donated
    arguments are "shared". Nothing is compiled for PyTorch.
    """
    batch, found = tasks.batch(kind, size, examples), cases(kind)
    found.pop("torch", None)
    runs = {name: compiler(case, size, batch, donate) for name, case in found.items()}
    parts = several(runs, reference="raw", warm=0, **effort.options())
    return {
        part: {name: own.get(part) or own[""] for name, own in parts.items()}
        for part in parts["raw"]
    }
