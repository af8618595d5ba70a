"""What depth costs to compile: a Stack beside the Python loop over the same layers.

The layers of the loop are those of the stack, taken out by `unstack`, with one state
that is passed from layer to layer by hand. Both must give the same output, gradients
and new state, up to rounding. Trace and compile times are medians, each from a cold
start.

    python benchmarks/depth.py --help
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import vernal as vn

TOLERANCE = 1e-4  # of float32, over a hundred layers


class Block(vn.Module):
    """A residual block with parameters and running statistics."""

    linear: vn.nn.Linear
    norm: vn.nn.BatchNorm

    def __init__(self, width: int, key: Any) -> None:
        self.linear = vn.nn.Linear(width, width, key=key)
        self.norm = vn.nn.BatchNorm(width, "batch")

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        y, state = self.norm(self.linear(x), state)
        return x + 0.1 * jnp.tanh(y), state


def in_turn(layers: list[Any], x: Any, state: Any) -> tuple[Any, Any]:
    """The loop, unrolled by tracing."""
    for layer in layers:
        x, state = layer(x, state)
    return x, state


def build(depth: int, width: int) -> dict[str, tuple[Any, Any, Any]]:
    """The two sides of the comparison: how to call the model, the model, its state."""
    make = lambda key: Block(width, key)  # noqa: E731
    stack, state = vn.nn.make_with_state(vn.nn.Stack)(make, depth, key=jr.key(0))
    layers, states = vn.nn.split_state(stack.unstack(state))
    call = lambda model, x, state: model(x, state)  # noqa: E731
    return {"stack": (call, stack, state), "loop": (in_turn, layers, states)}


def passes(call: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The functions that are compiled; new ones at each call, as JAX remembers them."""

    def forward(model: Any, state: Any, xs: Any) -> tuple[Any, Any]:
        one = lambda x, state: call(model, x, state)  # noqa: E731
        axes = {"in_axes": (0, None), "out_axes": (0, None)}
        return jax.vmap(one, axis_name="batch", **axes)(xs, state)

    def loss(model: Any, state: Any, xs: Any) -> tuple[Any, Any]:
        ys, state = forward(model, state, xs)
        return jnp.mean(jnp.sin(ys) * xs), (ys, state)

    return {
        "forward": forward,
        "value_and_grad": jax.value_and_grad(loss, has_aux=True),
    }


class Times(NamedTuple):
    """Seconds of one compilation, in two parts."""

    trace: float
    compile: float


def compiled(
    fun: Callable[..., Any], args: Any, clock: Callable[[], float]
) -> tuple[Times, Any]:
    """Compiles a function from a cold start."""
    jax.clear_caches()
    start = clock()
    lowered = jax.jit(fun).lower(*args)
    middle = clock()
    executable = lowered.compile()
    return Times(middle - start, clock() - middle), executable


def rows(trees: list[Any]) -> list[Any]:
    """The leaves of the trees of single layers, as a stack has them."""
    columns = zip(*map(jax.tree.leaves, trees), strict=True)
    return [np.stack([np.asarray(a) for a in column]) for column in columns]


def difference(got: Any, expected: Any) -> float:
    """The largest difference of two trees, relative to the largest entry there is."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    pairs = [(np.asarray(a, float), np.asarray(b, float)) for a, b in pairs]
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    largest = max(float(np.abs(b).max()) for _, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs) / largest


def compare(sides: Any, results: Any) -> dict[str, float]:
    """How far the two sides are apart, in all that they return."""

    def per_layer(state: Any) -> list[Any]:
        return rows([state.substate(layer) for layer in sides["loop"][1]])

    (y, state), (value_and_aux, grads) = results["stack"]
    (y_loop, states), (value_and_aux_loop, grads_loop) = results["loop"]
    value, (_, after) = value_and_aux
    value_loop, (_, after_loop) = value_and_aux_loop
    return {
        "output": difference((y, value), (y_loop, value_loop)),
        "gradient": difference(grads, rows(grads_loop)),
        "state": max(
            difference(state, per_layer(states)),
            difference(after, per_layer(after_loop)),
        ),
    }


def measure(depth: int, args: argparse.Namespace) -> dict[str, Any]:
    """The median times of both sides, for both passes, and how they agree."""
    sides = build(depth, args.width)
    xs = jr.normal(jr.key(1), (args.batch, args.width))
    clock = time.process_time if args.cpu_time else time.perf_counter
    times: dict[str, Times] = {}
    results: dict[str, list[Any]] = {name: [] for name in sides}
    for kind in ("forward", "value_and_grad"):
        taken: dict[str, list[Times]] = {name: [] for name in sides}
        for i in range(args.repeats):
            for name, (call, model, state) in sides.items():
                inputs = (model, state, xs)
                duration, executable = compiled(passes(call)[kind], inputs, clock)
                taken[name].append(duration)
                if i == 0:
                    results[name].append(executable(*inputs))
        for name, all_times in taken.items():
            columns = zip(*all_times, strict=True)
            times[f"{kind}, {name}"] = Times(*map(statistics.median, columns))
    return {"times": times, "differences": compare(sides, results)}


def tables(found: dict[int, Any]) -> list[list[list[str]]]:
    """What is printed: the times, and the differences, each with a header."""
    times = [["depth", "pass", *_HEADER, "loop / stack"]]
    apart = [["depth", "output", "gradient", "state"]]
    for depth, result in found.items():
        for kind in ("forward", "value_and_grad"):
            both = [result["times"][f"{kind}, {side}"] for side in _SIDES]
            cells = [f"{a[i]:.2f}" for i in range(2) for a in both]
            ratio = f"{sum(both[1]) / sum(both[0]):.1f}"
            times.append([f"{depth}", kind, *cells, ratio])
        apart.append(
            [f"{depth}", *(f"{x:.1e}" for x in result["differences"].values())]
        )
    return [times, apart]


_SIDES = ("stack", "loop")
_HEADER = [f"{part} {side} [s]" for part in ("trace", "compile") for side in _SIDES]


def show(title: str, lines: list[list[str]]) -> None:
    """Prints a table, with rich if that is installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        print(title)
        for line in lines:
            cells = zip(line, widths, strict=True)
            print("  ".join(cell.rjust(width) for cell, width in cells))
        return
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(lines[0]):
        table.add_column(name, justify="right", no_wrap=i < 2)
    for line in lines[1:]:
        table.add_row(*line)
    Console().print(table)


def main(argv: list[str] | None = None) -> dict[int, Any]:
    """Measures, prints a table, and fails if the two sides do not agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32, help="examples, at least 2")
    parser.add_argument("--repeats", type=int, default=3, help="compilations of each")
    about = "count seconds of the processor, on a machine that is busy"
    parser.add_argument("--cpu-time", action="store_true", help=about)
    args = parser.parse_args(argv)
    found = {depth: measure(depth, args) for depth in args.depths}
    device = jax.devices()[0].device_kind
    where = f"JAX {jax.__version__}, {device}"
    times, apart = tables(found)
    kind = "CPU time" if args.cpu_time else "Time"
    show(f"{kind} to compile, medians of {args.repeats} ({where})", times)
    show("Largest difference, relative to the largest entry", apart)
    worst = max(max(result["differences"].values()) for result in found.values())
    if not worst <= TOLERANCE:
        sys.exit(f"Stack and loop differ by {worst:.1e}, more than rounding.")
    return found


if __name__ == "__main__":
    main()
