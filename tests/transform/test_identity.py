"""Every transformation takes and returns any pytree: laws of the identity function."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

import vernal as vn
from tests.strategies import trees

small = settings(max_examples=15)


def same(x, y):
    """Whether structure and leaves are equal; arrays may have become JAX arrays."""
    xs, x_treedef = jax.tree.flatten(x)
    ys, y_treedef = jax.tree.flatten(y)
    return x_treedef == y_treedef and all(map(same_leaf, xs, ys))


def same_leaf(x, y):
    if not vn.is_array(x):
        return x is y
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    return np.array_equal(np.asarray(x), np.asarray(y))


def identity(tree):
    return tree


def numbers(tree):
    """A direction: the floating arrays themselves, of JAX's own dtypes."""
    floats = vn.filter(tree, vn.is_inexact_array)
    return jax.tree.map(jnp.asarray, floats)


@small
@given(trees)
def test_derivatives(tree):
    """What goes in as a vector comes out, from either side; None stays None."""
    tree = jax.tree.map(lambda x: jnp.asarray(x) if vn.is_array(x) else x, tree)
    vectors = numbers(tree)
    out, moved = vn.filter_jvp(identity, (tree,), (vectors,))
    assert same(out, tree) and same(moved, vectors)
    out, pullback = vn.filter_vjp(identity, tree)
    assert same(out, tree) and same(pullback(vectors), (vectors,))


@small
@given(trees)
def test_wrappers(tree):
    """Recomputing, converting and custom rules leave any tree as it is."""
    assert same(vn.filter_checkpoint(identity)(tree), tree)
    assert same(vn.filter_closure_convert(identity, tree)(tree), tree)
    assert same(vn.filter_closure_convert(lambda: tree)(), tree)
    f, g = vn.filter_custom_jvp(identity), vn.filter_custom_vjp(identity)
    f.def_jvp(lambda primals, tangents: (*primals, *tangents))
    g.def_fwd(lambda perturbed, tree: (tree, perturbed))
    g.def_bwd(lambda residuals, grad, perturbed, tree: grad)
    assert same(f(tree), tree) and same(g(tree), tree)
    tree = jax.tree.map(lambda x: jnp.asarray(x) if vn.is_array(x) else x, tree)
    vectors = numbers(tree)
    assert same(vn.filter_jvp(f, (tree,), (vectors,))[0], tree)
    assert same(vn.filter_vjp(g, tree)[1](vectors), (vectors,))


@small
@given(trees)
def test_boundaries(tree):
    """Moving a tree, and sending it through the host, leave it as it is."""
    assert same(vn.filter_shard(tree, jax.devices()[1]), tree)

    def is_key(x):
        return vn.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)

    tree = jax.tree.map(lambda x: None if is_key(x) else x, tree)
    structs = vn.filter_eval_shape(lambda: tree)
    out = vn.filter_pure_callback(identity, tree, result_shape_dtypes=structs)
    assert same(out, tree)
