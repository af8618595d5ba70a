"""Which slots of two states differ, and by how much."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from .._tree.paths import path_text
from .._tree.table import Table, Tabular
from ..errors import StateError, report
from .state import State, require_state


class Change(NamedTuple):
    """What has become of one array of a State."""

    name: str
    """The slot, and the place in its value: ``norm.batch_state_index[0]``."""

    shape: str
    """Dtype and shape, as ``float32(3,)``; "absent → …" where one state lacks it."""

    changed: int
    """How many entries differ; NaN is equal to NaN."""

    size: int
    """How many there are."""

    largest: float
    """The largest absolute difference; NaN where one of the values is not finite."""

    relative: float
    """The length of the difference, by that of the old array; infinite if that is 0."""


class StateDiff(Tabular):
    """What :func:`state_diff` found; printed, a table of what changed.

    Attributes:
        changes: a :class:`Change` for each array that differs, in order.
        same: the names of those that do not.
    """

    def __init__(self, changes: list[Change], same: list[str]) -> None:
        self.changes = changes
        self.same = same

    def __bool__(self) -> bool:
        return bool(self.changes)

    def table(self) -> Table:
        """The changes, one array to a row; those with NaN or infinity stand out."""
        rows, loud = [], set()
        for i, (name, shape, changed, size, largest, relative) in enumerate(
            self.changes
        ):
            share = "from 0" if np.isinf(relative) else f"{relative:.2%}"
            rows.append((name, shape, f"{changed} of {size}", f"{largest:.3g}", share))
            loud |= set() if np.isfinite(largest) else {i}
        total = len(self.changes) + len(self.same)
        return Table(
            title=f"{len(rows)} of {total} arrays changed",
            columns=("slot", "array", "changed", "largest", "relative") if rows else (),
            rows=rows,
            right=frozenset({2, 3, 4}),
            loud=frozenset(loud),
        )


def state_diff(old: State, new: State) -> StateDiff:
    """Compares two states, such as those before and after a training step.

    Arguments:
        old: the state before. As a step usually replaces it, keep it by
            ``copy.copy(state)``; a jitted step that donates its buffers needs
            ``jax.tree.map(jnp.copy, state)``.
        new: the state after; may be of another model, where slots are missing.

    Returns:
        The differences: print them, or use the list ``.changes``. It is true if there
        are any.

    Raises:
        ConsumedStateError: one of the two was replaced by a newer one.
        StateError: a value is traced: compare outside of ``jit``.

    >>> import vernal as vn, copy, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(2, "batch")
    >>> _, new = vn.nn.batched(norm)(jnp.array([[1.0, 5], [3, 5]]), copy.copy(state))
    >>> vn.nn.state_diff(state, new)
    3 of 3 arrays changed
      slot                  array        changed  largest  relative
      ─────────────────────────────────────────────────────────────
      batch_counter         int32()       1 of 1        1    from 0
      batch_state_index[0]  float32(2,)   2 of 2        5    from 0
      batch_state_index[1]  float32(2,)   1 of 2        1    70.71%
    """
    require_state("state_diff", old, "old")
    require_state("state_diff", new, "new")
    before, after = _arrays(old), _arrays(new)
    changes, same = [], []
    for name in {**before, **after}:
        change = _compare(name, before.get(name), after.get(name))
        if change is None:
            same.append(name)
        else:
            changes.append(change)
    return StateDiff(changes, same)


def _arrays(state: State) -> dict[str, np.ndarray]:
    found = {}
    for path, leaf in jtu.tree_leaves_with_path(state):
        name = path[0].key + path_text(path[1:])
        found[name] = _on_host(name, leaf)
    return found


def _on_host(name: str, leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.core.Tracer):
        raise StateError(
            report(
                f"state_diff: `{name}` is traced, so its value is not known.",
                expected="states outside of jit and grad",
                fix="return both states from the compiled function, and compare there",
            )
        )
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def _compare(name: str, old: Any, new: Any) -> Change | None:
    forms = [_form(x) for x in (old, new)]
    if forms[0] != forms[1]:
        size = (old if new is None else new).size
        return Change(name, " → ".join(forms), size, size, np.nan, np.nan)
    wide = complex if np.iscomplexobj(old) else np.float64
    a, b = old.astype(wide), new.astype(wide)
    differ = (old != new) & ~(np.isnan(a) & np.isnan(b))
    if not differ.any():
        return None
    gap = np.abs(b - a)[differ]
    with np.errstate(divide="ignore"):
        relative = np.linalg.norm(gap) / np.linalg.norm(a)
    count = int(differ.sum())
    return Change(name, forms[0], count, a.size, float(gap.max()), float(relative))


def _form(array: Any) -> str:
    return "absent" if array is None else f"{array.dtype}{array.shape}"
