"""What vernal uses of JAX beyond its documented API is there, and does its work."""

import jax
import jax.numpy as jnp

from vernal._compat import run_jaxpr


def test_run_jaxpr():
    """A jaxpr runs on constants and arguments, and gives a flat list of results."""
    shift = jnp.array([1.0, 2.0])
    closed = jax.make_jaxpr(lambda x, y: {"b": x + shift, "a": y})(shift, 1.0)
    a, b = run_jaxpr(closed.jaxpr, [10 * shift], shift, 3.0)
    assert float(a) == 3.0 and b.tolist() == [11.0, 22.0]
