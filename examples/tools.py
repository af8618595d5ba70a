"""What the small examples share: options, a progress bar, figures, a polite end."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

LAG = 2  # how many steps later the loss of a step is looked at
INTERRUPTED = 130  # the exit status that shells know for Ctrl-C

console = Console(highlight=False)


def say(text: str) -> None:
    """Prints a text as it is: rich would take brackets in it for markup."""
    console.print(text, markup=False, soft_wrap=True)


def parse(
    arguments: Sequence[str] | None, doc: str, name: str, **numbers: tuple[int, str]
) -> argparse.Namespace:
    """Reads the command line, and makes the folder for the results.

    Each of `numbers` is an option for a whole number of at least 1: its default, and
    what it is for. There are `seed` and `out` besides, and `--help` shows them all
    below the first lines of `doc`.
    """
    summary = doc.split("\n\n")[0]
    parser = argparse.ArgumentParser(description=summary)

    def add(name: str, least: int, default: int, help: str) -> None:
        flag, help = f"--{name.replace('_', '-')}", f"{help} (default: {default})"
        kind = _whole_number(least)
        parser.add_argument(flag, type=kind, default=default, metavar="N", help=help)

    for key, (default, help) in numbers.items():
        add(key, 1, default, help)
    add("seed", 0, 0, "where all randomness comes from")
    out = Path("runs", name)
    help = f"folder for all that is written (default: {out})"
    parser.add_argument("--out", type=Path, default=out, metavar="FOLDER", help=help)
    options = parser.parse_args(arguments)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --out: {error.filename}: {error.strerror}")
    return options


def _whole_number(least: int) -> Callable[[str], int]:
    most = 2**32 - 1

    def convert(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {least} to {most}, got {text!r}"
        )

    return convert


class Progress(Bar):
    """A live bar on a terminal; elsewhere a plain line for each tenth of the steps.

    >>> with Progress(100, items=64, unit="images") as progress:
    ...     for _ in range(100):
    ...         model, loss = train_step(model, batch)
    ...         progress.step(loss)
    >>> progress.losses().shape
    (100,)
    """

    def __init__(
        self, steps: int, items: int, unit: str, name: str = "training"
    ) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_interactive,
            expand=True,
        )
        self.task = self.add_task(f"{name}  compiling ...", total=steps)
        self.steps, self.items, self.unit, self.name = steps, items, unit, name
        self._losses: list[Any] = []
        self._note = ""
        self._start: float | None = None  # when the first step was over

    def step(self, loss: Float[Array, ""], note: str | None = None) -> None:
        """Counts a step, and shows its loss a little later, with the latest note.

        To read a number is to wait for it, so this reads one from a few steps ago.
        """
        self._losses.append(loss)
        self._note = self._note if note is None else note
        done = len(self._losses)
        is_tenth = done % max(1, self.steps // 10) == 0 or done in (1, self.steps)
        if done > LAG:
            self._show(done, self._losses[done - 1 - LAG])
        if self.disable and is_tenth:
            say(self._show(done, loss))
        if self._start is None:  # the first step had to compile: it is not counted
            self._start = time.perf_counter()

    def losses(self) -> Float[np.ndarray, " steps"]:
        """The losses of all steps."""
        return np.asarray(self._losses)

    def _show(self, done: int, loss: Float[Array, ""]) -> str:
        width = len(str(self.steps))
        text = f"{self.name} {done:>{width}}/{self.steps}  loss {float(loss):.3f}"
        if self._start is not None and done > 1:
            rate = (done - 1) * self.items / (time.perf_counter() - self._start)
            text += f"  {rate:7,.0f} {self.unit}/s"
        text += f"  {self._note}" if self._note else ""
        self.update(self.task, completed=done, description=text)
        return text


def style(ax: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Gives a panel with curves its title, its labels and the common look."""
    ax.set_title(title, fontsize=12)
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure, and says where it is."""
    figure.savefig(path, dpi=100)
    say(f"See {path}.")


def start(main: Callable[[], None]) -> NoReturn:
    """Runs the program; a Ctrl-C and a file that cannot be written end it in words."""
    try:
        main()
    except KeyboardInterrupt:
        say("Stopped.")
        sys.stdout.flush()
        # JAX may crash when Python tidies up after an interrupted compilation.
        os._exit(INTERRUPTED)
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
    sys.exit(0)
