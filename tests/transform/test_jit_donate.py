"""``filter_jit`` with ``donate``: whose buffers are given away, and the warnings."""

import contextlib
import threading
import warnings

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Counter, refuses
from vernal.errors import TransformError

MODES = ["all", "all-except-first", "warn", "warn-except-first", "none"]
each_mode = pytest.mark.parametrize("mode", MODES)


class Sum(vn.Module):
    weight: object

    def __call__(self, x, y, *, z):
        return self.weight + 1, x + 1, y + 1, z + 1

    def run(self, x, y, *, z):
        return self(x, y, z=z)


def deleted(*arrays):
    return [x.is_deleted() for x in arrays]


@contextlib.contextmanager
def filters_kept():
    """No warning filter is added or lost within; cleans up for the other tests."""
    before = list(warnings.filters)
    try:
        yield
        assert warnings.filters == before
    finally:
        warnings.filters[:] = before


def test_what_each_mode_deletes():
    """The donated arguments' buffers are deleted; the kept ones live on."""
    expected = {
        "all": [True, True, True],
        "warn": [True, True, True],
        "all-except-first": [False, True, True],
        "warn-except-first": [False, True, True],
        "none": [False, False, False],
    }
    for mode in MODES:
        x, y, z = (jnp.ones(3) for _ in range(3))
        jitted = vn.filter_jit(lambda a, b, *, c: (a + 1, b + 1, c + 1), donate=mode)
        out = jitted(x, y, c=z)
        assert deleted(x, y, z) == expected[mode], mode
        assert [float(a[0]) for a in out] == [2.0] * 3


@each_mode
@pytest.mark.parametrize("is_method", [False, True])
def test_what_each_mode_deletes_of_the_function(mode, is_method):
    """The arrays in a Module that is the function are given away like arguments.

    "First" is the first argument of the call, not the function.
    """
    model, (x, y, z) = Sum(jnp.ones(3)), (jnp.ones(3) for _ in range(3))
    jitted = vn.filter_jit(model.run if is_method else model, donate=mode)
    jitted(x, y, z=z)
    first = mode in ("all", "warn")
    rest = mode != "none"
    assert deleted(model.weight, x, y, z) == [rest, first, rest, rest]


def test_the_first_argument_with_all_its_leaves():
    """All arrays in a first argument are kept, whatever else is in it."""
    model = {"a": jnp.ones(3), "n": 3, "b": [jnp.ones(2), "text"]}
    rest = [1, jnp.ones(3), jnp.ones(2)]

    def f(model, rest):
        return jax.tree.map(lambda x: x * 2, (model["a"], model["b"][0], rest[1:]))

    vn.filter_jit(f, donate="all-except-first")(model, rest)
    assert deleted(model["a"], model["b"][0], *rest[1:]) == [False, False, True, True]


@each_mode
def test_without_arguments(mode):
    """A function without arguments can be compiled in any mode."""
    assert float(vn.filter_jit(lambda: jnp.ones(()), donate=mode)()) == 1.0


@each_mode
def test_only_keywords(mode):
    """Keyword arguments are never the first argument."""
    x = jnp.ones(3)
    vn.filter_jit(lambda *, x: x + 1, donate=mode)(x=x)
    assert x.is_deleted() == (mode != "none")


def test_a_method_keeps_its_instance():
    """As a decorator with "all-except-first", the instance is the first argument."""

    class M(vn.Module):
        w: object

        @vn.filter_jit(donate="all-except-first")
        def run(self, x):
            return self.w + 1, x + 1

    model, x = M(jnp.ones(3)), jnp.ones(3)
    model.run(x)
    assert deleted(model.w, x) == [False, True]


def test_model_and_state_in_a_loop():
    """A training step may give away model and state at every call."""
    model, state = vn.nn.make_with_state(Counter)(jnp.zeros(3))
    old = state

    @vn.filter_jit(donate="all-except-first")
    def step(model, state):
        return model(jnp.ones(()), state)[1]

    for _ in range(3):
        state = step(model, state)
    assert state.get(model.index).tolist() == [3.0] * 3
    assert jax.tree.leaves(old)[0].is_deleted()


def f_with_unused(x, y):
    """Has no output that could take over the buffer of y."""
    return x + y.sum()


