"""Layers of one kind as one layer, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import HyperparameterError
from vernal.nn._stacking import has_slots, renewed, stacked, take


def plain(seed: int) -> nn.Linear:
    return nn.Linear(4, 4, key=jr.key(seed))


def norm() -> nn.BatchNorm:
    return nn.BatchNorm(4, "batch")


def test_taking_undoes_stacking() -> None:
    """Each layer comes back with its values; other leaves and fields stay."""
    layers = [nn.Sequential([plain(i), jnp.tanh]) for i in range(3)]
    whole = stacked("test", layers)
    assert jax.tree.leaves(whole)[0].shape == (3, 4, 4)
    for i, layer in enumerate(layers):
        assert vn.tree_equal(take(whole, i), layer)


def test_slots() -> None:
    """Stacked values make one slot with an axis more; renewed ones are apart."""
    whole = stacked("test", [norm(), norm(), norm()])
    assert has_slots(whole) and not has_slots(plain(0))
    _, state = nn.split_state(whole)
    assert [x.shape for x in jax.tree.leaves(state)] == [(3,), (3, 4), (3, 4)]
    same = [take(whole, 0), take(whole, 0)]
    assert len(jax.tree.leaves(nn.split_state(same)[1])) == 3
    apart = [renewed(layer) for layer in same]
    assert len(jax.tree.leaves(nn.split_state(apart)[1])) == 6


def test_a_slot_of_two_places_stays_one() -> None:
    """What is shared within each layer is shared within the stack."""
    layers = [[x, x] for x in (norm(), norm())]
    _, state = nn.split_state(stacked("test", layers))
    assert len(jax.tree.leaves(state)) == 3
    twice = renewed([norm()] * 2)
    assert len(jax.tree.leaves(nn.split_state(twice)[1])) == 3


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Linear(4, 4, use_bias=False, key=jr.key(0)), ["layer 1", "structure"]),
        (jax.tree.map(lambda x: x[:2], plain(1)), ["`weight`", "shapes"]),
        (jax.tree.map(lambda x: x.astype(jnp.float16), plain(1)), ["dtypes"]),
        (vn.tree_at(lambda m: m.bias, plain(1), 3), ["`bias`"]),
    ],
)
def test_layers_of_different_kinds(other: Any, words: list[str]) -> None:
    """Only layers that differ in values can be stacked; the error names the place."""
    with refuses(HyperparameterError, "test: the layers", *words):
        stacked("test", [plain(0), other])
    with refuses(HyperparameterError, "`bias`", "values"):
        three = vn.tree_at(lambda m: m.bias, plain(1), 3)
        stacked("test", [three, vn.tree_at(lambda m: m.bias, plain(1), 4)])
