"""Which transformations are announced."""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from vernal.debug import announce_transform


def lines_of(transform, intermediates=False):
    """What is announced when a transformed function is called."""
    lines: list[str] = []

    def f(x):
        return 2 * announce_transform(x, None, intermediates, lines.append)

    transform(f)(jnp.ones(3))
    return lines


CASES = {
    "nothing": (lambda f: f, ["impl"]),
    "vmap": (jax.vmap, ["vmap:impl"]),
    "jit": (jax.jit, ["abstract", "mlir"]),
    "jit of vmap": (lambda f: jax.jit(jax.vmap(f)), ["vmap:abstract", "vmap:mlir"]),
    "vmap of vmap": (
        lambda f: lambda x: jax.vmap(jax.vmap(f))(x[None]),
        ["vmap:vmap:impl"],
    ),
    "jvp": (lambda f: lambda x: jax.jvp(f, (x,), (x,)), ["jvp_p:impl", "jvp_t:impl"]),
}


@pytest.mark.parametrize("name", CASES)
def test_chains(name):
    """A line tells the transformations in order, and how it ends."""
    transform, want = CASES[name]
    assert lines_of(transform) == want


def test_grad():
    """A gradient passes primal, tangent and transpose."""
    found = lines_of(lambda f: jax.grad(lambda x: f(x).sum()))
    assert "jvp_p:impl" in found and "jvp_t:transpose:impl" in found


def test_intermediates():
    """On demand the chains that do not end are announced as well."""
    assert lines_of(jax.vmap, intermediates=True) == ["vmap", "vmap:impl"]


def test_it_is_the_identity(capsys):
    """Any pytree comes back as it is; lines are printed, with the name in front."""
    tree = {"a": jnp.ones(2), "s": "text"}
    out = announce_transform(tree, "here")
    assert vn.tree_equal(out, tree)
    assert capsys.readouterr().out == "(here) impl\n"


def test_gradients_pass():
    """The values and gradients are those without it, also for unperturbed arrays."""

    def f(x, i):
        a, _ = announce_transform((x, i), announce=lambda _: None)
        return jnp.sum(jnp.sin(a))

    x = jnp.arange(3.0)
    for g in (jax.grad(f), jax.jit(jax.grad(f)), jax.jacfwd(f)):
        assert jnp.allclose(g(x, jnp.arange(2)), jnp.cos(x))
