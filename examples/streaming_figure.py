"""Draws a part of the tape, and what the model says at every moment of it."""

from pathlib import Path

import numpy as np
import tools
from jaxtyping import Float
from matplotlib.figure import Figure
from streaming_data import GAP, KINDS, Tape

SHOWN = 130  # columns of the tape


def draw(
    folder: Path,
    losses: Float[np.ndarray, " steps"],
    tape: Tape,
    found: Float[np.ndarray, "columns kinds"],
    by_column: Float[np.ndarray, " 8"],
) -> None:
    """The tape above its probabilities; below how it learned, and how soon it knows."""
    figure = Figure(figsize=(15, 9), layout="constrained")
    panels = figure.subplot_mosaic(
        [["tape", "tape"], ["said", "said"], ["loss", "soon"]],
        height_ratios=[0.55, 1, 1.1],
    )
    extent = (0, SHOWN)
    panels["tape"].imshow(
        tape.columns[:SHOWN].T, cmap="gray_r", aspect="auto", extent=(*extent, 8, 0)
    )
    panels["tape"].set_title("A part of the tape, with digits it has never seen")
    panels["tape"].set_axis_off()
    said = panels["said"]
    said.imshow(
        found[:SHOWN].T,
        cmap="Blues",
        aspect="auto",
        vmin=0,
        vmax=1,
        extent=(*extent, KINDS - 0.5, -0.5),
    )
    truth = tape.labels[:SHOWN]
    said.step(
        np.arange(SHOWN + 1), [*truth, truth[-1]], "tab:red", where="post", linewidth=1
    )
    said.set_yticks(range(KINDS), [*map(str, range(GAP)), "gap"])
    title = "What it says at each column, by this one and those before; red is true"
    said.set_title(title)
    panels["loss"].plot(losses, linewidth=0.7)
    panels["loss"].set_ylim(0, None)
    tools.style(panels["loss"], "Training", "step", "loss")
    panels["soon"].plot(1 + np.arange(8), 100 * by_column, "-o")
    panels["soon"].set_ylim(0, 102)
    title = "How soon it knows a digit"
    tools.style(panels["soon"], title, "columns of the digit seen", "right, in %")
    tools.save(figure, folder / "streaming.png")
