"""``filter_checkpoint``: less memory in the backward pass, for more computing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counter, Node, Opaque, Scale, refuses
from vernal.errors import TransformError

opaque = Opaque()
x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)


def close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def deep(x, weight, *, power=2):
    for _ in range(3):
        x = jnp.sin(x @ weight) ** power
    return x


def test_any_arguments_and_results():
    """Arguments and results may hold anything, by position or name."""

    @vn.filter_checkpoint
    def f(tree, fn, *, n):
        return Node(fn(tree["x"]) * n, [tree["s"], opaque, None], tree["s"])

    for call in (f, vn.filter_jit(f)):
        out = call({"x": x, "s": "text"}, jnp.sin, n=2)
        close(out.first, 2 * jnp.sin(x))
        assert out.second == ["text", opaque, None] and out.tag == "text"


def saved(f, *args):
    """How many numbers the forward pass keeps for the backward pass."""
    pullback = jax.eval_shape(lambda *args: jax.vjp(f, *args)[1], *args)
    return sum(leaf.size for leaf in jax.tree.leaves(pullback))


def test_derivatives_are_the_same():
    """Values and gradients are those of the function, as with `jax.checkpoint`."""
    weight = jnp.cos(jnp.arange(9.0)).reshape(3, 3)
    want = jax.value_and_grad(lambda x: deep(x, weight).sum())(x)
    for lib in (vn, eqx):
        f = lib.filter_checkpoint(deep)
        close(jax.value_and_grad(lambda x, f=f: f(x, weight).sum())(x), want)
        close(jax.jvp(lambda x, f=f: f(x, weight), (x,), (x,))[0], deep(x, weight))


def test_less_is_saved():
    """Between the passes only the arguments are kept, or what the policy says."""
    weight = jnp.ones((3, 3))
    everything = jax.checkpoint_policies.everything_saveable
    dots = jax.checkpoint_policies.dots_saveable
    plain = saved(deep, x, weight)
    least = saved(vn.filter_checkpoint(deep), x, weight)
    some = saved(vn.filter_checkpoint(deep, policy=dots), x, weight)
    all_of_it = saved(vn.filter_checkpoint(deep, policy=everything), x, weight)
    assert least == x.size + weight.size
    assert least < some < all_of_it and least < plain
    theirs = saved(jax.checkpoint(deep, policy=dots), x, weight)
    assert some == theirs


def test_prevent_cse_reaches_jax():
    """The option is that of `jax.checkpoint`."""
    for flag in (True, False):
        f = vn.filter_checkpoint(jnp.sin, prevent_cse=flag)
        text = str(jax.make_jaxpr(jax.grad(lambda x, f=f: f(x).sum()))(x))
        assert f"prevent_cse={flag}" in text


def test_decorator_with_and_without_arguments():
    """Both forms keep name and docstring."""

    @vn.filter_checkpoint
    def f(x):
        """Says something."""
        return x

    @vn.filter_checkpoint(prevent_cse=False)
    def g(x):
        """Says something else."""
        return x

    assert (f.__name__, f.__doc__) == ("f", "Says something.")
    assert (g.__name__, g.__doc__) == ("g", "Says something else.")
    close(g(x), x)


class Block(vn.Module):
    weight: object
    counter: Counter

    @vn.filter_checkpoint
    def __call__(self, x, state):
        y, state = self.counter(jnp.tanh(x @ self.weight), state)
        return y, state

    @vn.filter_checkpoint(policy=jax.checkpoint_policies.nothing_saveable)
    def plain(self, x):
        return jnp.tanh(x @ self.weight)


def test_methods_and_modules():
    """Methods are decorated in the class; Modules and bound methods wrapped later."""
    block = Block(jnp.ones((3, 3)), None)
    want = jax.grad(lambda w: jnp.tanh(x @ w).sum())(block.weight)
    close(vn.filter_grad(lambda b: b.plain(x).sum())(block).weight, want)
    again = vn.filter_grad(lambda b: vn.filter_checkpoint(b.plain)(x).sum())(block)
    close(again.weight, want)
    scale = Scale(jnp.array(3.0))
    grads = vn.filter_grad(lambda m: vn.filter_checkpoint(m)(x).sum())(scale)
    close(grads.factor, x.sum())


def make_block():
    return Block(jnp.ones((3, 3)), Counter(0.0))


def test_state_is_updated_once():
    """A stateful block counts one call for one gradient, eagerly and compiled."""
    model, state = vn.nn.make_with_state(make_block)()

    def loss(model, state):
        y, state = model(x, state)
        y, state = model(y, state)
        return y.sum(), state

    for grad in (vn.filter_grad(loss, has_aux=True), jax.grad(loss, has_aux=True)):
        for run in (grad, vn.filter_jit(grad)):
            grads, new = run(model, jax.tree.map(jnp.copy, state))
            assert float(new.get(model.counter.index)) == 2.0
            assert grads.weight.shape == (3, 3)


def test_batch_norm_statistics():
    """Running statistics after a gradient are those without checkpointing."""
    norm, state = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")

    def step(call):
        def loss(norm, state, xs):
            axes = {"in_axes": (0, None), "out_axes": (0, None), "axis_name": "batch"}
            ys, state = jax.vmap(call(norm), **axes)(xs, state)
            return (ys**3).sum(), state

        copy = jax.tree.map(jnp.copy, state)
        return vn.filter_jit(vn.filter_grad(loss, has_aux=True))(norm, copy, x)

    (grads, new), (want, old) = step(vn.filter_checkpoint), step(lambda norm: norm)
    close(jax.tree.leaves(new), jax.tree.leaves(old))
    close(grads.weight, want.weight)


def test_under_transformations():
    """It is mapped, scanned, and differentiated twice."""
    f = vn.filter_checkpoint(lambda x, s: jnp.sin(x) if s == "sin" else x)
    grad = jax.grad(lambda x: f(x, "sin"))
    row = x[0]
    close(jax.vmap(grad)(row), jnp.cos(row))
    close(jax.vmap(jax.grad(grad))(row), -jnp.sin(row))
    body = lambda c, y: (f(c + y, "sin"), None)  # noqa: E731
    total = jax.grad(lambda c: jax.lax.scan(body, c, row)[0])(jnp.array(0.5))
    plain = lambda c, y: (jnp.sin(c + y), None)  # noqa: E731
    close(total, jax.grad(lambda c: jax.lax.scan(plain, c, row)[0])(jnp.array(0.5)))


def test_what_is_refused():
    """No function, and no policy."""
    with refuses(TransformError, "filter_checkpoint", "not callable"):
        vn.filter_checkpoint(3)
    with refuses(TransformError, "filter_checkpoint: `policy`", "jax.checkpoint_poli"):
        vn.filter_checkpoint(policy="dots")


def test_errors_of_the_function():
    """What the function raises comes through as it is."""

    def f(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        jax.grad(vn.filter_checkpoint(f))(1.0)
