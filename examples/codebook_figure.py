"""Draws the alphabet, what is written with it, and how much of it is in use."""

from collections.abc import Sequence
from pathlib import Path

import digits_drawn
import numpy as np
import tools
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SHOWN = 16  # held-out digits
TYPICAL = 5  # quarters that are averaged for a code

Curve = Float[np.ndarray, " steps"]


def draw(
    folder: Path,
    codes: int,
    quarters: tuple[np.ndarray, np.ndarray, np.ndarray],
    sheets: dict[str, Float[np.ndarray, "n 1 8 8"]],
    errors: Sequence[float],
    curves: dict[str, tuple[Curve, Curve]],
) -> None:
    """The codes by frequency, and digits beside them; two curves of each run below."""
    figure = Figure(figsize=(14, 8.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1], hspace=0.03)
    left, right = top.subplots(1, 2, width_ratios=[1, 1.6])
    _alphabet(left, codes, *quarters)
    _digits(right, sheets, errors)
    left, right = bottom.subplots(1, 2)
    colors = ["tab:orange", "tab:blue"]
    for (name, (error, used)), color in zip(curves.items(), colors, strict=True):
        left.plot(used, color=color, label=name)
        digits_drawn.curve(right, error, color, name)
    title = f"codes in use (perplexity), of {codes}"
    tools.style(left, title, "step")
    left.set_ylim(0, codes)
    left.legend(loc="center right")
    tools.style(right, "squared error by pixel, and its moving average", "step")
    right.set_yscale("log")
    tools.save(figure, folder / "codebook.png")


def _alphabet(
    ax: Axes,
    codes: int,
    patches: Float[np.ndarray, "m 16"],
    vectors: Float[np.ndarray, "m size"],
    chosen: Int[np.ndarray, " m"],
) -> None:
    """For each code the quarters of training images that lie in its middle."""
    counts = np.bincount(chosen, minlength=codes)
    order = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    tiles = np.full((codes, 4, 4), np.nan)
    for tile, i in zip(tiles, order, strict=False):
        members = vectors[chosen == i]
        distance = np.linalg.norm(members - members.mean(0), axis=1)
        middle = patches[chosen == i][np.argsort(distance)[:TYPICAL]]
        tile[:] = middle.mean(0).reshape(4, 4)
    columns = int(np.ceil(np.sqrt(codes)))
    empty = np.full((-codes % columns, 4, 4), np.nan)
    _tiled(ax, np.concatenate([tiles, empty]).reshape(-1, columns, 4, 4))
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
