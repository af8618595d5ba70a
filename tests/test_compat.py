"""What depends on the version of JAX is there in this one."""

import logging

import jax
import jax.numpy as jnp
import pytest

from vernal._compat import (
    CALLBACK_LOGGER,
    identity_primitive,
    is_symbolic_zero,
    run_jaxpr,
)


def test_the_logger_of_callbacks(caplog):
    """JAX reports an exception in a callback to the logger of this name."""

    def broken(x):
        raise ValueError("broken")

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    with caplog.at_level(logging.ERROR), pytest.raises(Exception, match="broken"):
        f = jax.jit(lambda x: jax.pure_callback(broken, shape, x))
        jax.block_until_ready(f(1.0))
    assert CALLBACK_LOGGER in {record.name for record in caplog.records}


def test_each_transformation_asks_its_rule():
    """The rules of a primitive are called by the transformations they are named for."""
    asked = []

    def rule(name):
        def run(*xs):
            asked.append(name)
            return list(xs)

        return run

    def jvp(primals, tangents):
        asked.append("zero" if is_symbolic_zero(tangents[0]) else "jvp")
        return list(primals), list(tangents)

    names = ("impl", "abstract", "lower", "vmap", "transpose")
    rules = {name: rule(name) for name in names} | {"jvp": jvp}
    primitive = identity_primitive("probe", rules)

    def f(x):
        return primitive.bind(x)[0]

    x = jnp.ones(2)
    for transform, want in (
        (f, ["impl"]),
        (jax.jit(f), ["abstract", "lower"]),
        (jax.vmap(f), ["vmap"]),
        (lambda x: jax.jvp(f, (x,), (x,)), ["jvp"]),
        (lambda x: jax.linear_transpose(f, x)(x), ["abstract", "transpose"]),
    ):
        asked.clear()
        transform(x)
        assert asked == want


def test_run_jaxpr():
    """A jaxpr runs on constants and arguments, and gives a flat list of results."""
    shift = jnp.array([1.0, 2.0])
    closed = jax.make_jaxpr(lambda x, y: {"b": x + shift, "a": y})(shift, 1.0)
    a, b = run_jaxpr(closed.jaxpr, [10 * shift], shift, 3.0)
    assert float(a) == 3.0 and b.tolist() == [11.0, 22.0]
