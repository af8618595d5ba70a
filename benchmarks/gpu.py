"""On a GPU: batch normalization, ResNet-50 steps, and training with an input pipeline.

    python benchmarks/gpu.py --help

The rows, each with vernal beside plain JAX and the libraries that are installed:

- norms: BatchNorm, forward and backward, for the shapes of a ResNet-50, channels first
  and last: the time, and the share of the device's bandwidth against the bytes that
  must be moved at least. on_gpu/floor.py says which; a copy measures the bandwidth.
- steps: a training step of a ResNet-50 at 224 × 224.
- pipeline: the same where the host prepares each batch (cut, mirror, normalize),
  waiting for every step, or being one ahead.

On a machine with an NVIDIA GPU:

    pip install -e '.[bench]' 'jax[cuda12]' && python benchmarks/gpu.py --json gpu.json

It prints tables, and after each measurement writes all figures to that file. PyTorch
takes part where it is installed and sees the GPU.

This has not run on a GPU yet: only its dry run has, on a CPU, by --tiny.
"""

import argparse
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import machine
import on_gpu
from on_gpu import floor, measure, pipeline, tasks
from on_gpu.show import tables
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

ROWS = ("norms", "steps", "pipeline")
PIPELINES = ("vernal", "equinox")  # Equinox's jit always waits.


class Plan(NamedTuple):
    """How large, and for how long."""

    examples: int
    shapes: tuple[tuple[int, int], ...]
    network: dict[str, Any]
    megabytes: int  # of an array whose copy measures the bandwidth
    goal: float  # seconds of work that are sent at once
    steps: int  # of a training loop, between two looks at the clock
    options: dict[str, Any]  # of the timing

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Plan":
        if args.tiny:
            options = {"seconds": 0.0, "limit": 120.0}
            return cls(args.batch or 4, ((3, 4),), tasks.TINY, 1, 0.0, 2, options)
        options = {"seconds": args.seconds, "limit": 600.0, "alone": float("inf")}
        return cls(args.batch or 64, tasks.SHAPES, {}, 512, 0.02, 20, options)


Job = tuple[str, Callable[[], dict[str, Any]]]


def jobs(args: argparse.Namespace, plan: Plan, bandwidth: float) -> list[Job]:
    """All that is to be measured: the row to which it belongs, and a function."""
    cuda, found = is_gpu(), []
    norms, resnets = (on_gpu.cases(k, args.only, cuda) for k in ("NORMS", "RESNETS"))
    if not norms:
        raise SystemExit("None of these libraries is here.")
    sending = {"goal": plan.goal, "options": plan.options}
    for dtype in args.dtype:
        size = tasks.Size(dtype, **plan.network)
        train = {"size": size, "examples": plan.examples, "options": plan.options}
        for layout in ("NCHW", "NHWC"):
            for channels, pixels in plan.shapes:
                shape = (plan.examples, channels, pixels, pixels)
                what = (norms, shape, layout, dtype, bandwidth)
                found.append(
                    ("norms", functools.partial(measure.norms, *what, **sending))
                )
        # Steps are long; several are sent, so that the host's first is hidden.
        goal = 25 * plan.goal
        step = functools.partial(measure.steps, resnets, **train, goal=goal)
        found.append(("steps", step))
        for name in PIPELINES:
            if name in resnets:
                loop = functools.partial(pipeline.measure, name, resnets[name], **train)
                found.append(("pipeline", functools.partial(loop, steps=plan.steps)))
    return [(row, job) for row, job in found if row in args.rows]


def is_gpu() -> bool:
    """Whether JAX runs on one."""
    return jax.default_backend() == "gpu"


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    libraries, about = list(on_gpu.LIBRARIES), "libraries; by default, all there are"
    parser.add_argument(
        "--only", nargs="+", choices=libraries, default=libraries, help=about
    )
    parser.add_argument("--batch", type=int, help="examples; by default 64")
    dtypes, about = ["float32", "bfloat16"], "by default, both"
    parser.add_argument(
        "--dtype", nargs="+", choices=dtypes, default=dtypes, help=about
    )
    about = "for each table's column or line, all libraries together; by default 10"
    parser.add_argument("--seconds", type=float, default=10.0, help=about)
    about = "a dry run of small shapes, each timed once, which needs no GPU"
    parser.add_argument("--tiny", action="store_true", help=about)
    about = "write all figures here"
    parser.add_argument("--json", type=Path, metavar="FILE", help=about)
    args = parser.parse_args(argv)
    if not args.tiny and not is_gpu():
        parser.error(f"no GPU: JAX is on {jax.default_backend()}; --tiny is a dry run")
    return args


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, and prints tables."""
    args, console = parsed(argv), Console()
    plan = Plan.of(args)
    if args.tiny:
        console.print("[red]A dry run of small shapes: the figures mean nothing.[/]")
        console.print("These benchmarks have not run on a GPU yet.")
    if missing := [x for x in on_gpu.missing(is_gpu()) if x in args.only]:
        console.print(f"Not here: {', '.join(missing)}.")
    speeds = floor.bandwidth(plan.megabytes, plan.goal, plan.options)
    found: dict[str, Any] = {
        "machine": machine.describe(),
        "dry": args.tiny,
        "bytes_per_second": speeds,
    }
    rates = ", ".join(f"{name} {x / 1e9:.1f} GB/s" for name, x in speeds.items())
    console.print(f"{found['machine']['device']}: {rates}; the larger one is 100 %.")
    todo = jobs(args, plan, max(speeds.values()))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(todo))
        for row, job in todo:
            progress.update(task, description=row)
            found.setdefault(row, []).append(job())
            if args.json:
                args.json.write_text(json.dumps(found, indent=1))
            progress.advance(task)
    for table in tables(found):
        console.print(table)
    console.print(
        "Medians (quartiles). * As long as the host takes to send it, or waits in it."
    )
    return found


if __name__ == "__main__":
    # PyTorch must find memory, too. JAX reads this when it starts the device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
