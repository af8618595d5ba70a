"""The names of colors that matplotlib ships, and the colors as our eyes compare them.

The names come from a survey of xkcd. The colors are in Oklab, where two of them are as
far apart as they look to us: lightness, red against green, and yellow against blue.
"""

import difflib
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import XKCD_COLORS, to_rgb

LETTERS = "abcdefghijklmnopqrstuvwxyz '/"
END = len(LETTERS)  # follows a name until all are equally long
LENGTH = 28
TEST_SIZE = 100
RUDE = ("barf", "booger", "piss", "poo", "puke", "shit", "snot", "vomit")

# From the light of red, green and blue to the three cones of the eye; and from there,
# after the cube root, to Oklab.
TO_CONES = np.array(
    [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
)
TO_LAB = np.array(
    [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
)


class Data(NamedTuple):
    """Names as texts and as letters, and their colors."""

    names: list[str]
    letters: Int[np.ndarray, "n length"]
    colors: Float[np.ndarray, "n 3"]

    def part(self, start: int | None, end: int | None) -> Self:
        names, letters, colors = self
        return type(self)(names[start:end], letters[start:end], colors[start:end])


def load() -> Data:
    """All names that may be read aloud, in an order that means nothing."""
    colors = {k.removeprefix("xkcd:"): to_rgb(v) for k, v in XKCD_COLORS.items()}
    names = [name for name in colors if not any(word in name for word in RUDE)]
    np.random.default_rng(0).shuffle(names)
    letters = np.full((len(names), LENGTH), END, np.int32)
    for row, name in zip(letters, names, strict=True):
        row[: len(name)] = [LETTERS.index(letter) for letter in name]
    return Data(names, letters, to_lab(np.array([colors[name] for name in names])))


def split(data: Data) -> tuple[Data, Data]:
    """The names to learn from, and those that are held out."""
    return data.part(TEST_SIZE, None), data.part(None, TEST_SIZE)


def to_lab(rgb: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Turns what is sent to a screen into Oklab."""
    light = np.where(rgb > 0.0404, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    return (np.cbrt(light @ TO_CONES.T) @ TO_LAB.T).astype(np.float32)


def to_screen(lab: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Undoes `to_lab`; what a screen cannot show becomes what is next to it."""
    cones = (lab @ np.linalg.inv(TO_LAB).T) ** 3
    light = np.clip(cones @ np.linalg.inv(TO_CONES).T, 0, 1)
    rgb = np.where(light > 0.0031, 1.055 * light ** (1 / 2.4) - 0.055, 12.92 * light)
    return np.clip(rgb, 0, 1)


def baselines(train: Data, test: Data) -> dict[str, Float[np.ndarray, "n 3"]]:
    """What one could answer without a network."""
    similar = [
        train.names.index(*difflib.get_close_matches(name, train.names, 1, cutoff=0))
        for name in test.names
    ]
    return {
        "most similar spelling": train.colors[similar],
        "mean of all colors": np.tile(train.colors.mean(axis=0), (len(similar), 1)),
    }
