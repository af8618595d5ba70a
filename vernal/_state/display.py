"""How a State looks when it is printed: the values of its slots at a glance."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._tree.filters import is_array
from .._tree.format import tree_pformat
from .._tree.paths import path_text
from .._tree.table import Table
from ..errors import short
from ..typing import PyTree

BLOCKS = "▁▂▃▄▅▆▇█"
BINS = 12
FEW = 3  # so many values are shown as they are
MANY = 1_000_000  # arrays of more entries are not looked into,
IN_ALL = 10_000_000  # nor are those that come after so many entries
LEAVES = 8  # rows of one slot


class Look(NamedTuple):
    """What the values of an array look like, in texts."""

    center: str = ""
    extent: str = ""
    histogram: str = ""
    alarm: str = ""


def state_table(owner: str, names: tuple[str, ...], values: list[PyTree]) -> Table:
    """The slots of a State: name, shape and dtype, mean ± std, range, histogram.

    It waits for arrays that are still being computed, and copies them to the host, but
    no array of more than a million entries, and ten millions in all.
    """
    rows: list[list[str]] = []
    loud, seen = set(), 0
    for name, value in zip(names, values, strict=True):
        for i, (place, leaf) in enumerate(_leaves(value)):
            size = leaf.size if _is_readable(leaf) else 0
            seen += size if size <= MANY else 0
            look = Look(alarm="too large to look into")
            if size <= MANY and seen <= IN_ALL:
                look = _look(leaf)
            if look.alarm.startswith("‼"):
                loud.add(len(rows))
            kind = short(tree_pformat(leaf, width=10_000, struct_as_array=True))
            rows.append(["" if i else name, place, kind, *look])
    count = f"{len(names)} slot{'' if len(names) == 1 else 's'}"
    # Columns that have nothing in them are left out.
    used = [any(column) for column in zip(*rows, strict=True)] or [True]
    rows = [[x for x, is_used in zip(r, used, strict=True) if is_used] for r in rows]
    title = f"State of {owner} with {count}"
    return Table(title, [""] * sum(used), rows, loud=frozenset(loud))


def _leaves(value: PyTree) -> Iterator[tuple[str, Any]]:
    """The leaves of a slot with their places in it, and at last how many are left."""
    pairs = jax.tree_util.tree_leaves_with_path(value)
    for path, leaf in pairs[:LEAVES]:
        yield path_text(path), leaf
    if len(pairs) > LEAVES:
        yield "", _Text(f"… {len(pairs) - LEAVES} more")
    if not pairs:
        yield "", value


class _Text:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _is_readable(leaf: Any) -> bool:
    """Whether the values of an array are there, and numbers."""
    if not is_array(leaf) or isinstance(leaf, jax.core.Tracer):
        return False
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return False
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return not is_key and not _is_deleted(leaf)


def _is_deleted(leaf: Any) -> bool:
    is_concrete = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return is_concrete and leaf.is_deleted()


def _look(leaf: Any) -> Look:
    if _is_deleted(leaf):
        return Look(alarm="deleted: it was donated")
    if not _is_readable(leaf) or leaf.size == 0:
        return Look()
    x = np.asarray(leaf).ravel()
    if x.dtype == bool:
        return Look(str(x[0]) if x.size == 1 else f"{x.sum()} of {x.size} true")
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return Look(_few(x)) if x.size <= FEW else Look("", _extent(x))
    is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
    x = np.abs(x).astype(np.float64) if is_complex else x.astype(np.float64)
    finite = x[np.isfinite(x)]
    alarm = "" if finite.size == x.size else _alarm(x)
    if x.size <= FEW:
        return Look(_few(x), alarm=alarm)
    if not finite.size:
        return Look(alarm=alarm)
    if finite.min() == finite.max():
        return Look(f"all {finite[0]:.3g}", alarm=alarm)
    with np.errstate(over="ignore"):
        center = f"{finite.mean():.3g} ± {finite.std():.2g}"
    sign = "|z| " if is_complex else ""
    return Look(sign + center, _extent(finite), histogram(finite), alarm)


def _few(x: Any) -> str:
    return ", ".join(f"{number:.4g}" for number in x.tolist())


def _extent(x: Any) -> str:
    low, high = x.min(), x.max()
    return f"{low:.3g} … {high:.3g}" if x.dtype.kind == "f" else f"{low} … {high}"


def _alarm(x: Any) -> str:
    counts = {"NaN": np.isnan(x).sum(), "inf": np.isinf(x).sum()}
    found = [f"{n} {name}" for name, n in counts.items() if n]
    return f"‼ {', '.join(found)} of {x.size}"


def histogram(x: Any) -> str:
    """Twelve blocks from the least to the largest value; the highest is the mode."""
    low, high = float(x.min()), float(x.max())
    scaled = (x / 2 - low / 2) / (high / 2 - low / 2)  # halves do not overflow
    counts, _ = np.histogram(scaled, BINS, (0, 1))
    heights = np.ceil(counts / counts.max() * (len(BLOCKS) - 1)).astype(int)
    return "".join(BLOCKS[height] for height in heights)