def count_warnings(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    texts = [str(w.message) for w in caught]
    assert all("donated buffers" in text for text in texts)
    return len(texts)


@each_mode
def test_the_warning_about_unused_donations(mode):
    """Only the "warn" modes leave JAX's warning, once for each compilation."""
    jitted = vn.filter_jit(f_with_unused, donate=mode)

    def call(size):
        return count_warnings(lambda: jitted(jnp.ones(3), jnp.ones(size)))

    once = int(mode.startswith("warn"))
    assert [call(4), call(4), call(5)] == [once, 0, once]


@each_mode
def test_the_warning_while_lowering(mode):
    """`.lower` warns in the same modes."""
    jitted = vn.filter_jit(f_with_unused, donate=mode)
    counted = count_warnings(lambda: jitted.lower(jnp.ones(3), jnp.ones(4)))
    assert counted == int(mode.startswith("warn"))


@each_mode
def test_no_filter_is_left_behind(mode):
    """After a call, the process's warning filters are as before."""
    with filters_kept():
        vn.filter_jit(lambda x: x + 1, donate=mode)(jnp.ones(3))


@each_mode
def test_no_filter_is_left_behind_by_a_failure(mode):
    """Also after a call that raised while it was traced."""

    def f(x):
        raise KeyError("mine")

    with filters_kept(), pytest.raises(KeyError):
        vn.filter_jit(f, donate=mode)(jnp.ones(3))


@each_mode
def test_no_filter_is_left_behind_by_lower(mode):
    """`.lower` traces too, and leaves the filters alone."""
    with filters_kept():
        vn.filter_jit(lambda x: x + 1, donate=mode).lower(jnp.ones(3))


def test_no_filter_is_left_behind_by_recursion():
    """Also where the function calls itself with another shape."""

    @vn.filter_jit(donate="all")
    def total(x):
        return x[0] if x.size == 1 else x[0] + total(x[1:])

    with filters_kept():
        assert float(total(jnp.arange(4.0))) == 6.0


def test_no_filter_is_left_behind_by_threads():
    """Also where two threads compile at the same time, and the first is done first."""
    inside = {name: threading.Event() for name in ("first", "second")}
    first_done = threading.Event()

    def f(x, name):
        inside[name].set()
        (inside["second"] if name == "first" else first_done).wait(timeout=30)
        return x + 1

    def work(name):
        vn.filter_jit(f, donate="all")(jnp.ones(3), name)
        if name == "first":
            first_done.set()

    with filters_kept():
        threads = {name: threading.Thread(target=work, args=(name,)) for name in inside}
        threads["first"].start()
        inside["first"].wait(timeout=30)
        threads["second"].start()
        for thread in threads.values():
            thread.join()


def test_a_warning_of_the_function_is_not_swallowed():
    """Only the one warning of JAX is silenced."""

    @vn.filter_jit(donate="all")
    def f(x):
        warnings.warn("of the user", UserWarning, stacklevel=1)
        return x + 1

    with pytest.warns(UserWarning, match="of the user"):
        f(jnp.ones(3))


@pytest.mark.parametrize("mode", ["some", True, None, "ALL", ["all"]])
def test_unknown_modes(mode):
    """Another value of `donate` is refused with the list of values."""
    words = ("unknown value of `donate`", "'all-except-first'", repr(mode))
    with refuses(TransformError, *words):
        vn.filter_jit(f_with_unused, donate=mode)


class Layer(vn.Module):
    weight: jax.Array

    def __call__(self, x):
        return self.weight * x


def test_what_was_donated_is_named():
    """An argument that an earlier call was given is named, with the way out."""

    @vn.filter_jit(donate="all")
    def step(model, xs, *rest, scale=1.0, **more):
        return jax.tree.map(lambda x: 2 * x, (model["layer"], xs, rest, more))

    def fresh():
        model = {"a": 1, "layer": Layer(jnp.ones(2)), "name": "x"}
        return (model, jnp.ones(3), jnp.ones(4)), {"more": [jnp.ones(5)]}

    places = ["model['layer'].weight", "xs", "rest[0]", "more['more'][0]"]
    for i, place in enumerate(places):
        args, kwargs = fresh()
        arrays = [x for x in jax.tree.leaves((args, kwargs)) if vn.is_array(x)]
        arrays[i].delete()
        with refuses(TransformError, f"step: the buffer of `{place}`", "jnp.copy"):
            step(*args, **kwargs)
    args, kwargs = fresh()
    step(*args, **kwargs)
    with refuses(TransformError, "step: the buffer of `", "earlier call"):
        step(*args, **kwargs)


def test_a_donated_module_is_named():
    """The arrays of a Module that is called have its name."""
    call = vn.filter_jit(Layer(jnp.ones(3)), donate="all")
    call(jnp.ones(3))
    with refuses(TransformError, "the buffer of `Layer.weight`"):
        call(jnp.ones(3))


def test_other_errors_of_calls_with_deleted_arrays():
    """Only an error about buffers is explained like that."""

    @vn.filter_jit
    def step(x):
        raise ValueError("mine")

    x = jnp.ones(3)
    x.delete()
    with pytest.raises(ValueError, match="mine"):
        step(x)
