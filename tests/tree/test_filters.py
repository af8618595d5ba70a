"""Telling arrays from other leaves, and splitting trees by such questions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Node, Scale, refuses
from vernal.errors import TreeError


class HasJaxArray:
    """An array in disguise."""

    def __jax_array__(self):
        return jnp.ones(2)


#     value, is_array, is_array_like, is_inexact_array, is_inexact_array_like
KINDS = {
    "float array": (jnp.ones(2), True, True, True, True),
    "bfloat16 array": (jnp.ones(2, jnp.bfloat16), True, True, True, True),
    "complex array": (jnp.ones(2, jnp.complex64), True, True, True, True),
    "int array": (jnp.arange(2), True, True, False, False),
    "bool array": (jnp.array(True), True, True, False, False),
    "key array": (jax.random.key(0), True, True, False, False),
    "numpy float array": (np.ones(2), True, True, True, True),
    "numpy int array": (np.arange(2), True, True, False, False),
    "numpy float scalar": (np.float32(1), True, True, True, True),
    "numpy int scalar": (np.int8(1), True, True, False, False),
    "bool": (True, False, True, False, False),
    "int": (1, False, True, False, False),
    "float": (1.0, False, True, False, True),
    "complex": (1j, False, True, False, True),
    "has __jax_array__": (HasJaxArray(), False, True, False, True),
    "str": ("a", False, False, False, False),
    "list": ([1.0], False, False, False, False),
    "None": (None, False, False, False, False),
    "function": (jnp.sin, False, False, False, False),
    "struct": (jax.ShapeDtypeStruct((2,), jnp.float32), *[False] * 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_an_array(kind):
    """Each kind of value gets the documented answer from all four questions."""
    value, *answers = KINDS[kind]
    questions = (
        vn.is_array,
        vn.is_array_like,
        vn.is_inexact_array,
        vn.is_inexact_array_like,
    )
    assert [question(value) for question in questions] == answers


def test_tracers_are_arrays():
    """Inside a transformation, a traced value is an array of its dtype."""

    def ask(x, n):
        assert vn.is_array(x) and vn.is_inexact_array(x) and vn.is_array_like(x)
        assert vn.is_array(n) and not vn.is_inexact_array(n)
        assert vn.is_inexact_array_like(x) and not vn.is_inexact_array_like(n)
        return x

    jax.jit(jax.vmap(jax.grad(ask)))(jnp.ones(3), jnp.arange(3))


def test_filter_keeps_what_a_function_selects():
    """Leaves that the function refuses become None; the structure stays."""
    tree = [1, {"a": jnp.ones(2)}, ("text", None)]
    out = vn.filter(tree, vn.is_array)
    assert out == [None, {"a": tree[1]["a"]}, (None, None)]


def test_filter_inverse_and_replace():
    """`inverse` keeps the others; `replace` is what stands for the rest."""
    assert vn.filter([1, "a"], lambda x: x == 1, inverse=True) == [None, "a"]
    assert vn.filter([1, "a"], lambda x: x == 1, replace=0) == [1, 0]
    assert vn.filter([1, "a"], lambda x: x == 1, True, 0) == [0, "a"]


def test_a_spec_is_a_prefix():
    """A boolean decides on its whole subtree, and a function on each leaf of it."""
    tree = {"a": [1, 2], "b": (3, [4]), "c": [5, "x"]}
    spec = {"a": True, "b": np.bool_(False), "c": lambda x: x == "x"}
    assert vn.filter(tree, spec) == {"a": [1, 2], "b": (None, [None]), "c": [None, "x"]}


def test_a_model_can_be_its_own_spec():
    """A mask made by `tree.map` and `tree_at` from the model selects one of its parts.

    Static fields neither get in the way nor get lost.
    """
    model = Node(jnp.ones(2), Scale(jnp.zeros(1)), "tag", jnp.sin)
    mask = jax.tree.map(lambda _: False, model)
    mask = vn.tree_at(lambda m: m.second.factor, mask, True)
    out = vn.filter(model, mask)
    assert out.first is None and out.second.factor is model.second.factor
    assert (out.tag, out.fn) == ("tag", jnp.sin)


def test_is_leaf_decides_what_is_asked():
    """With `is_leaf`, the function of the specification sees whole subtrees."""
    tree = [(1, 2), 3, None]

    def is_leaf(x):
        return isinstance(x, tuple) or x is None

    assert vn.filter(tree, lambda x: x == (1, 2), is_leaf=is_leaf) == [
        (1, 2),
        None,
        None,
    ]
    kept, rest = vn.partition(tree, lambda x: x is None, replace=0, is_leaf=is_leaf)
    assert (kept, rest) == ([0, 0, None], [(1, 2), 3, 0])


def test_partition_is_filter_and_its_inverse():
    """`partition` returns what is selected and what is not, and asks each leaf once."""
    tree = {"a": jnp.ones(2), "b": [1, "x"]}
    ask = Counted(vn.is_array)
    kept, rest = vn.partition(tree, ask)
    assert ask.calls == 3
    assert kept == {"a": tree["a"], "b": [None, None]}
    assert rest == {"a": None, "b": [1, "x"]}


def test_combine_takes_the_first_that_is_not_none():
    """Of any number of trees, the first with a value gives the leaf."""
    assert vn.combine([None, 2, None], [1, 3, None], [4, 5, None]) == [1, 2, None]
    assert vn.combine((None, {"a": 0})) == (None, {"a": 0})


def test_combine_with_is_leaf():
    """With `is_leaf`, a whole subtree may stand against None."""

    def is_leaf(x):
        return isinstance(x, list)

    assert vn.combine((None, [1]), ([2, 3], None), is_leaf=is_leaf) == ([2, 3], [1])


def test_a_leaf_of_a_spec_that_selects_nothing():
    """A specification of something else than booleans and functions is refused."""
    with refuses(TreeError, "filter_spec", "'yes' of type str", "vn.is_array"):
        vn.filter([1, 2], [True, "yes"])


def test_a_bad_spec_is_shown_short():
    """An array given as the specification is named by type, not printed in full."""
    with refuses(TreeError, "filter_spec", "ndarray"):
        vn.filter([1, 2], [True, np.ones((20, 3))])


@pytest.mark.parametrize("split", [vn.filter, vn.partition])
def test_a_spec_of_another_structure(split):
    """A specification that is no prefix of the tree is refused as such."""
    with refuses(TreeError, "filter_spec"):
        split({"a": [1, 2]}, {"a": [True]})


def test_combine_of_other_structures():
    """Trees that did not come from one tree are refused."""
    with refuses(TreeError, "combine", "different structures", "partition"):
        vn.combine([1, None], [None])


def test_none_is_no_leaf_to_be_asked():
    """None in the tree stays None and is not shown to the function."""
    ask = Counted(lambda x: x is None)
    assert vn.filter([None, 1], ask, replace="r") == [None, "r"]
    assert ask.calls == 1
