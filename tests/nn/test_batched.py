"""A batch through a model that takes one example, beside the vmap by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import HyperparameterError, InputError, StateValueError

AXES = {"in_axes": (0, None), "out_axes": (0, None)}


def batch(*shape: int) -> Any:
    return jr.normal(jr.key(1), (*shape, 3))


def test_it_is_the_vmap() -> None:
    """Outputs, state and gradients are those of the vmap that one writes by hand."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "rows")

    def by_hand(norm: Any, xs: Any) -> Any:
        ys, new = jax.vmap(norm, axis_name="rows", **AXES)(xs, state)
        return jnp.sum(ys**3), (ys, new)

    def ours(norm: Any, xs: Any) -> Any:
        ys, new = nn.batched(norm, "rows")(xs, state)
        return jnp.sum(ys**3), (ys, new)

    want, got = (jax.grad(f, has_aux=True)(norm, batch(5)) for f in (by_hand, ours))
    assert vn.tree_equal(got, want)


def test_without_state() -> None:
    """A model without state is a function of the input; any pytree is mapped."""
    linear = nn.Linear(3, 2, key=jr.key(0))
    xs = batch(5)
    assert vn.tree_equal(nn.batched(linear)(xs), jax.vmap(linear)(xs))
    add = nn.batched(lambda pair: pair["a"] + pair["b"])
    assert vn.tree_equal(add({"a": xs, "b": xs}), 2 * xs)
    assert not nn.batched(linear).is_stateful()
    assert nn.batched(nn.BatchNorm(3, "batch")).is_stateful()


def test_nested() -> None:
    """Two batch axes are two calls, and a layer may average over both."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, ("outer", "inner"))
    xs = batch(4, 5)
    ys, new = nn.batched(nn.batched(norm, "inner"), "outer")(xs, state)
    flat, flat_state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    want, flat_state = nn.batched(flat)(xs.reshape(20, 3), flat_state)
    assert vn.tree_equal(ys.reshape(20, 3), want, rtol=1e-5, atol=1e-6)
    pairs = zip(jax.tree.leaves(new), jax.tree.leaves(flat_state), strict=True)
    assert all(jnp.allclose(a, b, rtol=1e-5) for a, b in pairs)


def test_keys() -> None:
    """Each example gets a key of its own; without a key none is passed."""
    dropout, xs = nn.batched(nn.Dropout(0.5)), jnp.ones((4, 50))
    want = jax.vmap(lambda x, k: nn.Dropout(0.5)(x, key=k))(xs, jr.split(jr.key(2), 4))
    assert vn.tree_equal(dropout(xs, key=jr.key(2)), want)
    with refuses(InputError, "Dropout", "key=None"):
        dropout(xs)


def test_in_a_model() -> None:
    """It is a layer among others, and a pytree."""
    norm = nn.BatchNorm(3, "batch")
    model = nn.Sequential([nn.batched(norm), nn.batched(jnp.sin)])
    model, state = nn.split_state(model)
    ys, state = jax.jit(lambda m, xs, s: m(xs, s))(model, batch(5), state)
    assert ys.shape == (5, 3) and len(jax.tree.leaves(model)) == 2


class Last(nn.StatefulLayer):
    """Remembers its input, and forgets that there are other examples."""

    seen: nn.StateIndex
    last: nn.StateIndex

    def __init__(self) -> None:
        self.seen = nn.StateIndex(jnp.array(0))
        self.last = nn.StateIndex({"x": jnp.zeros(3)})

    def __call__(
        self, x: Any, state: nn.State, *, key: Any = None
    ) -> tuple[Any, nn.State]:
        state = state.set(self.seen, state.get(self.seen) + 1)
        return x, state.set(self.last, {"x": x})


def test_a_state_that_differs_between_examples() -> None:
    """The error names the slot and the axis, and how to reduce it."""
    model, state = nn.make_with_state(lambda: nn.Sequential([Last()]))()
    words = ("layers[0].last", "differs between examples", "lax.pmean(value, 'rows')")
    with refuses(StateValueError, *words):
        nn.batched(model, "rows")(batch(5), state)
    assert int(state.get(model.layers[0].seen)) == 0  # it stays usable


def test_other_errors_stay() -> None:
    """What has another reason is raised as it is."""
    norm, state = nn.make_with_state(nn.BatchNorm)(3, "batch")

    def broken(x: Any, state: Any) -> Any:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        nn.batched(broken)(batch(5), state)
    with refuses(InputError, "Batched", "State", "int"):
        nn.batched(norm)(batch(5), 3)  # type: ignore[call-overload]
    with refuses(InputError, "Batched", "no batch axis", "()"):
        nn.batched(nn.Dropout(0.5))(jnp.ones(()), key=jr.key(0))


def test_bad_arguments() -> None:
    """A model is callable, and the axis has a name."""
    with refuses(HyperparameterError, "batched", "`model`"):
        nn.batched(3)  # type: ignore[type-var]
    with refuses(HyperparameterError, "batched", "`axis_name`"):
        nn.batched(jnp.sin, None)


@pytest.mark.parametrize("kind", [nn.Stack, nn.Ensemble])
def test_none_for_a_state(kind: Any) -> None:
    """It goes through the batch and the layers of a stack or ensemble, and back."""

    def make(key: Any) -> Any:
        return nn.RNN(nn.GRUCell(3, 3, key=key))

    model, state = nn.make_with_state(kind)(make, 2, key=jax.random.key(0))
    xs = jnp.ones((4, 5, 3))
    got, none = nn.batched(model)(xs, None)
    assert none is None
    want, _ = nn.batched(model)(xs, nn.with_rows(state, 4))
    assert jnp.allclose(got, want, atol=1e-6)
    with refuses(InputError, kind.__name__, "not a State"):
        nn.batched(model)(xs)

    def norm(key: Any) -> Any:
        return nn.BatchNorm(3, "batch")

    model, _ = nn.make_with_state(kind)(norm, 2, key=jax.random.key(0))
    with refuses(InputError, "BatchNorm", "not a State", "NoneType"):
        nn.batched(model)(jnp.ones((4, 3)), None)
