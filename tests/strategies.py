"""Random trees, Modules, filters and states; and what else the core's tests share."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import vernal as vn


@contextlib.contextmanager
def refuses(error: type[Exception], *words: str) -> Iterator[None]:
    """The block raises just this error, with these words, in six lines at most."""
    with pytest.raises(error) as info:
        yield
    assert type(info.value) is error
    text = str(info.value)
    assert len(text.splitlines()) <= 6, text
    for word in words:
        assert word in text, f"{word!r} is missing in: {text}"


class Counted:
    """A function that counts its calls: under jit, how often it was traced."""

    def __init__(self, fn: Any) -> None:
        self.fn = fn
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.fn(*args, **kwargs)


class Opaque:
    """A leaf that is nothing that JAX knows, and equal only to itself."""


class Pair(NamedTuple):
    """A node class that is not one of vernal's."""

    left: Any
    right: Any


class Scale(vn.Module):
    """A function with a parameter: it stays a child in an ``if_function`` field."""

    factor: Any

    def __call__(self, x: Any) -> Any:
        return self.factor * x


class Node(vn.Module):
    """A Module with a field of every kind."""

    first: Any
    second: Any = None
    tag: Any = vn.field(static=True, default="tag")
    fn: Any = vn.field(static="if_function", default=jnp.tanh)


class Empty(vn.Module):
    """A Module without fields."""


class Counter(vn.Module):
    """The layer of the source document, with any initial value."""

    index: vn.nn.StateIndex

    def __init__(self, init: Any = 0) -> None:
        self.index = vn.nn.StateIndex(jax.tree.map(jnp.array, init))

    def __call__(self, x: Any, state: Any) -> tuple[Any, Any]:
        value = state.get(self.index)
        new = jax.tree.map(lambda v: v + jnp.ones_like(v), value)
        return x + sum(jax.tree.leaves(value)), state.set(self.index, new)


ARRAYS = [
    jnp.arange(3.0),
    jnp.ones((2, 2), jnp.bfloat16),
    jnp.array(7),
    jnp.array([True, False]),
    jnp.zeros((0, 4)),
    jax.random.key(3),
    np.arange(4, dtype=np.int8),
    np.float32(2.5),
]
OTHERS = [0, 1, True, 1.0, 2j, "text", b"bytes", Opaque(), Opaque, len, jnp.sin]
FUNCTIONS = [jnp.sin, jnp.tanh, len, lambda x: x, None]

arrays = st.sampled_from(ARRAYS)
leaves = arrays | st.sampled_from(OTHERS)
names = st.text("abc", min_size=1, max_size=2)
tags = st.sampled_from(["x", 3, ("a", 1), None, jnp.cos])


def _nodes(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(children, max_size=3)
    functions = st.sampled_from(FUNCTIONS) | st.builds(Scale, arrays)
    return st.one_of(
        some,
        some.map(tuple),
        st.dictionaries(names, children, max_size=3),
        st.builds(Pair, children, children),
        st.builds(Node, children, children, tags, functions),
        st.builds(Scale, children),
    )


trees = st.recursive(leaves | st.none() | st.builds(Empty), _nodes, max_leaves=8)
"""Any tree: containers and Modules of arrays, numbers, None, objects and functions."""

_QUESTIONS = [vn.is_array, vn.is_inexact_array, lambda x: x is len, lambda _: True]


@st.composite
def filter_specs(draw: Any, tree: Any, functions: bool = True) -> Any:
    """A prefix of ``tree`` of booleans, and of functions where a field holds them.

    A plain function in an ``if_function`` field of a Module would be metadata, so
    below a Module there are only booleans.
    """
    children, treedef = vn.tree_flatten_one_level(tree)
    is_leaf = jax.tree_util.treedef_is_leaf(treedef) and children
    if is_leaf or draw(st.booleans()):
        questions = st.sampled_from(_QUESTIONS)
        return draw(st.booleans() | questions if functions else st.booleans())
    functions = functions and not isinstance(tree, vn.Module)
    return treedef.unflatten([draw(filter_specs(x, functions)) for x in children])


VALUES = [
    jnp.array(0),
    jnp.arange(3.0),
    jnp.ones((2, 2), jnp.bfloat16),
    jnp.array(True),
    jax.random.key(0),
    {"mean": jnp.zeros(2), "count": jnp.array(0)},
    (jnp.ones(1), [jnp.array(2.0), None]),
    (),
]


@st.composite
def layer_plans(draw: Any) -> tuple[list[Any], list[int]]:
    """Initial values of some layers, and the places at which these layers stand."""
    values = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=4))
    last = len(values) - 1
    places = draw(st.lists(st.integers(0, last), min_size=1, max_size=6))
    return values, places


class Holder(vn.Module):
    """A layer with one slot."""

    index: vn.nn.StateIndex
    weight: Any

    def __init__(self, init: Any) -> None:
        self.index = vn.nn.StateIndex(init)
        self.weight = jnp.ones(2)


def build(plan: tuple[list[Any], list[int]]) -> dict[str, Any]:
    """A model of a plan; a layer that stands at two places has one slot."""
    values, places = plan
    layers = [Holder(value) for value in values]
    half = len(places) // 2
    return {
        "one": [layers[i] for i in places[:half]],
        "two": Node(tuple(layers[i] for i in places[half:]), jnp.zeros(1)),
    }


def indices(model: Any) -> list[Any]:
    """All indices of a model, each as often as it appears."""
    found = jax.tree.leaves(model, is_leaf=is_index)
    return [x for x in found if is_index(x)]


def is_index(x: Any) -> bool:
    """Whether ``x`` is a StateIndex."""
    return isinstance(x, vn.nn.StateIndex)


def changed(value: Any) -> Any:
    """Another value of the same structure, shapes and dtypes."""
    return jax.tree.map(_flip, value)


def _flip(x: Any) -> Any:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.fold_in(x, 1)
    return ~x if x.dtype == bool else x + jnp.ones_like(x)


def identical(x: Any, y: Any) -> bool:
    """Whether two trees have one structure and the very same leaves."""
    xs, x_treedef = jax.tree.flatten(x)
    ys, y_treedef = jax.tree.flatten(y)
    return x_treedef == y_treedef and all(map(lambda a, b: a is b, xs, ys))
