"""Layers as linear maps, beside what they give without their bias."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from vernal import nn
from vernal.errors import HyperparameterError
from vernal.nn._linear_part import linear_part, require_linear


def test_it_is_the_layer_without_its_bias():
    """Also in half precision, of which the map is a float32 one."""
    for dtype in (jnp.float32, jnp.float16):
        layer = nn.Linear(3, 4, dtype=dtype, key=jr.key(0))
        arrays, forward = linear_part(layer)
        x = jnp.asarray([0.1, 2.0, -3.0])
        weight = np.asarray(layer.weight, np.float64)
        got = forward(arrays, x)
        assert got.dtype == jnp.float32
        expected = weight @ np.asarray(x, np.float64)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_equal_layers_have_equal_maps():
    """So what is compiled for one serves the other."""
    first, second = (linear_part(nn.Linear(3, 4, key=jr.key(i)))[1] for i in range(2))
    other = linear_part(nn.Linear(4, 4, key=jr.key(0)))[1]
    assert first == second and hash(first) == hash(second)
    assert first != other


def test_what_is_not_linear_is_refused():
    """A bias is no reason; a nonlinearity and a wrong shape are, in a few lines."""
    x = jax.ShapeDtypeStruct((3,), jnp.float32)
    require_linear("Kind", "shape", nn.Linear(3, 4, key=jr.key(0)), x)
    square = nn.Lambda(lambda x: x * x)
    for layer in (nn.Linear(2, 4, key=jr.key(0)), nn.Lambda(jax.nn.relu), square):
        with pytest.raises(
            HyperparameterError, match="Kind: bad argument `shape`"
        ) as e:
            require_linear("Kind", "shape", layer, x)
        assert len(str(e.value).splitlines()) <= 6
