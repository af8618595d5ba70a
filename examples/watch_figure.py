"""Draws how the running statistics of two networks evolve, and marks the sick ones."""

from pathlib import Path
from typing import Any

import numpy as np
import tools
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

WELL, SICK = "tab:blue", "crimson"
NAMES = ("running mean", "running variance")
LEGEND = [
    Line2D([], [], color="0.3", label="mean of the channels"),
    Patch(color="0.3", alpha=0.35, label="their standard deviation"),
    Patch(color="0.3", alpha=0.12, label="from the least to the largest"),
    Line2D([], [], color="0.5", ls=":", label="what is right of it is judged"),
]


def draw(folder: Path, outcomes: list[Any]) -> None:
    """Two rows for each network: the means and the variances of its norm layers."""
    figure = Figure(figsize=(14, 12), layout="constrained")
    parts = figure.subfigures(len(outcomes), 1, hspace=0.05)
    for part, outcome in zip(parts, outcomes, strict=True):
        recorder = outcome.recorder
        part.suptitle(_title(outcome), fontsize=13, fontweight="bold")
        arrays = [name for name in recorder.names if "batch_state_index" in name]
        axes = part.subplots(2, len(arrays) // 2, sharex=True)
        for i, name in enumerate(arrays):
            ax = axes[i % 2, i // 2]
            layer = name.partition(".")[0]
            tools.style(ax, f"{layer}: {NAMES[i % 2]}", "step" if i % 2 else "")
            _draw_statistic(ax, recorder, name)
            _write(ax, recorder.sick.get(name, ""))
    figure.legend(handles=LEGEND, loc="outside lower center", ncols=4, frameon=False)
    tools.save(figure, folder / "watch_state.png")


def _title(outcome: Any) -> str:
    recipe = outcome.recipe
    return (
        f"Trained {recipe.name}: batches of {recipe.batch_size}, momentum "
        f"{recipe.momentum}, learning rate {recipe.rate} "
        f"{'decaying to 0' if recipe.decays else 'to the end'}\n"
        f"{outcome.with_state:.1%} of the held-out digits are read with these "
        f"statistics, {outcome.with_batch:.1%} with statistics of their own"
    )


def _write(ax: Axes, verdict: str) -> None:
    """Puts what is wrong above the curves."""
    text = ax.text(0.03, 0.97, verdict, color=SICK, fontweight="bold", fontsize=9)
    text.set(transform=ax.transAxes, va="top", in_layout=False)


def _draw_statistic(ax: Axes, recorder: Any, name: str) -> None:
    """The mean over the channels, their deviation, and the most extreme ones."""
    steps, history = recorder.steps, recorder[name]
    color = SICK if name in recorder.sick else WELL
    low, high = history.mean - history.std, history.mean + history.std
    if np.all(history.min >= 0):
        low = np.maximum(low, 0)
    ax.fill_between(steps, history.min, history.max, color=color, alpha=0.12, lw=0)
    ax.fill_between(steps, low, high, color=color, alpha=0.35, lw=0)
    ax.plot(steps, history.mean, color=color, lw=1.5)
    ax.axvline(steps[-1 - len(steps) // 4], color="0.5", ls=":", lw=1)
    ax.margins(x=0)
    # Room for the verdict above the curves.
    least, most = min(low.min(), history.min.min()), history.max.max()
    bottom = 0 if least >= 0 else least - 0.05 * (most - least)
    ax.set_ylim(bottom, bottom + 1.2 * (most - bottom))
    if color == SICK:
        ax.set_facecolor("#fff4f5")
