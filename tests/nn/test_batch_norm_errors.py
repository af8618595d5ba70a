"""What BatchNorm says to wrong arguments and wrong calls: in the user's words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from vernal.errors import (
    AxisNameError,
    HyperparameterError,
    InputError,
    StateValueError,
)
from vernal.nn import BatchNorm, make_with_state

BAD_ARGUMENTS = [
    ("input_size", 0),
    ("input_size", True),
    ("input_size", 3.0),
    ("input_size", (3,)),
    ("axis_name", []),
    ("axis_name", ()),
    ("axis_name", 0),
    ("axis_name", ("batch", None)),
    ("axis_name", ("batch", "batch")),
    ("axis_name", ["batch", ["devices"]]),
    ("axis_name", {"batch": 1}),
    ("eps", -1e-5),
    ("eps", float("nan")),
    ("eps", float("inf")),
    ("eps", "1e-5"),
    ("eps", None),
    ("eps", True),
    ("channelwise_affine", 0.9),
    ("momentum", -0.1),
    ("momentum", 1.1),
    ("momentum", float("nan")),
    ("momentum", True),
    ("momentum", "0.9"),
    ("dtype", jnp.int32),
    ("dtype", jnp.complex64),
    ("mode", "train"),
    ("mode", None),
    ("unbiased", 1),
    ("unbiased", None),
]


class Block(vn.Module):
    norm: BatchNorm

    def __call__(self, x: Any, state: Any) -> Any:
        return self.norm(x, state)


class Model(vn.Module):
    norm1: BatchNorm
    blocks: list[Block]

    def __init__(self) -> None:
        self.norm1 = BatchNorm(3, axis_name="batch")
        self.blocks = [Block(BatchNorm(2, axis_name="batch"))]

    def __call__(self, x: Any, state: Any) -> Any:
        x, state = self.norm1(x, state)
        return self.blocks[0](x, state)


@pytest.mark.parametrize("name, value", BAD_ARGUMENTS, ids=str)
def test_bad_arguments(name, value):
    """Refused when the layer is built; the message names argument and value."""
    arguments = {"input_size": 3, "axis_name": "batch", name: value}
    with pytest.raises(HyperparameterError) as caught:
        BatchNorm(**arguments)
    message = str(caught.value)
    assert f"BatchNorm: bad argument `{name}`." in message
    assert "expected:" in message and "got:" in message
    assert len(message.splitlines()) <= 6


GOOD_ARGUMENTS = [
    ("input_size", np.int64(3)),
    ("axis_name", ("batch", "devices")),
    ("eps", 0),
    ("eps", np.float32(0.5)),
    ("momentum", 0),
    ("momentum", 1),
    ("momentum", np.float64(0.5)),
    ("momentum", None),
    ("axis_name", None),
    ("unbiased", True),
    ("axis_index_groups", [[0, 1], [2, 3]]),
    ("dtype", "float16"),
]


@pytest.mark.parametrize("name, value", GOOD_ARGUMENTS, ids=str)
def test_good_arguments(name, value):
    """The ends of the ranges and NumPy's numbers are fine; the layer stays hashable."""
    norm = BatchNorm(**{"input_size": 3, "axis_name": "batch", name: value})
    hash(jax.tree.structure(vn.nn.make_with_state(lambda: norm)()[0]))


def test_options_of_mode_batch():
    """What mode "ema" does not know is refused there."""
    for name, value in [("momentum", None), ("unbiased", True)]:
        with pytest.raises(HyperparameterError, match=f"`{name}`"):
            BatchNorm(3, "batch", mode="ema", **{name: value})


def train(model: Any, xs: Any, state: Any, axis_name: str | None = "batch") -> Any:
    axes: Any = {"in_axes": (0, None), "out_axes": (0, None)}
    return jax.vmap(model, axis_name=axis_name, **axes)(xs, state)


