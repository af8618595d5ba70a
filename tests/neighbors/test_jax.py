"""JAX's own tools: key paths, and programs exported to run elsewhere."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import export

import vernal as vn


def model_and_state():
    def make(key):
        return vn.nn.Sequential(
            [vn.nn.Linear(3, 4, key=key), vn.nn.BatchNorm(4, "batch"), jnp.tanh]
        )

    return vn.nn.make_with_state(make)(jr.key(0))


def test_paths() -> None:
    """Each leaf has a path that reads as the expression for it."""
    model, state = model_and_state()
    paths = jax.tree_util.tree_leaves_with_path(model)
    for path, leaf in paths:
        assert eval(f"model{jax.tree_util.keystr(path)}") is leaf
    names = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(state)
    ]
    assert any("batch_state_index" in name for name in names)


def test_export_of_a_trained_model() -> None:
    """A program that holds model and state is stored, loaded, and gives the same."""
    model, state = model_and_state()
    inference = vn.Partial(vn.nn.inference_mode(model), state=state)
    run = jax.jit(lambda xs: jax.vmap(inference)(xs)[0])
    xs = jr.normal(jr.key(1), (5, 3))
    data = export.export(run)(jax.ShapeDtypeStruct(xs.shape, xs.dtype)).serialize()
    assert jnp.allclose(export.deserialize(data).call(xs), run(xs))


def test_export_with_any_batch_size() -> None:
    """The batch size may be left open."""
    model, state = model_and_state()
    inference = vn.Partial(vn.nn.inference_mode(model), state=state)
    run = jax.jit(lambda xs: jax.vmap(inference)(xs)[0])
    (size,) = export.symbolic_shape("b")
    program = export.export(run)(jax.ShapeDtypeStruct((size, 3), jnp.float32))
    for n in (1, 7):
        assert program.call(jnp.ones((n, 3))).shape == (n, 4)


def test_export_with_the_model_as_argument() -> None:
    """Parameters and state can be passed to the exported program."""
    model, state = model_and_state()
    model = vn.nn.inference_mode(model)
    run = jax.jit(lambda m, s, x: m(x, s)[0])
    program = export.export(run)(model, state, jnp.ones(3))
    other = jax.tree.map(lambda p: 2 * p, model)
    got = program.call(other, state, jnp.ones(3))
    assert jnp.allclose(got, run(other, state, jnp.ones(3)))
