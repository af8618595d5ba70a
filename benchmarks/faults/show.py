"""Tables of the results: for a terminal with rich, and as Markdown without it."""

import textwrap
from typing import Any

from .tasks import NOT_APPLICABLE, NOT_POSSIBLE, REFUSED, RIGHT, TASKS, VERDICTS

# As a worker returns it, by library: versions and tasks, or why there are none.
Results = dict[str, dict[str, Any]]

TITLES = {
    "vernal": "vernal",
    "equinox": "Equinox",
    "nnx": "Flax NNX",
    "haiku": "Haiku",
    "torch": "PyTorch",
}


def summary(ways: dict[str, tuple[str, str]]) -> str:
    """The verdict on the first way, and the first other way that is right, if any."""
    (verdict, _), *_ = ways.values()
    others = [way for way, (other, _) in ways.items() if other == RIGHT]
    if others and verdict != RIGHT:
        return f"{verdict}; right: {others[0]}"
    return verdict


def present(results: Results) -> dict[str, dict[str, Any]]:
    """The libraries that ran, and their tasks."""
    return {
        lib: result["tasks"] for lib, result in results.items() if "tasks" in result
    }


def rows(results: Results, task: str) -> list[tuple[str, str, str, str]]:
    """One row for each way of each library: library, way, verdict, measured."""
    return [
        (TITLES[lib], way, verdict, textwrap.shorten(figures, 240, placeholder=" …"))
        for lib, tasks in present(results).items()
        for way, (verdict, figures) in tasks[task].items()
    ]


def footers(results: Results) -> list[str]:
    """The versions, and what did not run."""
    versions = [
        " on ".join(f"{name} {number}" for name, number in result["versions"].items())
        for result in results.values()
        if "versions" in result
    ]
    lines = [", ".join(versions)]
    for lib, result in results.items():
        if "missing" in result:
            lines.append(
                f"{TITLES[lib]} was skipped: its Python has no `{result['missing']}`. "
                f"--python {lib}=PATH names another."
            )
        if "failed" in result:
            lines.append(f"{TITLES[lib]} did not run: {result['failed']}")
    return [line for line in lines if line]


def table(head: list[str], body: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def question(name: str) -> str:
    """What is asked, and which errors count as helpful."""
    task = TASKS[name]
    words = " or ".join(f"`{word}`" for word in task.words)
    note = f" An error must speak of {words} to name what is at fault." if words else ""
    return task.question + note


def markdown(results: Results, names: list[str]) -> str:
    """Everything, as Markdown."""
    libraries = present(results)
    matrix = [
        [TASKS[n].title, *(summary(tasks[n]) for tasks in libraries.values())]
        for n in names
    ]
    head = ["who gets it right", *(TITLES[lib] for lib in libraries)]
    parts = [table(head, matrix), "\n".join(footers(results))]
    words = [f"- **{verdict}**: {meaning}." for verdict, meaning in VERDICTS.items()]
    parts.append("\n".join(words))
    for name in names:
        body = [
            [lib, way, f"**{v}**", text] for lib, way, v, text in rows(results, name)
        ]
        parts += [f"## {TASKS[name].title}", question(name)]
        parts.append(table(["library", "way", "verdict", "measured"], body))
    return "\n\n".join(parts) + "\n"


def style(verdict: str) -> str:
    """The color of a verdict in a terminal."""
    first = verdict.split(";")[0]
    good, neutral = {RIGHT, REFUSED}, {NOT_APPLICABLE, NOT_POSSIBLE}
    return "green" if first in good else "dim" if first in neutral else "red"


def show(results: Results, names: list[str]) -> None:
    """Prints tables with rich, or Markdown where it is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(markdown(results, names))
        return
    console, libraries = Console(), present(results)
    overview = Table("task", *(TITLES[lib] for lib in libraries))
    overview.title = "Who gets it right"
    for name in names:
        details = Table("library", "way", "verdict", "measured")
        details.title, details.caption = TASKS[name].title, Text(question(name))
        for lib, way, verdict, text in rows(results, name):
            cell = Text(verdict, style(verdict))
            details.add_row(lib, Text(way), cell, Text(text))
        console.print(details)
        cells = [summary(tasks[name]) for tasks in libraries.values()]
        overview.add_row(TASKS[name].title, *(Text(c, style(c)) for c in cells))
    console.print(overview)
    for line in footers(results):
        console.print(line, markup=False, highlight=False)
