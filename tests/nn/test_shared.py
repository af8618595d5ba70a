"""Shared beside models that are tied by hand, and Equinox."""

import copy
import io
import pickle
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import vernal as vn
from tests.strategies import Counted, refuses
from tests.world import x64
from vernal import nn
from vernal.errors import HyperparameterError, TreeError

WORDS, WIDTH = 7, 4
TOKENS = jnp.array([1, 5, 2, 2, 0])
TARGETS = jnp.array([5, 2, 2, 0, 6])


class Table(vn.Module):
    """Looks up rows of a weight."""

    weight: jax.Array

    def __call__(self, token: Any) -> Any:
        return self.weight[token]


class Language(vn.Module):
    """Embedding and output layer with one weight, tied in the constructor."""

    shared: nn.Shared
    hidden: nn.Linear

    def __init__(self, key: Any) -> None:
        keys = jr.split(key, 3)
        table = Table(jr.normal(keys[0], (WORDS, WIDTH)))
        out = nn.Linear(WIDTH, WORDS, key=keys[1])
        where = lambda pair: pair[1].weight  # noqa: E731
        get = lambda pair: pair[0].weight  # noqa: E731
        self.shared = nn.Shared((table, out), where, get)
        self.hidden = nn.Linear(WIDTH, WIDTH, key=keys[2])

    def __call__(self, token: Any) -> Any:
        table, out = self.shared()
        return out(jnp.tanh(self.hidden(table(token))))


def loss(model: Any) -> Any:
    logits = jax.vmap(model)(TOKENS)
    return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS).mean()


def loss_by_hand(p: dict[str, Any], out_weight: Any) -> Any:
    """The same with plain arrays, and the two weights apart."""
    hidden = jnp.tanh(p["weight"][TOKENS] @ p["hidden"].T + p["hidden_bias"][None])
    logits = hidden @ out_weight.T + p["bias"][None]
    return optax.softmax_cross_entropy_with_integer_labels(logits, TARGETS).mean()


def parameters(model: Language) -> dict[str, Any]:
    """The parameters (or their gradients) as plain arrays."""
    table, out = model.shared.pytree
    hidden = {"hidden": model.hidden.weight, "hidden_bias": model.hidden.bias}
    return {"weight": table.weight, "bias": out.bias, **hidden}


def assert_close(got: Any, want: Any) -> None:
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def train(grad: Any, start: Any, steps: int = 20) -> Any:
    optimizer = optax.adam(0.05)

    def step(_: Any, carry: Any) -> Any:
        model, state = carry
        updates, state = optimizer.update(grad(model), state, model)
        return optax.apply_updates(model, updates), state

    run = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, step, carry))
    return run((start, optimizer.init(start)))[0]


@pytest.mark.relaxed  # optax raises a float to the power of an integer
def test_training_is_that_of_a_model_tied_by_hand() -> None:
    """Adam moves both uses together, to where it moves a single array with two uses."""
    model = Language(jr.key(0))
    trained = train(jax.grad(loss), model)
    table, out = trained.shared()
    assert out.weight is table.weight
    assert not np.allclose(table.weight, model.shared()[0].weight, atol=0.1)
    want = train(jax.grad(lambda p: loss_by_hand(p, p["weight"])), parameters(model))
    assert_close(parameters(trained), want)


def test_gradients_of_both_uses_add_up() -> None:
    """The gradient of the shared weight is the sum of those of two separate ones."""
    model = Language(jr.key(0))
    p = parameters(model)
    apart = jax.jit(jax.grad(loss_by_hand, (0, 1)))(p, p["weight"])
    grads = jax.jit(jax.grad(loss))(model)
    assert jax.tree.structure(grads) == jax.tree.structure(model)
    want = {**apart[0], "weight": apart[0]["weight"] + apart[1]}
    assert np.any(apart[1]) and np.any(apart[0]["weight"])
    assert_close(parameters(grads), want)


@pytest.mark.parametrize(
    "through",
    [
        lambda m: jax.tree.map(lambda x: x + 1, m),
        lambda m: jax.jit(lambda m: m)(m),
        lambda m: jax.tree.unflatten(*jax.tree.flatten(m)[::-1]),
        copy.deepcopy,
        vn.nn.inference_mode,
        lambda m: vn.tree_at(lambda m: m.shared.pytree[0].weight, m, jnp.ones((7, 4))),
        lambda m: vn.combine(*vn.partition(m, vn.is_array)),
    ],
)
def test_it_stays_tied(through: Any) -> None:
    """There is one copy before and after any operation on the tree."""
    model = through(Language(jr.key(0)))
    table, out = model.shared()
    assert out.weight is table.weight
    assert len(jax.tree.leaves(model)) == 4
    assert isinstance(out, nn.Linear) and out.bias is model.shared.pytree[1].bias