WRONG_CALLS = {
    "channels": (
        lambda model, state: train(model, jnp.ones((4, 5, 6)), state),
        InputError,
        [
            "BatchNorm at `norm1` of Model: the input has the wrong shape.",
            "input_size = 3",
            "(5, 6), float32",
        ],
    ),
    "channels of an inner layer": (
        lambda model, state: train(model, jnp.ones((4, 3)), state),
        InputError,
        ["BatchNorm at `blocks[0].norm` of Model", "input_size = 2", "(3,), float32"],
    ),
    "a whole batch": (
        lambda model, state: model(jnp.ones((4, 3)), state),
        InputError,
        ["BatchNorm at `norm1` of Model", "(4, 3), float32", "jax.vmap"],
    ),
    "no channels": (
        lambda model, state: train(model, jnp.ones(4), state),
        InputError,
        ["BatchNorm at `norm1` of Model", "(), float32"],
    ),
    "without vmap": (
        lambda model, state: model(jnp.ones(3), state),
        AxisNameError,
        [
            "BatchNorm at `norm1` of Model: no axis named 'batch' is in scope.",
            "jax.vmap(model, axis_name='batch', in_axes=(0, None), out_axes=(0, None))",
        ],
    ),
    "vmap without a name": (
        lambda model, state: train(model, jnp.ones((4, 3)), state, None),
        AxisNameError,
        ["BatchNorm at `norm1` of Model", "axis_name='batch'"],
    ),
    "vmap with another name": (
        lambda model, state: train(model, jnp.ones((4, 3)), state, "bacth"),
        AxisNameError,
        ["BatchNorm at `norm1` of Model", "axis_name='batch'", "another name"],
    ),
    "under jit": (
        lambda model, state: jax.jit(model)(jnp.ones(3), state),
        AxisNameError,
        ["BatchNorm at `norm1` of Model", "axis_name='batch'"],
    ),
    "integers": (
        lambda model, state: train(model, jnp.ones((4, 3), jnp.int32), state),
        InputError,
        ["BatchNorm at `norm1` of Model", "got:      int32", "astype"],
    ),
    "complex numbers": (
        lambda model, state: train(model, jnp.ones((4, 3), jnp.complex64), state),
        InputError,
        ["BatchNorm at `norm1` of Model", "got:      complex64"],
    ),
    "one value per channel": (
        lambda model, state: train(model, jnp.ones((1, 3)), state),
        InputError,
        ["BatchNorm at `norm1` of Model", "1 example(s) of shape (3,)", "at least two"],
    ),
    "no values": (
        lambda model, state: train(model, jnp.ones((4, 3, 0)), state),
        InputError,
        ["BatchNorm at `norm1` of Model", "4 example(s) of shape (3, 0)"],
    ),
    "no state": (
        lambda model, state: train(model, jnp.ones((4, 3)), None),
        InputError,
        ["BatchNorm at `norm1` of Model", "NoneType", "State"],
    ),
}


@pytest.mark.parametrize("call, error, texts", WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_calls(call, error, texts):
    """The message names layer, path, what was expected and given, and the way out."""
    model, state = make_with_state(Model)()
    with pytest.raises(error) as caught:
        call(model, state)
    message = str(caught.value)
    for text in texts:
        assert text in message
    assert len(message.splitlines()) <= 6


def test_a_state_that_gained_the_batch_axis():
    """Forgetting out_axes=None is told at the next call, by the name of the slot."""
    model, state = make_with_state(BatchNorm)(3, "batch")
    xs = jnp.ones((4, 3))
    _, state = jax.vmap(model, axis_name="batch", in_axes=(0, None))(xs, state)
    with pytest.raises(
        StateValueError, match="`batch_state_index` gained an axis"
    ) as e:
        train(model, xs, state)
    assert "out_axes=None" in str(e.value)


def test_one_example_with_spatial_axes_is_enough():
    """Two values per channel may come from one example; and inference takes any."""
    norm, state = make_with_state(BatchNorm)(3, "batch")
    ys, state = train(norm, jnp.arange(6.0).reshape(1, 3, 2), state)
    np.testing.assert_allclose(ys[0, 0], [-1, 1], rtol=1e-4)
    ys, _ = jax.vmap(vn.nn.inference_mode(norm), (0, None))(jnp.ones((1, 3)), state)
    assert ys.shape == (1, 3)


def test_an_unbound_axis_does_not_matter_in_inference():
    """Inference needs no vmap at all, and takes names that are not in scope."""
    norm, state = make_with_state(BatchNorm)(3, ("batch", "devices"), inference=True)
    y, after = norm(jnp.ones(3), state)
    np.testing.assert_allclose(y, 1, rtol=1e-5)
    assert vn.tree_equal(after, state)
