"""Runs the tasks in one library: ``python -m faults.worker LIBRARY TASK ...``.

It is a program of its own, so that each library has a process, and may have a Python,
of its own. It prints JSON.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import warnings
from typing import Any

from .tasks import REFUSED, RIGHT, TASKS, UNHELPFUL, WRONG, Task, Without, describe

# Each library's adapter, and the module that must be there for it.
LIBRARIES = {
    "vernal": "vernal",
    "equinox": "equinox",
    "nnx": "flax",
    "haiku": "haiku",
    "torch": "torch",
}


def attempt(task: Task, run: Any) -> tuple[str, str]:
    """Measures, and judges: the verdict, and the figures or the error."""
    if isinstance(run, Without):
        return run.verdict, run.reason
    try:
        right, figures = task.judge(run())
    except Exception as error:
        text = describe(error)
        is_named = not task.words or any(word in text for word in task.words)
        return REFUSED if is_named else UNHELPFUL, text
    return RIGHT if right else WRONG, figures


def main(library: str, names: list[str]) -> dict[str, Any]:
    """The versions, and for each task the verdict and figures of each way to do it."""
    if importlib.util.find_spec(LIBRARIES[library]) is None:
        return {"missing": LIBRARIES[library]}
    warnings.simplefilter("ignore")
    adapter = importlib.import_module(f"faults.in_{library}")
    versions = {p: importlib.metadata.version(p) for p in adapter.PACKAGES}
    rows = {
        name: {
            way: attempt(TASKS[name], run) for way, run in adapter.RUNS[name].items()
        }
        for name in names
    }
    return {"versions": versions, "tasks": rows}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2:])))
