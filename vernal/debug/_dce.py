"""Finding out which results the compiler left out, as nothing needs them."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import wadler_lindig as wl

from .._tree.filters import combine, is_array, partition
from .._tree.format import Text, tree_pformat
from ..errors import TransformError, report

_T = TypeVar("_T")


class _Entry:
    """One traced call of :func:`store_dce`: its tree, and the leaves seen alive."""

    def __init__(self, arrays: Any, rest: Any) -> None:
        leaves, self.treedef = jax.tree.flatten(arrays)
        self.count = len(leaves)
        self.rest = rest
        self.alive: dict[int, str] = {}

    def watch(self, place: int) -> Callable[[Any], Any]:
        def seen(x: Any) -> Any:
            self.alive[place] = wl.array_summary(x.shape, x.dtype.name, kind=None).text
            return x

        return seen

    def tree(self) -> Any:
        texts = [Text(self.alive.get(i, "<DCE'd>")) for i in range(self.count)]
        return combine(jax.tree.unflatten(self.treedef, texts), self.rest)


_entries: dict[Hashable, list[_Entry]] = {}


def store_dce(x: _T, name: Hashable = None) -> _T:
    """Returns its argument, and takes down which of its arrays get computed.

    What nothing depends on is left out when a function is compiled ("dead code
    elimination"). After the compiled function has run, :func:`inspect_dce` shows what
    was. Each array that is computed is sent to the host, so this is not for speed.

    Arguments:
        x: any pytree, inside of a jitted function.
        name: tells this call from others.

    Returns:
        ``x``.

    Raises:
        TransformError: outside of a jitted function, where all is computed.

    >>> import vernal as vn, jax
    >>> @jax.jit
    ... def f(x):
    ...     used, unused = vn.debug.store_dce((x**2, x + 1), "pair")
    ...     return used
    >>> _ = f(1.0)
    >>> vn.debug.inspect_dce("pair")
    Found 1 call to `store_dce`.
    Entry 0:
    (f32[], <DCE'd>)
    """
    if not _is_tracing():
        raise TransformError(
            report(
                "store_dce: it was called outside of a jitted function.",
                expected="a call inside of `jax.jit` or `filter_jit`",
                got="values that are known: nothing is eliminated",
            )
        )
    arrays, rest = partition(x, is_array)
    entry = _Entry(arrays, rest)
    _entries.setdefault(name, []).append(entry)
    leaves, treedef = jax.tree.flatten(arrays)
    leaves = [
        jax.pure_callback(entry.watch(i), leaf, leaf, vmap_method="broadcast_all")
        for i, leaf in enumerate(leaves)
    ]
    return combine(jax.tree.unflatten(treedef, leaves), rest)


def inspect_dce(name: Hashable = None) -> None:
    """Prints what :func:`store_dce` took down: each array, or that it was left out.

    Arguments:
        name: which calls to show: those with this name.

    Raises:
        TransformError: inside of a jitted function, which has not run yet.

    >>> import vernal as vn
    >>> vn.debug.inspect_dce("a name that was never used")
    Found 0 calls to `store_dce`.
    """
    if _is_tracing():
        raise TransformError(
            report(
                "inspect_dce: it was called inside of a jitted function.",
                expected="a call after the function has run",
                got="a function that is being traced",
            )
        )
    jax.effects_barrier()
    entries = _entries.get(name, [])
    plural = "" if len(entries) == 1 else "s"
    print(f"Found {len(entries)} call{plural} to `store_dce`.")
    for i, entry in enumerate(entries):
        print(f"Entry {i}:\n{tree_pformat(entry.tree())}")


def _is_tracing() -> bool:
    return isinstance(jnp.zeros(()) + 0, jax.core.Tracer)
