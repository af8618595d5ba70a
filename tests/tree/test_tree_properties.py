"""Laws of functions of trees, over random trees."""

import pickle

import jax
import jax.numpy as jnp
from hypothesis import given, strategies as st

import vernal as vn
from tests.strategies import (
    ARRAYS,
    Empty,
    Node,
    filter_specs,
    identical,
    leaves,
    trees,
)


@st.composite
def trees_with_specs(draw):
    tree = draw(trees)
    return tree, draw(filter_specs(tree))


def positions(tree, where=()):
    """Ways from the root to each node and leaf; None and empty nodes left out."""
    if jax.tree.leaves(tree):
        yield where
    children, treedef = vn.tree_flatten_one_level(tree)
    if not jax.tree_util.treedef_is_leaf(treedef):
        for i, child in enumerate(children):
            yield from positions(child, (*where, i))


def follow(tree, where):
    for i in where:
        tree = vn.tree_flatten_one_level(tree)[0][i]
    return tree


@st.composite
def trees_with_places(draw):
    tree = draw(trees.filter(jax.tree.leaves))
    place = draw(st.sampled_from(list(positions(tree))))
    return tree, lambda t: follow(t, place)


@given(trees)
def test_flatten_then_unflatten(tree):
    """Unflatten undoes flatten, with None, objects, static fields and functions."""
    xs, treedef = jax.tree.flatten(tree)
    out = treedef.unflatten(xs)
    assert identical(out, tree)
    assert type(out) is type(tree)


@given(trees)
def test_unflatten_then_flatten(tree):
    """Flatten undoes unflatten, whatever the leaves are."""
    xs, treedef = jax.tree.flatten(tree)
    marks = [object() for _ in xs]
    found, again = jax.tree.flatten(treedef.unflatten(marks))
    assert again == treedef
    assert len(found) == len(marks) and all(map(lambda a, b: a is b, found, marks))


@given(trees)
def test_paths_agree_with_leaves(tree):
    """Flattening with paths gives the same leaves and treedef."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
    xs, same = jax.tree.flatten(tree)
    assert treedef == same
    assert all(map(lambda pair, x: pair[1] is x, pairs, xs))
    assert len({path for path, _ in pairs}) == len(xs)


@given(trees)
def test_structures_are_values(tree):
    """Equal trees have equal and equally hashed treedefs."""
    copy = jax.tree.map(lambda x: x, tree)
    assert jax.tree.structure(copy) == jax.tree.structure(tree)
    assert hash(jax.tree.structure(copy)) == hash(jax.tree.structure(tree))


@given(trees_with_specs())
def test_combine_undoes_partition(case):
    """What is split by any specification is put together by `combine`."""
    tree, spec = case
    kept, rest = vn.partition(tree, spec)
    assert identical(vn.combine(kept, rest), tree)
    assert identical(vn.combine(rest, kept), tree)


@given(trees_with_specs())
def test_partition_is_two_filters(case):
    """`partition` is `filter` and its inverse; each leaf is in exactly one."""
    tree, spec = case
    kept, rest = vn.partition(tree, spec)
    assert identical(kept, vn.filter(tree, spec))
    assert identical(rest, vn.filter(tree, spec, inverse=True))
    count = len(jax.tree.leaves(kept)) + len(jax.tree.leaves(rest))
    assert count == len(jax.tree.leaves(tree))


@given(trees_with_specs())
def test_a_spec_is_its_mask(case):
    """A specification selects what the booleans select that it comes down to."""
    tree, spec = case

    def ask(s, subtree):
        return jax.tree.map(lambda x: s if isinstance(s, bool) else bool(s(x)), subtree)

    mask = jax.tree.map(ask, spec, tree)
    assert all(type(x) is bool for x in jax.tree.leaves(mask))
    assert identical(vn.filter(tree, mask), vn.filter(tree, spec))


@given(trees_with_places())
def test_setting_what_is_there(case):
    """Lens law 1: replacing a node by itself changes nothing."""
    tree, where = case
    out = vn.tree_at(where, tree, where(tree))
    assert identical(out, tree)


@given(trees_with_places(), leaves | trees.filter(jax.tree.leaves))
def test_getting_what_was_set(case, value):
    """Lens law 2: what was put there is found there."""
    tree, where = case
    assert identical(where(vn.tree_at(where, tree, value)), value)


@given(trees_with_places(), leaves, leaves)
def test_setting_twice(case, first, second):
    """Lens law 3: only the last of two replacements counts."""
    tree, where = case
    twice = vn.tree_at(where, vn.tree_at(where, tree, first), second)
    assert identical(twice, vn.tree_at(where, tree, second))


@given(trees_with_places())
def test_replace_fn_is_replace(case):
    """`replace_fn` sees the very node, and puts its result there."""
    tree, where = case
    seen = []
    out = vn.tree_at(where, tree, replace_fn=lambda x: seen.append(x) or "new")
    assert identical(out, vn.tree_at(where, tree, "new"))
    assert len(seen) == 1 and identical(seen[0], where(tree))


@given(trees)
def test_a_tree_equals_its_copy(tree):
    """A copy is equal; with one leaf more it is not."""
    copy = jax.tree.map(lambda x: x, tree)
    assert bool(vn.tree_equal(tree, copy, typematch=True))
    assert vn.tree_equal([tree], [copy, 1]) is False


@given(trees)
def test_printing_never_fails(tree):
    """Any tree can be printed, in any width."""
    assert vn.tree_pformat(tree)
    assert vn.tree_pformat(tree, width=10, short_arrays=False)


@given(st.sampled_from(ARRAYS), st.sampled_from(ARRAYS), st.sampled_from(["a", 1, ()]))
def test_modules_survive_pickling(first, second, tag):
    """A pickled Module comes back equal, of the same structure."""
    node = Node([first, Empty()], {"b": second}, tag, jnp.sin)
    node = vn.tree_at(lambda m: m.fn, node, None)  # JAX's functions are not picklable
    back = pickle.loads(pickle.dumps(node))
    assert jax.tree.structure(back) == jax.tree.structure(node)
    assert bool(vn.tree_equal(back, node, typematch=True))
