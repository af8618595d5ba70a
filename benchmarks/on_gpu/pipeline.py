"""Whether the device works while the host prepares the next batch.

The host does what input pipelines do once images are decoded: it cuts a random piece
out of each, mirrors every second one, and normalizes the colors.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from networks.tasks import Case
from timing import interleaved

from . import tasks
from .clock import wait
from .measure import Found, Options, Stepper
from .tasks import Size

MEAN = np.array([123.7, 116.3, 103.5], np.float32)  # of ImageNet's colors
SCALE = np.array([58.4, 57.1, 57.4], np.float32)
POOL = 256  # images in memory


class Pipeline:
    """Makes batches ``(examples, 3, pixels, pixels)``, with labels."""

    def __init__(self, size: Size, examples: int) -> None:
        self.rng = np.random.default_rng(0)
        self.pixels, self.examples = size.pixels, examples
        side = size.pixels * 8 // 7  # 256 for 224
        shape = (POOL, side, side, 3)
        self.images = self.rng.integers(256, size=shape, dtype=np.uint8)
        labels = self.rng.integers(size.classes, size=POOL)
        self.labels = labels.astype(np.int32)

    def prepared(self, image: np.ndarray) -> np.ndarray:
        """One image, channels first."""
        room = len(image) - self.pixels + 1
        top, left = self.rng.integers(room, size=2)
        piece = image[top : top + self.pixels, left : left + self.pixels]
        if self.rng.random() < 0.5:
            piece = piece[:, ::-1]
        return ((piece - MEAN) / SCALE).transpose(2, 0, 1)

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """The next batch."""
        chosen = self.rng.integers(POOL, size=self.examples)
        xs = np.stack([self.prepared(self.images[i]) for i in chosen])
        return xs, self.labels[chosen]


class Loop:
    """A training loop; each call finds the seconds per step.

    Arguments:
        steps: how many in a call.
        batch: makes the next batch; None to take the same again.
        step: sends a step to the device; None to do without.
        ahead: how many steps are sent and not waited for. A loop that never waits would
            pile up batches on the device if that is the slower one.
    """

    def __init__(
        self,
        steps: int,
        batch: Callable[[], Any] | None,
        step: Callable[[Any], Any] | None,
        ahead: int,
    ) -> None:
        self.steps, self.batch, self.step, self.ahead = steps, batch, step, ahead

    def __call__(self) -> float:
        under_way: list[Any] = []
        start = time.perf_counter()
        for _ in range(self.steps):
            batch = None if self.batch is None else self.batch()
            if self.step is not None:
                under_way.append(self.step(batch))
            if len(under_way) > self.ahead:
                wait(under_way.pop(0))
        wait(under_way)
        return (time.perf_counter() - start) / self.steps


def measure(
    library: str, case: Case, size: Size, examples: int, steps: int, options: Options
) -> Found:
    """Seconds per step: of the host and of the device alone, and of both together.

    Arguments:
        library: its name.
        case: one of ``RESNETS``.
        size: of the network.
        examples: in a batch.
        steps: between two looks at the clock.
        options: of :func:`timing.several`.
    """
    source = Pipeline(size, examples)
    train = Stepper(case, size, tasks.images(size, examples))
    step = lambda batch: train(None if batch is None else case.place(batch))  # noqa: E731
    runs = {
        "host": Loop(steps, source.batch, None, 0),
        "device": Loop(steps, None, step, 1),
        "waiting": Loop(steps, source.batch, step, 0),
        "ahead": Loop(steps, source.batch, step, 1),
    }
    found = interleaved(runs, reference="ahead", **options)
    facts: Found = {"library": library, "dtype": size.dtype}
    for measured in found.values():
        if measured.value is None:
            return facts | {"failed": measured.failed}
    seconds = {name: list(m.value or ()) for name, m in found.items()}
    medians = {name: values[0] for name, values in seconds.items()}
    longer = max(medians["host"], medians["device"])
    return facts | {
        "seconds": seconds,
        "gain": medians["waiting"] / medians["ahead"],
        "over_the_longer": medians["ahead"] / longer,
    }
