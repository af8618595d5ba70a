"""Finding and replacing the weight of another layer."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal.errors import HyperparameterError
from vernal.nn import Linear
from vernal.nn._named_weight import check_weight, with_weight


class Holder(vn.Module):
    """A layer of one weight of any kind."""

    weight: Any

    def __call__(self, x: Any) -> Any:
        return self.weight * x


@pytest.mark.parametrize("ndim", [0, 1, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=str)
def test_fitting_weights_pass(ndim: int, dtype: Any) -> None:
    """A real array with at least as many axes is taken."""
    check_weight("Norm", Holder(jnp.ones((2, 2), dtype)), "weight", ndim)


@pytest.mark.parametrize(
    "weight",
    [jnp.ones(3), jnp.ones((2, 2), int), jnp.ones((2, 2), jnp.complex64), None, 1.0],
)
def test_other_weights_are_refused(weight: Any) -> None:
    """Too few axes, other numbers, or no array; the message says what fits."""
    words = "an attribute of Holder, a real array with ≥ 2 axes"
    with refuses(HyperparameterError, "Norm: bad argument `weight_name`", words):
        check_weight("Norm", Holder(weight), "weight", 2)


@pytest.mark.parametrize("name", ["wieght", None, 3])
def test_other_names_are_refused(name: Any) -> None:
    """The name must be that of an attribute."""
    with refuses(HyperparameterError, "`weight_name`", repr(name)):
        check_weight("Norm", Holder(jnp.ones((2, 2))), name, 2)


def test_a_layer_must_be_callable() -> None:
    """What cannot be called is no layer."""
    with refuses(HyperparameterError, "Norm: bad argument `layer`"):
        check_weight("Norm", [jnp.ones((2, 2))], "weight", 2)


def test_replacement() -> None:
    """The copy has the new weight, in the dtype of the old one; all else stays."""
    linear = Linear(3, 2, dtype=jnp.bfloat16, key=jr.key(0))
    new = with_weight(linear, "weight", jnp.zeros((2, 3)))
    assert new.weight.dtype == jnp.bfloat16 and not jnp.any(new.weight)
    assert new.bias is linear.bias and jnp.any(linear.weight)
    assert jax.tree.structure(new) == jax.tree.structure(linear)
