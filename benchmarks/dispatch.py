"""What a call costs: vernal beside plain JAX and Equinox, in one process, interleaved.

All figures are medians, as ratios to plain JAX over nested dicts of the same arrays.

    python benchmarks/dispatch.py --help
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from rich.console import Console
from rich.progress import track
from rich.table import Table

import vernal as vn

Timings = dict[str, float]


def interleaved(candidates: dict[str, Callable[[], Any]], seconds: float) -> Timings:
    """Runs all candidates in turn until the time is up; returns median seconds."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run(), run()  # compile, and settle
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["jax"]) < 10:
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def build(library: Any, blocks: int) -> tuple[Any, Any]:
    """A model of BatchNorm and Linear blocks, and its state, in a given library."""

    class Blocks(library.Module):
        blocks: list

        def __init__(self, key: Any) -> None:
            self.blocks = [
                (
                    library.nn.BatchNorm(4, "batch", mode="batch"),
                    library.nn.Linear(4, 4, key=key),
                )
                for _ in range(blocks)
            ]

    return library.nn.make_with_state(Blocks)(jr.key(0))


def as_dicts(model: Any, state: Any) -> tuple[Any, Any]:
    """The same arrays as nested dicts."""
    params, stats = {}, {}
    for i, (norm, linear) in enumerate(model.blocks):
        params[str(i)] = {
            "norm": {"weight": norm.weight, "bias": norm.bias},
            "linear": {"weight": linear.weight, "bias": linear.bias},
        }
        moments = state.get(norm.batch_state_index)
        count = state.get(norm.batch_counter)
        stats[str(i)] = {"count": count, "moments": moments}
    return params, stats


def call(model: Any, state: Any, x: Any) -> tuple[Any, Any]:
    """Changes the whole state and does no other work."""
    return 2 * x, jax.tree.map(lambda a: a + 1, state)


def time_call(blocks: int, seconds: float) -> Timings:
    """A call of a jitted function that takes the model, and returns a new state."""
    model, state = build(vn, blocks)
    runs = {
        "jax": (jax.jit(call), *as_dicts(model, state)),
        "vernal": (vn.filter_jit(call), model, state),
        "vernal in jax.jit": (jax.jit(call), model, state),
    }
    if importlib.util.find_spec("equinox"):
        import equinox

        runs["equinox"] = (equinox.filter_jit(call), *build(equinox, blocks))
    x = jnp.ones(4)

    def runner(fun: Any, model: Any, state: Any) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(fun(model, state, x)[0])

    return interleaved({name: runner(*run) for name, run in runs.items()}, seconds)


def time_set(slots: int, seconds: float) -> Timings:
    """Tracing a function that sets every slot of the state once."""

    def build(library: Any) -> tuple[Any, Any]:
        class Slots(library.Module):
            indices: list

            def __init__(self) -> None:
                one = jnp.zeros(3)
                self.indices = [library.nn.StateIndex(one) for _ in range(slots)]

        return library.nn.make_with_state(Slots)()

    def set_all(model: Any, state: Any) -> Any:
        for index in model.indices:
            state = state.set(index, state.get(index) + 1)
        return state

    def set_dict(values: dict[str, Any]) -> dict[str, Any]:
        values = dict(values)
        for key in values:
            values[key] = values[key] + 1
        return values

    def tracer(fun: Any, *args: Any) -> Callable[[], Any]:
        # A new function object each time: JAX remembers the ones it has traced.
        return lambda: jax.make_jaxpr(lambda *a: fun(*a))(*args)

    model, state = build(vn)
    plain = {str(i): jnp.zeros(3) for i in range(slots)}
    runs = {
        "jax": tracer(set_dict, plain),
        "vernal": tracer(lambda s: set_all(model, s), state),
    }
    if importlib.util.find_spec("equinox") and slots <= 1000:
        import equinox

        peer, peer_state = build(equinox)
        runs["equinox"] = tracer(lambda s: set_all(peer, s), peer_state)
    return interleaved(runs, seconds)


def main(argv: list[str] | None = None) -> dict[str, Timings]:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--slots", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--seconds", type=float, default=10.0, help="time for each row")
    args = parser.parse_args(argv)
    jobs = {f"call, {n:,} blocks": (time_call, n) for n in args.blocks}
    jobs |= {f"trace {n:,} sets": (time_set, n) for n in args.slots}
    rows = {
        name: measure(n, args.seconds)
        for name, (measure, n) in track(jobs.items(), "Measuring", transient=True)
    }
    columns = list(dict.fromkeys(c for row in rows.values() for c in row))
    table = Table("what", "jax [ms]", *columns[1:])
    for name, row in rows.items():
        ratios = [f"{row[c] / row['jax']:.2f}" if c in row else "–" for c in columns]
        table.add_row(name, f"{1e3 * row['jax']:.3f}", *ratios[1:])
    console = Console()
    console.print(table)
    device = jax.devices()[0].device_kind
    console.print(f"Ratios to jax; medians. JAX {jax.__version__}, {device}.")
    return rows


if __name__ == "__main__":
    main()
