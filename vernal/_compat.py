"""The only place that knows JAX beyond its documented API, or asks which JAX this is.

Each entry says why it is here, for which versions, and when it can go.
"""

from typing import Any

import jax.extend.core


def run_jaxpr(jaxpr: Any, consts: list[Any], *args: Any) -> list[Any]:
    """Runs a jaxpr on its constants and flat arguments.

    ``jax.make_jaxpr`` returns jaxprs, and nothing in ``jax`` itself takes them back.
    All versions; can go when jaxprs are callable.
    """
    closed = jax.extend.core.ClosedJaxpr(jaxpr, consts)
    return jax.extend.core.jaxpr_as_fun(closed)(*args)