def test_two_models_of_one_class() -> None:
    """They have one structure, one compilation, and can be mapped over together."""
    first, second = Language(jr.key(0)), Language(jr.key(1))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    fn = Counted(loss)
    step = jax.jit(fn)
    for model in (first, second, Language(jr.key(2))):
        step(model)
    assert fn.calls == 1
    mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
    tables = [m.shared()[0].weight for m in (first, second)]
    assert_close(mean.shared()[1].weight, sum(tables) / 2)


def test_ensembles() -> None:
    """Built and called under vmap, each member equals one that is built alone."""
    keys = jr.split(jr.key(0), 3)
    models = vn.filter_vmap(Language)(keys)
    assert jax.tree.structure(models) == jax.tree.structure(Language(jr.key(5)))
    ys = vn.filter_vmap(lambda m: m(TOKENS[0]))(models)
    assert_close(ys, jnp.stack([Language(key)(TOKENS[0]) for key in keys]))


def test_files() -> None:
    """One copy is stored, and it comes back into an abstract model."""
    model, file = Language(jr.key(0)), io.BytesIO()
    vn.tree_serialise_leaves(file, model)
    count = WORDS * WIDTH + WORDS + WIDTH * WIDTH + WIDTH
    assert len(file.getvalue()) == 4 * count + 4 * 128  # numbers, and headers
    file.seek(0)
    like = vn.filter_eval_shape(Language, jr.key(1))
    loaded = vn.tree_deserialise_leaves(file, like)
    assert loaded == model and loaded.shared()[1].weight is loaded.shared()[0].weight


def _second(pair: Any) -> Any:
    return pair[1].weight


def _first_transposed(pair: Any) -> Any:
    return pair[0].weight.T


def autoencoder(key: Any, library: Any = nn) -> Any:
    down = library.Linear(3, 2, key=key)
    up = library.Linear(2, 3, key=key)
    return library.Shared((down, up), _second, _first_transposed)


def test_equinox() -> None:
    """A file of Equinox's can be read, and the tree that comes back is the same."""
    theirs, file = autoencoder(jr.key(3), eqx.nn), io.BytesIO()
    eqx.tree_serialise_leaves(file, theirs)
    file.seek(0)
    ours = vn.tree_deserialise_leaves(file, autoencoder(jr.key(0)))
    for a, b in zip(ours(), theirs(), strict=True):
        assert jnp.array_equal(a.weight, b.weight) and jnp.array_equal(a.bias, b.bias)


def test_pickling() -> None:
    """With functions that can be imported, pickling gives an equal Shared."""
    shared = autoencoder(jr.key(0))
    twin = pickle.loads(pickle.dumps(shared))
    assert twin == shared and twin.where is _second
    with pytest.raises((pickle.PicklingError, AttributeError), match="local"):
        pickle.dumps(Language(jr.key(0)))


def test_many_nodes() -> None:
    """Sequences of nodes are tied one by one; whole layers, lists and None too."""
    layers = [nn.Linear(3, 3, use_bias=i < 3, key=jr.key(i)) for i in range(4)]
    tree = {"layers": layers, "extra": [jnp.ones(2), jnp.zeros(2)], "copy": None}
    tree["copy"] = [jnp.zeros(2), jnp.ones(2)]
    shared = nn.Shared(
        tree,
        lambda t: (t["layers"][1], t["layers"][2].bias, t["copy"], t["layers"][3].bias),
        lambda t: [t["layers"][0], t["layers"][0].bias, t["extra"], None],
    )
    assert len(jax.tree.leaves(shared)) == 2 + 1 + 1 + 2
    out = shared()
    assert jax.tree.structure(out) == jax.tree.structure(tree)
    assert vn.tree_equal(out["layers"][1], layers[0])
    assert out["layers"][2].bias is layers[0].bias
    assert out["layers"][2].weight is layers[2].weight
    assert out["copy"][1] is tree["extra"][1] and out["layers"][3].bias is None


def test_a_single_list() -> None:
    """A node that is a list is one node."""
    tree = ([jnp.ones(2), jnp.ones(3)], [jnp.zeros(2), jnp.zeros(3)])
    shared = nn.Shared(tree, lambda t: t[1], lambda t: t[0])
    assert len(jax.tree.leaves(shared)) == 2
    assert jnp.all(shared()[1][1] == 1)


