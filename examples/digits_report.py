"""What the digits example prints: how the training goes, and the state it ends with."""

import time

import jax
import numpy as np
from digits_figure import History
from jaxtyping import Array, Float
from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn
from rich.table import Table

import vernal as vn

console = Console(highlight=False)


def say(text: str) -> None:
    """Prints a text as it is: rich would take brackets in a file name for markup."""
    console.print(text, markup=False, soft_wrap=True)


class Progress(Bar):
    """A live bar on a terminal; elsewhere a plain line for each tenth of the run."""

    def __init__(self, epochs: int, steps: int, batch_size: int) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_interactive,
            expand=True,
        )
        self.task = self.add_task("compiling ...", total=epochs * steps)
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.tested = self.rate = ""  # not known before the first epoch is over
        self.last_epoch: float | None = None  # when it was over

    def step(
        self, epoch: int, step: int, loss: Float[Array, ""], accuracy: Float[Array, ""]
    ) -> None:
        """Shows the metrics of a step; both numbers are counted from 0."""
        done = epoch * self.steps + step + 1
        self._update(epoch, done, float(loss), float(accuracy))

    def epoch(self, epoch: int, history: History) -> None:
        """Shows the metrics of a whole epoch."""
        self.tested = f"  test {history.test_accuracy[epoch]:6.1%}"
        # The first epoch has to compile; its duration would tell nothing.
        now = time.perf_counter()
        if self.last_epoch is not None:
            rate = self.steps * self.batch_size / (now - self.last_epoch)
            self.rate = f"  {rate:6,.0f} images/s"
        self.last_epoch = now

        done = epoch + 1
        loss, accuracy = history.loss[epoch].mean(), history.accuracy[epoch].mean()
        text = self._update(epoch, done * self.steps, loss, accuracy)
        is_tenth = done % max(1, self.epochs // 10) == 0
        if self.disable and (is_tenth or done in (1, self.epochs)):
            say(text)

    def _update(self, epoch: int, done: int, loss: float, accuracy: float) -> str:
        number = f"{epoch + 1:>{len(str(self.epochs))}}/{self.epochs}"
        text = f"epoch {number}  loss {loss:.3f}  train {accuracy:6.1%}"
        text += self.tested + self.rate
        self.update(self.task, completed=done, description=text)
        return text


def print_state(history: vn.nn.State) -> None:
    """Prints a table of a state, given all its states from the first to the last."""
    table = Table(title="The state after training", title_justify="left")
    for name in ("slot", "shape", "dtype"):
        table.add_column(name)
    for name in ("mean", "moved"):
        table.add_column(name, justify="right")
    for (slot, *path), rows in jax.tree_util.tree_leaves_with_path(history):
        first, last = rows[0].astype(float), rows[-1].astype(float)
        moved = np.sqrt(np.mean((last - first) ** 2))
        table.add_row(
            slot.key + jax.tree_util.keystr(tuple(path)),
            str(last.shape),
            str(rows.dtype),
            f"{last.mean():.4g}",
            f"{moved:.4g}",
        )
    console.print(table, markup=False)
    say("moved: root mean square of the differences to the initial values")
