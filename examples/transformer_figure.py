"""Draws what the transformer has learned, and what it writes."""

from pathlib import Path

import numpy as np
import tools
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

LINES, COLUMNS = 20, 72  # of a text that is drawn


def draw(
    folder: Path,
    losses: Float[np.ndarray, " steps"],
    bits: Float[np.ndarray, "windows context"],
    reference: dict[str, float],
    test: str,
    written: str,
) -> None:
    """Curves above, and below a part of the held-out text and what the model wrote.

    Each of the windows that the bits are for begins in the middle of the one before.
    """
    half = bits.shape[1] // 2
    known = bits[:, half:].ravel()  # of the characters from half + 1 on
    figure = Figure(figsize=(15, 11), layout="constrained")
    (left, right), panels = figure.subplots(2, 2, height_ratios=[1, 1.5])
    left.plot(losses, linewidth=0.7, label="training text")
    left.plot(len(losses), known.mean(), "o", color="tab:red", label="held-out text")
    for (name, value), dash in zip(reference.items(), (":", "--"), strict=True):
        left.axhline(value, color="black", linestyle=dash, label=name)
    left.set_ylim(0, None)
    left.legend()
    tools.style(left, "Training", "step", "bits per character")
    right.plot(1 + np.arange(bits.shape[1]), bits.mean(axis=0))
    title = "Held-out text: how much it has to read before it knows what comes"
    tools.style(right, title, "characters read before", "bits per character")
    right.set_xscale("log", base=2)
    right.xaxis.set_major_formatter("{x:.0f}")
    right.set_ylim(0, None)
    first = test.index("\n\n", half) + 2  # where a paragraph begins
    text, values = test[first:][:1500], known[first - half - 1 :][:1500]
    _draw_text(panels[0], "Held-out text; red is a surprise", text, values)
    _draw_text(panels[1], "What it writes", written, np.zeros(len(written)))
    tools.save(figure, folder / "transformer.png")


def _draw_text(ax: Axes, title: str, text: str, bits: np.ndarray) -> None:
    """Draws each character on a ground that is the redder, the more bits it takes."""
    ax.set_title(title, fontsize=12, loc="left")
    x, y = 0, 0
    for character, value in zip(text, bits, strict=True):
        shown = "\N{RETURN SYMBOL}" if character == "\n" else character
        color = colormaps["YlOrRd"](min(value / 10, 1)) if value else "white"
        ax.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="none"))
        where = {"ha": "center", "va": "center", "clip_on": True}
        ax.text(x + 0.5, y + 0.5, shown, fontsize=9.5, family="monospace", **where)
        x, y = (0, y + 1) if character == "\n" or x == COLUMNS else (x + 1, y)
        if y == LINES:
            break
    ax.set(xlim=(-1, COLUMNS + 2), ylim=(LINES, -0.2))
    ax.set_axis_off()
