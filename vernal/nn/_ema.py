"""The exponential moving average of any tree, such as the parameters of a model."""

from collections.abc import Hashable
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import jax.tree_util as jtu
from jax import lax
from jaxtyping import Array, Int

from .._module.fields import field
from .._state.index import StateIndex
from .._state.state import State
from .._tree.filters import is_inexact_array
from .._tree.paths import path_text
from ..typing import AxisName, Key
from ._axes import count_examples, read_axis_name
from ._batch_moments import sum_over
from ._checks import (
    check_state,
    fail,
    is_number,
    require,
)
from ._numerics import axis_names, compute_dtype
from ._running import blend, running_rate
from ._stateful import StatefulLayer

_Tree = TypeVar("_Tree")


class Average(NamedTuple):
    """How many trees were averaged, and the average of each floating array by name."""

    steps: Int[Array, ""]
    values: dict[str, Array]


class ExponentialMovingAverage(StatefulLayer):
    r"""Averages a tree over the calls, with weights that fall with age.

    $$a_t = \frac{\sum_{i \le t} d^{\,t - i} x_i}{\sum_{i \le t} d^{\,t - i}}$$

    with the decay $d$. The weights sum to 1 at every step, so that $a_1 = x_1$ and the
    average of constants is that constant: this is Adam's correction of the bias,
    applied to what is stored. ``decay=1`` is the plain mean, ``decay=0`` the newest.

    Only floating and complex arrays are averaged; everything else in the tree, such as
    counters, keys and functions, is taken from the newest. Averages are kept in at
    least float32, also of half precision, and returned in the dtype of the tree. The
    trees may be models, or pairs of a model and its State. A typical step of training,
    and evaluation::

        model = vn.apply_updates(model, updates)
        _, ema_state = ema(model, ema_state)
        ...
        averaged = ema.average(model, ema_state)

    In inference the average is returned and stays as it is; before the first tree, it
    is the given one. No gradient flows through what is stored.

    Reference: Polyak and Juditsky, *Acceleration of Stochastic Approximation by
    Averaging*, 1992; the correction of the bias is that of Kingma and Ba, *Adam*, 2014,
    arXiv:1412.6980. It equals ``optax.ema(decay, debias=True)``, and with ``decay=1``
    PyTorch's ``AveragedModel`` as it is by default. With ``get_ema_multi_avg_fn`` that
    gives the first tree, which is usually the untrained one, the weight $d^{t - 1}$
    instead; Flax's ``EMA`` does the same.

    Arguments:
        tree: what will be averaged, or a tree like it: its values do not count.
        decay: the weight of the past, in [0, 1].
        axis_name: axes over which the arrays are averaged first, for use within
            ``jax.vmap`` and ``jax.shard_map``; None if the tree is the same everywhere.
        inference: do not change the average. See :func:`inference_mode`.

    Attributes:
        average_index: the slot of ``steps`` and ``values``, a dictionary from the names
            of the arrays in the tree to their averages.

    Raises:
        HyperparameterError: an argument is outside its range, or the tree has no
            floating array.
        InputError: a tree has other floating arrays than the first.
        AxisNameError: no axis of that name is in scope.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> model = vn.nn.Linear(2, 3, key=jax.random.key(0))
    >>> make = vn.nn.make_with_state(vn.nn.ExponentialMovingAverage)
    >>> ema, ema_state = make(model, decay=0.999)
    >>> _, ema_state = ema(model, ema_state)
    >>> averaged = ema.average(model, ema_state)
    >>> averaged == model
    True
    """

    average_index: StateIndex[Average]
    decay: float = field(static=True)
    axis_name: Hashable = field(static=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self,
        tree: Any,
        decay: float = 0.999,
        axis_name: AxisName | None = None,
        inference: bool = False,
    ) -> None:
        name = "ExponentialMovingAverage"
        values = _floating(tree)
        require(bool(values), name, "tree", "a tree with floating arrays", tree)
        ok = is_number(decay, maximum=1)
        require(ok, name, "decay", "a number from 0 to 1", decay)
        zeros = {
            k: jnp.zeros_like(a, compute_dtype(a.dtype)) for k, a in values.items()
        }
        self.average_index = StateIndex(Average(jnp.array(0, jnp.int32), zeros))
        self.decay = float(decay)
        self.axis_name = read_axis_name(name, axis_name)
        self.inference = inference

    def __call__(
        self,
        tree: _Tree,
        state: State,
        *,
        key: Key | None = None,
        inference: bool | None = None,
    ) -> tuple[_Tree, State]:
        """Takes a tree into the average.

        Arguments:
            tree: the newest tree.
            state: the state of this layer.
            key: not used.
            inference: overrides the field of that name, if not None.

        Returns:
            The tree with averages in the place of its floating arrays, and the new
            state.
        """
        check_state(self, state)
        known = self._known(tree, state)
        if self.inference if inference is None else inference:
            return _filled(tree, known), state
        steps = known.steps + 1
        new = self._reduced(_floating(tree))

        def blended(old: Array, new: Array) -> Array:
            rate = running_rate(steps, self.decay, old.real.dtype)
            return blend(old, new.astype(old.dtype), rate.astype(old.dtype))

        values = {name: blended(old, new[name]) for name, old in known.values.items()}
        now = Average(steps, values)
        state = state.set(self.average_index, lax.stop_gradient(now))
        return _filled(tree, now), state

    def average(self, tree: _Tree, state: State) -> _Tree:
        """The tree with averages in the place of its floating arrays.

        Arguments:
            tree: the newest tree, such as the model that is trained.
            state: the state of this layer; it stays usable.
        """
        check_state(self, state)
        return _filled(tree, self._known(tree, state))

    def _known(self, tree: Any, state: State) -> Average:
        """What is stored, if it fits the tree."""
        known = state.get(self.average_index)
        shapes = {name: a.shape for name, a in _floating(tree).items()}
        wanted = {name: a.shape for name, a in known.values.items()}
        different = [k for k in wanted | shapes if wanted.get(k) != shapes.get(k)]
        if different:
            first, nothing = different[0], "no floating array of that name"
            fail(
                self,
                f"the tree differs in {len(different)} array(s) from the averaged one",
                expected=f"`{first}`: {wanted.get(first, nothing)}",
                got=f"{shapes.get(first, nothing)}",
                fix="make an ExponentialMovingAverage of a tree like this one",
            )
        return known

    def _reduced(self, values: dict[str, Array]) -> dict[str, Array]:
        """The mean over the named axes, if there are any."""
        if self.axis_name is None:
            return values
        names = axis_names(self.axis_name)
        n = float(count_examples(self))
        return {
            k: sum_over(jnp.asarray(a).astype(compute_dtype(a.dtype)), names) / n
            for k, a in values.items()
        }


def _name(path: Any) -> str:
    return path_text(path) or "value"  # a tree that is a single array has no path


def _floating(tree: Any) -> dict[str, Array]:
    """The arrays that are averaged, by their names in the tree."""
    leaves = jtu.tree_leaves_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves if is_inexact_array(leaf)}


def _filled(tree: _Tree, known: Average) -> _Tree:
    """The tree with the averages in it; or as it is, if there are none yet."""

    def fill(path: Any, leaf: Any) -> Any:
        if not is_inexact_array(leaf):
            return leaf
        average = known.values[_name(path)].astype(leaf.dtype)
        return jnp.where(known.steps == 0, leaf, average)

    return jtu.tree_map_with_path(fill, tree)
