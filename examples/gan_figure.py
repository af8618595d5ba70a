"""Draws what came of the GAN: digits, and the losses of both networks."""

from pathlib import Path

import digits_drawn
import numpy as np
import tools
from digits_data import Digits
from jaxtyping import Array, Float


def draw(
    folder: Path,
    data: Digits,
    history: dict[int, Float[Array, "10 1 8 8"]],
    drawn: Float[np.ndarray, "n 1 8 8"],
    scores: tuple[float, float, float],
    losses: Float[np.ndarray, "2 steps"],
) -> None:
    """Digits above, real ones beside drawn ones; and the losses of the two below."""
    captions = "the same noise all along, after so many steps", list(history)
    sheet = np.stack(list(history.values()), axis=1)[:, :, 0]
    figure, ax = digits_drawn.draw(data, sheet, captions, drawn, scores)
    critic, generator = losses
    name = "critic: 2 when it cannot tell real from drawn"
    digits_drawn.curve(ax, critic, "tab:blue", name)
    name = "generator: less when the critic takes its digits for real"
    digits_drawn.curve(ax, generator, "tab:orange", name)
    ax.legend(loc="center right")
    tools.style(ax, "hinge losses, and their moving averages", "step")
    tools.save(figure, folder / "gan.png")
