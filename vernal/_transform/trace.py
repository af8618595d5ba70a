"""Looking at what a function would compute, without computing it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._compat import run_jaxpr
from .._module.callables import module_update_wrapper
from .._module.fields import field
from .._module.module import Module
from .._tree.compare import tree_equal
from .._tree.filters import combine, partition
from .._tree.paths import path_text
from ..errors import TransformError, report, short
from ..typing import PyTree
from .split import hide, is_abstract, reveal
from .wrapper import Wrapper, check_callable


def filter_eval_shape(fun: Callable[..., Any], *args: Any, **kwargs: Any) -> PyTree:
    """The result that a call would have, with shapes and dtypes in place of arrays.

    No memory is used and nothing is computed on a device, so that it can be asked for
    models of any size.

    Arguments:
        fun: any function of pytrees.
        *args, **kwargs: its arguments; arrays may be ``jax.ShapeDtypeStruct``.

    Returns:
        The result, each array replaced by a ``jax.ShapeDtypeStruct``.

    >>> import vernal as vn, jax
    >>> key = jax.random.key(0)
    >>> vn.filter_eval_shape(vn.nn.Linear, 10_000, 10_000, key=key).weight
    ShapeDtypeStruct(shape=(10000, 10000), dtype=float32)
    """
    arrays, static = partition((fun, args, kwargs), is_abstract)

    def call(arrays: Any) -> Any:
        fun, args, kwargs = combine(arrays, static)
        return hide(fun(*args, **kwargs))

    return reveal(*jax.eval_shape(call, arrays))


class _JaxprWrapper(Wrapper):
    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        arrays, static = partition((self.fun, args, kwargs), is_abstract)

        def call(arrays: Any) -> Any:
            fun, args, kwargs = combine(arrays, static)
            return hide(fun(*args, **kwargs))

        jaxpr, (shapes, hidden) = jax.make_jaxpr(call, return_shape=True)(arrays)
        return jaxpr, shapes, hidden.values


def filter_make_jaxpr(fun: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a function that returns the jaxpr of ``fun`` for given arguments.

    Arguments:
        fun: any function of pytrees; arrays among its arguments are traced.

    Returns:
        A function of the same arguments. It returns the jaxpr; the result with
        ``jax.ShapeDtypeStruct`` for arrays and None elsewhere; and the result with
        None for arrays.

    >>> import jax.numpy as jnp
    >>> trace = filter_make_jaxpr(lambda x, n: (x + n, n))
    >>> jaxpr, shapes, static = trace(jnp.ones(2), 3)
    >>> shapes[0].shape, static
    ((2,), (None, 3))
    """
    return module_update_wrapper(_JaxprWrapper(fun))


class _Plan:  # compared by identity, so that whatever it holds can be metadata
    """What a converted function knows besides its arrays."""

    def __init__(self, jaxpr: Any, example: PyTree, result: PyTree) -> None:
        self.jaxpr = jaxpr
        self.example = example
        self.result = result


class ClosureConverted(Module):
    """A function as data: what it closed over is a list of arrays; see below.

    Attributes:
        consts: the arrays that the function closed over, and all its parameters.
        in_struct: the arguments ``(args, kwargs)`` that it takes, with
            ``jax.ShapeDtypeStruct`` for arrays.
        out_struct: likewise, what it returns.
    """

    consts: list[Any]
    plan: _Plan = field(static=True, repr=False)

    @property
    def in_struct(self) -> PyTree:
        """The arguments that it takes."""
        return self.plan.example

    @property
    def out_struct(self) -> PyTree:
        """What it returns."""
        return self.plan.result

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Runs the function on arguments like those of the example."""
        arrays, _ = partition((args, kwargs), is_abstract)
        _check_same(self.plan.example, (args, kwargs))
        leaves = [_strong(x) for x in jax.tree.leaves(arrays)]
        out = run_jaxpr(self.plan.jaxpr, self.consts, *leaves)
        structs, rest = partition(self.plan.result, is_abstract)
        treedef: Any = jax.tree.structure(structs)
        return combine(treedef.unflatten(map(jnp.asarray, out)), rest)


def filter_closure_convert(
    fn: Callable[..., Any], *args: Any, **kwargs: Any
) -> ClosureConverted:
    """Turns a function, with all it closes over, into a pytree of arrays.

    A function cannot go in and out of transformations when it closes over values that
    are being traced: they are invisible. The converted one is a pytree whose leaves
    are these values, so that it can be an argument, a result, or be differentiated.

    Arguments:
        fn: the function. It is traced once, and not run.
        *args, **kwargs: example arguments: only shape and dtype matter of arrays, which
            can be ``jax.ShapeDtypeStruct``; other leaves are constants.

    Returns:
        A Module to be called with arguments like the example: with arrays of the same
        shapes and dtypes, and other leaves that are equal. Its list ``consts`` has the
        arrays that ``fn`` closed over (and its parameters, if it is a Module);
        ``in_struct`` and ``out_struct`` describe arguments and result.

    Raises:
        TransformError: when called: the arguments are not like the example.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> @jax.grad
    ... def f(x):
    ...     square = vn.filter_closure_convert(lambda y: (x + y) ** 2, x)
    ...     assert square.consts == [x]
    ...     return square(2 * x)
    >>> f(jnp.float32(1))
    Array(18., dtype=float32)
    """
    check_callable("filter_closure_convert", fn)
    arrays, static = partition((args, kwargs), is_abstract)

    def call(arrays: Any) -> Any:
        args, kwargs = combine(jax.tree.map(_strong, arrays), static)
        return hide(fn(*args, **kwargs))

    jaxpr, (shapes, hidden) = jax.make_jaxpr(call, return_shape=True)(arrays)
    structs = jax.tree.map(_struct, arrays)
    plan = _Plan(jaxpr.jaxpr, combine(structs, static), reveal(shapes, hidden))
    return ClosureConverted([jnp.asarray(x) for x in jaxpr.consts], plan)


def _struct(x: Any) -> Any:
    """Shape and dtype that JAX gives an array: NumPy's 64 bits may become 32."""
    is_numpy = isinstance(x, np.ndarray | np.generic)
    kind = jax.typeof(x) if is_numpy else x
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype)


def _strong(x: Any) -> Any:
    """Without JAX's mark that the dtype may give way, which examples need not share."""
    return x.astype(x.dtype) if getattr(x, "weak_type", False) else x


def _check_same(example: PyTree, given: PyTree) -> None:
    want: Any = jax.tree.structure(example)
    got = jax.tree.structure(given)
    if want != got:
        raise _other_call("another structure", short(str(want), 200), str(got))
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(example),
        jax.tree.leaves(given),
        strict=True,
    )
    for (path, x), y in pairs:
        if is_abstract(y):
            y = _struct(y)
        if is_abstract(x) or is_abstract(y):
            same = _kind(x) == _kind(y)
        else:
            same = tree_equal(x, y) is True
        if not same:
            place = path_text(path[1:])
            raise _other_call(f"another value at {place}", _kind(x), _kind(y))


def _kind(x: Any) -> str:
    return f"{x.dtype.name}{list(x.shape)}" if is_abstract(x) else short(repr(x))


def _other_call(what: str, expected: str, got: str) -> TransformError:
    return TransformError(
        report(
            f"filter_closure_convert: the function was called with {what}.",
            expected=f"{expected}, as in the example",
            got=short(got, 200),
            fix="convert it with arguments like those of this call",
        )
    )
