"""``StateRecorder``: what the state goes through in training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .._tree.paths import path_text
from .._tree.table import Table, Tabular
from ..errors import StateError, report
from .display import BLOCKS
from .health import History, verdict
from .state import State, require_state

_WIDTH = 24  # blocks in a curve


class StateRecorder(Tabular):
    """Records summary statistics of the state during training, and judges them.

    For each array of the state it keeps mean, standard deviation, least and largest
    entry, and how much the entries moved since the record before. It does not wait:
    they are computed on the device by one small jitted function, which keeps a copy of
    the state, and are fetched when somebody looks. Its memory
    is bounded: when ``capacity`` records are kept, every second one is dropped, and
    from then on only every second call is recorded.

    ``print(recorder)`` shows where each statistic stands, its curve, and what looks
    sick:

    - *not finite*: an entry is NaN or infinite in the last record;
    - *exploding*, *vanishing*: its root mean square in the last quarter of the records
      is over 4 times that in the quarter before, or under a fourth of it;
    - *jumping*: its entries change by over 25 % of their root mean square from record
      to record (median of the last quarter): batches are too small for the momentum;
    - *drifting*: the line through its mean or standard deviation goes by over 10 % of
      the root mean square within the last quarter: it has not settled.

    Whole numbers and bools, such as counters, are recorded and not judged; complex
    numbers are recorded by their magnitude; PRNG keys are left out. Under 16 records
    only the first is judged.

    Arguments:
        capacity: number of records to keep at most, at least 32.

    Raises:
        StateError: at :meth:`record`, if the state is traced, or has other slots than
            the one before.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch", momentum=0.9)
    >>> recorder = vn.nn.StateRecorder()
    >>> for step in range(100):
    ...     _, state = vn.nn.batched(norm)(jnp.eye(4, 3) * step, state)
    ...     recorder.record(step, state)
    >>> recorder.sick
    {'batch_state_index[0]': 'drifting: by 31% in the last quarter', ...}
    >>> recorder["batch_state_index[0]"].mean.shape
    (100,)
    """

    def __init__(self, capacity: int = 512) -> None:
        if type(capacity) is not int or capacity < 32:
            raise StateError(
                report(
                    "StateRecorder: bad argument `capacity`.",
                    expected="an int ≥ 32",
                    got=repr(capacity),
                )
            )
        self.capacity = capacity
        self._every = 1
        self._calls = 0
        self._names: tuple[str, ...] = ()
        self._is_judged: tuple[bool, ...] = ()
        self._slots: tuple[str, ...] | None = None
        self._steps: list[int] = []
        self._rows: list[Any] = []  # on the device, until somebody looks
        self._previous: list[Any] = []  # all entries at the last record

    def record(self, step: int, state: State) -> None:
        """Takes note of the state; returns before anything is computed.

        The state may be donated to the next step at once.

        Arguments:
            step: the number of the step, for the time axis.
            state: the state of the model, always the same one.
        """
        is_skipped = self._calls % self._every != 0
        self._calls += 1
        if is_skipped:
            return
        require_state("StateRecorder.record", state)
        values, layout = state.tree_flatten()
        if layout.names != self._slots:
            self._start(layout.names, values)
        arrays = [x for x in jax.tree.leaves(values) if _is_recorded(x)]
        if any(isinstance(x, jax.core.Tracer) for x in arrays):
            raise StateError(
                report(
                    "StateRecorder.record: the state is being traced.",
                    expected="a state with values",
                    got="tracers, as inside of `jit`",
                    fix="call `record` where the jitted step was called",
                )
            )
        row, self._previous = _summarize(arrays, self._previous)
        self._steps.append(step)
        self._rows.append(row)
        if len(self._rows) >= self.capacity:
            self._steps, self._rows = self._steps[::2], self._rows[::2]
            self._every *= 2

    def _start(self, slots: tuple[str, ...], values: tuple[Any, ...]) -> None:
        if self._slots is not None:
            raise StateError(
                report(
                    "StateRecorder.record: the state has other slots than before.",
                    expected=", ".join(self._slots[:4]),
                    got=", ".join(slots[:4]),
                    fix="make a recorder for each model",
                )
            )
        self._slots = slots
        names, judged = [], []
        for slot, value in zip(slots, values, strict=True):
            for path, x in jax.tree_util.tree_leaves_with_path(value):
                if _is_recorded(x):
                    names.append(slot + path_text(path))
                    judged.append(jnp.issubdtype(x.dtype, jnp.inexact))
        self._names, self._is_judged = tuple(names), tuple(judged)

    @property
    def names(self) -> tuple[str, ...]:
        """The arrays that are recorded: names of slots, and places in their values."""
        return self._names

    @property
    def steps(self) -> Int[np.ndarray, " records"]:
        """The steps of the records."""
        return np.asarray(self._steps, int)

    def __getitem__(self, name: str) -> History:
        """The curves of one array: ``recorder[name].mean`` and so on."""
        return History(*self._table_of_numbers()[:, self._names.index(name)].T)

    def _table_of_numbers(self) -> Float[np.ndarray, "records arrays 5"]:
        self._rows = [np.asarray(row) for row in self._rows]
        return np.reshape(self._rows, (-1, len(self._names), len(History._fields)))

    @property
    def sick(self) -> dict[str, str]:
        """The arrays that look sick, and what is wrong with them."""
        pairs = zip(self._names, self._is_judged, strict=True)
        found = {name: verdict(self[name]) for name, judged in pairs if judged}
        return {name: text for name, text in found.items() if text}

    def table(self) -> Table:
        """Where each array stands, the curve of its mean, and what looks sick."""
        sick, n = self.sick, len(self._steps)
        rows = []
        for name in self._names if n else ():
            history = self[name]
            mean, std, low, high, _ = (x[-1] for x in history)
            judged = self._is_judged[self._names.index(name)]
            center = f"{mean:.3g} ± {std:.2g}" if judged else f"{mean:.6g}"
            extent = f"{low:.3g} … {high:.3g}" if judged else ""
            remark = f"‼ {sick[name]}" if name in sick else ""
            rows.append((name, center, extent, curve(history.mean), remark))
        span = f", steps {self._steps[0]} to {self._steps[-1]}" if n else ""
        return Table(
            f"{n} records{span}: {len(sick)} of {sum(self._is_judged)} look sick",
            ("array", "mean ± std", "min … max", "mean over time", ""),
            rows,
            loud=frozenset(i for i, row in enumerate(rows) if row[-1]),
            wrap=4,
        )


def curve(values: Float[np.ndarray, " records"]) -> str:
    """A curve as a line of blocks, from its least to its largest value."""
    finite = np.isfinite(values)
    if not finite.any():
        return ""
    chosen = np.linspace(0, len(values) - 1, min(_WIDTH, len(values))).round()
    low, high = values[finite].min(), values[finite].max()
    texts = []
    for value in values[chosen.astype(int)]:
        height = (value - low) / (high - low) if high > low else 0.5
        is_finite = np.isfinite(value)
        texts.append(BLOCKS[round(height * (len(BLOCKS) - 1))] if is_finite else "×")
    return "".join(texts)


def _is_recorded(x: Any) -> bool:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return x.size > 0 and not is_key


def _summarize_all(arrays: list[Any], previous: list[Any]) -> tuple[Any, list[Any]]:
    """The statistics of all arrays, one row for each; and a copy for the next time.

    Arrays of one size are rows of one matrix, so that the number of operations does
    not grow with the number of layers. The copy stays when the training step takes
    over the memory of the state.
    """
    groups: dict[int, list[int]] = {}
    for i, x in enumerate(arrays):
        groups.setdefault(x.size, []).append(i)
    now = [jnp.stack([_real(arrays[i]) for i in group]) for group in groups.values()]
    before = previous or now
    rows = [_statistics(x, x - y) for x, y in zip(now, before, strict=True)]
    table = jnp.concatenate([*rows, jnp.zeros((0, len(History._fields)), jnp.float32)])
    order = [i for group in groups.values() for i in group]
    return table[np.argsort(np.asarray(order, int))], now


_summarize = jax.jit(_summarize_all, donate_argnums=1)


def _real(x: Any) -> Any:
    is_complex = jnp.issubdtype(x.dtype, jnp.complexfloating)
    return (jnp.abs(x) if is_complex else x).astype(jnp.float32).ravel()


def _statistics(x: Any, moved: Any) -> Any:
    """The columns of the table for the rows of a matrix."""
    mean = jnp.mean(x, 1, keepdims=True)
    std, far = _root_mean_square(x - mean), _root_mean_square(moved)
    return jnp.stack([mean[:, 0], std, jnp.min(x, 1), jnp.max(x, 1), far], 1)


def _root_mean_square(x: Any) -> Any:
    """Of each row; scaled, so that squares of large numbers do not overflow."""
    largest = jnp.max(jnp.abs(x), 1, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1)
    return scale[:, 0] * jnp.sqrt(jnp.mean((x / scale) ** 2, 1))
