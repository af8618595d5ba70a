"""The options of the digits example."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from digits_data import TRAIN_SIZE


class Recipe(NamedTuple):
    """The options that decide what comes out, down to the last bit."""

    epochs: int
    batch_size: int
    width: int
    seed: int

    @property
    def steps(self) -> int:
        """The number of steps in an epoch."""
        return TRAIN_SIZE // self.batch_size


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """What turns the text of an option into a number, for argparse."""

    def convert(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {least} to {most}, got {text!r}"
        )

    return convert


def parse(arguments: Sequence[str] | None) -> tuple[Recipe, Path, bool]:
    """Reads the command line: the recipe, the folder to write to, whether to forget."""
    parser = argparse.ArgumentParser(
        description="Train a small network with state on handwritten digits. "
        "Stop it with Ctrl-C; the same command goes on where it was."
    )

    def add(name: str, least: int, most: int, default: int, help: str) -> None:
        kind, help = whole_number(least, most), f"{help} (default: {default})"
        parser.add_argument(name, type=kind, default=default, metavar="N", help=help)

    add("--epochs", 1, 1000, 60, "how often to see each image")
    add("--batch-size", 2, TRAIN_SIZE, 64, "images in a step")
    add("--width", 1, 1024, 32, "channels of the first convolution")
    add("--seed", 0, 2**32 - 1, 0, "where all randomness comes from")
    out = Path("runs", "digits")
    help = f"folder for all that is written (default: {out})"
    parser.add_argument("--out", type=Path, default=out, metavar="FOLDER", help=help)
    help = "start anew, and forget an earlier run"
    parser.add_argument("--fresh", action="store_true", help=help)
    options = parser.parse_args(arguments)
    recipe = Recipe(*(getattr(options, name) for name in Recipe._fields))
    return recipe, options.out, options.fresh
