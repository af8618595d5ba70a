"""Whether all libraries do the same: their losses over three steps of training.

python benchmarks/networks/check.py --help
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script finds what is beside it, not what is above
    sys.path[0] = str(Path(__file__).parents[1])

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from networks import cases, missing, tasks
from networks.tasks import Case, Sizes

STEPS = 3
TOLERANCE = 1e-4  # relative, of float32


def losses(case: Case, size: Any, batches: list[Any]) -> list[float]:
    """The loss of each step, as this library computes it."""
    program = case.make(size)
    step, carry, found = program.jit(program.step), program.carry, []
    for batch in batches:
        carry, loss = step(carry, case.place(batch))
        found.append(float(loss))
    return found


def all_losses(
    kind: str, size: Any, examples: int, only: list[str] | None = None
) -> dict[str, list[float]]:
    """The same of all libraries, plain JAX first, by the names of their cases.

    Arguments:
        kind: ``"RESNETS"`` or ``"TRANSFORMERS"``.
        size: the width of a ResNet, or the sizes of a transformer.
        examples: in a batch; each step has one of its own.
        only: the libraries; None for all that are installed.
    """
    batches = [tasks.batch(kind, size, examples, seed) for seed in range(STEPS)]
    found = cases(kind, only)
    return {
        name: losses(case, size, batches)
        for name, case in track(found.items(), kind.capitalize(), transient=True)
    }


def apart(found: dict[str, list[float]]) -> dict[str, float]:
    """How far each is from the first one, at most, relative to that."""
    first, *_ = map(np.array, found.values())
    return {
        name: float(np.max(np.abs(np.array(values) / first - 1)))
        for name, values in found.items()
    }


def differing(distances: dict[str, float]) -> list[str]:
    """Those that do not do the same; NaN is no match either."""
    return [name for name, x in distances.items() if not x <= TOLERANCE]


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Prints a table, and fails if a library does something else."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="libraries, by default all")
    parser.add_argument("--width", type=int, default=4, help="of the ResNet")
    parser.add_argument("--examples", type=int, default=8, help="in a batch")
    args = parser.parse_args(argv)
    console = Console()
    if missing():
        console.print(f"Not installed: {', '.join(missing())}.")
    sizes = Sizes(depth=2, width=16, heads=2, length=8, vocabulary=11)
    results = {}
    for kind, size in {"RESNETS": args.width, "TRANSFORMERS": sizes}.items():
        found = all_losses(kind, size, args.examples, args.only)
        results[kind] = apart(found)
        table = Table(kind.capitalize(), *(f"loss {i}" for i in range(STEPS)), "apart")
        for name, values in found.items():
            cells = [f"{x:.6f}" for x in values]
            table.add_row(name, *cells, f"{results[kind][name]:.1e}")
        console.print(table)
    bad = [name for far in results.values() for name in differing(far)]
    if bad:
        sys.exit(f"Not the same as plain JAX, by more than {TOLERANCE}: {bad}.")
    return results


if __name__ == "__main__":
    main()
