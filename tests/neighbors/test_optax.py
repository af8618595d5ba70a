"""optax: all its optimizers, masks and labels work on a model as on a dictionary."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import vernal as vn

# optax mixes dtypes, as any user's program may.
pytestmark = pytest.mark.relaxed

ARGUMENTS = {
    "learning_rate": 1e-2,
    "max_learning_rate": 1.0,
    "eta": 0.01,
    "gamma": 0.55,
    "key": jr.key(0),
    "seed": 0,
}


def is_optimizer(x: Any) -> bool:
    return getattr(x, "__module__", "") == "optax._src.alias" and callable(x)


OPTIMIZERS = {
    name: x
    for name, x in vars(optax).items()
    if is_optimizer(x) and not isinstance(x, type)
}


def make(name: str) -> Any:
    """The optimizer, with what it needs and what most of them are called with."""
    wanted = inspect.signature(OPTIMIZERS[name]).parameters
    needed = {k for k, p in wanted.items() if p.default is p.empty}
    used = needed | ({"learning_rate"} & set(wanted))
    return optax.with_extra_args_support(
        OPTIMIZERS[name](**{k: ARGUMENTS[k] for k in used})
    )


def model_of(seed: int = 0) -> vn.nn.MLP:
    return vn.nn.MLP(3, 2, 4, 1, activation=jnp.tanh, key=jr.key(seed))


def as_dict(model: vn.nn.MLP) -> dict[str, Any]:
    """The same parameters without a Module around them."""
    paths = jax.tree_util.tree_leaves_with_path(model)
    return {jax.tree_util.keystr(path): leaf for path, leaf in paths}


XS, YS = jr.normal(jr.key(1), (8, 3)), jr.normal(jr.key(2), (8, 2))


def loss_of_model(model: vn.nn.MLP) -> Any:
    return jnp.mean((jax.vmap(model)(XS) - YS) ** 2)


def loss_of_dict(params: dict[str, Any]) -> Any:
    first, second = (
        (params[f".layers[{i}].weight"], params[f".layers[{i}].bias"]) for i in (0, 1)
    )
    hidden = jnp.tanh(XS @ first[0].T + first[1])
    return jnp.mean((hidden @ second[0].T + second[1] - YS) ** 2)


def train(params: Any, loss: Any, optimizer: Any, steps: int = 3) -> Any:
    """A few steps, jitted, with all that any optimizer asks for."""

    @jax.jit
    def step(params: Any, opt_state: Any) -> Any:
        value, grads = jax.value_and_grad(loss)(params)
        more = {"value": value, "grad": grads, "value_fn": loss}
        updates, opt_state = optimizer.update(grads, opt_state, params, **more)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for _ in range(steps):
        params, opt_state = step(params, opt_state)
    return params


def assert_alike(model: vn.nn.MLP, params: dict[str, Any]) -> None:
    for name, leaf in as_dict(model).items():
        assert jnp.allclose(leaf, params[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer(name: str) -> None:
    """The model is trained as a dictionary of its parameters is."""
    model = train(model_of(), loss_of_model, make(name))
    assert_alike(model, train(as_dict(model_of()), loss_of_dict, make(name)))
    assert not vn.tree_equal(model, model_of())


def test_there_are_many() -> None:
    """The list is not empty by mistake."""
    assert len(OPTIMIZERS) > 20 and {"adam", "lbfgs", "sgd"} <= set(OPTIMIZERS)


def test_a_mask() -> None:
    """A model of booleans says what is decayed."""
    mask = jax.tree.map(lambda x: x.ndim > 1, model_of())
    optimizer = optax.masked(optax.add_decayed_weights(0.1), mask)
    zeros = jax.tree.map(jnp.zeros_like, model_of())
    updates, _ = optimizer.update(zeros, optimizer.init(model_of()), model_of())
    for layer, update in zip(model_of().layers, updates.layers, strict=True):
        assert jnp.allclose(update.weight, 0.1 * layer.weight)
        assert jnp.all(update.bias == 0)


def test_labels_of_layers() -> None:
    """A model of labels chooses the optimizer of each part; a frozen one stays."""
    labels = jax.tree.map(lambda _: "fast", model_of())
    labels = vn.tree_at(
        lambda m: m.layers[0], labels, jax.tree.map(lambda _: "no", labels.layers[0])
    )
    transforms = {"fast": optax.sgd(0.1), "no": optax.set_to_zero()}
    optimizer = optax.with_extra_args_support(optax.multi_transform(transforms, labels))
    model = train(model_of(), loss_of_model, optimizer)
    assert vn.tree_equal(model.layers[0], model_of().layers[0])
    assert not vn.tree_equal(model.layers[1], model_of().layers[1])


def test_masks_by_path() -> None:
    """Paths name the parameters, for masks made of names."""
    is_bias = jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path).endswith(".bias"), model_of()
    )
    assert [layer.bias for layer in is_bias.layers] == [True, True]
    assert [layer.weight for layer in is_bias.layers] == [False, False]
