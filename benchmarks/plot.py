"""The results as a picture: one line for each row, one mark for each library."""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

# Ours is drawn last, and largest; the other colors are told apart by most eyes.
STYLES: dict[str, dict[str, Any]] = {
    "equinox": {"color": "#0072b2", "marker": "s"},
    "nnx": {"color": "#d55e00", "marker": "^"},
    "nnx split": {"color": "#e69f00", "marker": "v"},
    "linen": {"color": "#009e73", "marker": "P"},
    "haiku": {"color": "#cc79a7", "marker": "X"},
    "torch": {"color": "#777777", "marker": "d"},
    "vernal in jax.jit": {"color": "#f0b8b0", "marker": "o"},
    "vernal": {"color": "#c1121f", "marker": "o", "s": 75},
}


def draw(rows: list[dict[str, Any]], file: Path) -> None:
    """Draws the ratios to plain JAX on a logarithmic axis."""
    rows = [row for row in rows if any(map(partial(ratio, row), STYLES))]
    if not rows:
        return
    size = (9, 1.6 + 0.36 * len(rows))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    heights = range(len(rows) - 1, -1, -1)
    for i, (name, style) in enumerate(STYLES.items()):
        found = [
            (ratio(row, name), y)
            for row, y in zip(rows, heights, strict=True)
            if ratio(row, name)
        ]
        if not found:
            continue
        ratios, ys = zip(*found, strict=True)
        median, low, high = zip(*ratios, strict=True)
        color = style["color"]
        axes.hlines(ys, low, high, color=color, lw=1.5, alpha=0.6, zorder=2 + i)
        options = {"s": 38, "edgecolors": "white", "linewidths": 0.6, **style}
        axes.scatter(median, ys, label=name, zorder=3 + i, **options)
    bars = [(row["bar"], y) for row, y in zip(rows, heights, strict=True)]
    bars = [(bar, y) for (bar, y), row in zip(bars, rows, strict=True) if is_ratio(row)]
    if bars:
        xs, ys = zip(*bars, strict=True)
        label = "what vernal must reach"
        axes.scatter(xs, ys, marker="|", s=260, color="black", label=label, zorder=2)
    axes.axvline(1, color="0.75", lw=1, zorder=1)
    decorate(axes, [row["title"] for row in rows], list(heights))
    figure.legend(loc="outside upper center", ncols=5, frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def ratio(row: dict[str, Any], name: str) -> list[float] | None:
    """What is drawn: a ratio, median and quartiles; None if there is none."""
    measured = row["results"].get(name)
    if measured is None or row["unit"] == "fraction":
        return None
    own = row["absolute"] and row["unit"] == "×"
    return measured["value" if own else "ratio"]


def is_ratio(row: dict[str, Any]) -> bool:
    """Whether what vernal must reach is a ratio, and not a time."""
    return row["bar"] is not None and (not row["absolute"] or row["unit"] == "×")


def decorate(axes: Any, names: list[str], heights: list[int]) -> None:
    """Names, and numbers that one can read."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [
        x for x in (0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100) if low <= x <= high
    ]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(heights, names)
    axes.set_ylim(-0.7, max(heights) + 0.7)
    axes.set_xlabel("ratio to plain JAX (less is better); lines join the quartiles")
    axes.grid(axis="y", color="0.92", zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
