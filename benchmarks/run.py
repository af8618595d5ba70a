"""All benchmarks: vernal beside plain JAX and other libraries, in one table.

    python benchmarks/run.py --help

In each row all libraries run in turn, in one process; what is cold runs in processes of
its own. A figure is a median, with quartiles, as a ratio to hand-written JAX of the
same mathematics, shapes and initial values. Libraries that are not installed are left
out. (The extra "bench" has them, but for PyTorch.)
"""

import argparse
import fnmatch
import json
import os
import shlex
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import machine
import small
from effort import FULL, QUICK, Effort
from report import show, write
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rows import Row, rows
from timing import Measured, reason

HERE = Path(__file__).parent


def measured(row: Row, effort: Effort) -> dict[str, Any]:
    """One row of the results, as JSON has it."""
    start = time.perf_counter()
    try:
        results = row.measure(effort)
    except Exception as error:  # The others go on.
        results = {"raw": Measured(failed=reason(error))}
    facts = row._asdict() | {"seconds": round(time.perf_counter() - start, 1)}
    del facts["measure"]
    return facts | {"results": {k: m._asdict() for k, m in results.items()}}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    about = "fewer and smaller rows, and fewer runs: less than two minutes"
    found.add_argument("--quick", action="store_true", help=about)
    about = "only these, as call-10 or 'call-*'; without one, all"
    found.add_argument(
        "--rows", nargs="+", metavar="PATTERN", default=["*"], help=about
    )
    found.add_argument("--list", action="store_true", help="list the rows, and stop")
    about = "write the results here; report.py reads them"
    found.add_argument("--json", type=Path, metavar="FILE", help=about)
    about = "write RESULTS.md and results.png beside this program"
    found.add_argument("--write", action="store_true", help=about)
    return found


def everything(
    chosen: list[Row], effort: Effort, console: Console, file: Path | None, command: str
) -> dict[str, Any]:
    """Measures the rows, with a bar that shows how far it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    found: list[dict[str, Any]] = []
    results = {"machine": machine.describe(), "quick": effort.quick, "rows": found}
    results["command"] = command
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for row in chosen:
            progress.update(task, description=row.name)
            found.append(measured(row, effort))
            progress.advance(task)
            if file:  # row by row, as it takes its time
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(results, indent=1))
    return results


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Measures, and prints a table."""
    options = parser()
    args = options.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140)
    available = rows(args.quick)
    chosen = [
        r for r in available if any(fnmatch.fnmatch(r.name, p) for p in args.rows)
    ]
    if args.list:
        for row in chosen:
            console.print(f"{row.name:20} {row.title}. {row.about}", highlight=False)
        return {}
    if not chosen:
        names = ", ".join(row.name for row in available)
        options.error(f"no such row: {' '.join(args.rows)}; there are {names}")
    for name in small.missing():
        console.print(f"{name} is not installed, and is left out.")
    words = ["python", "benchmarks/run.py", *(sys.argv[1:] if argv is None else argv)]
    effort = QUICK if args.quick else FULL
    results = everything(chosen, effort, console, args.json, shlex.join(words))
    show(results, console)
    if args.write:
        write(results, HERE)
    return results


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Rivals' deprecations and hints are not what is looked for here.
    warnings.simplefilter("ignore")
    main()
