"""Draws what came of the diffusion model: digits, the way there, and the losses."""

from pathlib import Path

import digits_drawn
import numpy as np
import tools
from diffusion_unet import SPREAD
from digits_data import Digits
from jaxtyping import Float


def draw(
    folder: Path,
    data: Digits,
    path: Float[np.ndarray, "levels n 1 8 8"],
    levels: Float[np.ndarray, " levels"],
    drawn: Float[np.ndarray, "n 1 8 8"],
    scores: tuple[float, float, float],
    losses: Float[np.ndarray, " steps"],
) -> None:
    """The way from noise to digits, drawn digits and real ones; the losses below."""
    # The noisy images are shrunk to the range of the others.
    shrunk = path[:, :10, 0] * (SPREAD / np.hypot(levels, SPREAD))[:, None, None, None]
    way = np.append((shrunk[:-1:2] + 1) / 2, [drawn[:10, 0]], axis=0).swapaxes(0, 1)
    times = [*(f"{level:.2g}" for level in levels[:-1:2]), "0"]
    captions = "from noise of this strength to digits", times
    figure, ax = digits_drawn.draw(data, way, captions, drawn, scores)
    name = "error of the guesses, weighted by the noise; 1 is to know nothing"
    digits_drawn.curve(ax, losses, "tab:blue", name)
    tools.style(ax, "loss, and its moving average", "step")
    ax.set_ylim(0, 1.2)
    tools.save(figure, folder / "diffusion.png")
