"""Draws how well new digits are read, and how the body sees them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tools
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.decomposition import PCA


def draw(
    folder: Path,
    shots: Sequence[int],
    accuracies: dict[str, Float[np.ndarray, "shots draws"]],
    features: Float[np.ndarray, "n features"],
    digits: Int[np.ndarray, " n"],
) -> None:
    """The accuracies for each number of examples, and the digits by their features."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in accuracies.items():
        mean, deviation = values.mean(axis=1), values.std(axis=1)
        left.plot(shots, mean, ".-", label=name)
        left.fill_between(shots, mean - deviation, mean + deviation, alpha=0.2)
    choices = values.shape[1]
    title = f"Reading 5 to 9: mean and deviation of {choices} choices"
    tools.style(left, title, "examples of each digit", "right on held-out digits")
    left.set_xscale("log")
    left.set_xticks(shots, map(str, shots), minor=False)
    left.set_xticks([], minor=True)
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(loc="lower right")
    _draw_features(right, features, digits)
    tools.save(figure, folder / "finetune.png")


def _draw_features(ax: Axes, features: np.ndarray, digits: np.ndarray) -> None:
    """Draws each image as its digit, where the two main directions have it."""
    x, y = PCA(2).fit_transform(features).T
    for digit in range(5, 10):
        where = digits == digit
        marker, color = f"${digit}$", f"C{digit - 5}"
        ax.scatter(x[where], y[where], 60, color, marker=marker, linewidths=0.3)
    tools.style(ax, "Held-out digits that the body never learned, as it sees them")
    ax.set_xlabel("first and second principal component of the features")
