"""``filter_vmap``: ``jax.vmap`` for functions of arbitrary pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Counter, Node, Opaque, Scale, refuses
from vernal.errors import TransformError

opaque = Opaque()
x3 = jnp.arange(3.0)


def test_arrays_are_mapped():
    """By default JAX and NumPy arrays are mapped along axis 0, in and out."""
    f = Counted(lambda x, y: (x.shape, y.shape, x + y))
    *shapes, out = vn.filter_vmap(f)(jnp.ones((3, 2)), np.ones((3, 2), np.float32))
    assert shapes == [(2,), (2,)] and out.shape == (3, 2)
    assert f.calls == 1


def test_other_leaves_are_passed_on():
    """What is no array goes in and comes out as it is."""
    out = vn.filter_vmap(lambda tree: tree)([x3, 1, "a", None, opaque, len])
    assert out[0].tolist() == [0.0, 1.0, 2.0]
    assert out[1:4] == [1, "a", None] and out[4] is opaque and out[5] is len


def test_keywords():
    """Keyword arguments are mapped by default too."""
    out = vn.filter_vmap(lambda x, *, y, n: x + y * n)(x3, y=x3, n=2.0)
    assert out.tolist() == [0.0, 3.0, 6.0]


def test_in_axes_for_all():
    """One axis stands for all arguments."""
    x = jnp.ones((2, 3))
    assert vn.filter_vmap(lambda a, b: a + b, in_axes=1)(x, x).shape == (3, 2)
    assert vn.filter_vmap(lambda a: a, in_axes=-1)(x).shape == (3, 2)


def test_in_axes_by_position():
    """A tuple gives each argument its own axis, None leaves one unmapped."""
    f = vn.filter_vmap(lambda a, b: a + b, in_axes=(1, None))
    assert f(jnp.ones((2, 3)), jnp.ones(2)).shape == (3, 2)


def test_in_axes_by_name():
    """A dict gives some arguments an axis; the others have the default."""
    f = vn.filter_vmap(lambda a, b, c: a + b + c, in_axes={"b": None, "c": 1})
    assert f(jnp.ones((3, 2)), jnp.ones(2), jnp.ones((2, 3))).shape == (3, 2)


def test_in_axes_inside_an_argument():
    """A prefix tree of an argument gives axes to its parts."""
    spec = ({"a": 0, "b": None}, [None, vn.if_array(0)])
    f = vn.filter_vmap(lambda d, xs: (d["a"] + d["b"], xs), in_axes=spec)
    out, (same, mapped) = f({"a": x3, "b": jnp.ones(())}, [x3, [x3, "text"]])
    assert out.tolist() == [1.0, 2.0, 3.0]
    assert same.shape == (3, 3) and mapped[1] == "text"


def test_in_axes_by_a_function():
    """A function of the leaf decides for each leaf."""
    f = vn.filter_vmap(
        lambda tree: jax.tree.map(lambda x: x * 1, tree),
        in_axes=(lambda leaf: 0 if leaf.ndim == 2 else None,),
    )
    a, b = f([jnp.ones((3, 2)), jnp.ones(5)])
    assert (a.shape, b.shape) == ((3, 2), (3, 5))


def test_in_axes_of_a_model():
    """A model with some parameters stacked is mapped by a tree of its structure."""
    model = Scale(x3)
    spec = jax.tree.map(lambda _: 0, model)
    f = vn.filter_vmap(lambda m, x: m(x), in_axes=(spec, None))
    assert f(model, 2.0).tolist() == [0.0, 2.0, 4.0]


def test_the_function_is_not_mapped():
    """The arrays of a Module that is the function are the same for all examples."""
    out = vn.filter_vmap(Scale(jnp.arange(2.0)))(jnp.ones((3, 2)))
    assert out.tolist() == [[0.0, 1.0]] * 3


def test_an_ensemble():
    """Constructing under vmap stacks the parameters; calling under vmap uses them."""
    ensemble = vn.filter_vmap(lambda k: Scale(k + jnp.ones(2)))(x3)
    assert ensemble.factor.tolist() == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    call = vn.filter_vmap(lambda m, x: m(x).sum(), in_axes=(vn.if_array(0), None))
    assert call(ensemble, 2.0).tolist() == [4.0, 8.0, 12.0]


def test_stacked_construction():
    """It equals building one by one and stacking."""

    def make(x):
        return Node(Scale(x), [2 * x, "text"], "tag")

    stacked = jax.tree.map(
        lambda *xs: xs[0] if xs[0] == "text" else jnp.stack(xs), *map(make, x3)
    )
    assert bool(vn.tree_equal(stacked, vn.filter_vmap(make)(x3)))


@pytest.mark.parametrize(
    "axis, shape", [(0, (3, 2, 4)), (1, (2, 3, 4)), (-1, (2, 4, 3))]
)
def test_out_axes(axis, shape):
    """The mapped axis of the result goes where it is asked to."""
    out = vn.filter_vmap(lambda x: x, out_axes=axis)(jnp.ones((3, 2, 4)))
    assert out.shape == shape


def test_out_axes_inside_the_result():
    """A prefix tree, or a function, gives axes to parts of the result."""
    spec = {"a": 1, "b": None, "c": lambda x: 0 if vn.is_array(x) else None}
    f = vn.filter_vmap(
        lambda x: {"a": x, "b": (jnp.ones(2), "s"), "c": [x, "t"]}, out_axes=spec
    )
    out = f(jnp.ones((3, 2)))
    assert out["a"].shape == (2, 3) and out["b"][0].shape == (2,)
    assert out["b"][1] == "s" and out["c"][0].shape == (3, 2) and out["c"][1] == "t"


def test_out_axes_none_needs_equal_values():
    """A result that does differ along the axis is refused, with its path."""
    f = vn.filter_vmap(lambda x: {"a": x}, out_axes=None)
    with pytest.raises(ValueError, match="'a'"):
        f(x3)


def test_axis_name():
    """Collectives reduce over the named axis; what they give needs no axis."""
    f = vn.filter_vmap(
        lambda x: jax.lax.psum(x, "batch"), axis_name="batch", out_axes=None
    )
    assert float(f(x3)) == 3.0


def test_axis_size():
    """With a size, a function without mapped arguments is run as often."""
    out = vn.filter_vmap(lambda: jnp.ones(2), axis_size=4)()
    assert out.shape == (4, 2)
    counter = vn.filter_vmap(Counter, axis_size=2)()
    assert counter.index.init.shape == (2,)


def test_other_options_reach_jax():
    """`spmd_axis_name` is passed on."""
    out = vn.filter_vmap(lambda x: x + 1, spmd_axis_name="x")(x3)
    assert out.tolist() == [1.0, 2.0, 3.0]


def test_nothing_to_map():
    """Without mapped arguments the function is called once, if nothing is stacked."""
    assert vn.filter_vmap(lambda n: (n, "s"))(3) == (3, "s")
    out = vn.filter_vmap(lambda n: jnp.ones(n), out_axes=None)(3)
    assert out.shape == (3,)


def test_keys_are_mapped():
    """Typed keys are arrays with axes like others."""
    keys = jax.random.split(jax.random.key(0), (3, 2))
    assert vn.filter_vmap(lambda k: k, in_axes=1, out_axes=1)(keys).shape == (3, 2)
    assert vn.filter_vmap(jax.random.normal)(keys[:, 0]).shape == (3,)


def test_modules_come_back():
    """A Module in the result keeps class and metadata."""
    out = vn.filter_vmap(lambda x: Node(x, "s", tag="t"))(x3)
    assert out.first.shape == (3,) and (out.second, out.tag) == ("s", "t")


def test_under_jit_and_grad():
    """Mapped functions are compiled and differentiated, with axes of any kind."""
    for axes in ((0, None), {"y": None}, (vn.if_array(0), None)):
        f = vn.filter_vmap(lambda x, y: x * y, in_axes=axes)
        y = jnp.array(2.0)
        for jit in (jax.jit, vn.filter_jit):
            assert jit(f)(x3, y).tolist() == [0.0, 2.0, 4.0]
        grads = jax.grad(lambda x, f=f, y=y: f(x, y).sum())(x3)
        assert grads.tolist() == [2.0] * 3


def test_nested():
    """Two maps give two axes."""
    f = vn.filter_vmap(
        vn.filter_vmap(lambda x, y: x * y, in_axes=(None, 0)), in_axes=(0, None)
    )
    assert f(x3, jnp.arange(4.0)).shape == (3, 4)


def test_no_axis_to_map_over():
    """Results to be stacked, and nothing that says how often, are refused."""
    with refuses(TransformError, "no axis to map over", "axis_size=", "out_axes=None"):
        vn.filter_vmap(lambda n: jnp.ones(n))(3)


@pytest.mark.parametrize("spec", ["a", (0, 1.5), {"x": "b"}])
def test_a_spec_that_is_no_axis(spec):
    """Something else than axes, None and functions is shown."""
    with refuses(TransformError, "`in_axes` has a leaf that is no axis", "of type"):
        vn.filter_vmap(lambda x, y: x, in_axes=spec)(x3, x3)


def test_an_out_spec_that_is_no_axis():
    """The same is said of `out_axes`."""
    with refuses(
        TransformError, "`out_axes` has a leaf that is no axis", "'a' of type"
    ):
        vn.filter_vmap(lambda x: x, out_axes="a")(x3)


def test_names_that_were_not_passed():
    """A name in `in_axes` that is no positional argument of this call is named."""
    f = vn.filter_vmap(lambda x, y=1.0: x, in_axes={"y": None, "z": 0})
    with refuses(TransformError, "were not passed", "'x'", "['y', 'z']"):
        f(x3)


def test_names_of_a_constructor():
    """The arguments of a Module class are known by name too."""
    out = vn.filter_vmap(Node, in_axes={"second": None})(x3, jnp.ones(2))
    assert out.first.shape == (3,) and out.second.shape == (3, 2)


WRONG = {
    "too many": ((0, None, 0), "in_axes"),
    "too few": ((0,), "in_axes"),
    "other keys": ((0, {"a": 0}), "in_axes"),
}


@pytest.mark.parametrize("spec, word", WRONG.values(), ids=WRONG)
def test_a_spec_of_another_structure(spec, word):
    """`in_axes` that does not fit the arguments is refused in our words."""
    with refuses(TransformError, "filter_vmap", word):
        vn.filter_vmap(lambda x, y: x, in_axes=spec)(x3, {"b": x3})


def test_an_out_spec_of_another_structure():
    """So is `out_axes` that does not fit the result."""
    with refuses(TransformError, "filter_vmap", "out_axes"):
        vn.filter_vmap(lambda x: x, out_axes=(0, 0))(x3)


def test_in_axes_as_a_list():
    """As with `jax.vmap`, `in_axes` may be a list."""
    out = vn.filter_vmap(lambda x, y: x + y, in_axes=[0, None])(x3, jnp.ones(()))
    assert out.tolist() == [1.0, 2.0, 3.0]


def test_a_function_that_gives_no_axis():
    """A function in `in_axes` that returns something else is caught."""
    with refuses(TransformError, "filter_vmap", "in_axes"):
        vn.filter_vmap(lambda x: x, in_axes=lambda leaf: "a")(x3)
