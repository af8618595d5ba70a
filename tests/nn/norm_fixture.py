"""PyTorch's values for normalizations and PReLU, and how a layer is held to them."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vernal as vn

# Written by scripts/make_torch_fixtures/norms.py.
_FIXTURE = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "norms.npz")
_CASES = json.loads(str(_FIXTURE["cases"]))


def cases(layer: str) -> list[tuple[int, dict[str, Any]]]:
    """The numbers and hyperparameters of all cases of one layer."""
    return [(i, options) for i, (name, options) in enumerate(_CASES) if name == layer]


def assert_like_pytorch(number: int, layer: Any, dtype: Any, tolerance: float) -> None:
    """Output and gradients of a case, with its parameters put into the layer."""
    prefix = f"{number}."
    names = [x.removeprefix(prefix) for x in _FIXTURE if x.startswith(prefix)]
    arrays = {name: jnp.asarray(_FIXTURE[prefix + name], dtype) for name in names}
    parameters = [x for x in ("weight", "bias", "negative_slope") if x in arrays]
    for name in parameters:
        value = arrays[name].reshape(getattr(layer, name).shape)
        layer = vn.tree_at(lambda m, name=name: getattr(m, name), layer, value)

    @jax.jit
    def run(layer: Any, x: Any, cotangent: Any) -> Any:
        y, pull = jax.vjp(lambda layer, x: layer(x), layer, x)
        return y, pull(cotangent)

    y, (grads, x_grad) = run(layer, arrays["x"], arrays["cotangent"])
    got = {"y": y, "x_grad": x_grad}
    got |= {f"{name}_grad": getattr(grads, name) for name in parameters}
    assert set(got) == {x for x in arrays if x == "y" or x.endswith("_grad")}
    for name, array in got.items():
        assert array.dtype == dtype
        want = arrays[name].reshape(array.shape)
        np.testing.assert_allclose(array, want, tolerance, tolerance, err_msg=name)
