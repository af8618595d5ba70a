"""The rows of the table: what is measured, and what vernal must reach."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import cold
import overlap
from effort import Effort
from small import measure
from timing import Results


class Row(NamedTuple):
    """One line of the table."""

    name: str
    title: str
    measure: Callable[[Effort], Results]
    bar: float | None = None
    """What vernal must not exceed: a ratio to plain JAX, or else an absolute number."""

    unit: Literal["ms", "s", "lines", "×"] = "ms"
    absolute: bool = False
    """Whether the bar is for the number itself, in the unit; there may be no ratio."""

    why: str = ""
    """Why the figure is what it is, and which part of vernal would change it."""


def rows(quick: bool) -> list[Row]:
    """All rows; in quick mode they are fewer and smaller."""
    return [*calls(quick), *traces(quick), *colds(quick), *networks(quick)]


def calls(quick: bool) -> list[Row]:
    """What each call costs."""
    what = (
        "Call of a jitted function, all state changed: {:,} blocks [BatchNorm, Linear]"
    )
    found = [
        Row(f"call-{n}", what.format(n), partial(measure.call, blocks=n), 1.1)
        for n in ((10, 100) if quick else (10, 100, 1000))
    ]
    title = "Training step of a small network with BatchNorm and SpectralNorm"
    donating = f"{title}, donating; to plain JAX that does not donate"
    sleep = (
        f"Step with {1e3 * overlap.HOST:.0f} ms of host work (asleep) beside "
        f"{1e3 * overlap.DEVICE:.0f} ms of device work, over the longer of the two"
    )
    returns = "When a call returns, as a fraction of the time until the device is done"
    at_once = partial(overlap.measure, what=overlap.returns)
    beside = partial(overlap.measure, what=overlap.overlap)
    return [
        *found,
        Row("step", title, partial(measure.step, donating=False), 1.1),
        Row("step-donating", donating, partial(measure.step, donating=True), 0.9),
        Row("returns", returns, at_once, 0.5, "×", absolute=True),
        Row("overlap", sleep, beside, 1.05, "×", absolute=True),
        Row(
            "eager", "The same network forward, eagerly under vmap", measure.eager, 1.2
        ),
    ]


def traces(quick: bool) -> list[Row]:
    """What it costs to make a compiled function."""
    found = []
    for n in (10,) if quick else (50, 200):

        def part(effort: Effort, name: str, n: int = n) -> Results:
            return measure.gradient(effort, n)[name]

        of = f"gradient of {n} blocks [BatchNorm, SpectralNorm(Linear)]"
        lower, compiled, lines = (
            partial(part, name=name) for name in ("lower", "compile", "lines")
        )
        found += [
            Row(f"lower-{n}", f"Tracing and lowering: {of}", lower, 1.15),
            Row(f"compile-{n}", f"XLA's compilation: {of}", compiled, 1.0),
            Row(f"lines-{n}", f"Lines of StableHLO: {of}", lines, unit="lines"),
        ]
    for n in (1000,) if quick else (1000, 10_000):
        title = f"Tracing `set` of {n:,} slots of state"
        found.append(Row(f"set-{n}", title, partial(measure.slots, n=n), 1.2))
    depth = 16 if quick else 128
    for name, scanned, bar in (("unrolled", False, 1.15), ("scanned", True, 1.05)):
        title = f"First call, gradient of {depth} residual layers, {name}"
        first = partial(measure.first_call, depth=depth, scanned=scanned)
        found.append(Row(f"first-{name}", title, first, bar))
    return found


def colds(quick: bool) -> list[Row]:
    """What is paid once in a process."""
    beyond = "Import, beyond that of JAX"
    found = [Row("import", beyond, cold.imports, 60, absolute=True)]
    if importlib.util.find_spec("networks") is None:
        return found
    model = "construction of a ResNet-18"
    return [
        *found,
        Row("construct-cold", f"First {model}", cold.first, 2.5, "s", absolute=True),
        Row("construct-warm", f"Later {model}", cold.later, 1.5),
        Row("construct-abstract", f"Abstract {model}", cold.abstract, 2.0),
    ]


def networks(quick: bool) -> list[Row]:
    """Whole networks."""
    return []
