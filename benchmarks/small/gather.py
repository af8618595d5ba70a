"""All libraries' versions of one small computation, and whether they agree."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from program import Program
from timing import Candidate, Measured, Results, limited, reason

from . import libraries

TOLERANCE = 1e-4  # relative, of float32


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


def numbers(carry: Any, loss: Any) -> list[float]:
    """The loss and the norm of the gradient, which the carry begins with."""
    leaves = [np.asarray(a, float) for a in jax.tree.leaves(carry[0])]
    return [float(loss), float(np.sqrt(sum(np.sum(a**2) for a in leaves)))]


def disagreeing(found: dict[str, list[float]]) -> Results:
    """Those that compute something else than plain JAX."""
    expected = np.array(found["raw"])
    ran = {k: np.array(v) for k, v in found.items() if len(v) == len(expected)}
    apart = {k: np.max(np.abs(v / expected - 1)) for k, v in ran.items()}
    return {
        name: Measured(failed=f"computes something else: {found[name]}")
        for name, difference in apart.items()
        if not difference <= TOLERANCE
    }
