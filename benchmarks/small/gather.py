"""All libraries' versions of one small computation, and whether they agree."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from program import Program
from timing import Candidate, Measured, Results, limited, reason

from . import libraries

TOLERANCE = 1e-4  # relative, of float32
STEPS = 3


def gather(
    kind: str, *args: Any, limit: float = 60, only: tuple[str, ...] = ()
) -> tuple[dict[str, Any], Results]:
    """What the adapters make, by name; and why others could not.

    Arguments:
        kind: the function of the adapters.
        *args: its arguments.
        limit: the seconds that one adapter may take.
        only: the libraries; by default all.
    """
    found, failed = {}, {}
    for library, adapter in libraries().items():
        make = getattr(adapter, kind, None)
        if make is None or (only and library not in only):
            continue
        try:
            with limited(limit):
                found |= make(*args)
        except Exception as error:
            failed[library] = Measured(failed=reason(error))
    return found, failed


def candidates(
    kind: str,
    runner: Callable[[Program], Candidate],
    *args: Any,
    limit: float = 60,
) -> tuple[dict[str, Candidate], Results]:
    """The same, as what can be timed."""
    programs, failed = gather(kind, *args, limit=limit)
    return {name: runner(program) for name, program in programs.items()}, failed


def numbers(program: Program, batch: Any, steps: int = STEPS) -> list[float]:
    """The losses of some steps; of a single one, also the norm of the gradient."""
    run, carry, found = program.jit(program.step), program.carry, []
    for _ in range(steps):
        carry, loss = run(carry, batch)
        found.append(float(loss))
    if steps == 1:
        leaves = [np.asarray(a, float) for a in jax.tree.leaves(carry[0])]
        found.append(float(np.sqrt(sum(np.sum(a**2) for a in leaves))))
    return found


def disagreeing(programs: dict[str, Program], batch: Any, steps: int = STEPS) -> Results:
    """The programs that compute something else than plain JAX."""
    found = {name: numbers(p, batch, steps) for name, p in programs.items()}
    expected = np.array(found["raw"])
    apart = {k: np.max(np.abs(np.array(v) / expected - 1)) for k, v in found.items()}
    return {
        name: Measured(failed=f"computes something else: {found[name]}")
        for name, difference in apart.items()
        if not difference <= TOLERANCE
    }
