"""Changed copies of trees: ``tree_at``; see test_updates.py for ``apply_updates``."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Node, Pair, Scale, identical, refuses
from vernal.errors import TreeError

linear = vn.nn.Linear(2, 3, key=jax.random.key(0))


def test_a_leaf():
    """One leaf is replaced; the others are the very same objects."""
    new = jnp.zeros(5)
    out = vn.tree_at(lambda m: m.weight, linear, new)
    assert out.weight is new and out.bias is linear.bias
    assert (type(out), out.in_features) == (vn.nn.Linear, 2)


def test_the_original_is_unchanged():
    """The tree that was passed keeps its leaves, static fields and nodes."""
    tree = {"a": [vn.nn.Dropout(0.3), linear], "b": None}
    before = copy.deepcopy(tree)
    nodes = (tree["a"], tree["a"][0])
    vn.tree_at(lambda t: (t["a"][0].p, t["a"][1].bias), tree, (0.5, 0))
    assert vn.tree_equal(tree, before)
    assert tree["a"] is nodes[0] and tree["a"][0] is nodes[1]
    assert tree["a"][0].p == 0.3


def test_several_leaves():
    """A sequence of nodes takes a sequence of replacements, in its order."""
    out = vn.tree_at(lambda m: (m.bias, m.weight), linear, ["b", "w"])
    assert (out.weight, out.bias) == ("w", "b")
    out = vn.tree_at(lambda m: [m.weight], linear, ["w"])
    assert (out.weight, out.bias) == ("w", linear.bias)


def test_replace_fn():
    """`replace_fn` makes the new node from the old one, at each place."""
    out = vn.tree_at(
        lambda t: (t[0], t[1]), [1, [2, 3], 4], replace_fn=lambda x: ("new", x)
    )
    assert out == [("new", 1), ("new", [2, 3]), 4]


def test_a_subtree():
    """A subtree is replaced as a whole, whatever it holds."""
    tree = {"a": [1, (2, 3)], "b": 4}
    assert vn.tree_at(lambda t: t["a"], tree, "x") == {"a": "x", "b": 4}
    assert vn.tree_at(lambda t: t["a"][1], tree, None) == {"a": [1, None], "b": 4}
    assert vn.tree_at(lambda t: t, tree, 5) == 5


def test_a_tuple_that_is_a_node_is_one_node():
    """Where `where` returns a container of the tree, that container is replaced."""
    node = Node((1, 2), [3])
    assert vn.tree_at(lambda m: m.first, node, "x").first == "x"
    assert vn.tree_at(lambda m: (m.first[0], m.first[1]), node, "xy").first == (
        "x",
        "y",
    )


def test_a_module_and_back():
    """A Module gives way to another and back, with an equal structure in the end."""
    model = Node(linear, Scale(1.0))
    other = vn.tree_at(lambda m: m.first, model, vn.nn.Dropout(0.5))
    assert type(other.first) is vn.nn.Dropout
    back = vn.tree_at(lambda m: m.first, other, linear)
    assert identical(back, model)


def test_static_fields():
    """Static fields are replaced by attribute, alone and along with leaves."""
    model = [vn.nn.Dropout(0.3), vn.nn.Dropout(0.3), linear]
    out = vn.tree_at(lambda m: [d.inference for d in m[:2]], model, [True, "x"])
    assert [d.inference for d in out[:2]] == [True, "x"]
    assert [d.p for d in out[:2]] == [0.3, 0.3]
    out = vn.tree_at(
        lambda m: (m[1].p, m[2].bias, m[2].use_bias), model, (0.7, None, False)
    )
    assert (out[0].p, out[1].p, out[2].bias, out[2].use_bias) == (0.3, 0.7, None, False)


def test_static_fields_with_replace_fn():
    """`replace_fn` sees the value of a static field itself."""
    out = vn.tree_at(lambda m: m.tag, Node(1, tag=("a", 1)), replace_fn=lambda t: t[0])
    assert out.tag == "a"


@pytest.mark.parametrize("value", [(), (1, 2), None, "text", 3, True, np.float32(1)])
def test_static_values_of_any_kind(value):
    """What a static field holds does not matter, not even if a leaf is the same."""
    node = Node(value, value, tag=value)
    out = vn.tree_at(lambda m: m.tag, node, "new")
    assert (out.tag, out.first, out.second) == ("new", value, value)


def test_a_module_in_a_static_field():
    """A Module that serves as metadata can be replaced like other metadata."""
    node = Node(1, tag=vn.nn.Identity())
    assert vn.tree_at(lambda m: m.tag, node, "new").tag == "new"


def test_functions_in_if_function_fields():
    """A function gives way to a function or Module, and the Module to a function."""
    model = Node(1, fn=jnp.sin)
    other = vn.tree_at(lambda m: m.fn, model, jnp.cos)
    assert other.fn is jnp.cos
    scaled = vn.tree_at(lambda m: m.fn, other, Scale(jnp.ones(2)))
    assert len(jax.tree.leaves(scaled)) == 2
    assert vn.tree_at(lambda m: m.fn.factor, scaled, 5).fn.factor == 5
    assert identical(vn.tree_at(lambda m: m.fn, scaled, jnp.sin), model)


def test_none_in_a_field():
    """A field that is None can be replaced."""
    no_bias = vn.nn.Linear(2, 3, use_bias=False, key=jax.random.key(0))
    out = vn.tree_at(lambda m: m.bias, no_bias, "bias")
    assert out.bias == "bias" and out.weight is no_bias.weight


@pytest.mark.parametrize("value", [None, ()])
@pytest.mark.parametrize("other", ["second", "tag", "fn"])
def test_only_the_chosen_none_or_empty_tuple(value, other):
    """Python has one None and one empty tuple, but each place of them is a place."""
    node = Node(value, tag="t", fn=jnp.sin)
    node = vn.tree_at(lambda m: getattr(m, other), Node("x", "y"), value)
    node = vn.tree_at(lambda m: m.first, node, value)
    out = vn.tree_at(lambda m: m.first, node, "new")
    assert out.first == "new"
    assert getattr(out, other) == value


@pytest.mark.parametrize("value", [None, ()])
def test_none_and_empty_tuples_in_containers(value):
    """In a list or dict too, only the chosen None or empty tuple is replaced."""
    tree = {"a": value, "b": [value]}
    try:
        out = vn.tree_at(lambda t: t["a"], tree, "new")
    except TreeError as error:
        assert "is_leaf" in str(error)
    else:
        assert out == {"a": "new", "b": [value]}


def test_none_with_is_leaf():
    """With an `is_leaf` that says so, None is a leaf like any other."""
    tree = {"a": None, "b": [None]}
    out = vn.tree_at(lambda t: t["b"][0], tree, "new", is_leaf=lambda x: x is None)
    assert out == {"a": None, "b": ["new"]}


def test_is_leaf_stops_at_a_subtree():
    """With `is_leaf`, a subtree counts as a leaf and is found as such."""
    tree = [(1, 2), (1, 2)]
    out = vn.tree_at(
        lambda t: t[1], tree, replace_fn=sum, is_leaf=lambda x: type(x) is tuple
    )
    assert out == [(1, 2), 3]


def test_shared_leaves():
    """Of one object at several places, only the chosen place is replaced."""
    array = jnp.ones(2)
    node = Node(array, Node(array, 1), tag=1)
    out = vn.tree_at(lambda m: m.second.first, node, 0)
    assert out.first is array and out.second.first == 0
    out = vn.tree_at(lambda m: m.tag, node, 2)
    assert (out.tag, out.second.second) == (2, 1)
    assert vn.tree_at(lambda t: t[1], [7, 7, 7], 8) == [7, 8, 7]


def test_shared_nodes():
    """A Module at two places can be replaced at one of them."""
    shared = Scale(1.0)
    out = vn.tree_at(lambda t: t[0], [shared, shared], "new")
    assert out == ["new", shared]
    out = vn.tree_at(lambda t: t[1].factor, [shared, shared], 2.0)
    assert [x.factor for x in out] == [1.0, 2.0]


def is_linear(x):
    return isinstance(x, vn.nn.Linear)


def test_search_by_type():
    """`where` may search for nodes of a class, as the issue shows it."""
    model = {"a": linear, "b": [Node(linear), jnp.ones(2)]}

    def biases(m):
        found = jax.tree.leaves(m, is_leaf=is_linear)
        return [x.bias for x in found if is_linear(x)]

    out = vn.tree_at(biases, model, replace_fn=lambda b: b * 0)
    for changed in (out["a"], out["b"][0].first):
        assert changed.bias.tolist() == [0.0] * 3
        assert changed.weight is linear.weight
    assert out["b"][1] is model["b"][1]


def test_search_for_nodes():
    """The nodes that a search finds are replaced themselves."""

    def where(m):
        return [x for x in jax.tree.leaves(m, is_leaf=is_linear) if is_linear(x)]

    model = {"a": [linear, 1], "b": Node(linear, jnp.ones(2))}
    out = vn.tree_at(where, model, ["x", "y"])
    assert out["a"] == ["x", 1] and out["b"].first == "y"


def test_search_by_what_arrays_are():
    """`where` may ask leaves for type, shape, dtype and number of axes."""
    model = Node(jnp.ones((2, 3)), [jnp.arange(2), jnp.ones(3), "text", 1.0])

    def matrices(m):
        return [x for x in jax.tree.leaves(m) if vn.is_array(x) and x.ndim == 2]

    assert vn.tree_at(matrices, model, [0]).first == 0

    def integers(m):
        leaves = [x for x in jax.tree.leaves(m) if isinstance(x, jax.Array)]
        return [x for x in leaves if x.dtype == jnp.int32 and x.shape == (2,)]

    assert vn.tree_at(integers, model, [0]).second[0] == 0

    def rest(m):
        return [x for x in jax.tree.leaves(m) if not vn.is_inexact_array_like(x)]

    assert vn.tree_at(rest, model, [5, 6]).second[:3:2] == [5, 6]


def test_search_by_path():
    """`where` may flatten with paths and choose by them."""

    def where(m):
        found = jax.tree_util.tree_leaves_with_path(m)
        return [x for path, x in found if path[-1].name == "weight"]

    out = vn.tree_at(where, Node(linear, linear), ["x", "y"])
    assert (out.first.weight, out.second.weight) == ("x", "y")
    assert out.first.bias is out.second.bias is linear.bias


def test_an_array_in_an_if_function_field_is_found():
    """A leaf in an `if_function` field is a leaf for the search too."""
    node = Node(1.0, fn=jnp.ones(2))
    out = vn.tree_at(jax.tree.leaves, node, ["x", "y"])
    assert (out.first, out.fn) == ("x", "y")


def test_nothing_chosen():
    """An empty choice with no replacements gives an equal copy."""
    for nothing in ([], ()):
        tree = {"a": 1, "b": [2]}
        out = vn.tree_at(lambda t, n=nothing: n, tree, nothing)
        assert out == tree


def test_the_replacement_may_be_anything():
    """No check of Modules runs: masks, specs and None may stand in for arrays."""

    class Positive(vn.Module):
        x: int

        def __check_init__(self):
            assert self.x > 0

    assert vn.tree_at(lambda m: m.x, Positive(1), -1).x == -1
    assert vn.tree_at(lambda m: m.x, Positive(1), None).x is None


def test_under_jit_and_grad():
    """Traced leaves are replaced, and gradients flow into the replacement."""

    @jax.jit
    @jax.grad
    def loss(weight):
        model = vn.tree_at(lambda m: m.weight, linear, weight * 2)
        return model(jnp.ones(2)).sum()

    assert loss(linear.weight).tolist() == [[2.0, 2.0]] * 3


def test_namedtuples_and_bound_methods():
    """Other node classes are entered, and so is the instance of a bound method."""
    out = vn.tree_at(lambda t: t.right, Pair(1, 2), 3)
    assert out == Pair(1, 3) and type(out) is Pair
    method = vn.nn.Sequential([linear]).is_stateful
    out = vn.tree_at(lambda m: m.__self__.layers[0].bias, method, 0)
    assert out.__self__.layers[0].bias == 0


def test_a_place_twice():
    """One place named twice is refused, with the numbers."""
    with refuses(TreeError, "one place of the tree twice", "2 nodes, 1 distinct"):
        vn.tree_at(lambda t: (t["a"], t["a"]), {"a": 1}, (2, 3))


def test_a_place_inside_another():
    """A node and a part of it cannot both be replaced."""
    with refuses(TreeError, "tree_at"):
        vn.tree_at(lambda t: (t["a"], t["a"][0]), {"a": [1]}, (2, 3))


def test_something_that_is_no_node():
    """What is not in the tree is refused, and shown."""
    with refuses(
        TreeError, "not a node of the tree", "'abc' (str)", "return the nodes"
    ):
        vn.tree_at(lambda t: "abc", {"a": 1}, 2)
    with refuses(TreeError, "not a node of the tree"):
        vn.tree_at(lambda t: (t["a"], 5), {"a": 1}, (2, 3))


def test_a_long_value_is_shown_short():
    """The text stays short whatever `where` returns."""
    with refuses(TreeError, "...", "(list)"):
        vn.tree_at(lambda t: list(range(1000)), {"a": 1}, 2)
    with refuses(TreeError, "not a node of the tree"):
        vn.tree_at(lambda t: jnp.ones((30, 30)), {"a": 1}, 2)


def test_wrong_number_of_replacements():
    """As many replacements are needed as there are nodes."""
    with refuses(TreeError, "differ in length", "2 replacements", "got:      1"):
        vn.tree_at(lambda t: (t[0], t[1]), [1, 2], [3])


def test_one_replacement_for_several_nodes():
    """A single replacement that is no sequence is refused in the same words."""
    with refuses(TreeError, "tree_at", "2 replacements"):
        vn.tree_at(lambda t: (t[0], t[1]), [1, 2], 3)


def test_replace_and_replace_fn():
    """Exactly one of the two must be given."""
    with refuses(TreeError, "exactly one of `replace` and `replace_fn`"):
        vn.tree_at(lambda t: t[0], [1])
    with refuses(TreeError, "exactly one of `replace` and `replace_fn`"):
        vn.tree_at(lambda t: t[0], [1], 2, replace_fn=str)


def test_a_choice_by_value():
    """A `where` that chooses more or fewer nodes by value is told that it may not."""
    with refuses(TreeError, "by the values of leaves", "1 nodes with values"):
        vn.tree_at(lambda t: [x for x in t if type(x) is str], ["a", 1], ["b"])


USES_VALUES = {
    "indexes": lambda t: t["a"][0],
    "computes": lambda t: t["a"] + 1,
    "negates": lambda t: -t["a"],
    "compares": lambda t: t["b"] if t["b"] > 3 else t["a"],
    "iterates": lambda t: list(t["a"]),
}


@pytest.mark.parametrize("where", USES_VALUES.values(), ids=USES_VALUES)
def test_a_where_that_uses_values(where):
    """A `where` that computes with leaves is told what it may do."""
    with refuses(TreeError, "tree_at", "node"):
        vn.tree_at(where, {"a": jnp.ones(3), "b": 5}, 0)
