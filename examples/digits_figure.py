"""What the digits example records of its training, and the figure it makes of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from digits_data import Digits
from jaxtyping import Array, Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

import vernal as vn

TRAIN, TEST, WRONG = "tab:blue", "tab:orange", "crimson"
HEADING: dict[str, Any] = {"fontsize": 14, "fontweight": "bold"}
ROWS, COLUMNS = 3, 12  # of the grid of digits


class History(NamedTuple):
    """How a training went: NumPy arrays, which are filled in as it goes on."""

    loss: Float[np.ndarray, "epochs steps"]
    accuracy: Float[np.ndarray, "epochs steps"]
    test_loss: Float[np.ndarray, " epochs"]
    test_accuracy: Float[np.ndarray, " epochs"]
    state: vn.nn.State  # of arrays that have a row for the start and for each epoch

    @classmethod
    def start(cls, epochs: int, steps: int, state: vn.nn.State) -> Self:
        """The history of a training that starts with this state."""
        per_step, per_epoch = np.zeros((2, epochs, steps)), np.zeros((2, epochs))
        states = jax.tree.map(lambda x: np.stack([x] * (epochs + 1)), state)
        return cls(*per_step, *per_epoch, states)

    def record(
        self,
        epoch: int,
        metrics: Sequence[tuple[Any, Any]],
        test_metrics: tuple[Any, Any],
        state: vn.nn.State,
    ) -> None:
        """Fills in the metrics of an epoch, counted from 0, and the state after it."""
        # This waits for the device, once for everything.
        metrics, test_metrics, state = jax.device_get((metrics, test_metrics, state))
        self.loss[epoch], self.accuracy[epoch] = np.transpose(metrics)
        self.test_loss[epoch], self.test_accuracy[epoch] = test_metrics
        pairs = zip(jax.tree.leaves(self.state), jax.tree.leaves(state), strict=True)
        for rows, value in pairs:
            rows[epoch + 1] = value


def draw(
    path: Path,
    history: History,
    model: vn.Module,
    data: Digits,
    logits: Float[Array, "n 10"],
) -> None:
    """Writes the figure: the training, the running statistics, and test digits."""
    norms = {k: v for k, v in vars(model).items() if isinstance(v, vn.nn.BatchNorm)}
    figure = Figure(figsize=(13, 14.5), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.09)
    top, middle, bottom = figure.subfigures(
        3, 1, height_ratios=[3.4, 6.2, 4.6], hspace=0.04
    )
    top.suptitle("Training", **HEADING)
    _draw_training(top.subplots(1, 2), history)
    middle.suptitle(
        "Running statistics of the norm layers: one line for each channel, "
        "colored from dark to bright by its last mean",
        **HEADING,
    )
    axes = middle.subplots(2, len(norms), sharex=True, squeeze=False)
    for (name, norm), column in zip(norms.items(), axes.T, strict=True):
        _draw_statistics(column, name, norm, history.state)
    _draw_digits(bottom, data, np.asarray(jax.nn.softmax(logits)))
    figure.savefig(path, dpi=100)


def _draw_training(axes: Sequence[Axes], history: History) -> None:
    epochs, steps = history.loss.shape
    each_step = np.arange(1, epochs * steps + 1) / steps
    each_epoch = np.arange(1, epochs + 1)
    panels = [
        ("loss (cross entropy)", history.loss, history.test_loss),
        ("accuracy", history.accuracy, history.test_accuracy),
    ]
    for ax, (title, train, test) in zip(axes, panels, strict=True):
        ax.plot(each_step, train.ravel(), color=TRAIN, alpha=0.25, linewidth=0.7)
        label = "training, augmented: steps, and mean of each epoch"
        mean = train.mean(axis=1)
        ax.plot(each_epoch, mean, ".-", color=TRAIN, linewidth=2, label=label)
        label = "held-out digits, in inference mode"
        ax.plot(each_epoch, test, ".-", color=TEST, linewidth=2, label=label)
        _style(ax, title)
    axes[0].set_yscale("log")
    # Of a good training only the last percents are of interest.
    axes[1].set_ylim(0.8 if history.test_accuracy[-1] > 0.9 else 0, 1.004)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[1].legend(loc="best", fontsize=11)


def _draw_statistics(
    axes: Sequence[Axes], name: str, norm: vn.nn.BatchNorm, states: vn.nn.State
) -> None:
    # Under vmap, each row of the history is a State as the layer knows it.
    moments = jax.vmap(lambda state: state.get(norm.batch_state_index))(states)
    rank = np.argsort(np.argsort(moments[0][-1]))
    colors = colormaps["viridis"](0.92 * rank / max(1, len(rank) - 1))
    for ax, what, values in zip(axes, ("mean", "variance"), moments, strict=True):
        for line, color in zip(np.asarray(values).T, colors, strict=True):
            ax.plot(line, color=color, linewidth=0.9)
        _style(ax, f"{name}, {what}")
    axes[0].set_xlabel("")
    axes[1].set_yscale("log")


def _style(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=12)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    ax.margins(x=0.01)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_digits(
    figure: SubFigure, data: Digits, probabilities: Float[np.ndarray, "n 10"]
) -> None:
    labels, read = data.test_labels, np.argmax(probabilities, axis=1)
    # Those come first whose true digit got the least probability.
    hardest = np.argsort(probabilities[np.arange(len(labels)), labels])
    hardest = hardest[: ROWS * COLUMNS]
    wrong = np.sum(read != labels)
    figure.suptitle(
        f"{len(labels) - wrong} of {len(labels)} held-out digits are read correctly; "
        f"here are the {len(hardest)} hardest: what was read, how surely; red is wrong",
        **HEADING,
    )
    ax = figure.subplots()
    for place, i in enumerate(hardest):
        y, x = np.multiply(divmod(place, COLUMNS), (1.55, 1.25))
        ax.imshow(data.test_images[i, 0], cmap="gray_r", extent=(x, x + 1, y + 1, y))
        if read[i] == labels[i]:
            color, width = "black", 1
            text = f"{read[i]} ({probabilities[i, read[i]]:.0%})"
        else:
            color, width = WRONG, 3
            text = f"{read[i]}, but is {labels[i]}"
        ax.add_patch(Rectangle((x, y), 1, 1, fill=False, ec=color, lw=width))
        ax.text(x + 0.5, y + 1.28, text, color=color, ha="center", fontsize=12)
    ax.set_xlim(-0.1, 1.25 * COLUMNS - 0.15)
    ax.set_ylim(1.55 * ROWS - 0.15, -0.1)
    ax.set_axis_off()
