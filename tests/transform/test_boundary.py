"""Where arrays leave the program: other devices, and functions of the host."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

import vernal as vn
from tests.strategies import Counted, Node, Opaque, refuses
from vernal.errors import TransformError

opaque = Opaque()
x8 = jnp.arange(8.0)


def mesh(size, name):
    devices = jax.devices()[:size]
    return jax.make_mesh((size,), (name,), (AxisType.Auto,), devices=devices)


SPREAD = NamedSharding(mesh(8, "d"), PartitionSpec("d"))
WHOLE = NamedSharding(mesh(8, "d"), PartitionSpec())
SECOND = jax.devices()[1]


def model():
    layer = vn.nn.Linear(8, 8, key=jax.random.key(0))
    return {"layer": layer, "rest": ["s", opaque, None, 1.0], "np": np.ones(8)}


def test_shard_moves_arrays():
    """All arrays go to a device, from wherever they are; other leaves stay."""
    for start in (model(), vn.filter_shard(model(), WHOLE)):
        for place in (SECOND, SingleDeviceSharding(SECOND)):
            moved = vn.filter_shard(start, place)
            assert moved["layer"].weight.devices() == {SECOND}
            assert moved["np"].devices() == {SECOND}
            assert moved["rest"] == ["s", opaque, None, 1.0]
            assert jax.tree.structure(moved) == jax.tree.structure(start)
            same = vn.tree_equal(moved["layer"], start["layer"])
            assert same is True


def test_shard_spreads_arrays():
    """A sharding spreads arrays, and one device takes them back; keys are arrays."""
    tree = {"x": x8, "keys": jax.random.split(jax.random.key(0), 8)}
    spread = vn.filter_shard(tree, SPREAD)
    assert {k: v.sharding for k, v in spread.items()} == {"x": SPREAD, "keys": SPREAD}
    back = vn.filter_shard(spread, SECOND)
    assert back["x"].devices() == {SECOND} and back["x"].tolist() == x8.tolist()


def test_shard_by_a_prefix():
    """Parts of a tree have their own places, and None leaves a part where it is."""
    start = vn.filter_shard(model(), SECOND)
    where = {"layer": SPREAD, "rest": SPREAD, "np": None}
    moved = vn.filter_shard(start, where)
    assert moved["layer"].weight.sharding == moved["layer"].bias.sharding == SPREAD
    assert moved["np"] is start["np"]
    host = np.ones(8)
    assert vn.filter_shard([host], [None])[0] is host
    leafwise = jax.tree.map(lambda y: WHOLE if vn.is_array(y) else None, start)
    moved = vn.filter_shard(start, leafwise)
    assert moved["np"].sharding == moved["layer"].bias.sharding == WHOLE


def test_shard_within_jit():
    """Within a compiled function the compiler is told, constants included."""

    @vn.filter_jit
    def f(x, s):
        constant = vn.filter_shard(np.ones(8, np.float32), SPREAD)
        return vn.filter_shard({"x": 2 * x, "s": s}, SPREAD), constant

    out, constant = f(x8, "text")
    assert out["x"].sharding == SPREAD and out["s"] == "text"
    assert constant.sharding == SPREAD
    text = str(jax.make_jaxpr(lambda x: vn.filter_shard(x, SPREAD))(x8))
    assert "sharding_constraint" in text


def test_shard_under_other_transformations():
    """It is the identity for derivatives, and mapped over an axis of its own."""
    grads = jax.grad(lambda x: (vn.filter_shard(x, SPREAD) ** 2).sum())(x8)
    assert grads.tolist() == (2 * x8).tolist()
    mapped = jax.vmap(lambda x: vn.filter_shard(x, SPREAD))(jnp.ones((3, 8)))
    assert mapped.shape == (3, 8)
    assert mapped.sharding.spec == PartitionSpec(None, "d")


def test_shard_to_a_spec():
    """Where a mesh is set, a partition spec will do."""
    with jax.set_mesh(mesh(8, "d")):
        out = jax.jit(lambda x: vn.filter_shard(2 * x, PartitionSpec("d")))(x8)
    assert out.sharding.spec == PartitionSpec("d")


def test_shard_of_what_does_not_fit():
    """No place, and no prefix, are refused; an impossible sharding is JAX's to say."""
    with refuses(TransformError, "filter_shard", "neither", "'cpu' of type str"):
        vn.filter_shard(x8, "cpu")
    with refuses(TransformError, "filter_shard", "structure"):
        vn.filter_shard([x8], [SECOND, SECOND])
    with pytest.raises(ValueError, match=r"divisible|evenly divide"):
        vn.filter_shard(jnp.ones(3), SPREAD)


STRUCT = jax.ShapeDtypeStruct((3,), jnp.float32)
x = jnp.array([3.0, 1.0, 2.0])


def test_callback_with_any_trees():
    """The function gets concrete arrays and other leaves as they are; so back."""
    announced = Node(STRUCT, {"s": "text", "n": None, "i": STRUCT}, "tag")

    def host(tree, fn, *, n):
        assert isinstance(tree["x"], jax.Array | np.ndarray)
        assert tree["o"] is opaque
        y = np.asarray(fn(tree["x"])) * n
        return Node(y, {"s": tree["s"], "n": None, "i": np.sort(y)}, "tag")

    def f(x):
        tree = {"x": x, "o": opaque, "s": "text"}
        return vn.filter_pure_callback(
            host, tree, np.sin, n=2, result_shape_dtypes=announced
        )

    for call in (f, vn.filter_jit(f)):
        out = call(x)
        np.testing.assert_allclose(out.first, 2 * np.sin(x), rtol=1e-6)
        np.testing.assert_allclose(out.second["i"], np.sort(2 * np.sin(x)), rtol=1e-6)
        assert out.second["s"] == "text" and out.tag == "tag"


