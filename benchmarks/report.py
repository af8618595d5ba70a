"""The results as a table, and as a page with a plot.

python benchmarks/report.py --help
"""

import argparse
import json
from pathlib import Path
from typing import Any

from plot import draw
from reasons import reason
from rich.console import Console
from rich.table import Table

RAW, OURS = "raw", "vernal"
_SCALE = {"ms": 1e3}  # from the seconds that are measured to a row's unit

_HEAD = """\
# What vernal costs, beside plain JAX and other libraries

Written by the command below, from what it has measured; no figure is filled in by hand.
Figures are medians, with quartiles in parentheses. A ratio is to hand-written JAX over
nested dictionaries ("raw") of the same mathematics, shapes and initial values, of runs
taken in turn, each compared with raw's of the same round. "must" is what vernal sets
itself; it is met "nearly" where only the better quartile is within.

    {command}

- processor: {processor}
- device: {device}
- system: {system}
- versions: {versions}

![Ratios to plain JAX](results.png)

"""


def columns(results: dict[str, Any]) -> list[str]:
    """Plain JAX, vernal, and then the others; variants of plain JAX have no column."""
    names = [name for row in results["rows"] for name in row["results"]]
    others = [name for name in names if not name.startswith(RAW)]
    return list(dict.fromkeys([RAW, OURS, *others]))


def number(row: dict[str, Any], measured: dict[str, Any]) -> list[float] | None:
    """What a row is about: median and quartiles of a ratio, or of the thing itself."""
    if row["absolute"]:
        scale = _SCALE.get(row["unit"], 1)
        return measured["value"] and [scale * x for x in measured["value"]]
    return measured["ratio"]


def verdict(row: dict[str, Any]) -> str:
    """Whether vernal does what it must."""
    ours = row["results"].get(OURS)
    found = ours and number(row, ours)
    if row["bar"] is None or not found:
        return "" if row["bar"] is None else "–"
    median, low, _ = found
    if median <= row["bar"]:
        return "yes"
    return "nearly" if low <= row["bar"] else "no"


def short(x: float) -> str:
    """Three digits, but never as a power of ten."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:#.3g}"


def spread(values: list[float]) -> list[str]:
    """The median, and the quartiles."""
    median, low, high = map(short, values)
    return [median, f"({low}–{high})"]


def cell(row: dict[str, Any], name: str) -> str:
    """One figure of the table: a ratio, or the thing itself with its unit."""
    measured = row["results"].get(name)
    if measured is None:
        return "–"
    if measured["failed"]:
        is_limit = measured["failed"].startswith(">")
        return measured["failed"] if is_limit else "failed"
    found = None if name == RAW else measured["ratio"]
    if row["absolute"] or found is None:  # as when raw itself has failed
        unit = "" if row["unit"] in ("×", "fraction") else f" {row['unit']}"
        return short(_SCALE.get(row["unit"], 1) * measured["value"][0]) + unit
    return short(found[0])


def wide(row: dict[str, Any], name: str) -> str:
    """Half the distance of the quartiles, in percent; a second line."""
    measured = row["results"].get(name)
    values = measured and not measured["failed"] and number(row, measured)
    if not values or measured["runs"] < 2 or (name == RAW and not row["absolute"]):
        return ""
    median, low, high = values
    return f"\n[dim]±{50 * (high - low) / median:.0f} %[/]"


def bar(row: dict[str, Any]) -> str:
    """What vernal must reach, in words."""
    if row["bar"] is None:
        return ""
    has_unit = row["absolute"] and row["unit"] not in ("×", "fraction")
    unit = f" {row['unit']}" if has_unit else ""
    return f"≤ {row['bar']:g}{unit}"


def show(results: dict[str, Any], console: Console) -> None:
    """Prints the table."""
    names = columns(results)
    table = Table(title="Ratios to raw, plain JAX", show_lines=True)
    table.add_column("row", overflow="fold")
    for name in (*names[:2], "must", "met", *names[2:]):
        table.add_column(name, justify="right")
    colors = {"yes": "green", "nearly": "yellow", "no": "red"}
    for row in results["rows"]:
        cells = [cell(row, name) + wide(row, name) for name in names]
        met = verdict(row)
        met = f"[{colors[met]}]{met}[/]" if met in colors else met
        table.add_row(row["name"], *cells[:2], bar(row), met, *cells[2:])
    console.print(table)
    for row in results["rows"]:
        for name, measured in row["results"].items():
            if measured["failed"] and not measured["failed"].startswith(">"):
                console.print(f"{row['name']}, {name}: {measured['failed']}")
    console.print(
        f"{results['machine']['processor']}. {results['machine']['versions']}."
    )
    console.print(summary(results))


def summary(results: dict[str, Any]) -> str:
    """How many rows are as they must be."""
    found = [verdict(row) for row in results["rows"] if row["bar"] is not None]
    return f"{found.count('yes')} of {len(found)} rows met."


def lines_of(table: list[list[str]]) -> str:
    """A table in Markdown."""
    head, *body = table
    rule = ["---", *(len(head) - 1) * ["---:"]]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def overview(results: dict[str, Any]) -> str:
    """The table of all rows."""
    names = columns(results)
    table = [["row", *names[:2], "must", "met", *names[2:]]]
    for row in results["rows"]:
        cells = [cell(row, name) for name in names]
        table.append([row["name"], *cells[:2], bar(row), verdict(row), *cells[2:]])
    return lines_of(table)


def section(row: dict[str, Any]) -> str:
    """All that was measured in one row."""
    scale, unit = _SCALE.get(row["unit"], 1), row["unit"]
    table = [["library", f"median [{unit}]", "ratio to raw", "runs"]]
    for name, m in row["results"].items():
        if m["failed"]:
            table.append([name, m["failed"].replace("|", "/"), "", ""])
            continue
        value = " ".join(spread([scale * x for x in m["value"]]))
        ratio = " ".join(spread(m["ratio"])) if m["ratio"] else ""
        table.append([name, value, ratio, str(m["runs"])])
    parts = [f"## {row['title']} (`{row['name']}`)", row["about"], lines_of(table)]
    if row["bar"] is not None:
        parts.append(f"vernal must: {bar(row)}. Met: {verdict(row)}.")
    why = reason(row["name"])
    return "\n\n".join([*parts, why] if why else parts)


def write(results: dict[str, Any], folder: Path) -> None:
    """Writes ``RESULTS.md``, and ``results.png`` beside it."""
    head = _HEAD.format(command=results["command"], **results["machine"])
    parts = [overview(results), summary(results), *map(section, results["rows"])]
    text = head + "\n\n".join(parts) + "\n"
    folder.joinpath("RESULTS.md").write_text(text, encoding="utf-8")
    draw(results["rows"], folder / "results.png")


def main(argv: list[str] | None = None) -> None:
    """Writes the page again, from a file of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="what run.py --json has written")
    folder = Path(__file__).parent
    about = "where RESULTS.md and results.png go; by default beside this program"
    parser.add_argument("--folder", type=Path, default=folder, help=about)
    args = parser.parse_args(argv)
    results = json.loads(args.file.read_text())
    show(results, Console())
    write(results, args.folder)


if __name__ == "__main__":
    main()
