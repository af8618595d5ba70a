"""jaxtyping and beartype on Modules of the user's."""

import jax
import jax.numpy as jnp
import jaxtyping
import pytest
from beartype import beartype
from jaxtyping import Array, Float, jaxtyped

import vernal as vn


@jaxtyped(typechecker=beartype)
class Scale(vn.Module):
    """The dataclass's own constructor is checked."""

    weight: Float[Array, " n"]
    name: str = vn.field(static=True, default="scale")


class Affine(vn.Module):
    """The constructor and the call are checked."""

    weight: Float[Array, "m n"]
    bias: Float[Array, " m"]

    @jaxtyped(typechecker=beartype)
    def __init__(self, n: int, m: int) -> None:
        self.weight = jnp.ones((m, n))
        self.bias = jnp.zeros(m)

    @jaxtyped(typechecker=beartype)
    def __call__(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        return self.weight @ x + self.bias


def test_what_fits_passes() -> None:
    """Correct types pass, also under transformations and in rebuilt trees."""
    scale = Scale(jnp.ones(3))
    assert jax.tree.map(lambda x: 2 * x, scale).weight[0] == 2
    assert jax.tree.map(lambda x: None, scale).weight is None  # no constructor runs
    layer = Affine(3, 2)
    assert jax.jit(jax.vmap(layer))(jnp.ones((4, 3))).shape == (4, 2)
    assert jax.grad(lambda m: m(jnp.ones(3)).sum())(layer).bias.shape == (2,)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Scale(jnp.ones((3, 3))),
        lambda: Scale("text"),
        lambda: Scale(jnp.ones(3), 3),
        lambda: Affine(3.0, 2),
        lambda: Affine(3, 2)(jnp.ones((3, 1))),
        lambda: Affine(3, 2)(jnp.ones(3, jnp.int32)),
    ],
)
def test_what_does_not_is_refused(mistake) -> None:
    """Wrong shapes, dtypes and types are found where they are passed."""
    with pytest.raises(jaxtyping.TypeCheckError):
        mistake()
