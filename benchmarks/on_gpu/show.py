"""The figures as tables."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text


def spread(values: list[float], scale: float = 1e3, digits: int = 2) -> str:
    """A median, and the quartiles; by default, of seconds as milliseconds."""
    median, low, high = (f"{scale * x:.{digits}f}" for x in values)
    return f"{median} ({low}–{high})"


def number(value: float | None, digits: int = 1) -> str:
    """A number, if there is one."""
    return "–" if value is None else f"{value:.{digits}f}"


def norm_tables(found: list[dict[str, Any]]) -> Iterator[Table]:
    """One for each dtype and layout."""
    kinds = dict.fromkeys((row["dtype"], row["layout"]) for row in found)
    for dtype, layout in kinds:
        rows = [r for r in found if (r["dtype"], r["layout"]) == (dtype, layout)]
        title = f"BatchNorm, forward + backward, {layout}, {dtype}: ms (share)"
        shapes = ["×".join(map(str, row["shape"])) for row in rows]
        table = Table("", *shapes, title=title, title_justify="left")
        floors = [f"{1e3 * row['floor_seconds']:.3f} (100 %)" for row in rows]
        table.add_row("floor", *floors, end_section=True)
        for name in rows[0]["results"]:
            table.add_row(name, *(norm_cell(row["results"][name]) for row in rows))
        yield table


def norm_cell(result: dict[str, Any]) -> str | Text:
    """The time, and the share of the bandwidth."""
    if "failed" in result:
        return Text(result["failed"], style="red")
    sign = "*" if result["is_sending"] else ""
    return f"{1e3 * result['time'][0]:.3f} ({result['share']:.0%}){sign}"


def step_table(row: dict[str, Any]) -> Table:
    """Training steps in one dtype."""
    title = f"ResNet-50, a training step, batch {row['examples']}, {row['dtype']}"
    header = ("step [ms]", "ratio", "images/s", "lower [s]", "compile [s]")
    header = ("", *header, "temporary [MiB]", "losses apart")
    table = Table(*header, title=title, title_justify="left")
    for name, result in row["results"].items():
        if "failed" in result:
            table.add_row(name, Text(result["failed"], style="red"))
            continue
        sign = "*" if result["is_sending"] else ""
        compiled = result["compilation"] or {}
        parts = ("lower", "compile", "temporary")
        distance = " ".join(f"{x:.0e}" for x in result["apart"])
        table.add_row(
            name,
            spread(result["time"]) + sign,
            number(result["ratio"][0] if result["ratio"] else None, 2),
            number(result["images_per_second"]),
            *(number(compiled.get(part)) for part in parts),
            distance if result["agrees"] else f"[red]{distance}: not the same[/]",
        )
    return table


def pipeline_table(found: list[dict[str, Any]]) -> Table:
    """The loops of all libraries."""
    title = "Training with a host that prepares each batch: ms per step"
    header = ("host alone", "device alone", "waiting", "one step ahead")
    header = ("", *header, "gain", "/ the longer one")
    table = Table(*header, title=title, title_justify="left")
    for row in found:
        name = f"{row['library']}, {row['dtype']}"
        if "failed" in row:
            table.add_row(name, Text(row["failed"], style="red"))
            continue
        cells = [spread(values, digits=1) for values in row["seconds"].values()]
        ratios = (row["gain"], row["over_the_longer"])
        table.add_row(name, *cells, *(f"{x:.2f}" for x in ratios))
    return table


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """All that was measured."""
    yield from norm_tables(found.get("norms", []))
    yield from map(step_table, found.get("steps", []))
    if "pipeline" in found:
        yield pipeline_table(found["pipeline"])
