"""Whether the host can work while the device does."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from effort import Effort
from jax import lax
from program import Program
from small.gather import gather
from timing import Candidate, Results, interleaved

HOST, DEVICE = 0.1, 0.17  # seconds
STEPS = 3
_SIZE = 256


def working(program: Program) -> Callable[..., Any]:
    """A jitted function that changes the state of ten blocks, and then works alone.

    JAX runs what it takes for little work at once, in the thread that asks for it, and
    does not look how often a loop goes round: hence products of matrices, not numbers.
    """

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        x, turns = batch
        state, y = program.step(carry, x)
        return state, lax.fori_loop(0, turns, lambda _, y: y @ y / _SIZE, y)

    return program.jit(step)


def loop(run: Callable[[Any], Any], pause: float, steps: int = STEPS) -> float:
    """Seconds per step, of steps that wait for each other."""
    x = jnp.ones((_SIZE, _SIZE))
    start = time.perf_counter()
    for _ in range(steps):
        x = run(x)
        time.sleep(pause)
    x.block_until_ready()
    return (time.perf_counter() - start) / steps


def returns(run: Callable[[Any], Any]) -> float:
    """The time until a call returns, as a fraction of the time until it is done."""
    x = jnp.ones((_SIZE, _SIZE))
    start = time.perf_counter()
    y = run(x)
    returned = time.perf_counter()
    y.block_until_ready()
    return (returned - start) / (time.perf_counter() - start)


def overlap(run: Callable[[Any], Any]) -> float:
    """The time of a step in which host and device work, over the longer one's."""
    device = loop(run, 0)
    return loop(run, HOST) / max(device, HOST)


def measure(effort: Effort, what: Callable[[Callable[[Any], Any]], float]) -> Results:
    """Either of the two, of all libraries."""
    programs, failed = gather("blocks", 10)
    turns = calibrated(working(programs["raw"]), programs["raw"].carry)

    def runner(program: Program) -> Candidate:
        run, carry = working(program), program.carry
        once = lambda x: run(carry, (x, turns))[1]  # noqa: E731
        loop(once, 0, 1)  # compiles
        return lambda: what(once)

    runs = {name: runner(program) for name, program in programs.items()}
    options = effort.options() | {"alone": effort.limit}
    return failed | interleaved(runs, reference="raw", warm=0, **options)


def calibrated(run: Callable[..., Any], carry: Any) -> jax.Array:
    """How many turns of the loop take as long as the device is to work."""
    turns = 10
    one = lambda x: run(carry, (x, jnp.array(turns)))[1]  # noqa: E731
    loop(one, 0, 1)
    return jnp.array(int(turns * DEVICE / loop(one, 0)))
