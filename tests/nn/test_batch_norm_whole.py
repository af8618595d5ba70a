"""BatchNorm with axis_name=None: a whole batch in one array, without vmap."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import vernal as vn
from tests.nn.test_batch_norm import assert_close, draw
from tests.nn.test_batch_norm_masks import draw_mask
from vernal.errors import InputError
from vernal.nn import BatchNorm, make_with_state

OPTIONS = [
    {},
    {"mode": "ema", "momentum": 0.3},
    {"momentum": None},
    {"unbiased": True, "channelwise_affine": False},
]


def build(axis_name: Any, options: Any) -> Any:
    norm, state = make_with_state(BatchNorm)(3, axis_name, **options)
    if norm.channelwise_affine:
        new = (jnp.arange(1.0, 4.0), jnp.arange(3.0))
        norm = vn.tree_at(lambda m: (m.weight, m.bias), norm, new)
    return norm, state


def examples(norm: Any, xs: Any, state: Any, mask: Any = None) -> Any:
    def one(x: Any, state: Any, mask: Any) -> Any:
        return norm(x, state, mask=mask)

    axes: Any = {"in_axes": (0, None, 0), "out_axes": (0, None)}
    return jax.vmap(one, axis_name="batch", **axes)(xs, state, mask)


def whole(norm: Any, xs: Any, state: Any, mask: Any = None) -> Any:
    return norm(xs, state, mask=mask)


def train(call: Any, norm: Any, state: Any, shape: Any, has_mask: bool) -> Any:
    """Outputs, gradients and state of three steps."""

    def loss(norm: Any, xs: Any, state: Any, mask: Any) -> Any:
        ys, new = call(norm, xs, state, mask)
        return jnp.sum(jnp.sin(ys) * jnp.cos(xs)), (ys, new)

    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    results = []
    for i in range(3):
        mask = draw_mask(shape, i) if has_mask else None
        grads, (ys, state) = step(norm, draw(shape, i), state, mask)
        results.append(jax.tree.leaves((grads, ys, state)))
    return results


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape, has_mask", [((8, 3), False), ((5, 3, 2, 4), True)])
def test_equals_vmap(shape, options, has_mask):
    """Outputs, gradients and state are those of one example at a time."""
    got = train(whole, *build(None, options), shape, has_mask)
    expected = train(examples, *build("batch", options), shape, has_mask)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, 1e-5)


def test_inference():
    """It takes a batch in inference, too."""
    norm, state = build(None, {})
    _, state = norm(draw((6, 3, 4)), state)
    plain, _ = build("batch", {})
    xs = draw((6, 3, 4), 1)
    got, after = vn.nn.inference_mode(norm)(xs, state)
    expected, _ = examples(vn.nn.inference_mode(plain), xs, state)
    assert_close(got, expected, 1e-6)
    assert vn.tree_equal(after, state)


def test_the_state_is_handed_over():
    """No vmap hides that the old state was replaced."""
    norm, state = build(None, {})
    _, _ = norm(draw((6, 3)), state)
    with pytest.raises(vn.errors.ConsumedStateError):
        norm(draw((6, 3)), state)


def test_a_sharded_batch():
    """Under jit a batch that lies on eight devices is one batch."""
    norm, state = build(None, {})
    place = NamedSharding(Mesh(np.array(jax.devices()), ("d",)), P("d"))
    got = jax.jit(whole)(norm, jax.device_put(draw((16, 3, 4)), place), state)
    assert_close(got, whole(norm, draw((16, 3, 4)), state), 1e-5)


@pytest.mark.parametrize("mask", [(5,), (5, 1, 1), (1, 4), (5, 2, 1), (1, 1, 4), ()])
def test_masks_have_the_batch_axis(mask):
    """The batch axis comes first; what follows broadcasts to the spatial axes."""
    norm, state = build(None, {"momentum": 0.0})
    drawn = np.random.default_rng(3).random(mask) > 0.4 if mask else np.array(True)
    rest = mask[1:]
    full = drawn.reshape(*mask[:1], *[1] * (2 - len(rest)), *rest)
    full = np.broadcast_to(full, (5, 2, 4))
    got = norm(draw((5, 3, 2, 4)), state, mask=drawn)
    plain, state = build("batch", {"momentum": 0.0})
    assert_close(got, examples(plain, draw((5, 3, 2, 4)), state, full), 1e-5)


WRONG = {
    "one example": (
        (3,),
        None,
        ["(batch, input_size, ...) with input_size = 3", "(3,)"],
    ),
    "channels last": ((5, 4, 3), None, ["input_size = 3", "(5, 4, 3), float32"]),
    "one value": ((1, 3), None, ["fewer than two values per channel"]),
    "no examples": ((0, 3), None, ["fewer than two values per channel"]),
    "a mask of space": ((5, 3, 4), (4,), ["(batch, *spatial)", "(4,), bool"]),
    "a mask of channels": ((5, 3), (5, 3), ["(batch,)", "(5, 3), bool"]),
}


@pytest.mark.parametrize("shape, mask, texts", WRONG.values(), ids=WRONG)
def test_wrong_calls(shape, mask, texts):
    """The message speaks of batches."""
    norm, state = build(None, {})
    mask = None if mask is None else np.full(mask, True)
    with pytest.raises(InputError, match="BatchNorm") as caught:
        norm(jnp.ones(shape), state, mask=mask)
    message = str(caught.value)
    for text in texts:
        assert text in message
    assert len(message.splitlines()) <= 6
