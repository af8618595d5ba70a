"""One state from several, as of workers that trained apart."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from .._tree.compare import tree_equal
from ..errors import StateError, StateValueError, report
from .index import Merge, same_arrays
from .state import Layout, State, make_state
from .values import fit, value_text


def merge_states(states: Sequence[State], otherwise: Merge | None = None) -> State:
    r"""Makes one state of several, such as those of workers with data of their own.

    Each slot has its rule: the one that its layer gave to :class:`StateIndex`. The
    moments of a :class:`BatchNorm` become those of the mixture,

    $$\mu = \sum_k w_k \mu_k, \qquad
    \sigma^2 = \sum_k w_k (\sigma_k^2 + \mu_k^2) - \mu^2$$

    where $w_k$ is the share of state $k$ in all the weight that the running averages
    have gathered. With ``momentum=None`` that is the number of values, and the result
    is exactly that of one run over all the data. A slot without a rule keeps its value,
    which must be equal in all states.

    Arguments:
        states: states of one model; at least one. They stay usable.
        otherwise: the rule of slots that have none. ``lambda values, _: values[0]``
            takes that of the first state.

    Returns:
        The merged state. Parameters are no part of it: average them by
        ``jax.tree.map``.

    Raises:
        StateError: there is no state, or the states have different slots.
        StateValueError: the values of a slot without a rule differ, or a rule returns
            something that does not fit.

    >>> import vernal as vn, jax.numpy as jnp
    >>> import copy
    >>> make = vn.nn.make_with_state(vn.nn.BatchNorm)
    >>> norm, state = make(1, "batch")
    >>> _, low = vn.nn.batched(norm)(jnp.array([[0.0], [2.0]]), copy.copy(state))
    >>> _, high = vn.nn.batched(norm)(jnp.array([[4.0], [6.0]]), state)
    >>> vn.nn.merge_states([low, high]).get(norm.batch_state_index)
    (Array([3.], dtype=float32), Array([5.], dtype=float32))
    """
    layout = _common_layout(states)
    columns = [state._alive("merge_states") for state in states]
    by_name = dict(zip(layout.names, layout.keys, strict=True))

    def values(key: Any) -> list[Any]:
        return [column[key] for column in columns]

    merged = {}
    for key, name, kind in zip(layout.keys, layout.names, layout.kinds, strict=True):
        rule = kind.merge or otherwise or _equal(name)
        new = rule(values(key), _siblings(name, by_name, values))
        merged[key] = fit(columns[0][key], new, name, "merge_states")
    return make_state(merged, layout)


def _common_layout(states: Sequence[State]) -> Layout:
    if not states or not all(isinstance(state, State) for state in states):
        got = "an empty sequence" if not states else "something that is no State"
        raise StateError(
            report("merge_states: needs states.", expected="a list of them", got=got)
        )
    first = states[0]._layout
    for i, state in enumerate(states):
        if state._layout != first:
            raise StateError(
                report(
                    "merge_states: the states have different slots.",
                    expected=f"slots as in states[0]: {first!r}",
                    got=f"states[{i}]: {state._layout!r}",
                )
            )
    return first


def _siblings(
    name: str, by_name: dict[str, Any], values: Callable[[Any], list[Any]]
) -> Callable[[str], list[Any]]:
    """The other slots of the layer that has the slot of this name."""
    parent = name[: name.rfind(".") + 1]
    return lambda attribute: values(by_name[parent + attribute])


def _equal(name: str) -> Merge:
    """The rule of a slot that has no other: all states agree."""

    def first(values: Sequence[Any], _: Any) -> Any:
        for value in values[1:]:
            if not _are_equal(values[0], value):
                raise StateValueError(
                    report(
                        f"merge_states: `{name}` has no rule, and its values differ.",
                        expected=value_text(values[0]),
                        got="another value in another state",
                        fix="StateIndex(init, merge=…) in the layer, or "
                        "merge_states(states, otherwise=lambda values, _: values[0])",
                    )
                )
        return values[0]

    return first


def _are_equal(x: Any, y: Any) -> bool:
    """Whether two values are known to be equal; traced ones only if they are one."""
    if same_arrays(x, y):
        return True
    equal = tree_equal(x, y)
    return not isinstance(equal, jax.core.Tracer) and bool(equal)
