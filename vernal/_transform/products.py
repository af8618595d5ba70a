"""Products of the Jacobian with a vector, from either side."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .._module.fields import field
from .._module.module import Module
from .._tree.filters import combine, is_inexact_array, partition
from ..errors import TransformError, report, short
from ..typing import PyTree
from .split import hide, reveal
from .vectors import check_vectors, is_none, zero_to_none
from .wrapper import check_callable


def filter_jvp(
    fn: Callable[..., Any],
    primals: Sequence[Any],
    tangents: Sequence[Any],
    **kwargs: Any,
) -> tuple[PyTree, PyTree]:
    """The value of a function, and its derivative in one direction: ``jax.jvp``.

    Arguments:
        fn: any function of pytrees.
        primals: its positional arguments, a tuple or list.
        tangents: the direction, a tree like ``primals``. None at a leaf says that it
            does not move; leaves that are not floating numbers can have nothing else.
            Leaves that move may be arrays or Python's floats.
        **kwargs: keyword arguments of ``fn``, which do not move.

    Returns:
        ``(out, tangent_out)``: what ``fn`` returns, and a tree of the same structure
        with the derivatives. None stands for leaves that do not depend on anything
        that moves, or are not floating arrays.

    Raises:
        TransformError: structure, shape or dtype of a tangent is not that of its
            primal.

    >>> import vernal as vn, jax.numpy as jnp
    >>> x, t = jnp.float32(3), jnp.float32(1)
    >>> vn.filter_jvp(lambda x, n: (x**n, n), (x, 2), (t, None))
    ((Array(9., dtype=float32), 2), (Array(6., dtype=float32), None))
    """
    check_callable("filter_jvp", fn)
    primals = _as_tuple("primals", primals)
    tangents = _as_tuple("tangents", tangents)
    check_vectors("filter_jvp, `tangents`", tangents, primals)
    moves = jax.tree.map(lambda t: t is not None, tangents, is_leaf=is_none)
    moving, fixed = partition(primals, moves)
    if not jax.tree.leaves(moving):
        out = fn(*primals, **kwargs)
        return out, jax.tree.map(lambda _: None, out)
    depends: list[bool] = []

    def call(moving: Any) -> Any:
        out = fn(*combine(moving, fixed), **kwargs)
        arrays, rest = partition(out, is_inexact_array)
        depends.extend(_which_depend(jax.tree.leaves(moving)[0], arrays))
        return arrays, hide(rest)

    arrays, moved, rest = jax.jvp(call, (moving,), (tangents,), has_aux=True)
    treedef: Any
    leaves, treedef = jax.tree.flatten(moved)
    known = [t if d else None for t, d in zip(leaves, depends, strict=True)]
    return combine(arrays, reveal(*rest)), treedef.unflatten(known)


def _which_depend(moving: Any, arrays: PyTree) -> list[bool]:
    """Within ``jax.jvp``: which arrays have a tangent that is not zero by structure.

    The rule of a custom derivative is told. What moves goes along as the first
    argument, so that it is this ``jax.jvp`` that calls the rule, and none around it.
    """
    answer: list[bool] = []

    @jax.custom_jvp
    def ask(moving: Any, arrays: Any) -> Any:
        return moving

    def rule(primals: Any, tangents: Any) -> Any:
        answer.extend(zero_to_none(t) is not None for t in jax.tree.leaves(tangents[1]))
        return primals[0], tangents[0]

    ask.defjvp(rule, symbolic_zeros=True)
    ask(moving, arrays)
    return answer


def _as_tuple(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, tuple | list):
        return tuple(values)
    raise TransformError(
        report(
            f"filter_jvp: `{name}` is no sequence.",
            expected="a tuple with one entry per positional argument",
            got=f"{short(repr(values))} of type {type(values).__name__}",
            fix=f"for a single argument pass `({name[:-1]},)`",
        )
    )


class Pullback(Module):
    # Takes cotangents of the results to those of the arguments; made by `filter_vjp`.

    pull: Any
    treedef: Any = field(static=True)
    structs: tuple[Any, ...] = field(static=True)

    def __call__(self, cotangents: PyTree) -> tuple[PyTree, ...]:
        like = self.treedef.unflatten(self.structs)
        check_vectors("filter_vjp, the cotangents", cotangents, like)
        return self.pull(jax.tree.map(_filled, like, cotangents, is_leaf=is_none))


def _filled(struct: Any, cotangent: Any) -> Any:
    if cotangent is None and struct is not None:
        return jnp.zeros(struct.shape, struct.dtype)
    return cotangent


def filter_vjp(fun: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """The value of a function, and its derivative from behind: ``jax.vjp``.

    Every floating or complex array in the arguments is differentiated.

    Arguments:
        fun: any function of pytrees.
        *primals: its arguments. For arguments that are passed by name, close over
            them, or use ``functools.partial``.
        has_aux: ``fun`` returns ``(out, aux)``; ``aux`` is not differentiated.

    Returns:
        ``(out, pullback)``, or ``(out, pullback, aux)`` with ``has_aux``. The function
        ``pullback`` takes a tree like ``out``, with arrays at its floating arrays
        and None elsewhere (None at a floating array stands for zero). It returns a
        tuple of trees like ``primals``, with arrays at their floating arrays and None
        elsewhere. It is a pytree, and can be returned from compiled functions.

    Raises:
        TransformError: a cotangent does not fit ``out``.

    >>> import vernal as vn, jax.numpy as jnp
    >>> out, pullback = vn.filter_vjp(lambda x, n: (x**n, n), jnp.float32(3), 2)
    >>> pullback((jnp.float32(1), None))
    (Array(6., dtype=float32), None)
    """
    check_callable("filter_vjp", fun)
    moving, fixed = partition(primals, is_inexact_array)

    def call(*moving: Any) -> Any:
        out = fun(*combine(moving, fixed))
        out, aux = out if has_aux else (out, None)
        arrays, rest = partition(out, is_inexact_array)
        return arrays, hide((rest, aux))

    arrays, pull, hidden = jax.vjp(call, *moving, has_aux=True)
    rest, aux = reveal(*hidden)
    leaves, treedef = jax.tree.flatten(arrays)
    structs = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    pullback = Pullback(pull, treedef, structs)
    out = combine(arrays, rest)
    return (out, pullback, aux) if has_aux else (out, pullback)
