"""``Manager``: the checkpoints of a training run, in one folder."""

import json
import math
import operator
import os
import pathlib
import re
import types
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from .._serialisation.atomic import remove_leftovers
from ..errors import ModelFileError, report, short
from ..typing import PyTree
from ._file import Item, inspect, to_json, write
from ._load import load
from ._save import items_of

_T = TypeVar("_T")
_FILE = re.compile(r"step-(\d+)\.safetensors")


class Manager:
    """Keeps the last checkpoints of a training run, and the best one, in a folder.

    :meth:`save` copies the values and returns; another thread writes the file, so that
    training goes on meanwhile, also if the next step donates the very arrays. Each
    checkpoint is a file that :func:`vernal.load` reads, and there is nothing besides:
    a process that is killed, at whatever instant, leaves all complete checkpoints.

    What goes wrong in writing is raised by the next call, and at the latest by
    :meth:`close`. Only one process may save to a folder; others may read.

    Arguments:
        folder: where the files are; made when the first one is written.
        keep: how many of the last checkpoints to keep, at least 1.
        best: ``"min"`` or ``"max"`` keeps, besides, the checkpoint with the smallest
            or largest ``metric``; None does not.

    Raises:
        ModelFileError: ``keep`` or ``best`` is something else.

    >>> import vernal as vn, jax.numpy as jnp, tempfile
    >>> like = {"weight": jnp.zeros(2)}
    >>> folder = tempfile.mkdtemp() + "/run"
    >>> with vn.checkpoint.Manager(folder, keep=2, best="min") as manager:
    ...     for step, loss in enumerate([0.5, 0.1, 0.4, 0.3]):
    ...         manager.save(step, {"weight": jnp.full(2, loss)}, metric=loss)
    >>> manager.steps, manager.latest, manager.best
    ((1, 2, 3), 3, 1)
    >>> print(manager.restore(like, "best")["weight"])
    [0.1 0.1]
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keep: int = 1,
        best: Literal["min", "max"] | None = None,
    ) -> None:
        if keep < 1 or best not in ("min", "max", None):
            raise ModelFileError(
                report(
                    "Manager: an argument is out of its range.",
                    expected='keep >= 1; best = "min", "max" or None',
                    got=f"keep={keep!r}, best={best!r}",
                )
            )
        self._folder = pathlib.Path(folder)
        self._keep = keep
        self._best = best
        self._metrics: dict[int, float] = {}  # of the steps that were looked at
        self._writing: tuple[int, Future[None]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def save(
        self, step: int, tree: PyTree, *, metric: Any = None, metadata: Any = None
    ) -> None:
        """Writes a checkpoint in the background.

        Returns when all values are copied to the host, which is after they have been
        computed. If the checkpoint before is still being written, it waits for it.

        Arguments:
            step: its number, at least 0, and not smaller than that of the latest one.
                A checkpoint of the same step is replaced.
            tree: as for :func:`vernal.save`.
            metric: what ``best`` goes by: a number, or an array with a single one. A
                NaN is never the best.
            metadata: as for :func:`vernal.save`. In the file, it stands beside the step
                and the metric.

        Raises:
            ModelFileError: there are later checkpoints, or ``step`` is negative.
            TreeError: a leaf cannot be stored, or the metadata is no JSON.
            OSError: writing the checkpoint *before* failed; this one is not written.
        """
        step = operator.index(step)
        first = self.latest or 0
        if step < first:
            raise ModelFileError(
                report(
                    f"Manager.save: step {step} is too early for {self._folder}.",
                    expected=f"a step from {first} on",
                    fix="use another folder, or delete the later files",
                )
            )
        items = items_of(tree, copy=True)
        metric = None if metric is None else float(metric)
        content = {"step": step, "metric": metric, "metadata": metadata}
        # A copy; and what is no JSON is refused now, not at the next call.
        content = json.loads(to_json(content))
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        future = self._thread.submit(self._write, step, items, content)
        self._writing = step, future

    def restore(
        self,
        like: _T,
        step: int | Literal["latest", "best"] = "latest",
        *,
        sharding: PyTree = None,
    ) -> _T:
        """Reads a checkpoint; training goes on from it bit by bit as it would have.

        Arguments:
            like: as for :func:`vernal.load`.
            step: the number of a step, or which one.
            sharding: as for :func:`vernal.load`. (For its other options,
                call it with ``manager.path(step)``.)

        Raises:
            ModelFileError: there is no such checkpoint, it is damaged, or its names do
                not fit ``like``.
        """
        return load(self.path(step), like, sharding=sharding)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps of all checkpoints that are there, in order."""
        self.wait()
        return tuple(sorted(self._files()))

    @property
    def latest(self) -> int | None:
        """The last step, or None if there is no checkpoint."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step with the best metric, or None if no checkpoint has one."""
        self.wait()
        return self._best_of(self._files())

    def path(self, step: int | Literal["latest", "best"] = "latest") -> pathlib.Path:
        """The file of a checkpoint.

        Raises:
            ModelFileError: there is none.
        """
        number: int | str | None = step
        if isinstance(step, str):
            number = self.latest if step == "latest" else self.best
        steps = self.steps
        if not isinstance(number, int) or number not in steps:
            raise ModelFileError(
                report(
                    f"Manager: {self._folder} has no such checkpoint.",
                    expected=f"one of {short(steps)}"
                    if steps
                    else "a folder with checkpoints",
                    got=f"{step!r}",
                    fix="ask `manager.latest` whether there is one; `best` needs "
                    "`Manager(best=…)` and `save(metric=…)`",
                )
            )
        return self._files()[number]

    def wait(self) -> None:
        """Waits until the checkpoint that is being written is on the disk.

        Raises:
            OSError: writing it failed, and an older one is the latest.
        """
        if self._writing is None:
            return
        step, future = self._writing
        try:
            future.result()
        except Exception as error:
            error.add_note(f"This was while writing step {step} to {self._folder}.")
            raise
        finally:
            if future.done():  # not so if this waiting was interrupted
                self._writing = None

    def close(self) -> None:
        """Waits as :meth:`wait` does, and ends the thread. A later save starts one."""
        try:
            self.wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def __enter__(self) -> "Manager":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, step: int, items: list[Item], content: dict[str, Any]) -> None:
        """Runs in the thread. The new file is there before an old one goes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self._folder)
        write(self._folder / f"step-{step}.safetensors", items, content)
        self._metrics.pop(step, None)
        files = self._files()
        kept = {*sorted(files)[-self._keep :], self._best_of(files)}
        for old in files.keys() - kept:
            files[old].unlink(missing_ok=True)

    def _files(self) -> dict[int, pathlib.Path]:
        found = {}
        for path in self._folder.glob("step-*.safetensors"):
            if match := _FILE.fullmatch(path.name):
                found[int(match[1])] = path
        return found

    def _best_of(self, files: dict[int, pathlib.Path]) -> int | None:
        if self._best is None:
            return None
        metrics = {step: self._metric(step, path) for step, path in files.items()}
        known = {step: x for step, x in metrics.items() if not math.isnan(x)}
        sign = 1 if self._best == "min" else -1
        return min(known, key=lambda step: (sign * known[step], step), default=None)

    def _metric(self, step: int, path: pathlib.Path) -> float:
        """The metric of a checkpoint; NaN if it has none, or is damaged."""
        if step not in self._metrics:
            try:
                metric = inspect(path).metadata["metric"]
                self._metrics[step] = math.nan if metric is None else float(metric)
            except (ModelFileError, FileNotFoundError, KeyError, TypeError):
                return math.nan
        return self._metrics[step]
