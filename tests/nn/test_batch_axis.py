"""What is read of axis names, groups and masks, before any arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vernal.errors import InputError
from vernal.nn import BatchNorm, _batch_axis, make_with_state


def test_read_groups():
    """Lists and tuples of any integers become tuples of Python's."""
    groups = _batch_axis.read_groups("Layer", [(np.int64(2), 0), [1]], "d")
    assert groups == ((2, 0), (1,))
    hash(groups)
    assert _batch_axis.read_groups("Layer", None, "d") is None


MASKS = [
    ((), (2, 3), False, (1, 1)),
    ((3,), (2, 3), False, (1, 3)),
    ((2, 1), (2, 3), False, (2, 1)),
    ((), (), False, ()),
    ((4,), (4, 2, 3), True, (4, 1, 1)),
    ((4, 3), (4, 2, 3), True, (4, 1, 3)),
    ((1, 2, 1), (4, 2, 3), True, (1, 2, 1)),
    ((4,), (4,), True, (4,)),
    ((), (4, 2), True, (1, 1)),
]


@pytest.mark.parametrize("given, shape, whole, aligned", MASKS)
def test_read_mask(given, shape, whole, aligned):
    """As in NumPy over the spatial axes; the batch axis of a whole batch is first."""
    norm, _ = make_with_state(BatchNorm)(3, "batch")
    mask = np.random.default_rng(0).random(given) > 0.5
    mask = np.asarray(mask)
    got = _batch_axis.read_mask(norm, mask, shape, whole)
    assert got.shape == shape and got.dtype == bool
    np.testing.assert_array_equal(got, np.broadcast_to(mask.reshape(aligned), shape))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32, jnp.uint8])
def test_masks_are_boolean(dtype, whole):
    """A mask of numbers could be meant either way."""
    norm, _ = make_with_state(BatchNorm)(3, "batch")
    with pytest.raises(InputError, match="mask != 0"):
        _batch_axis.read_mask(norm, jnp.ones(4, dtype), (4,), whole)


@pytest.mark.parametrize("mask, number", [(True, 2), (False, 0)])
def test_what_a_layer_normalizes_by(mask, number):
    """The moments of the batch; of an empty one the running averages."""
    norm, _ = make_with_state(BatchNorm)(1, None)
    running = (jnp.array([5.0]), jnp.array([7.0]))
    x = jnp.array([[1.0], [3.0]])
    used, batch = _batch_axis.statistics(norm, x, running, jnp.array([mask] * 2))
    expected = [2, 1] if mask else [5, 7]
    np.testing.assert_array_equal(jnp.concatenate(used), expected)
    np.testing.assert_array_equal(batch.number, number)
    used, batch = _batch_axis.statistics(norm, x, running, None)
    assert batch.number == 2.0 and isinstance(batch.number, float)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, used, batch[:2]))
