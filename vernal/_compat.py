"""All that depends on the version of JAX, or is not part of its public interface.

Each entry says why it is here, for which versions, and when it can go.
"""

from collections.abc import Callable
from typing import Any

from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir, partial_eval

# The logger to which JAX reports an exception in a callback before it raises it again.
# Needed to keep a failing runtime check from being printed twice; JAX 0.7.2 to 0.10.
# It can go when JAX raises without logging.
CALLBACK_LOGGER = "jax._src.callback"

# A primitive of our own, with a rule for each transformation. Needed to tell which
# transformations a value passes through, which no public decorator sees; JAX 0.7.2 to
# 0.10. It can go when `jax.extend` offers registration of rules.


def identity_primitive(name: str, rules: dict[str, Callable[..., Any]]) -> Primitive:
    """A primitive that returns its inputs, and asks ``rules`` what to do on the way.

    Each rule takes the inputs and the parameters, and returns a list of as many
    outputs: ``impl``, ``abstract``, ``lower``, ``vmap``, ``transpose``; but ``jvp`` has
    a list of inputs and one of tangents, of which some may be symbolic zeros.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(rules["impl"])
    primitive.def_abstract_eval(rules["abstract"])
    ad.primitive_jvps[primitive] = rules["jvp"]
    ad.primitive_transposes[primitive] = lambda cotangents, *_, **parameters: rules[
        "transpose"
    ](*cotangents, **parameters)
    batching.primitive_batchers[primitive] = lambda inputs, axes, **parameters: (
        rules["vmap"](*inputs, **parameters),
        axes,
    )
    lowering = mlir.lower_fun(rules["lower"], multiple_results=True)
    mlir.register_lowering(primitive, lowering)
    return primitive


def is_symbolic_zero(tangent: Any) -> bool:
    """Whether a tangent or cotangent in a rule of a primitive is known to be zero."""
    return isinstance(tangent, ad.Zero)


# `jax.make_jaxpr` returns jaxprs, and nothing in `jax` itself takes them back; JAX
# 0.7.2 to 0.10. It can go when jaxprs are callable.


def run_jaxpr(jaxpr: Any, consts: list[Any], *args: Any) -> list[Any]:
    """Runs a jaxpr on its constants and flat arguments."""
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*args)


# What the compiler leaves out, as no result needs it, is told by no public function;
# JAX 0.7.2 to 0.10. It can go when jaxprs have a public dead-code elimination.


def dead_code_eliminated(jaxpr: Any) -> Any:
    """The jaxpr without the equations that none of its outputs depends on."""
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


# `jax.jit` does not say when it compiles; its functions count what they have cached.
# Needed to notice that a function was compiled again; JAX 0.7.2 to 0.10. It can go when
# jitted functions have a public count.


def compilations(jitted: Any) -> int | None:
    """How many compilations a jitted function holds; None if it is no such function."""
    count = getattr(jitted, "_cache_size", None)
    return None if count is None else count()
