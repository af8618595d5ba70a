"""Where stateful layers go wrong: the same small tasks in five libraries.

    python benchmarks/state_faults.py --help

Each library runs in a process of its own, and may have a Python of its own; one that
is not installed is skipped. (The extras "bench" and "torch-fixtures" have them.) Every
figure is measured in that run. Where a library has several ways to do a task, first
comes what one would write first.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from faults.show import markdown, show
from faults.tasks import TASKS
from faults.worker import LIBRARIES

_SECONDS = 600  # for one library; it takes some ten

_HEAD = """\
# Where stateful layers go wrong

The same small tasks in vernal and four other libraries, with what each documents for
them. Where a library has several ways, first comes what one would write first, and the
first other way that is right is named beside it. The figures were measured, the errors
raised and the page written by the command below; only "n/a" and "not possible" are what
the adapters in `benchmarks/faults` say, with a reason.

    {command}
"""


def ask(library: str, python: str, names: list[str]) -> dict[str, Any]:
    """Runs one library's tasks in a process."""
    command = [python, "-m", "faults.worker", library, *names]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    # Donated buffers that are used again make XLA log what the error says as well.
    env = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, env=env
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": str(error)}
    if done.returncode != 0:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def interpreters(pairs: list[str]) -> dict[str, str]:
    """``LIB=PATH`` texts, as a dictionary; by default, this Python."""
    chosen = dict.fromkeys(LIBRARIES, sys.executable)
    for pair in pairs:
        library, _, path = pair.partition("=")
        if library not in chosen or not path:
            raise SystemExit(f"--python takes {'|'.join(LIBRARIES)}=PATH, not {pair!r}")
        chosen[library] = path
    return chosen


def main(argv: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Measures, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    many: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument(
        "--only", choices=LIBRARIES, help=f"of {', '.join(LIBRARIES)}", **many
    )
    parser.add_argument("--task", choices=TASKS, help=f"of {', '.join(TASKS)}", **many)
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="LIB=PATH",
        help="the Python that has a library, where it is not this one",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a page")
    args = parser.parse_args(argv)
    names, pythons = args.task or list(TASKS), interpreters(args.python)
    results = {}
    for library in args.only or LIBRARIES:
        print(f"Running {library} ...", file=sys.stderr)
        results[library] = ask(library, pythons[library], names)
    show(results, names)
    if args.markdown:
        given = sys.argv[1:] if argv is None else argv
        # Where a Python lies is nobody else's business.
        shown = [x.split("=")[0] + "=PATH" if x in args.python else x for x in given]
        command = " ".join(["python", "benchmarks/state_faults.py", *shown])
        page = _HEAD.format(command=command) + "\n" + markdown(results, names)
        args.markdown.write_text(page, encoding="utf-8")
    return results


if __name__ == "__main__":
    main()
