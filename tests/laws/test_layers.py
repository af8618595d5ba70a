"""What holds for every layer."""

import copy
import io
import pathlib
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import vernal as vn
from tests.catalogue import ROWS, Row
from tests.world import x64

CONSTANTS = ("SpectralNorm", "Sequential", "RunningNorm", "ActNorm")
every_layer = pytest.mark.parametrize("row", ROWS, ids=str)


def assert_close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """The same structure, shapes and dtypes, and values up to rounding."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), rtol, atol
        )


@every_layer
def test_only_arrays_are_leaves(row: Row) -> None:
    """Plain JAX takes the layer and its state as arguments."""
    leaves = jax.tree.leaves(row.split())
    assert all(isinstance(x, jax.Array) for x in leaves)


@every_layer
def test_jit(row: Row) -> None:
    """Plain jit and filter_jit give what the eager call gives."""
    layer, state = row.split()
    want = row.call(layer, state, row.batch())
    for jit in (jax.jit, vn.filter_jit):
        assert_close(jit(row.call)(layer, state, row.batch()), want)


@every_layer
def test_single_examples(row: Row) -> None:
    """In inference a batch is what its examples are one by one."""
    call = jax.jit(row.call)
    layer, state = row.split()
    _, state = call(layer, state, row.batch())
    layer = vn.nn.inference_mode(layer)
    xs = row.batch(seed=2)
    want, _ = call(layer, state, xs)
    states = [state] * len(xs)
    if row.per_row:
        states = [jax.tree.map(lambda a, i=i: a[i], state) for i in range(len(xs))]
    apply = jax.jit(row.apply)
    outs = [
        apply(layer, x, *([own] if row.stateful else []))
        for x, own in zip(xs, states, strict=True)
    ]
    outs = [out[0] for out in outs] if row.stateful else outs
    assert_close(jnp.stack(outs), want)


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_smooth], ids=str)
def test_gradients(row: Row) -> None:
    """Gradients by input and parameters equal finite differences in float64."""
    with x64():
        layer, state = row.split(jnp.float64)
        # Held fixed is what gradients take as constants by design, though it changes.
        has_constants = row.name.startswith(tuple(CONSTANTS))
        layer = vn.nn.inference_mode(layer, has_constants)

        def loss(layer: Any, xs: Any) -> Any:
            y, _ = row.call(layer, state, xs)
            return jnp.sum(jnp.sin(y) * jnp.cos(jnp.arange(y.size).reshape(y.shape)))

        args = (layer, row.batch(dtype=jnp.float64))
        check_grads(jax.jit(loss), args, order=1, modes=["rev"], rtol=1e-6, atol=1e-6)


@every_layer
def test_every_parameter_is_trained(row: Row) -> None:
    """The gradient has the layer's structure, and some of it is not zero."""
    layer, state = row.split()

    def loss(layer: Any) -> Any:
        y, _ = row.call(layer, state, row.batch())
        return jnp.sum(y * jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))

    grads = jax.jit(jax.grad(loss))(layer)
    assert jax.tree.structure(grads) == jax.tree.structure(layer)
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads))


@every_layer
def test_eval_shape(row: Row) -> None:
    """Construction and call can be abstract, with the shapes of the real ones."""
    xs = row.batch()
    abstract = vn.filter_eval_shape(row.split)
    shapes = vn.filter_eval_shape(row.call, *abstract, xs)
    real = row.call(*row.split(), xs)
    assert jax.tree.structure(shapes) == jax.tree.structure(real)
    for a, b in zip(jax.tree.leaves(shapes), jax.tree.leaves(real), strict=True):
        assert isinstance(a, jax.ShapeDtypeStruct)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)


