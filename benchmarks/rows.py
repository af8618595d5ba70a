"""The rows of the table: what is measured, and what vernal must reach."""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import cold
import overlap
from effort import Effort
from small import measure
from timing import Results


class Row(NamedTuple):
    """One line of the table."""

    name: str
    title: str
    about: str
    measure: Callable[[Effort], Results]
    bar: float | None = None
    """What vernal must not exceed: a ratio to plain JAX, or else an absolute number."""

    unit: Literal["ms", "s", "lines", "MiB", "×", "fraction"] = "ms"
    absolute: bool = False
    """Whether the bar is for the number itself, in the unit; there may be no ratio."""


def rows(quick: bool) -> list[Row]:
    """All rows; in quick mode they are fewer and smaller."""
    found = [*calls(quick), *traces(quick), *first_calls(quick), imports()]
    if importlib.util.find_spec("networks") is None:
        return found
    # Whole networks take seconds to compile, or to construct; shapes take none.
    return found + (constructions()[-1:] if quick else constructions() + networks())


def calls(quick: bool) -> list[Row]:
    """What each call costs."""
    found = []
    for n in (10, 100) if quick else (10, 100, 1000):
        title = f"Call of a jitted function, {n:,} blocks"
        about = (
            f"{n:,} blocks [BatchNorm, Linear]. All state is changed; no other work."
        )
        run = partial(measure.call, blocks=n)
        found.append(Row(f"call-{n}", title, about, run, 1.1))
    small = "Gradient, Adam and new parameters of the example network: two BatchNorm, "
    small += "SpectralNorm and two more linear layers, ten examples."
    donating = f"{small} The carry is donated; beside plain JAX that does not donate."
    step, title = measure.step, "Training step of a small network"
    eager = "The forward pass of the same network under vmap, one operation at a time."
    return [
        *found,
        Row("step", title, small, partial(step, donating=False), 1.1),
        Row(
            "step-donating",
            f"{title}, donating",
            donating,
            partial(step, donating=True),
            0.9,
        ),
        *asynchronous(),
        Row("eager", "Eager forward pass under vmap", eager, measure.eager, 1.2),
    ]


def asynchronous() -> list[Row]:
    """Whether calls return at once."""
    host, device = (round(1e3 * x) for x in (overlap.HOST, overlap.DEVICE))
    fraction = "The time until a jitted call returns, as a fraction of the time until "
    fraction += f"the device is done, {device} ms. At most half is asynchronous."
    beside = (
        f"A step with {host} ms of host work (asleep, as if it waited for data) beside "
    )
    beside += f"{device} ms of device work, over the longer of the two alone."
    returns = partial(overlap.measure, what=overlap.returns)
    both = partial(overlap.measure, what=overlap.overlap)
    title = "Host work beside device work"
    return [
        Row("returns", "Return of a call", fraction, returns, 0.5, "fraction", True),
        Row("overlap", title, beside, both, 1.05, "×", True),
    ]


def traces(quick: bool) -> list[Row]:
    """What it costs to trace and to compile."""
    found = []
    for n in (10,) if quick else (50, 200):

        def part(effort: Effort, name: str, n: int = n) -> Results:
            return measure.gradient(effort, n)[name]

        about = f"Value and gradient of {n} blocks [BatchNorm, SpectralNorm(Linear)]"
        lower, compiled, lines = (
            partial(part, name=name) for name in ("lower", "compile", "lines")
        )
        title = f"Tracing and lowering, {n} blocks"
        retraced = f"{about}, not for the first time."
        found += [
            Row(f"lower-{n}", title, retraced, lower, 1.15),
            Row(
                f"compile-{n}",
                f"XLA's compilation, {n} blocks",
                f"{about}.",
                compiled,
                1.0,
            ),
            Row(
                f"lines-{n}",
                f"Lines of StableHLO, {n} blocks",
                f"{about}.",
                lines,
                unit="lines",
            ),
        ]
    for n in (1000,) if quick else (1000, 10_000):
        title = f"Tracing `set` of {n:,} slots"
        about = f"Tracing a function that adds 1 to each of {n:,} slots of state."
        run = partial(measure.slots, n=n)
        found.append(Row(f"set-{n}", title, about, run, 1.2))
    return found


def first_calls(quick: bool) -> list[Row]:
    """Tracing, lowering, compiling and running."""
    depth, found = 16 if quick else 128, []
    for name, scanned, bar in (("unrolled", False, 1.15), ("scanned", True, 1.05)):
        title = f"First call, {depth} layers, {name}"
        way = "the library's own loop" if scanned else "a Python loop"
        about = f"Gradient of {depth} residual layers [Linear, BatchNorm] in {way}, "
        about += "with nothing in JAX's caches."
        run = partial(measure.first_call, depth=depth, scanned=scanned)
        found.append(Row(f"first-{name}", title, about, run, bar))
    return found


def imports() -> Row:
    """What a process pays at its start."""
    about = "In a new process that has imported JAX."
    return Row("import", "Import, beyond JAX", about, cold.imports, 60, absolute=True)


def constructions() -> list[Row]:
    """What it costs to make a model."""
    what = "Construction of a ResNet-18"
    first = "In a new process, with random kernels that are not compiled yet."
    later, shapes = "In a process that has made one before.", "Shapes only."
    return [
        Row("construct-cold", f"{what}, cold", first, cold.first, 2.5, "s", True),
        Row("construct-warm", f"{what}, warm", later, cold.later, 1.5),
        Row("construct-abstract", f"{what}, abstract", shapes, cold.abstract, 2.0),
    ]


def networks() -> list[Row]:
    """Training whole networks."""
    measure = importlib.import_module("networks.measure")
    tasks = importlib.import_module("networks.tasks")
    plans: list[tuple[str, str, Any, int, float]] = [
        ("resnet", "RESNETS", tasks.WIDTH, 64, 0.95),
        ("transformer", "TRANSFORMERS", tasks.SIZES, 16, 1.02),
    ]
    found = []
    for name, kind, size, examples, bar in plans:
        plan = {"kind": kind, "size": size, "examples": examples}

        def part(effort: Effort, part: str, plan: dict[str, Any] = plan) -> Results:
            return measure.compilation(effort, **plan)[part]

        title, what = name.capitalize(), f"{examples} examples; size: {size}."
        step = partial(measure.step, **plan)
        compiled = partial(part, part="compile")
        memory = partial(part, part="temporary")
        found += [
            Row(f"{name}-step", f"{title}, training step", what, step, bar),
            Row(f"{name}-compile", f"{title}, XLA's compilation", what, compiled, 1.0),
            Row(
                f"{name}-memory", f"{title}, temporary memory", what, memory, 1.0, "MiB"
            ),
        ]
    return found
