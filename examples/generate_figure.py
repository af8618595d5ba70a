"""Draws what the model writes, and how fast."""

from pathlib import Path

import tools
from matplotlib.figure import Figure

COLUMNS, LINES = 64, 13  # of a text that is drawn


def draw(
    folder: Path,
    lengths: list[int],
    rates: dict[str, list[float]],
    texts: list[str],
    prompt: int,
) -> None:
    """The speeds at the left; at the right the texts, with their prompts in gray."""
    figure = Figure(figsize=(14, 9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.05])
    for (name, values), marker in zip(rates.items(), "os", strict=True):
        left.plot(lengths, values, f"-{marker}", label=name)
    left.set_xscale("log", base=2)
    left.set_yscale("log")
    left.set_xticks(lengths, [str(n) for n in lengths])
    left.legend()
    title = "How fast it writes one text"
    tools.style(left, title, "characters to write", "characters per second")
    right.set_title("What it writes, after the gray", fontsize=12, loc="left")
    y = 0
    for text in texts:
        for i, (line, start) in enumerate(_lines(text)):
            known = max(0, min(len(line), prompt - start))
            style = {"family": "monospace", "fontsize": 11.5, "va": "top"}
            right.text(0, y + i, line[:known], color="0.6", **style)
            right.text(0, y + i, " " * known + line[known:], **style)
        y += LINES + 1
    right.set(xlim=(0, COLUMNS), ylim=(y, 0))
    right.set_axis_off()
    tools.save(figure, folder / "generate.png")


def _lines(text: str) -> list[tuple[str, int]]:
    """The first lines, wrapped, and where in the text each of them begins."""
    found, start = [], 0
    for line in text.split("\n"):
        for i in range(0, max(len(line), 1), COLUMNS):
            found.append((line[i : i + COLUMNS], start + i))
        start += len(line) + 1
    return found[:LINES]
