"""Ensembles beside their members one by one."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import HyperparameterError, InputError

SIZE = 3
KEY = jr.key(0)


def member(key: Any) -> nn.Sequential:
    return nn.Sequential([nn.Linear(4, 2, key=key), nn.BatchNorm(2, "batch")])


def plain(key: Any) -> nn.Linear:
    return nn.Linear(4, 2, key=key)


def batch(*shape: int) -> Any:
    return jr.normal(jr.key(1), (*shape, 4))


def close(a: Any, b: Any) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("split", [False, True])
def test_it_is_its_members(split: bool) -> None:
    """Outputs, gradients and states are those of the members, each by itself."""
    make = nn.make_with_state(nn.Ensemble)
    ensemble, state = make(member, SIZE, split=split, key=KEY)
    xs = batch(8, SIZE) if split else batch(8)

    def loss(model: Any, state: Any, xs: Any) -> Any:
        ys, state = nn.batched(model)(xs, state)
        return jnp.sum(ys**3), (ys, state)

    run = jax.jit(jax.grad(loss, has_aux=True))
    grads, (ys, new) = run(ensemble, state, xs)
    assert ys.shape == (8, SIZE, 2)
    for i, one in enumerate(ensemble.unstack(state)):
        model, own = nn.split_state(one)
        inputs = xs[:, i] if split else xs
        want_grads, (want, want_state) = run(model, own, inputs)
        close(ys[:, i], want)
        close([x[i] for x in jax.tree.leaves(new)], want_state)
        close([x[i] for x in jax.tree.leaves(grads)], want_grads)


def test_stateless_members() -> None:
    """Without state it is a function of the input alone; a state passes through."""
    ensemble, x = nn.Ensemble(plain, SIZE, key=KEY), batch()
    close(ensemble(x), jnp.stack([one(x) for one in ensemble.unstack()]))
    _, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    assert ensemble(x, state)[1] is state and not ensemble.is_stateful()


def test_members() -> None:
    """Each is drawn from its key, and can be reached."""
    ensemble = nn.Ensemble(plain, SIZE, key=KEY)
    for i, key in enumerate(jr.split(KEY, SIZE)):
        assert vn.tree_equal(ensemble[i], plain(key), rtol=1e-6)
    assert vn.tree_equal(ensemble[-1], ensemble[SIZE - 1]) and len(ensemble) == SIZE
    for i in (SIZE, -SIZE - 1, 0.5):
        with pytest.raises(IndexError, match=f"members 0 to {SIZE - 1}"):
            ensemble[i]  # type: ignore[index]


def test_keys() -> None:
    """Each member gets a key of its own; without a key none is passed."""
    ensemble = nn.Ensemble(lambda key: nn.Dropout(0.5), SIZE, key=KEY)
    x = jnp.ones(100)
    keys = jr.split(jr.key(3), SIZE)
    want = jnp.stack([nn.Dropout(0.5)(x, key=k) for k in keys])
    close(ensemble(x, key=jr.key(3)), want)
    with refuses(InputError, "Dropout", "key=None"):
        ensemble(x)


def test_inference() -> None:
    """In inference the state stays usable, and examples do not depend on others."""
    ensemble, state = nn.make_with_state(nn.Ensemble)(member, SIZE, key=KEY)
    _, state = nn.batched(ensemble)(batch(8), state)
    inference = nn.inference_mode(ensemble)
    ys, same = nn.batched(inference)(batch(8), state)
    assert vn.tree_equal(same, state)
    for _ in range(2):
        y, same = inference(batch(8)[0], state)
        close(y, ys[0])
    assert same is state


def test_from_members() -> None:
    """It undoes unstack, with values and state."""
    ensemble, state = nn.make_with_state(nn.Ensemble)(member, SIZE, key=KEY)
    _, state = nn.batched(ensemble)(batch(8), state)
    again = nn.Ensemble.from_members(ensemble.unstack(state))
    again, again_state = nn.split_state(again)
    assert jax.tree.structure(again) == jax.tree.structure(ensemble)
    close((again, again_state), (ensemble, state))
    split = nn.Ensemble.from_members([plain(KEY)] * 2, split=True)
    assert split(batch(2)).shape == (2, 2)
    with refuses(HyperparameterError, "at least one"):
        nn.Ensemble.from_members([])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"make_member": 3}, "make_member"),
        ({"make_member": lambda key: 3}, "make_member"),
        *(({"size": x}, "size") for x in (0, -1, 2.0, True, None)),
        *(({"split": x}, "split") for x in (None, 1)),
    ],
)
def test_bad_arguments(options: Any, name: str) -> None:
    """What is outside its range is refused, by name."""
    with refuses(HyperparameterError, "Ensemble", f"`{name}`"):
        nn.Ensemble(**{"make_member": plain, "size": 2, **options}, key=KEY)


def test_a_missing_state() -> None:
    """Stateful members ask for their state."""
    ensemble, _ = nn.make_with_state(nn.Ensemble)(member, SIZE, key=KEY)
    with refuses(InputError, "Ensemble", "State", "NoneType"):
        ensemble(jnp.ones(4))
