"""Counting traces, and the reason of one too many."""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal.debug import assert_max_traces, get_num_traces
from vernal.errors import TraceCountError, TransformError


def make(jit, max_traces=1):
    @jit
    @assert_max_traces(max_traces=max_traces)
    def step(xs, rate, *rest, **options):
        return jax.tree.map(lambda x: x * rate, xs)

    return step


def test_one_trace():
    """Calls that share a compilation count once, and the count can be asked for."""
    step = make(vn.filter_jit)
    for _ in range(3):
        step(jnp.ones(3), 0.5)
    assert get_num_traces(step) == 1
    assert float(step(jnp.ones(3), 0.5)[0]) == 0.5


REASONS = [
    ((jnp.ones(4), 0.5), {}, ["xs: float32(4,), before float32(3,)"]),
    ((jnp.ones(3, jnp.int32), 0.5), {}, ["xs: int32(3,), before float32(3,)"]),
    ((jnp.ones(3), 0.25), {}, ["rate: 0.25, before 0.5"]),
    ((jnp.ones(4), 0.25), {}, ["xs: float32(4,)", "(and 1 more)"]),
    (({"a": jnp.ones(3)}, 0.5), {}, ["xs: dict of 'a', before float32(3,)"]),
    ((jnp.ones(3), 0.5), {"mode": "x"}, ["options: dict of 'mode', before absent"]),
    ((jnp.ones(3), jnp.float32(0.5)), {}, ["rate: float32(), before 0.5"]),
]


@pytest.mark.parametrize(("args", "kwargs", "words"), REASONS)
def test_the_reason(args, kwargs, words):
    """The error names the argument and what it was before."""
    step = make(vn.filter_jit)
    step(jnp.ones(3), 0.5)
    with refuses(TraceCountError, "step", "max_traces = 1", "more often", *words):
        step(*args, **kwargs)
    assert get_num_traces(step) == 1


def test_a_new_jit_for_each_call():
    """Where nothing differs, the reason is another: the function was made anew."""
    inner = assert_max_traces(lambda x: x + 1, max_traces=1)
    vn.filter_jit(inner)(jnp.ones(3))
    with refuses(
        TraceCountError, "the same arguments", "make the jitted function once"
    ):
        vn.filter_jit(inner)(jnp.ones(3))


def test_weak_types():
    """A weakly typed array is told from a strongly typed one."""
    step = make(jax.jit)
    step(jnp.ones(3), 0.5)
    with refuses(TraceCountError, "rate: float32(), before float32() weakly typed"):
        step(jnp.ones(3), jnp.float32(0.5))


def test_counting_only():
    """Without a limit calls are counted; copies of the function share the count."""
    step = assert_max_traces(lambda x: x, max_traces=None)
    copy = jax.tree.unflatten(*reversed(jax.tree.flatten(step)))
    for i in range(5):
        (copy if i % 2 else step)(i)
    assert get_num_traces(step) == get_num_traces(copy) == 5


def test_zero():
    """A function that must not be called at all."""
    with refuses(TraceCountError, "max_traces = 0"):
        assert_max_traces(lambda x: x, max_traces=0)(1)


def test_bad_arguments():
    """Functions that do not count, and things that are no functions, are refused."""
    with refuses(TransformError, "get_num_traces", "assert_max_traces"):
        get_num_traces(lambda x: x)
    with refuses(TransformError, "assert_max_traces", "callable"):
        assert_max_traces(3, max_traces=1)


def test_builtin_functions():
    """A function without a signature works too."""
    assert assert_max_traces(max, max_traces=1)(1, 2) == 2


def test_a_static_field():
    """What is no leaf is found too, where nothing else differs."""
    call = jax.jit(assert_max_traces(lambda m, x: m(x), max_traces=1))
    dropout = vn.nn.Dropout(0.5, inference=True)
    call(dropout, jnp.ones(3))
    with refuses(TraceCountError, "m.inference: False, before True"):
        call(vn.nn.inference_mode(dropout, False), jnp.ones(3))
