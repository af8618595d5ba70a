"""inference_mode: it reaches every flag, and changes nothing else."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from vernal import nn


class Noise(vn.Module):
    """A user's layer with a flag of its own, and a layer inside that has one too."""

    dropout: nn.Dropout
    scale: jax.Array
    inference: bool = False

    def __call__(self, x: Any) -> Any:
        return x if self.inference else x + self.scale


class Bystander(vn.Module):
    """A layer whose flag is called otherwise."""

    training: bool = vn.field(static=True, default=True)


def make() -> Any:
    linear = nn.Linear(2, 2, key=jr.key(0))
    return {
        "list": [nn.Dropout(0.5), nn.Dropout(0.5, inference=True)],
        "norm": nn.BatchNorm(3, "batch"),
        "nested": nn.Sequential(
            [nn.SpectralNorm(linear, "weight", key=jr.key(1)), nn.Identity()]
        ),
        "wrapped": nn.Lambda(nn.Dropout(0.1)),
        "partial": vn.Partial(nn.Dropout(0.2)),
        "noise": Noise(nn.Dropout(0.3), jnp.ones(2)),
        "bystander": Bystander(),
    }


def flags(tree: Any) -> list[bool]:
    noise = tree["noise"]
    owners = [*tree["list"], tree["norm"], tree["nested"][0], tree["wrapped"].fn]
    owners += [tree["partial"].func, noise, noise.dropout]
    return [owner.inference for owner in owners]


@pytest.mark.parametrize("value", [True, False])
def test_every_flag_is_set(value: bool) -> None:
    """Flags are reached in containers, wrappers, and inside layers that have one."""
    tree = nn.inference_mode(make(), value)
    assert flags(tree) == [value] * 8
    assert flags(nn.inference_mode(tree, not value)) == [not value] * 8


def test_the_default_is_inference() -> None:
    """Without a value, the flags are set to True."""
    assert all(flags(nn.inference_mode(make())))


def test_the_original_stays() -> None:
    """The model itself is left as it was, and its arrays are shared."""
    tree = make()
    before = flags(tree)
    copy = nn.inference_mode(tree)
    assert flags(tree) == before
    assert tree["bystander"].training is copy["bystander"].training is True
    arrays = [jax.tree.leaves(eqx.filter(x, eqx.is_array)) for x in (tree, copy)]
    assert all(a is b for a, b in zip(*arrays, strict=True))


def test_there_and_back() -> None:
    """Switching to inference and back gives an equal model."""
    model = nn.Sequential([nn.Dropout(0.5), nn.Linear(2, 2, key=jr.key(0))])
    again = nn.inference_mode(nn.inference_mode(model), False)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert again == model


def test_a_single_layer_and_no_layer() -> None:
    """The tree may be a layer itself, or have no layers at all."""
    assert nn.inference_mode(nn.Dropout(0.5)).inference
    assert nn.inference_mode([1, None, "text"]) == [1, None, "text"]


def test_a_shared_layer() -> None:
    """A layer at two places is switched at both."""
    dropout = nn.Dropout(0.5)
    first, second = nn.inference_mode([dropout, dropout])
    assert first.inference and second.inference


def test_under_jit() -> None:
    """It can be called while a function is traced."""

    @jax.jit
    def evaluate(model: Any, x: Any) -> Any:
        return nn.inference_mode(model)(x)

    model = nn.Sequential([nn.Dropout(0.5), jnp.negative])
    assert jnp.array_equal(evaluate(model, jnp.ones(3)), -jnp.ones(3))


def test_state_is_not_needed() -> None:
    """A model without its initial state, and shapes of a model, can be switched."""
    model, _ = nn.make_with_state(nn.BatchNorm)(3, "batch")
    assert nn.inference_mode(model).inference
    shapes = vn.filter_eval_shape(nn.BatchNorm, 3, "batch")
    assert nn.inference_mode(shapes).inference