@every_layer
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=str)
def test_half_precision(row: Row, dtype: Any) -> None:
    """Half in, half out, close to float32; the state keeps float32."""
    call = jax.jit(row.call)
    layer, state = row.split()
    want, _ = call(layer, state, row.batch())
    half = jax.tree.map(lambda p: p.astype(dtype), layer)
    got, new_state = call(half, state, row.batch(dtype=dtype))
    assert got.dtype == dtype
    dtypes = {x.dtype for x in jax.tree.leaves(new_state)}
    assert dtypes <= set(map(jnp.dtype, ("float32", "int32", "uint32", "bool")))
    eps = float(jnp.finfo(dtype).eps)
    difference = np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64))
    assert difference.max() <= 16 * eps * max(1.0, float(np.abs(want).max()))


@every_layer
def test_x64(row: Row) -> None:
    """In 64-bit mode a layer of float64 gives float64."""
    call = jax.jit(row.call)
    with x64():
        layer, state = row.split(jnp.float64)
        y, new_state = call(layer, state, row.batch(dtype=jnp.float64))
        assert y.dtype == jnp.float64
        for x in jax.tree.leaves(new_state):
            assert x.dtype != jnp.float32


@every_layer
def test_numpy_leaves(row: Row) -> None:
    """NumPy arrays in the place of parameters and state give the same result."""
    call = jax.jit(row.call)
    layer, state = row.split()
    want = call(layer, state, row.batch())
    layer, state = jax.tree.map(np.asarray, (layer, state))
    assert_close(call(layer, state, row.batch()), want)


@every_layer
def test_copies(row: Row) -> None:
    """Pickling, deep copying and rebuilding give an equal layer that works alike."""
    call = jax.jit(row.call)
    layer, state = row.split()
    want = call(layer, state, row.batch())
    leaves, treedef = jax.tree.flatten((layer, state))
    for pair in (
        pickle.loads(pickle.dumps((layer, state))),
        copy.deepcopy((layer, state)),
        jax.tree.unflatten(treedef, leaves),
    ):
        assert pair[0] == layer
        assert_close(call(*pair, row.batch()), want, rtol=0, atol=0)


@every_layer
def test_serialise(row: Row) -> None:
    """What is written to a file comes back, into an abstract layer."""
    layer, state = row.split()
    file = io.BytesIO()
    vn.tree_serialise_leaves(file, (layer, state))
    file.seek(0)
    like = vn.filter_eval_shape(row.split)
    assert_close(vn.tree_deserialise_leaves(file, like), (layer, state), 0, 0)


@every_layer
def test_save(row: Row, tmp_path: pathlib.Path) -> None:
    """What is saved by name comes back in every bit, into an abstract layer."""
    layer, state = row.split()
    vn.save(tmp_path / "file", (layer, state))
    like = vn.filter_eval_shape(row.split)
    assert_close(vn.load(tmp_path / "file", like), (layer, state), 0, 0)


@every_layer
def test_one_trace(row: Row) -> None:
    """Two equal layers, and a loop over the state, share one compilation."""
    traces = []

    @jax.jit
    def step(layer: Any, state: Any, xs: Any) -> Any:
        traces.append(None)
        return row.call(layer, state, xs)[1]

    for _ in range(2):
        layer, state = row.split()
        for _ in range(3):
            state = step(layer, state, row.batch())
    assert len(traces) == 1


@every_layer
def test_no_leaks(row: Row) -> None:
    """No tracer outlives its trace."""
    layer, state = row.split()
    with jax.checking_leaks():
        jax.jit(row.call)(layer, state, row.batch())


@every_layer
def test_inference_is_pure(row: Row) -> None:
    """In inference nothing is random, and the state stays as it is."""
    call = jax.jit(row.call)
    layer, state = row.split()
    layer = vn.nn.inference_mode(layer)
    y, new_state = call(layer, state, row.batch())
    new_state = state if row.per_row else new_state  # a cache goes on
    again, _ = call(layer, new_state, row.batch())
    assert_close((y, new_state), (again, state), rtol=0, atol=0)


@every_layer
def test_repr(row: Row) -> None:
    """A layer prints its class, with arrays as dtype and shape."""
    layer, _ = row.split()
    text = repr(layer)
    assert text.startswith(type(layer).__name__) and "Array(" not in text
    for name in (x for x in ("weight", "bias") if getattr(layer, x, None) is not None):
        assert f"{name}=f32[" in text
