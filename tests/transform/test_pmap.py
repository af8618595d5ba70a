"""``filter_pmap``: ``jax.pmap`` for functions of arbitrary pytrees."""

import contextlib
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, Node, Opaque, Scale, refuses
from vernal.errors import TransformError

opaque = Opaque()
x8 = jnp.arange(8.0)
x82 = jnp.arange(16.0).reshape(8, 2)


def test_arrays_are_mapped():
    """By default arrays are mapped along axis 0, one index on each device."""
    f = Counted(lambda x, y, *, z: (x.shape, x + y + z))
    run = vn.filter_pmap(f)
    for _ in range(2):
        shape, out = run(x82, np.ones((8, 2), np.float32), z=x82)
        assert shape == (2,) and out.tolist() == (2 * x82 + 1).tolist()
        assert len(out.devices()) == 8
    assert f.calls == 1


def test_other_leaves_are_static():
    """What is no array goes through as it is, and is compiled in."""
    f = Counted(lambda tree: Node(tree["x"] * tree["n"], [tree["s"], None, opaque]))
    run = vn.filter_pmap(f)
    for n in (2.0, 3.0, 2.0):
        out = run({"x": x8, "n": n, "s": "text"})
        assert out.first.tolist() == (n * x8).tolist()
        assert out.second == ["text", None, opaque]
    assert f.calls == 2


AXES = {
    "for all": (1, (x82.T, x82.T), 0),
    "by position": ((None, 1), (x82[0], x82.T), 0),
    "from the end": ((-1, -2), (x82.T, x82), 0),
    "by name": ({"b": None}, (x82, x82[0]), 1),
    "by a function": ((lambda leaf: leaf.ndim - 2, 0), (x82, x82), -1),
    "in a tree": ([vn.if_array(1), {"c": 0}], (x82.T, {"c": x82}), 1),
}


@pytest.mark.parametrize("in_axes, args, out_axes", AXES.values(), ids=AXES)
def test_axes(in_axes, args, out_axes):
    """Axes mean what they mean for `filter_vmap`, in and out."""

    def f(a, b):
        return {"sum": a + (b["c"] if isinstance(b, dict) else b)}

    run, want = (
        transform(f, in_axes=in_axes, out_axes=out_axes)
        for transform in (vn.filter_pmap, vn.filter_vmap)
    )
    got, want = run(*args), want(*args)
    assert got["sum"].shape == want["sum"].shape
    np.testing.assert_array_equal(got["sum"], want["sum"])


def test_it_agrees_with_the_peer():
    """Results and structure are the peer's."""
    f = lambda m, x, s: (m(x), s, {"x": x.sum()})  # noqa: E731
    spec = {"in_axes": (None, 0, None), "out_axes": (0, None, vn.if_array(0))}
    model = Scale(jnp.array([2.0, 3.0]))
    ours = vn.filter_pmap(f, **spec)(model, x82, "s")
    theirs = eqx.filter_pmap(f, **spec)(model, x82, "s")
    assert vn.tree_equal(ours, theirs) is True


def test_axes_are_part_of_the_program():
    """The same shapes along another axis are compiled anew."""
    x = jnp.arange(64.0).reshape(8, 8)
    axis = 0
    run = vn.filter_pmap(lambda x: x, in_axes=(lambda leaf: axis,))
    assert run(x).tolist() == x.tolist()
    axis = 1
    assert run(x).tolist() == x.T.tolist()


def test_collectives_and_unmapped_results():
    """Over a named axis devices are summed; what does not differ needs no axis."""

    @vn.filter_pmap(axis_name="i", out_axes=(0, None))
    def f(x):
        return x - jax.lax.pmean(x, "i"), {"sum": jax.lax.psum(x, "i"), "s": "text"}

    centered, rest = f(x8)
    assert centered.tolist() == (x8 - 3.5).tolist()
    assert float(rest["sum"]) == 28.0 and rest["s"] == "text"


def test_axis_size():
    """Where nothing is mapped the size says how often."""
    run = vn.filter_pmap(
        lambda x: x + jax.lax.axis_index("i"), axis_size=4, axis_name="i", in_axes=None
    )
    assert run(jnp.array(1)).tolist() == [1, 2, 3, 4]
    assert vn.filter_pmap(lambda: jnp.ones(2), axis_size=3)().shape == (3, 2)


