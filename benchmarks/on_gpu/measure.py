"""What is measured: batch normalization, and whole training steps of a ResNet-50."""

import functools
from typing import Any

from networks.check import STEPS, apart
from networks.measure import compiler
from networks.tasks import Case
from timing import Measured, reason, several

from . import tasks
from .clock import Sender, is_sending
from .floor import floor_bytes
from .tasks import Layout, Size

# How far first losses may be apart: GPUs multiply float32 in 19 bits. Later ones are
# only shown, as in a network so deep each step multiplies what was rounded by hundreds.
TOLERANCE = {"float32": 1e-2, "bfloat16": 5e-2}

Options = dict[str, Any]
Found = dict[str, Any]


def figures(parts: dict[str, Measured]) -> Found:
    """Median and quartiles of all parts, and of the ratio; or why there are none."""
    if "" in parts:
        return {"failed": parts[""].failed}
    found: Found = {name: list(m.value or ()) for name, m in parts.items()}
    found["ratio"] = list(parts["time"].ratio or ())
    return found | {"is_sending": is_sending(found)}


def timed(runs: dict[str, Sender], options: Options) -> Any:
    """All in turn; ratios are to the first, plain JAX."""
    return several(runs, reference=next(iter(runs)), warm=3, **options)


def norms(
    cases: dict[str, Any],
    shape: tuple[int, ...],
    layout: Layout,
    dtype: str,
    bandwidth: float,
    goal: float,
    options: Options,
) -> Found:
    """Forward and backward pass of batch normalization in training.

    Arguments:
        cases: ``NORMS`` of the adapters.
        shape: ``(batch, channels, *pixels)``, whatever the layout.
        layout: how it lies in memory.
        dtype: of inputs and outputs.
        bandwidth: of the device, in bytes per second.
        goal: seconds of :class:`clock.Sender`.
        options: of :func:`timing.several`.
    """
    runs = {
        name: Sender(functools.partial(make, shape, layout, dtype), goal)
        for name, make in cases.items()
    }
    floor = floor_bytes(shape, dtype)
    results = {}
    for name, parts in timed(runs, options).items():
        results[name] = figures(parts)
        if "" not in parts:
            results[name]["share"] = floor / bandwidth / results[name]["time"][0]
    facts = {"shape": shape, "layout": layout, "dtype": dtype}
    least = {"floor_bytes": floor, "floor_seconds": floor / bandwidth}
    return facts | least | {"results": results}


class Stepper:
    """A training step that goes on from where the last one came to."""

    def __init__(self, case: Case, size: Size, batch: Any) -> None:
        program = case.make(size)
        self.run = program.jit(program.step, donate=True)
        self.carry, self.batch = program.carry, case.place(batch)
        self.losses: list[Any] = []

    def __call__(self, batch: Any = None) -> Any:
        """Sends a step to the device; returns the loss that will be."""
        batch = self.batch if batch is None else batch
        self.carry, loss = self.run(self.carry, batch)
        if len(self.losses) < STEPS:
            self.losses.append(loss)
        return loss


def compilation(case: Case, size: Size, batch: Any) -> Found:
    """Seconds to lower and to compile a step, and MiB of temporary memory."""
    try:
        return dict(compiler(case, size, batch, donate=True)())
    except Exception as error:  # The others go on.
        return {"failed": reason(error)}


def steps(
    cases: dict[str, Case], size: Size, examples: int, goal: float, options: Options
) -> Found:
    """Training steps, which are sent without waiting; carries are donated.

    Arguments:
        cases: ``RESNETS`` of the adapters.
        size: of the network.
        examples: in a batch.
        goal: seconds of :class:`clock.Sender`.
        options: of :func:`timing.several`.
    """
    batch = tasks.images(size, examples)
    compiled = {
        name: compilation(case, size, batch)
        for name, case in cases.items()
        if name != "torch"  # there is nothing to compile
    }
    runs = {
        name: Sender(functools.partial(Stepper, case, size, batch), goal)
        for name, case in cases.items()
    }
    results, losses = {}, {}
    for name, parts in timed(runs, options).items():
        results[name] = figures(parts) | {"compilation": compiled.get(name)}
        if "" not in parts:
            results[name]["images_per_second"] = examples / results[name]["time"][0]
            losses[name] = [float(loss) for loss in runs[name].make().losses]
    for i in range(STEPS if losses else 0):
        each = apart({name: values[i : i + 1] for name, values in losses.items()})
        for name, distance in each.items():
            results[name].setdefault("apart", []).append(distance)
    for name in losses:
        results[name]["agrees"] = results[name]["apart"][0] <= TOLERANCE[size.dtype]
    return {"dtype": size.dtype, "examples": examples, "results": results}
