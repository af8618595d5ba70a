"""Draws the alphabet, what is written with it, and how much of it is in use."""

from collections.abc import Sequence
from pathlib import Path

import digits_drawn
import numpy as np
import tools
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SHOWN = 20  # held-out digits
PALE = 0.25  # the ink of an image around the quarter that a code stands for

Curve = Float[np.ndarray, " steps"]


def draw(
    folder: Path,
    codes: int,
    alphabet: tuple[np.ndarray, np.ndarray, np.ndarray],
    sheets: dict[str, Float[np.ndarray, "n 1 8 8"]],
    errors: Sequence[float],
    curves: dict[str, tuple[Curve, Curve]],
) -> None:
    """The codes by frequency, and digits beside them; two curves of each run below."""
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1], hspace=0.03)
    left, right = top.subplots(1, 2, width_ratios=[1, 1.7])
    _alphabet(left, codes, *alphabet)
    _digits(right, sheets, errors)
    left, right = bottom.subplots(1, 2)
    colors = ["tab:orange", "tab:blue"]
    for (name, (error, used)), color in zip(curves.items(), colors, strict=True):
        left.plot(used, color=color, label=name)
        digits_drawn.curve(right, error, color, name)
    title = f"codes in use (perplexity), of {codes}"
    tools.style(left, title, "step")
    left.set_ylim(0, codes)
    left.legend(loc="lower right")
    tools.style(right, "squared error by pixel, and its moving average", "step")
    right.set_yscale("log")
    tools.save(figure, folder / "codebook.png")


def _alphabet(
    ax: Axes,
    codes: int,
    images: Float[np.ndarray, "n 1 8 8"],
    vectors: Float[np.ndarray, "n*4 size"],
    chosen: Int[np.ndarray, " n*4"],
) -> None:
    """For each code the most typical quarter that it stands for, in its pale image."""
    counts = np.bincount(chosen, minlength=codes)
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    columns = int(np.ceil(np.sqrt(codes)))
    tiles = np.full((codes + -codes % columns, 8, 8), np.nan)
    for tile, i in zip(tiles, order, strict=False):
        members = np.flatnonzero(chosen == i)
        center = vectors[members].mean(0)
        distance = np.linalg.norm(vectors[members] - center, axis=1)
        image, quarter = divmod(members[np.argmin(distance)], 4)
        row, column = 4 * (quarter // 2), 4 * (quarter % 2)
        tile[:] = PALE * images[image, 0]
        inside = slice(row, row + 4), slice(column, column + 4)
        tile[inside] = images[image, 0][inside]
    _tiled(ax, tiles.reshape(-1, columns, 8, 8))
    ax.set_title(f"the alphabet: {len(order)} codes in use, the most frequent first")
    ax.set_xticks([])
    ax.set_yticks([])


def _digits(
    ax: Axes, sheets: dict[str, Float[np.ndarray, "n 1 8 8"]], errors: Sequence[float]
) -> None:
    real, drawn, clustered = (x[:SHOWN, 0] for x in sheets.values())
    half = SHOWN // 2
    rows = [
        a
        for i in (0, half)
        for a in (x[i : i + half] for x in (real, drawn, clustered))
    ]
    _tiled(ax, np.stack(rows))
    ax.set_yticks(10 * np.arange(6) + 4.5, 2 * list(sheets))
    ax.set_xticks([])
    network, kmeans = errors
    title = f"four codes for an image; error {network:.4f}, with k-means {kmeans:.4f}"
    ax.set_title(title)


def _tiled(ax: Axes, tiles: Float[np.ndarray, "rows columns h w"]) -> None:
    """Draws images black on white, in a grid."""
    rows, _, height, _ = tiles.shape
    edges = ((0, 0), (0, 0), (1, 1), (1, 1))
    padded = np.pad(np.clip(tiles, 0, 1), edges, constant_values=0.2)
    sheet = padded.transpose(0, 2, 1, 3).reshape(rows * (height + 2), -1)
    ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