def test_the_function_is_not_mapped():
    """The arrays of a Module or method are the same on all devices, and traced."""
    run = vn.filter_pmap(Scale(jnp.arange(2.0)))
    assert run(x82).tolist() == (x82 * jnp.array([[0.0, 1.0]] * 8)).tolist()

    class M(vn.Module):
        w: object

        @vn.filter_pmap(in_axes=(None, 0))
        def call(self, x):
            """Says something."""
            return self.w * x

    assert M(jnp.array(3.0)).call(x8).tolist() == (3 * x8).tolist()
    assert (M.call.__name__, M.call.__doc__) == ("call", "Says something.")


def test_a_stateful_model():
    """State that is the same on all devices needs no axis."""
    model, state = vn.nn.make_with_state(Counter)(0.0)
    run = vn.filter_pmap(
        lambda x, s: model(x, s), in_axes=(0, None), out_axes=(0, None)
    )
    for _ in range(2):
        y, state = run(x8, state)
    assert y.tolist() == (x8 + 1).tolist()
    assert float(state.get(model.index)) == 2.0


@pytest.mark.filterwarnings("ignore:The function jit")
def test_under_transformations():
    """It is compiled, differentiated and mapped like other functions."""
    run = vn.filter_pmap(lambda x, s: jnp.sin(x) if s == "sin" else x)
    f = lambda x: run(x, "sin").sum()  # noqa: E731
    want = np.cos(x8)
    np.testing.assert_allclose(jax.grad(f)(x8), want, rtol=1e-6)
    np.testing.assert_allclose(vn.filter_jit(jax.grad(f))(x8), want, rtol=1e-6)
    both = jax.vmap(lambda x: run(x, "sin"))(jnp.stack([x8, 2 * x8]))
    np.testing.assert_allclose(both, np.sin([x8, 2 * x8]), rtol=1e-6)


def spread(x):
    return vn.filter_pmap(lambda x: x)(x)


@contextlib.contextmanager
def no_filter_is_left():
    before = list(warnings.filters)
    yield
    assert warnings.filters == before


def test_donation():
    """Buffers are given away if asked for, and only "warn" speaks of unused ones."""
    for donate in ("none", "all", "warn"):
        x = spread(x8)
        vn.filter_pmap(lambda x: x + 1, donate=donate)(x)
        assert x.is_deleted() == (donate != "none")
    shrink = lambda x: x[:1].sum()  # noqa: E731
    with no_filter_is_left(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        vn.filter_pmap(shrink, donate="all")(spread(x82))
        assert caught == []
        vn.filter_pmap(shrink, donate="warn")(spread(x82))
    assert "donated buffers" in str(caught[0].message)


def test_options_reach_jax():
    """`devices` says which devices take part."""
    some = jax.devices()[2:4]
    out = vn.filter_pmap(lambda x: x, devices=some)(jnp.ones(2))
    assert out.devices() == set(some)


def test_what_is_refused_at_once():
    """Options without a meaning, unknown donation, and what is no function."""
    with refuses(TransformError, "filter_pmap", "donate_argnums", "all"):
        vn.filter_pmap(len, donate_argnums=0)
    with refuses(TransformError, "filter_pmap", "static_broadcasted_argnums"):
        vn.filter_pmap(static_broadcasted_argnums=0)
    with refuses(TransformError, "filter_pmap", "`donate`", "'some'"):
        vn.filter_pmap(len, donate="some")
    with refuses(TransformError, "filter_pmap", "not callable"):
        vn.filter_pmap(3)


REFUSED = {
    "no axis": ({}, (1,), ["no axis to map over", "axis_size="]),
    "axis of no array": ({"in_axes": 0}, (x8, 1.0), ["axis 0 of 1.0 of type float"]),
    "no such axis": ({"in_axes": 2}, (x82,), ["does not have", "axis 2", "(8, 2)"]),
    "sizes": ({}, (x8, x8[:4]), ["different sizes", "4, 8"]),
    "other size": ({"axis_size": 4}, (x8,), ["different sizes", "4, 8"]),
    "no spec": ({"in_axes": "a"}, (x8,), ["`in_axes` has a leaf that is no axis"]),
    "structure": ({"in_axes": (0, 0)}, (x8,), ["`in_axes`", "structure"]),
    "no out spec": ({"out_axes": "a"}, (x8,), ["`out_axes` has a leaf"]),
    "name": ({"in_axes": {"z": 0}}, (x8,), ["were not passed", "['z']"]),
    "unhashable": ({}, (x8, {1}), ["neither an array nor hashable", "set"]),
}


@pytest.mark.parametrize("spec, args, words", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_in_a_call(spec, args, words):
    """Axes and arguments that do not fit are refused in our words."""
    with refuses(TransformError, "filter_pmap", *words):
        vn.filter_pmap(lambda x, y=None: x, **spec)(*args)
