"""``filter_jit``: ``jax.jit`` for functions of arbitrary pytrees."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Counted, Empty, Node, Opaque, Scale, identical, refuses
from vernal.errors import TransformError

opaque = Opaque()


def test_arrays_are_traced():
    """JAX and NumPy arrays, NumPy scalars and keys are traced; new values are free."""
    f = Counted(lambda *xs: all(isinstance(x, jax.core.Tracer) for x in xs))
    jitted = vn.filter_jit(f)
    for k in range(3):
        x = jnp.full(2, k), np.full(2, k), np.float32(k), jax.random.key(k)
        assert jitted(*x) is True
    assert f.calls == 1


@pytest.mark.parametrize("leaf", [1, 1.0, True, "a", None, len, opaque, (), Empty()])
def test_other_leaves_are_static(leaf):
    """Every other leaf reaches the function as the very value that was passed."""
    seen = []
    vn.filter_jit(lambda x, y: seen.append(y))(jnp.ones(1), [leaf])
    assert seen == [[leaf]] and type(seen[0][0]) is type(leaf)


def test_a_new_static_value_compiles_anew():
    """Each static value is traced once, and an old one is found again."""
    f = Counted(lambda x, n: x * n)
    jitted = vn.filter_jit(f)
    results = [jitted(jnp.array(2), n).item() for n in (3, 4, 3, 4)]
    assert results == [6, 8, 6, 8] and f.calls == 2


def test_numbers_that_are_equal_but_differ():
    """1, 1.0 and True are different static values."""
    jitted = vn.filter_jit(lambda n: jnp.asarray(n))
    dtypes = [jitted(n).dtype for n in (1, 1.0, True, 1)]
    assert dtypes == [jnp.int32, jnp.float32, jnp.bool_, jnp.int32]


def test_shapes_and_dtypes_compile_anew():
    """As with `jax.jit`, another shape, dtype or weak type is another trace."""
    f = Counted(lambda x: x)
    jitted = vn.filter_jit(f)
    for x in (jnp.ones(2), jnp.ones(3), jnp.arange(2), jnp.asarray(1.0), jnp.ones(2)):
        jitted(x)
    assert f.calls == 4


def test_a_training_loop_traces_once():
    """A model that is passed in and returned keeps its types, in strong form."""

    def step(model, rate):
        grads = vn.filter_grad(lambda m: m(jnp.ones(2)).sum())(model)
        return vn.apply_updates(model, jax.tree.map(lambda g: -rate * g, grads))

    f = Counted(step)
    jitted = vn.filter_jit(f)
    model = vn.nn.MLP(2, 1, 4, 2, key=jax.random.key(0))
    for _ in range(4):
        model = jitted(model, 0.1)
    assert f.calls == 1


def test_models_built_twice_share_a_compilation():
    """Equal configurations give equal treedefs, so that the second one is free."""
    f = Counted(lambda m, x: m(x))
    jitted = vn.filter_jit(f)
    for seed in range(3):
        model = vn.nn.MLP(2, 1, 4, 2, key=jax.random.key(seed))
        jitted(model, jnp.ones(2))
    assert f.calls == 1


def test_static_fields_compile_anew():
    """Another static field is another program."""
    f = Counted(lambda m, x: m(x, key=jax.random.key(0)))
    jitted = vn.filter_jit(f)
    for p in (0.5, 0.5, 0.0):
        jitted(vn.nn.Dropout(p), jnp.ones(2))
    assert f.calls == 2


def test_keywords():
    """Keyword arguments are traced or static as others; their order is no matter."""
    f = Counted(lambda x, *, y, n: (x + y) * n)
    jitted = vn.filter_jit(f)
    one, two = jnp.array(1.0), jnp.array(2.0)
    assert float(jitted(one, y=two, n=3)) == 9.0
    assert float(jitted(two, n=3, y=one)) == 9.0
    assert f.calls == 1
    jitted(one, y=two, n=4)
    assert f.calls == 2


def test_keywords_of_any_name():
    """A keyword may be called like something inside."""
    jitted = vn.filter_jit(lambda **kwargs: kwargs)
    names = dict.fromkeys(("self", "fun", "args", "wrapper", "arrays"), 1)
    assert jitted(**names) == names


def test_modules_as_functions():
    """A Module is called, and its arrays are traced, not constants."""
    traces = Counted(lambda: None)

    class M(vn.Module):
        w: object

        def __call__(self, x):
            traces()
            assert isinstance(self.w, jax.core.Tracer)
            return self.w * x

    assert vn.filter_jit(M(jnp.ones(2)))(3.0).tolist() == [3.0, 3.0]
    jitted = vn.filter_jit(lambda m, x: m(x))
    for k in range(3):
        jitted(M(jnp.full(2, k)), 3.0)
    assert traces.calls == 2


def test_classes_as_functions():
    """A constructor can be jitted; static fields come back as they are."""
    linear = vn.filter_jit(vn.nn.Linear)(2, 3, key=jax.random.key(0))
    assert linear == vn.nn.Linear(2, 3, key=jax.random.key(0))


def test_outputs_of_any_kind():
    """Arrays come back as JAX arrays, everything else as the value itself."""

    def f(x):
        arrays = {"a": x, "np": np.ones(2, np.float32)}
        return arrays, [3, "text", None, opaque, len], Node(x, 1, "tag", Scale(x)), ()

    for _ in range(2):
        arrays, others, node, empty = vn.filter_jit(f)(jnp.ones(2))
        assert all(isinstance(x, jax.Array) for x in arrays.values())
        assert others == [3, "text", None, opaque, len]
        assert identical(node.fn.factor.shape, (2,)) and node.tag == "tag"
        assert empty == ()


def test_outputs_without_arrays():
    """A function may return nothing, or nothing traced."""
    assert vn.filter_jit(lambda x: None)(jnp.ones(2)) is None
    assert vn.filter_jit(lambda x: "text")(jnp.ones(2)) == "text"
    jitted = vn.filter_jit(lambda: jnp.sin)
    assert jitted() is jnp.sin and jitted() is jnp.sin


def test_static_outputs_belong_to_their_trace():
    """A static result is that of the very trace which the arguments select."""
    jitted = vn.filter_jit(lambda x, n: (x, x.shape, n))
    for size, n in [(2, 1), (3, 1), (2, 2), (3, 1), (2, 1)]:
        x, shape, m = jitted(jnp.ones(size), n)
        assert x.shape == shape == (size,) and m == n


def test_exceptions():
    """What the function raises comes through, and the next call works."""

    def f(x, fail):
        if fail:
            raise KeyError("mine")
        return x

    jitted = vn.filter_jit(f)
    for _ in range(2):
        with pytest.raises(KeyError, match="mine"):
            jitted(jnp.ones(2), True)
        assert jitted(jnp.ones(2), False).shape == (2,)


def test_an_exception_at_the_first_trace_only():
    """The same arguments are traced anew after a trace that failed."""
    attempts = Counted(lambda: None)

    @vn.filter_jit
    def f(x):
        attempts()
        if attempts.calls == 1:
            raise KeyError("first")
        return x

    with pytest.raises(KeyError, match="first"):
        f(jnp.ones(2))
    assert f(jnp.ones(2)).shape == (2,)


def test_nested_jit():
    """A jitted function in a jitted function is traced once for each kind of call."""
    inner = Counted(lambda x, n: x * n)
    jitted = vn.filter_jit(inner)
    outer = vn.filter_jit(lambda x: jitted(x, 2) + jitted(x, 2) + jitted(x, 3))
    assert float(outer(jnp.array(1.0))) == 7.0
    assert inner.calls == 2


def test_recursion():
    """A jitted function may call itself, with other shapes or static values."""

    @vn.filter_jit
    def total(x):
        return x[0] if x.size == 1 else x[0] + total(x[1:])

    @vn.filter_jit
    def power(x, n):
        return x if n == 1 else x * power(x, n - 1)

    assert float(total(jnp.arange(5.0))) == 10.0
    assert float(power(jnp.array(2.0), 5)) == 32.0


def test_inside_other_transformations():
    """It is differentiated, mapped and traced like any function."""
    f = vn.filter_jit(lambda x, n: x**n)
    assert float(jax.grad(f)(jnp.array(2.0), 3)) == 12.0
    assert jax.vmap(lambda x: f(x, 2))(jnp.arange(3.0)).tolist() == [0.0, 1.0, 4.0]
    assert jax.eval_shape(lambda x: f(x, 2), jnp.ones(3)).shape == (3,)
    carry, _ = jax.lax.scan(lambda c, x: (f(c, 2), x), jnp.array(2.0), jnp.ones(3))
    assert float(carry) == 256.0
    assert float(jax.checkpoint(lambda x: f(x, 2))(jnp.array(3.0))) == 9.0
    assert float(jax.jvp(lambda x: f(x, 2), (3.0,), (1.0,))[1]) == 6.0


def test_closed_over_arrays_are_constants():
    """What the function closes over is not an argument, as with `jax.jit`."""
    x = jnp.ones(2)
    assert vn.filter_jit(lambda y: x + y)(x).tolist() == [2.0, 2.0]


def test_threads():
    """Several threads may call one jitted function, with old and new arguments."""
    jitted = vn.filter_jit(lambda x, n: x * n)
    results = {}

    def work(i):
        for n in (1, 2, i):
            results[i, n] = float(jitted(jnp.array(2.0), n))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 18
    assert all(value == 2.0 * n for (_, n), value in results.items())


def slow(x):
    return jax.lax.fori_loop(0, 200, lambda i, y: jnp.tanh(y @ y), x).sum()


def test_a_call_does_not_wait():
    """A call returns before the device has finished: on a busy machine, once in 50."""
    jitted, x = vn.filter_jit(slow), jnp.ones((300, 300)) / 300
    jitted(x).block_until_ready()
    assert any(not jitted(x).is_ready() for _ in range(50))


def test_unhashable_leaves():
    """A leaf that is neither array nor hashable is named by path and type."""
    words = ("neither an array nor hashable", "set at [0][0]['a'][1]", "close over it")
    with refuses(TransformError, *words):
        vn.filter_jit(lambda x: x)({"a": [1, {2}]})


OPTIONS = [
    "static_argnums",
    "static_argnames",
    "donate_argnums",
    "donate_argnames",
    "in_shardings",
    "out_shardings",
]


@pytest.mark.parametrize("name", OPTIONS)
def test_options_without_meaning(name):
    """Options by position are refused, with what to use in their place."""
    with refuses(TransformError, "filter_jit", f"`{name}` is not supported", "fix:"):
        vn.filter_jit(slow, **{name: 0})
    with refuses(TransformError, name):
        vn.filter_jit(**{name: 0})


def test_other_options_reach_jax():
    """Other options are `jax.jit`'s own; unknown ones are its TypeError."""
    jitted = vn.filter_jit(lambda x, y: x, keep_unused=True, inline=True)
    text = jitted.lower(jnp.ones(2), jnp.ones(3)).as_text()
    assert "tensor<3xf32>" in text
    with pytest.raises(TypeError, match="nonsense"):
        vn.filter_jit(slow, nonsense=True)(jnp.ones((2, 2)))


def test_something_that_cannot_be_called():
    """What is no function is refused when it is wrapped, not deep in a trace."""
    for wrap in (vn.filter_jit, vn.filter_grad, vn.filter_vmap):
        with refuses(TransformError, wrap.__name__, "3"):
            wrap(3)


def test_static_values_that_are_not_equal_to_themselves():
    """A float that is not a number does not compile anew at each call."""
    f = Counted(lambda x, n: x)
    jitted, nan = vn.filter_jit(f), float("nan")
    for _ in range(3):
        jitted(jnp.ones(2), nan)
    assert f.calls == 1
