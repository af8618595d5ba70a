"""Draws what the recurrent example has learned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tools
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from recurrent_data import Data, to_screen


def draw(
    path: Path,
    data: Data,
    guesses: Float[np.ndarray, "n length 3"],
    losses: Float[np.ndarray, " steps"],
    errors: dict[str, Float[np.ndarray, " n"]],
) -> None:
    """Held-out names on what was guessed after each letter, and the errors below."""
    figure = Figure(figsize=(13, 12), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 1.3])
    top.suptitle(
        "Held-out names, on the color guessed after each letter, from best to worst",
        fontsize=14,
        fontweight="bold",
    )
    best_first = np.argsort(errors["network"])
    shown = best_first[np.linspace(0, len(best_first) - 1, 32).astype(int)]
    for ax, part in zip(top.subplots(1, 2), np.split(shown, 2), strict=True):
        names = [data.names[i] for i in part]
        _draw_names(ax, names, guesses[part], data.colors[part])
    left, right = bottom.subplots(1, 2)
    left.plot(losses, linewidth=0.7)
    tools.style(left, "How far off it is in training", "step", "mean over all letters")
    left.set_ylim(0, 2 * losses[len(losses) // 10 :].max())
    for name, error in errors.items():
        share = np.arange(1, len(error) + 1) / len(error)
        right.plot(np.sort(error), share, label=f"{name}: {error.mean():.3f}")
    tools.style(right, "Held-out names", "off by at most", "share of the names")
    right.legend(title="mean")
    tools.save(figure, path)


def _draw_names(
    ax: Axes, names: Sequence[str], guesses: np.ndarray, colors: np.ndarray
) -> None:
    """Draws names on what was guessed after each letter; the answer stands behind."""

    def box(x: float, y: float, width: float, color: np.ndarray) -> None:
        rgb = to_screen(color)
        ax.add_patch(Rectangle((x, y), width, 0.8, facecolor=rgb, edgecolor="none"))

    end = max(map(len, names)) + 1
    for y, (name, guess, color) in enumerate(zip(names, guesses, colors, strict=True)):
        for x, letter in enumerate(name):
            box(x, y, 1, guess[x])
            ink = "white" if guess[x, 0] < 0.65 else "black"
            text = {"ha": "center", "va": "center", "family": "monospace"}
            ax.text(x + 0.5, y + 0.42, letter, color=ink, fontsize=13, **text)
        box(end, y, 3, guess[-1])
        box(end + 3, y, 3, color)
    ax.text(end + 1.5, -0.15, "guess", ha="center", fontsize=11)
    ax.text(end + 4.5, -0.15, "truth", ha="center", fontsize=11)
    ax.set(xlim=(-0.5, end + 7), ylim=(len(names), -0.7))
    ax.set_axis_off()
