"""Running statistics computed anew over a data set."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.tree_util as jtu

from .._state.build import join_state, split_state
from .._state.index import changed_index, is_index
from .._state.naming import indices
from .._state.state import State, require_state
from .._transform.jit import filter_jit
from .._tree.select import Path, Where, select, walk
from ..errors import InputError, StateError, report
from ..typing import PyTree
from ._batched import Batched, batched
from ._checks import require
from ._freeze import frozen_paths
from ._mode import inference_mode
from ._stateful import RunningStatistics

_Call = Callable[[Any, Any, State], tuple[Any, State]]


def recalibrate(
    model: PyTree,
    state: State,
    batches: Iterable[PyTree],
    *,
    where: Where | None = None,
    axis_name: Any = "batch",
    call: _Call | None = None,
) -> State:
    r"""Computes running statistics anew, exactly, over a data set.

    $$\mu = \frac{1}{N} \sum_{n=1}^N x_n, \qquad
    \sigma^2 = \frac{1}{N} \sum_{n=1}^N (x_n - \mu)^2$$

    over all values that come to a norm, however many each batch has. It is for weights
    that the running averages have not seen: after averaging weights, say, or to end a
    training exactly. Norms normalize by each batch meanwhile, as in training, and all
    other layers are as in inference: no dropout, and no other slot changes.

    Reference: Wu and Johnson, *Rethinking "Batch" in BatchNorm*, 2021,
    arXiv:2105.07576 ("PreciseBN"). PyTorch's ``update_bn`` averages the moments of
    batches, so that small batches count as much as large ones and the spread between
    batches is lost, leaves dropout on, and changes the model.

    Arguments:
        model: the model.
        state: its state; stays usable.
        batches: inputs of the model, each with the examples along the first axis.
            With labels: ``(xs for xs, _ in loader)``. Large batches are better, as
            deeper layers see what the norms before them make of a batch.
        where: which norms: a class of layers, a name (``*`` stands for anything), a
            regular expression, a function such as ``lambda m: m.body``, or a list of
            these. By default all; frozen ones never.
        axis_name: the name of the batch axis; None for a model that takes a batch
            itself. A model that was made by :func:`batched` is taken as it is.
        call: how the model is called on a batch, where that is not
            ``batched(model, axis_name)(x, state)``: ``call(model, x, state)``
            returns anything and the new state. It is compiled.

    Returns:
        The state with the new statistics, and all else as it was.

    Raises:
        InputError: there is no batch.
        StateError: there is nothing to recalibrate, or ``state`` is no State.
        HyperparameterError: ``batches`` cannot be iterated over.
        TreeError: ``where`` means nothing in this model.
        ForeignStateError: ``state`` is not the state of this model.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(1, "batch")
    >>> batches = [jnp.array([[1.0], [2.0], [6.0]]), jnp.array([[3.0], [8.0]])]
    >>> state = vn.nn.recalibrate(norm, state, batches)
    >>> state.get(norm.batch_state_index)
    (Array([4.], dtype=float32), Array([6.8], dtype=float32))
    """
    require_state("recalibrate", state)
    ok = isinstance(batches, Iterable)
    require(ok, "recalibrate", "batches", "inputs, one after the other", batches)
    chosen = _chosen(model, where)
    probe, found = split_state(_cumulative(join_state(model, state), chosen))
    steps = 0
    for x in batches:
        found = _step(probe, found, x, axis_name, call)
        steps += 1
    if not steps:
        raise InputError(
            report(
                "recalibrate: there is no batch.",
                expected="at least one batch",
                got="an iterable that is empty, or was used up before",
            )
        )
    new, others = copy.copy(state), dict(walk(probe))
    for path, layer in walk(model):
        if path in chosen:
            new = layer.adopted(new, others[path], found, steps)
    return new


@filter_jit
def _step(probe: Any, found: State, x: Any, axis_name: Any, call: _Call | None) -> Any:
    if call is not None:
        return call(probe, x, found)[1]
    if axis_name is not None and not isinstance(probe, Batched):
        probe = batched(probe, axis_name)
    return probe(x, found)[1]


def _chosen(model: Any, where: Where | None) -> set[Path]:
    """The paths of the layers to recalibrate."""
    parts = select("recalibrate", model, "*" if where is None else where)
    frozen = frozen_paths(model)
    chosen = {
        path + step
        for path, part in parts
        for step, node in walk(part)
        if isinstance(node, RunningStatistics)
        and not any((path + step)[: len(f)] == f for f in frozen)
    }
    if not chosen:
        raise StateError(
            report(
                "recalibrate: there are no running statistics to compute.",
                expected="a BatchNorm, or another norm that has them and is not frozen",
                got=type(model).__name__ if where is None else f"where={where!r}",
            )
        )
    return chosen


def _cumulative(model: Any, chosen: set[Path]) -> Any:
    """The model in inference, but for cumulative layers in the place of the chosen."""
    memo: dict[Any, Any] = {}

    def swap(path: Path, node: Any) -> Any:
        return _one_slot(node, memo) if path in chosen else node

    return jtu.tree_map_with_path(
        swap,
        inference_mode(model),
        is_leaf=lambda x: isinstance(x, RunningStatistics),
    )


def _one_slot(layer: RunningStatistics, memo: dict[Any, Any]) -> Any:
    """The cumulative layer; what stood at two places before still has one state."""
    key = tuple([index.marker for index in indices(layer)])
    new = layer.cumulative()
    markers = iter(memo.setdefault(key, [index.marker for index in indices(new)]))

    def rename(x: Any) -> Any:
        return changed_index(x, marker=next(markers)) if is_index(x) else x

    return jax.tree.map(rename, new, is_leaf=is_index)
