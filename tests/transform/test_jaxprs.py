"""Walking through jaxprs."""

import jax
import jax.numpy as jnp

from vernal._transform.jaxprs import equations


def test_equations_inside_of_equations():
    """Loops, branches and jitted functions are walked through."""

    def body(x, _):
        return jax.lax.cond(x > 0, jnp.sin, jax.jit(jnp.cos), x), None

    jaxpr = jax.make_jaxpr(lambda x: jnp.exp(jax.lax.scan(body, x, None, 3)[0]))(1.0)
    names = [str(e.primitive) for e in equations(jaxpr)]
    assert {"exp", "scan", "cond", "sin", "cos"} <= set(names)
    assert names.count("sin") == 1