class Twice(nn.StatefulLayer):
    """One layer of BatchNorm, and a second one that is tied to it."""

    norms: nn.Shared

    def __init__(self) -> None:
        norms = [nn.BatchNorm(3, "batch"), nn.BatchNorm(3, "batch")]
        self.norms = nn.Shared(norms, lambda n: n[1], lambda n: n[0])

    def __call__(self, x: Any, state: Any) -> Any:
        first, second = self.norms()
        x, state = first(x, state)
        return second(x + 1, state)


def test_state() -> None:
    """Layers with a state work inside, and a tied one has no state of its own."""
    model, state = nn.make_with_state(Twice)()
    again, _ = nn.make_with_state(Twice)()
    assert jax.tree.structure(model) == jax.tree.structure(again)
    assert len(jax.tree.leaves(state)) == 3
    xs = jr.normal(jr.key(0), (8, 3)) * 3 + 1

    @jax.jit
    def step(model: Any, xs: Any, state: Any) -> Any:
        options = {"axis_name": "batch", "in_axes": (0, None), "out_axes": (0, None)}
        return jax.vmap(model, **options)(xs, state)

    _, state = step(model, xs, state)
    first, second = model.norms()
    assert int(state.get(first.batch_counter)) == 2
    mean, _ = state.get(second.batch_state_index)
    ages = np.array([0.99, 1])  # the first call saw xs, the second normalized ones + 1
    want = ages @ np.stack([xs.mean(0), np.ones(3)]) / ages.sum()
    np.testing.assert_allclose(mean, want, rtol=1e-4)


def test_a_learned_function() -> None:
    """A Module as ``get`` is part of the tree, and is trained."""

    class Scaled(vn.Module):
        scale: jax.Array

        def __call__(self, pair: Any) -> Any:
            return self.scale * pair[0]

    tree = (jnp.ones(3), jnp.zeros(3))
    shared = nn.Shared(tree, lambda pair: pair[1], Scaled(jnp.array(2.0)))
    grads = jax.grad(lambda s: jnp.sum(s()[1] * jnp.arange(3.0)))(shared)
    assert float(grads.get.scale) == 3
    np.testing.assert_array_equal(grads.pytree[0], [0, 2, 4])


def test_double_precision() -> None:
    """Dtypes are part of what must fit."""
    with x64():
        tree = (jnp.ones(3), jnp.ones(3, jnp.float32))
        with refuses(HyperparameterError, "float32", "float64"):
            nn.Shared(tree, lambda t: t[0], lambda t: t[1])


def test_repr() -> None:
    """It prints what is tied, and the functions by name."""
    text = " ".join(repr(autoencoder(jr.key(0))).split())
    assert "weight=Tied()" in text and "where=<function _second>" in text
    assert "<lambda>" in repr(Language(jr.key(0)).shared.where)


PAIR = (jnp.ones(3), jnp.ones(3), jnp.ones((3, 2)))


@pytest.mark.parametrize(
    ("where", "get", "words"),
    [
        (lambda t: t[0], lambda t: t[2], ["`[0]`", "(3,), float32", "(3, 2), float32"]),
        (lambda t: t[2], lambda t: t[2], ["something else from `get`"]),
        (lambda t: t[2], lambda t: t[2].T, ["of those that stay", "Tied"]),
        (lambda t: (t[0], t[1]), lambda t: t[2], ["2 replacements"]),
        (lambda t: (t[0], t[1]), lambda t: (t[2],), ["differ in length"]),
        (lambda t: t[0], lambda t: None, ["something else"]),
        (lambda t: t[0], lambda t: 1.0, ["(3,), float32", "float from"]),
        (lambda t: t[0], lambda t: t[1].astype(int), ["(3,), int32"]),
        (lambda t: t[0], lambda t: 1 / 0, ["division by zero"]),
        (lambda t: t[0], 3, ["`get`", "int"]),
        ("weight", lambda t: t[0], ["`where`", "str"]),
    ],
)
def test_bad_arguments(where: Any, get: Any, words: list[str]) -> None:
    """What does not fit is refused when it is built, with both forms in the message."""
    with refuses(HyperparameterError, "Shared", *words):
        nn.Shared(PAIR, where, get)


def test_another_configuration() -> None:
    """Layers of equal shapes, but other settings, are not tied by mistake."""
    layers = [nn.LayerNorm(3, eps=eps) for eps in (1e-5, 1e-3)]
    with refuses(HyperparameterError, "configuration"):
        nn.Shared(layers, lambda t: t[1], lambda t: t[0])


def test_where_must_give_nodes() -> None:
    """As for tree_at."""
    with refuses(TreeError, "`where`"):
        nn.Shared(PAIR, lambda t: t[0] + 1, lambda t: t[1])
