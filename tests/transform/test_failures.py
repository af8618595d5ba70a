"""From the runtime's error back to the check's own."""

import jax
import jax.numpy as jnp
import pytest

from vernal._transform import failures
from vernal._transform.failures import CHECK, Failure, has_checks, reveal_failure
from vernal.errors import CheckError


def test_the_error_is_found_in_any_text():
    """A text that has the failure's own somewhere in it raises the check's error."""
    failure = Failure(CheckError("x is bad"))
    with pytest.raises(CheckError) as info:
        reveal_failure(RuntimeError(f"INTERNAL: pages\n{failure}\nof text"), "step")
    assert str(info.value) == "x is bad\n  compiled in: step"


def test_other_errors_are_left_alone():
    """No mark, or a mark of a failure that was shown before: nothing happens."""
    reveal_failure(RuntimeError("something else"), "step")
    failure = Failure(CheckError("x is bad"))
    with pytest.raises(CheckError):
        reveal_failure(failure, "step")
    reveal_failure(failure, "step")


def test_old_failures_are_forgotten():
    """Failures that nobody asks for do not fill the memory."""
    for _ in range(300):
        Failure(CheckError("x is bad"))
    assert len(failures._failures) <= 64


def marked(x):
    return x + 1


marked.__name__ = CHECK


def wrap_scan(f):
    return lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, length=2)[0]


def with_jvp(f):
    out = jax.custom_jvp(lambda x: f(x))
    out.defjvp(lambda xs, ts: (f(*xs), ts[0]))
    return out


def with_vjp(f):
    out = jax.custom_vjp(lambda x: f(x))
    out.defvjp(lambda x: (f(x), None), lambda _, t: (t,))
    return out


WRAPS = {
    "nothing": lambda f: f,
    "jit": jax.jit,
    "scan": wrap_scan,
    "cond": lambda f: lambda x: jax.lax.cond(x > 0, f, lambda y: y, x),
    "while": lambda f: lambda x: jax.lax.while_loop(lambda y: y < 0, f, x),
    "checkpoint": jax.checkpoint,
    "custom_jvp": with_jvp,
    "custom_vjp": with_vjp,
    "vmap of scan": lambda f: lambda x: jax.vmap(wrap_scan(f))(x[None])[0],
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_checks_are_found_in_any_depth(wrap):
    """In all kinds of inner programs; and a program without one has none."""
    for function, found in ((jax.jit(marked), True), (jnp.sin, False)):
        inner = jax.jit(WRAPS[wrap](WRAPS[wrap](function)))
        assert has_checks(inner.trace(jnp.ones(())).jaxpr) == found