def test_callback_of_a_model():
    """A method can be the function; its parameters are concrete when it runs."""
    linear = vn.nn.Linear(3, 3, key=jax.random.key(0))

    def host(model, x):
        return np.asarray(model.weight) @ np.asarray(x)

    class M(vn.Module):
        weight: object

        def host(self, x):
            return host(self, x)

    @vn.filter_jit
    def f(m, x):
        method = vn.filter_pure_callback(m.host, x, result_shape_dtypes=STRUCT)
        model = vn.filter_pure_callback(host, m, x, result_shape_dtypes=STRUCT)
        return method, model

    for out in f(M(linear.weight), x):
        np.testing.assert_allclose(out, linear.weight @ x, rtol=1e-6)


def test_callback_under_vmap():
    """How often it is called is the choice of `vmap_method`."""
    calls = {}
    for method in ("sequential", "expand_dims", "broadcast_all", "legacy_vectorized"):
        host = Counted(lambda x, s: np.sin(np.asarray(x)))
        f = lambda x, m=method, h=host: vn.filter_pure_callback(  # noqa: E731
            h, x, "text", result_shape_dtypes=STRUCT, vmap_method=m
        )
        out = jax.vmap(f)(jnp.stack([x, 2 * x]))
        np.testing.assert_allclose(out, np.sin([x, 2 * x]), rtol=1e-6)
        calls[method] = host.calls
    assert calls.pop("sequential") == 2 and set(calls.values()) == {1}
    with pytest.raises(NotImplementedError, match="vmap_method"):
        jax.vmap(lambda x: vn.filter_pure_callback(np.sin, x, result_shape_dtypes=x))(
            x[:, None]
        )


def test_callback_vectorized():
    """The old option warns, and is one of the new ones."""
    for vectorized, calls in ((True, 1), (False, 2)):
        host = Counted(lambda x: np.sin(np.asarray(x)))

        def f(x, v=vectorized, h=host):
            return vn.filter_pure_callback(
                h, x, result_shape_dtypes=STRUCT, vectorized=v
            )

        with pytest.warns(DeprecationWarning, match="vmap_method"):
            out = jax.vmap(f)(jnp.stack([x, 2 * x]))
        np.testing.assert_allclose(out, np.sin([x, 2 * x]), rtol=1e-6)
        assert host.calls == calls
    with refuses(TransformError, "filter_pure_callback", "vectorized"):
        vn.filter_pure_callback(
            np.sin,
            x,
            result_shape_dtypes=STRUCT,
            vmap_method="sequential",
            vectorized=True,
        )


def test_callback_in_scan_and_cond():
    """It runs within loops and branches, on a device that was asked for."""
    place = SingleDeviceSharding(jax.devices()[0])

    def f(x):
        return vn.filter_pure_callback(
            lambda x: np.asarray(x) + 1, x, result_shape_dtypes=STRUCT, sharding=place
        )

    assert "SingleDeviceSharding" in str(jax.make_jaxpr(f)(x))
    total, _ = jax.lax.scan(lambda c, _: (f(c), None), x, None, length=3)
    assert total.tolist() == (x + 3).tolist()
    out = jax.jit(lambda x: jax.lax.cond(x[0] > 0, f, lambda x: x, x))(x)
    assert out.tolist() == (x + 1).tolist()


def test_callback_with_a_derivative():
    """JAX cannot differentiate it; a custom derivative can say how."""

    def sin(x):
        return vn.filter_pure_callback(np.sin, x, result_shape_dtypes=STRUCT)

    with pytest.raises(ValueError, match="JVP"):
        jax.grad(lambda x: sin(x).sum())(x)
    with_rule = vn.filter_custom_jvp(sin)
    with_rule.def_jvp(lambda p, t: (with_rule(*p), jnp.cos(p[0]) * t[0]))
    grads = jax.jit(jax.grad(lambda x: with_rule(x).sum()))(x)
    np.testing.assert_allclose(grads, np.cos(x), rtol=1e-6)


WRONG = {
    "structure": (lambda x: (np.asarray(x), 1), "another structure than announced"),
    "values": (lambda x: [np.asarray(x), 2], "other values than announced"),
    "no value": (lambda x: [np.asarray(x), np.ones(2)], "other values than announced"),
    "shape": (lambda x: [np.ones(2, np.float32), 1], "shape"),
    "error": (lambda x: {}["mine"], "mine"),
}


@pytest.mark.parametrize("host, words", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_callback_that_fails(host, words, wrap):
    """Its errors, and results that were not announced, are reported while running."""

    def f(x):
        out = vn.filter_pure_callback(host, x, result_shape_dtypes=[STRUCT, 1])
        return out[0]

    with pytest.raises(Exception, match=words):
        jax.block_until_ready(wrap(f)(x))


def test_no_callback():
    """What is not callable is refused."""
    with refuses(TransformError, "filter_pure_callback", "not callable"):
        vn.filter_pure_callback(3, x, result_shape_dtypes=STRUCT)
