"""Why a function was compiled again: found, and said at the call."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.debug import explain_retrace
from vernal.debug._retrace import _of_code
from vernal.errors import TransformError


@pytest.fixture(autouse=True)
def forget():
    """Tests that jit the same function know nothing of each other."""
    _of_code.clear()


class Model(vn.Module):
    weight: jax.Array
    step: int = vn.field(static=True)

    def __call__(self, x):
        return self.weight * x

    @vn.filter_jit
    def train(self, x):
        return self.weight * x

    @jax.jit
    def plain(self, x):
        return self.weight * x


def apply(model, x=None, mode="add"):
    leaves = [leaf for leaf in jax.tree.leaves((model, x)) if vn.is_array(leaf)]
    return sum(leaf.sum().astype(jnp.float32) for leaf in leaves)


def explanation(jit, first, second):
    """What is said of a second call."""
    _of_code.clear()
    step = explain_retrace(jit(lambda *args, **kwargs: apply(*args, **kwargs)))
    call(step, first)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(step, second)
    texts = [str(warning.message) for warning in caught]
    assert texts == list(step.explanations) and all(
        w.filename == __file__ for w in caught
    )
    return texts[0].split("\n  ")[1:] if texts else None


def call(step, given):
    return step(*given[0], **given[1]) if isinstance(given[0], tuple) else step(*given)


ONES = jnp.ones(3)
SGD = [lambda x: x, lambda x: x]

BOTH = [
    ([ONES], [jnp.zeros(3)], None),
    (
        [Model(ONES, 3)],
        [Model(ONES, 4)],
        "`args[0].step` changed 3 -> 4 (static int): pass an array",
    ),
    (
        [ONES],
        [jnp.ones(4)],
        "`args[0]` changed float32(3,) -> float32(4,) (shape): keep shapes the same: "
        "pad, or leave a short batch out",
    ),
    (
        [ONES],
        [jnp.ones(3, jnp.bfloat16)],
        "`args[0]` changed float32(3,) -> bfloat16(3,) (dtype): convert it: "
        "x.astype('float32')",
    ),
    (
        [jnp.asarray(1.0)],
        [jnp.float32(1)],
        "`args[0]` changed float32() weakly typed -> float32() (weak type): give it a "
        "dtype where it is made: jnp.asarray(x, 'float32')",
    ),
    (
        [[ONES, ONES]],
        [[ONES]],
        "`args[0]` changed list of 2 -> list of 1 (structure): pass trees of the same "
        "structure",
    ),
    (
        [ONES],
        [jax.device_put(ONES, jax.devices()[0])],
        "`placement of args[0]` changed absent -> ",
    ),
    (
        [nn.Lambda(SGD[0]), ONES],
        [nn.Lambda(jnp.tanh), ONES],
        "`args[0].fn` changed ",
    ),
    (
        [(ONES,), {}],
        [(), {"model": ONES}],
        "`the call` changed (1 by position) -> (0 by position, model=) (static): ",
    ),
]


@pytest.mark.parametrize("jit", [jax.jit, vn.filter_jit])
@pytest.mark.parametrize(("first", "second", "expected"), BOTH)
def test_the_reason(jit, first, second, expected):
    """The smallest difference is told by its path, with a way out; or nothing."""
    found = explanation(jit, first, second)
    if expected is None:
        assert found is None
    else:
        assert found[0].startswith(expected), found


def test_static_leaves():
    """Under filter_jit numbers and functions are static leaves."""
    found = explanation(vn.filter_jit, [ONES, 3], [ONES, 4])
    assert found == ["`args[1]` changed 3 -> 4 (static int): pass an array"]
    (text,) = explanation(vn.filter_jit, [ONES, SGD[0]], [ONES, SGD[1]])
    assert text.startswith("`args[1]` is another <function")
    assert text.endswith("than before (static): make it once, not anew for each call")
    found = explanation(vn.filter_jit, [ONES, "add"], [ONES, "mul"])
    assert found[0].endswith("(static): keep it the same from call to call")
    found = explanation(vn.filter_jit, [ONES, 3], [ONES, ONES])
    assert found == ["`args[1]` changed 3 -> float32(3,): pass an array each time"]


def test_numbers_of_jax_jit():
    """They are traced: only another type counts, unless they are static arguments."""
    assert explanation(jax.jit, [ONES, 3], [ONES, 4]) is None
    found = explanation(jax.jit, [ONES, 3], [ONES, 4.0])
    assert found == ["`args[1]` changed 3 -> 4.0 (type): pass an array"]

    def jit(fn):
        return jax.jit(fn, static_argnums=1)

    found = explanation(jit, [ONES, 3], [ONES, 4])
    assert found == ["`args[1]` changed 3 -> 4 (static int): pass an array"]


def test_the_closest_call_is_compared():
    """Of all calls it was compiled for, the one that differs least tells the reason."""
    step = explain_retrace(vn.filter_jit(apply))
    step(ONES, 1.0)
    with pytest.warns(UserWarning, match="`model` changed"):
        step(jnp.ones(5), 2.0)
    with pytest.warns(UserWarning, match="again, in call 3:") as caught:
        step(ONES, 3.0)
    assert str(caught[0].message).split("\n")[1:] == [
        "  `x` changed 1.0 -> 3.0 (static float): pass an array"
    ]
    assert len(step.explanations) == 2 and str(step) == "\n".join(step.explanations)


def test_many_changes():
    """Three are told, and the others counted."""
    first, second = ([[jnp.ones(n + i) for i in range(5)]] for n in (1, 2))
    found = explanation(jax.jit, first, second)
    assert len(found) == 4 and found[3] == "and 2 more"


def test_nothing_was_retraced():
    """It says so: before the first call, and after many."""
    step = explain_retrace(jax.jit(apply))
    assert str(step) == "apply was not called yet."
    for i in range(3):
        step(i * ONES)
    assert str(step) == "apply was compiled once in 3 calls: nothing was retraced."
    assert step.explanations == ()


def test_jitted_anew():
    """A function that is jitted again in each call is compiled for the same."""

    def run(x):
        return explain_retrace(vn.filter_jit(lambda x: 2 * x))(x)

    run(ONES)
    with pytest.warns(UserWarning, match="as it was jitted anew:\n.* jit it once"):
        run(ONES)
    run(jnp.ones(4))  # for these arguments it would be compiled anyhow


def test_jitted_twice_on_purpose():
    """Two jitted forms of one function, both in use, are no mistake."""

    def double(x):
        return 2 * x

    forms = [explain_retrace(vn.filter_jit(double)) for _ in range(2)]
    assert [form(ONES).shape for form in forms] == [(3,)] * 2
    assert [form.explanations for form in forms] == [()] * 2


@pytest.mark.parametrize("name", ["train", "plain"])
def test_methods(name):
    """A jitted method of a Module tells of the Module too."""
    step = explain_retrace(getattr(Model(ONES, 3), name))
    step(ONES)
    assert step(2 * ONES).shape == (3,) and "once in 2 calls" in str(step)
    with pytest.warns(UserWarning, match=f"{name} was compiled again.*\n  `x` changed"):
        step(jnp.ones(1))


def test_a_jitted_module():
    """The fields of a Module that is jitted itself are part of the call."""
    step = explain_retrace(vn.filter_jit(Model(ONES, 3)))
    step(ONES)
    with pytest.warns(UserWarning, match=r"`x` changed float32\(3,\) -> float32\(1,\)"):
        step(jnp.ones(1))


def test_donation_and_state():
    """A training step that donates everything is explained all the same."""

    @explain_retrace
    @vn.filter_jit(donate="all")
    def step(state):
        return jax.tree.map(lambda x: x + 1, state)

    def state_of(name):
        return nn.split_state({name: nn.StateIndex(jnp.ones(3))})[1]

    state = step(step(state_of("a")))
    assert "once in 2 calls" in str(step) and str(state).endswith("3, 3, 3")
    with pytest.warns(
        UserWarning, match=r"`state` changed State with \['a'\] -> State"
    ):
        step(state_of("b"))


def test_settings_of_jax():
    """Where no argument differs, the reason is outside of them."""
    step = explain_retrace(jax.jit(lambda x: 2 * x))
    step(ONES)
    with (
        jax.default_matmul_precision("highest"),
        pytest.warns(UserWarning, match="no argument differs"),
    ):
        step(ONES)


def test_compiled_before():
    """What was compiled before it was asked about is not known."""
    jitted = vn.filter_jit(apply)
    jitted(ONES)
    step = explain_retrace(jitted)
    step(ONES)
    assert "not compiled in 1 call:" in str(step)
    with pytest.warns(UserWarning, match="compiled for before was not seen"):
        step(jnp.ones(1))


def test_errors_and_results_pass_through():
    """The function does what it did; a failing call is not explained."""
    step = explain_retrace(jax.jit(lambda x: x["a"] if x else 1 / 0))
    np.testing.assert_array_equal(step({"a": ONES}), ONES)
    with pytest.raises(ZeroDivisionError):
        step({})
    assert step.history.calls == 1 and step.explanations == ()


def test_not_jitted():
    """A function that is not jitted is refused."""
    with refuses(TransformError, "not jitted", "explain_retrace(jax.jit(fn))"):
        explain_retrace(apply)
    with refuses(TransformError, "explain_retrace", "not callable"):
        explain_retrace(3)


@pytest.mark.parametrize("jit", [jax.jit, vn.filter_jit])
def test_without_a_count(jit, monkeypatch):
    """Where JAX counts no compilations, arguments are compared, or traces counted."""
    monkeypatch.setattr("vernal.debug._retrace.compilations", lambda jitted: 0)
    step = explain_retrace(jit(lambda xs: 2 * xs))
    for _ in range(3):
        step(ONES)
    assert "compiled once in 3 calls" in str(step)
    for again in (True, False):
        with warnings.catch_warnings(record=True, action="always") as found:
            step(jnp.ones(1))
        assert len(found) == again
    step(ONES)
    (text,) = step.explanations
    assert "in call 4:\n  `xs` changed float32(3,) -> float32(1,)" in text
