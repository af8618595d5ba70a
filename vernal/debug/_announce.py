"""Telling which transformations a value passes through."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from .._compat import identity_primitive, is_symbolic_zero
from .._tree.filters import combine, is_array, partition

_T = TypeVar("_T")


def announce_transform(
    x: _T,
    name: str | None = None,
    intermediates: bool = False,
    announce: Callable[[str], Any] = print,
) -> _T:
    """Returns its argument, and announces each transformation that is applied to it.

    A line is the chain of transformations so far, the first one first: ``vmap``,
    ``jvp_p`` and ``jvp_t`` (primal and tangent), ``transpose``; it ends with ``impl``
    where values are computed, ``abstract`` where a function is traced, or ``mlir``
    where it is compiled.

    Arguments:
        x: any pytree; its arrays are followed.
        name: shown in front, in parentheses.
        intermediates: also announce chains that do not end yet.
        announce: what to do with each line.

    Returns:
        ``x``.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> f = jax.vmap(lambda x: 2 * vn.debug.announce_transform(x, "x"))
    >>> _ = f(jnp.ones(3))
    (x) vmap:impl
    """
    arrays, rest = partition(x, is_array)
    leaves, treedef = jax.tree.flatten(arrays)
    prefix = "" if name is None else f"({name}) "

    def tell(chain: tuple[str, ...], is_end: bool) -> None:
        if is_end or intermediates:
            announce(prefix + ":".join(chain))

    leaves = _announce.bind(*leaves, chain=(), tell=tell)
    return combine(jax.tree.unflatten(treedef, leaves), rest)


def _end(word: str) -> Callable[..., list[Any]]:
    """A rule that ends the chain."""

    def rule(*leaves: Any, chain: tuple[str, ...], tell: Any) -> list[Any]:
        tell((*chain, word), True)
        return list(leaves)

    return rule


def _step(word: str) -> Callable[..., list[Any]]:
    """A rule that goes on with a longer chain."""

    def rule(*leaves: Any, chain: tuple[str, ...], tell: Any) -> list[Any]:
        tell((*chain, word), False)
        known = [x for x in leaves if not is_symbolic_zero(x)]
        if not known:
            return list(leaves)
        new = iter(_announce.bind(*known, chain=(*chain, word), tell=tell))
        return [x if is_symbolic_zero(x) else next(new) for x in leaves]

    return rule


def _jvp(
    primals: Any, tangents: Any, *, chain: tuple[str, ...], tell: Any
) -> tuple[list[Any], list[Any]]:
    tell((*chain, "jvp"), False)
    first = _announce.bind(*primals, chain=(*chain, "jvp_p"), tell=tell)
    return first, _quiet_tangent(*tangents, chain=chain, tell=tell)


def _quiet_tangent(*tangents: Any, chain: tuple[str, ...], tell: Any) -> list[Any]:
    known = [t for t in tangents if not is_symbolic_zero(t)]
    chain = (*chain, "jvp_t")
    new = iter(_announce.bind(*known, chain=chain, tell=tell) if known else [])
    return [t if is_symbolic_zero(t) else next(new) for t in tangents]


_announce = identity_primitive(
    "announce_transform",
    {
        "impl": _end("impl"),
        "abstract": _end("abstract"),
        "lower": _end("mlir"),
        "vmap": _step("vmap"),
        "transpose": _step("transpose"),
        "jvp": _jvp,
    },
)
