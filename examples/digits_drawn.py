"""How good digits are that a model drew, and a sheet of them: for gan and diffusion."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tools
from digits_data import Digits
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.svm import SVC

COLUMNS = 10


def judge(
    data: Digits, drawn: Float[np.ndarray, "n 1 8 8"], labels: Int[np.ndarray, " n"]
) -> tuple[float, float, float]:
    """Says and returns how much three classifiers read.

    The first was trained on real digits and reads the drawn ones: are they what was
    asked for? The second was trained on the drawn ones and reads real ones: are they as
    varied? The third was trained on real ones and reads others, for comparison.
    """
    real, test, drawn = (x.reshape(-1, 64) for x in (*data[:2], drawn))
    taught, pupil = SVC().fit(real, data.train_labels), SVC().fit(drawn, labels)
    asked, varied = taught.score(drawn, labels), pupil.score(test, data.test_labels)
    known = taught.score(test, data.test_labels)
    tools.say(
        f"A classifier trained on real digits reads {asked:.1%} of {len(labels)} drawn "
        f"ones as what was asked for.\nOne trained on the drawn ones reads "
        f"{varied:.1%} of the real ones held out; trained on real ones, {known:.1%}."
    )
    return asked, varied, known


def draw(
    data: Digits,
    history: Float[np.ndarray, "10 times 8 8"],
    times: tuple[str, Sequence[Any]],
    drawn: Float[np.ndarray, "n 1 8 8"],
    scores: tuple[float, float, float],
) -> tuple[Figure, Axes]:
    """A figure with three sheets of digits: how they came about, drawn ones, real ones.

    Returns it with the axes below them. `times` is the title and the labels of the
    first sheet; the labels of `drawn` are 0 to 9, over and over.
    """
    asked, varied, known = scores
    figure = Figure(figsize=(14, 8.4), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1)
    top, bottom = figure.subfigures(2, 1, height_ratios=[2, 1], hspace=0.03)
    axes = top.subplots(1, 3, width_ratios=[len(times[1]), COLUMNS, COLUMNS])
    _sheet(axes[0], history, times[0])
    axes[0].set_xticks(10 * np.arange(len(times[1])) + 4.5, times[1], rotation=45)
    title = f"drawn in the end\n{asked:.1%} are read as what was asked for"
    images = drawn[: 10 * COLUMNS, 0].reshape(-1, 10, 8, 8).swapaxes(0, 1)
    _sheet(axes[1], images, title)
    title = f"real, held out: {known:.1%} are read correctly,\n"
    title += f"or {varied:.1%} after training on drawn ones only"
    real = [data.test_images[data.test_labels == i][:COLUMNS, 0] for i in range(10)]
    _sheet(axes[2], np.stack(real), title)
    return figure, bottom.subplots()


def _sheet(ax: Axes, images: Float[np.ndarray, "10 columns 8 8"], title: str) -> None:
    rows, columns = images.shape[:2]
    edges = ((0, 0), (0, 0), (1, 1), (1, 1))
    padded = np.pad(np.clip(images, 0, 1), edges, constant_values=0.2)
    sheet = padded.transpose(0, 2, 1, 3).reshape(10 * rows, 10 * columns)
    ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
    ax.set_title(title, fontsize=12)
    ax.set_xticks([])
    ax.set_yticks(10 * np.arange(rows) + 4.5, range(rows))
    ax.tick_params(length=0, labelsize=11)
    ax.spines[:].set_visible(False)


def curve(
    ax: Axes, values: Float[np.ndarray, " steps"], color: str, label: str
) -> None:
    """Draws a noisy curve pale, and its moving average."""
    ax.plot(values, color=color, alpha=0.2, linewidth=0.7)
    window = max(1, len(values) // 50)
    mean = np.convolve(values, np.ones(window) / window, "valid")
    ax.plot(window // 2 + np.arange(len(mean)), mean, color=color, label=label)
    ax.legend(loc="upper right")
    ax.margins(x=0.01)
