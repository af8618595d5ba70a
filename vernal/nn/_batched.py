"""A batch of examples through a model that takes one."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import jax
import jax.random as jr
import jax.tree_util as jtu

from .._module.fields import field
from .._state.rows import check_rows, row_axes, row_slots
from .._state.state import State
from .._tree.paths import path_text
from ..errors import StateValueError
from ..typing import Key, PyTree
from ._checks import check_state, fail, require
from ._stacking import has_slots
from ._stateful import MaybeState, StatefulLayer

_Model = TypeVar("_Model", bound=Callable[..., Any])
_UNSET: Any = object()


class Batched(StatefulLayer, Generic[_Model]):
    # Made by `batched`, which has the documentation.

    model: _Model = field(static="if_function")
    axis_name: Any = field(static=True)

    def is_stateful(self) -> bool:
        """Whether the model has state."""
        return has_slots(self.model)

    @overload
    def __call__(self, x: PyTree, *, key: Key | None = None) -> Any: ...
    @overload
    def __call__(
        self, x: PyTree, state: MaybeState, *, key: Key | None = None
    ) -> tuple[Any, MaybeState]: ...
    def __call__(
        self, x: PyTree, state: State | None = _UNSET, *, key: Key | None = None
    ) -> Any:
        """Applies the model to a batch.

        Arguments:
            x: any pytree of arrays, each with the examples along its first axis.
            state: the state, if the model is stateful; None for a model that can do
                without.
            key: a PRNG key; it is split for the examples. None passes none.

        Returns:
            The outputs, with the examples along the first axis; and the new state if
            one was passed.
        """
        if state is not _UNSET and state is not None:
            check_state(self, state)
        keys = None if key is None else jr.split(key, _size(self, x))
        is_alone = state is _UNSET

        def one(x: Any, state: Any, key: Any) -> Any:
            args = (x,) if is_alone else (x, state)
            return self.model(*args, **({} if key is None else {"key": key}))

        axes: dict[str, Any] = {"in_axes": (0, None, 0), "axis_name": self.axis_name}
        if state is _UNSET or state is None:
            return jax.vmap(one, **axes)(x, None, keys)
        rows = row_axes(state)
        if rows is not None:
            check_rows(
                f"Batched({type(self.model).__name__})", state, (_size(self, x),)
            )
            axes["in_axes"] = (0, rows, 0)
        try:
            return jax.vmap(one, **axes, out_axes=(0, rows))(x, state, keys)
        except ValueError:
            _check_shared(self, one, axes, (x, state, keys))
            raise


def batched(model: _Model, axis_name: Any = "batch") -> Batched[_Model]:
    """Lets a model that takes one example take a batch: the usual ``jax.vmap``.

    Each array of the input has the examples along its first axis. The state has not:
    all examples are given the same, and the model returns one new state for all, as
    layers like :class:`BatchNorm` do by averaging over ``axis_name``. Only slots that
    are per row, such as caches, have an axis for the examples; see :func:`with_rows`.

    Arguments:
        model: called as ``y = model(x)`` or ``y, state = model(x, state)`` for one
            example, with ``key=`` if it is given one.
        axis_name: the name of the batch axis, by which layers know it.

    Returns:
        A layer that is called in the same way for a batch. With two names,
        ``batched(batched(model, "inner"), "outer")`` takes a batch of batches.

    Raises:
        StateValueError: at the call, if an entry of the new state differs between
            examples, or a slot that is per row has another number of rows.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")
    >>> ys, state = vn.nn.batched(norm)(jnp.arange(12.0).reshape(4, 3), state)
    >>> ys.shape
    (4, 3)
    """
    require(callable(model), "batched", "model", "a layer or function", model)
    require(axis_name is not None, "batched", "axis_name", "a name", axis_name)
    return Batched(model, axis_name)


def _size(layer: Batched[Any], x: PyTree) -> int:
    sizes = [leaf.shape[0] for leaf in jax.tree.leaves(x) if getattr(leaf, "shape", ())]
    if not sizes:
        fail(
            layer,
            "the input has no batch axis",
            expected="arrays with the examples along the first axis",
            got=f"{jax.tree.map(jax.numpy.shape, x)}",
        )
    return int(sizes[0])


def _check_shared(layer: Batched[Any], one: Any, axes: Any, args: Any) -> None:
    """Finds the first entry of the state that differs between examples, if any."""
    try:
        jax.eval_shape(jax.vmap(one, **axes), *args)
    except ValueError:
        return  # it is not the state that is wrong
    paths = [path for path, _ in jtu.tree_leaves_with_path(args[1])]
    rows = row_slots(args[1])
    for i, path in enumerate(paths):
        if path[0].key in rows:
            continue
        name = path[0].key + path_text(path[1:])

        def entry(*args: Any, i: int = i) -> Any:
            return jax.tree.leaves(one(*args)[1])[i]

        try:
            jax.eval_shape(jax.vmap(entry, **axes, out_axes=None), *args)
        except ValueError:
            fail(
                layer,
                f"the new value of `{name}` differs between examples",
                error=StateValueError,
                expected="one value for the whole batch",
                got=f"a value for each example along {layer.axis_name!r}",
                fix=f"in the layer: jax.lax.pmean(value, {layer.axis_name!r})",
            )
