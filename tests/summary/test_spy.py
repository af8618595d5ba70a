"""Watching a model: every call is seen, nothing is changed."""

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import pytest

import vernal as vn
from tests.catalogue import ROWS
from vernal import nn
from vernal._summary.spy import Calls, modules, watched
from vernal._tree.paths import path_text

X = jax.ShapeDtypeStruct((3,), "float32")


def seen(model, *args):
    """The paths of the calls, in order."""
    calls = Calls()
    jax.eval_shape(watched(model, calls), *args)
    return [path_text(call.path) for call in calls.values()]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_layer_returns_what_it_did(row):
    """A watched layer gives the same shapes, dtypes and structure; its call is seen."""
    layer, state = row.split()
    calls, xs = Calls(), row.batch()
    copy = watched(layer, calls)
    expected = jax.eval_shape(row.call, layer, state, xs)
    found = jax.eval_shape(row.call, copy, state, xs)
    assert jax.tree.flatten(found) == jax.tree.flatten(expected)
    assert calls


class Twins(vn.Module):
    """Two equal layers, used in a way that a test chooses."""

    a: nn.Linear
    b: nn.Linear
    how: object = vn.field(static=True)

    def __init__(self, how):
        self.a, self.b = (nn.Linear(3, 3, key=jr.key(i)) for i in range(2))
        self.how = how

    def __call__(self, x):
        return self.how(self, x)

    def encode(self, x):
        return self.b(x)


def scan_over_both(model, x):
    both = jax.tree.map(lambda *arrays: jnp.stack(arrays), model.a, model.b)
    return jax.lax.scan(lambda x, layer: (layer(x), None), x, both)[0]


def through_boundaries(model, x):
    x = vn.filter_checkpoint(lambda f, x: f(x))(model.b, x)
    return jax.jit(lambda f, x: jax.vmap(f)(x[None])[0])(model.a, x)


WAYS = [
    (lambda m, x: m.b(m.a(x)), ["a", "b"]),
    (lambda m, x: m.a(m.a(x)), ["a", "a"]),
    (through_boundaries, ["b", "a"]),
    (lambda m, x: jax.grad(lambda x: m.a(x).sum())(x), ["a"]),
    (lambda m, x: jax.lax.cond(x[0] > 0, m.a, m.b, x), ["a", "b"]),
    (lambda m, x: vn.tree_at(lambda m: m.weight, m.b, m.a.weight)(x), ["b"]),
    (lambda m, x: vn.nn.Linear(3, 3, key=jr.key(0))(x), []),
    (scan_over_both, ["a"]),  # as one layer: the first
]


@pytest.mark.parametrize(("how", "expected"), WAYS)
def test_places_survive_transformations(how, expected):
    """Equal layers are told apart through remat, jit, vmap, grad, cond and tree_at."""
    assert set(seen(Twins(how), X)) == {*expected, ""}
    assert len(seen(Twins(how), X)) >= len(expected) + 1


def test_it_is_still_what_it_was():
    """isinstance, type names, key paths and attributes are those of the model."""
    model = Twins(lambda m, x: x)
    copy = watched(model, Calls())
    assert isinstance(copy, Twins) and type(copy.a).__name__ == "Linear"
    assert repr(copy) == repr(model)
    paths = [[p for p, _ in jtu.tree_leaves_with_path(x)] for x in (copy, model)]
    assert paths[0] == paths[1]
    assert all(
        a is b for a, b in zip(*map(jax.tree.leaves, (copy, model)), strict=True)
    )


def test_what_is_not_called():
    """A Module without a call stays one, and what is in it is seen."""

    class Pair(vn.Module):
        layer: nn.Linear

    class Outer(vn.Module):
        pair: Pair

        def __call__(self, x):
            assert not callable(self.pair)
            return self.pair.layer(x)

    outer = Outer(Pair(nn.Linear(3, 3, key=jr.key(0))))
    assert seen(outer, X) == ["pair.layer", ""]
    assert [path_text(path) for path, _ in modules(outer)] == ["", "pair", "pair.layer"]


def test_nothing_is_changed():
    """A failure inside the call leaves model and classes as they were."""

    def fail(m, x):
        m.a(x)
        raise KeyError("mine")

    model = Twins(fail)
    before = {cls: dict(vars(cls)) for cls in (Twins, nn.Linear, vn.Module)}
    with pytest.raises(KeyError, match="mine"):
        seen(model, X)
    after = {cls: {k: vars(cls)[k] for k in before[cls]} for cls in before}
    assert after == before
    calls = Calls()
    copy = watched(model, calls)
    assert type(model.a) is nn.Linear and type(copy.a) is not nn.Linear
    assert model.a(jnp.ones(3)).shape == (3,) and not calls


def test_base_classes_do_not_hear_of_it():
    """A class that registers its subclasses is not told of those that watch."""
    known = []

    class Plugin(vn.Module):
        def __init_subclass__(cls):
            known.append(cls.__name__)

        def __call__(self, x):
            return x

    class Mine(Plugin):
        pass

    assert seen(Mine(), X) == [""] and known == ["Mine"]


def test_jitted_parts_are_seen_each_time():
    """What an inner jit has cached from one summary hides nothing from the next."""
    inner = jax.jit(lambda layer, x: layer(x))
    model = Twins(lambda m, x: inner(m.b, x))
    assert [seen(model, X) for _ in range(2)] == [["b", ""]] * 2


def test_unchanged_values_stay_the_same_objects():
    """Containers that look whether a state is the same object still see that it is."""
    norm = nn.BatchNorm(3, "batch")
    model, state = nn.split_state(nn.inference_mode(norm))
    same = []

    class Look(vn.Module):
        norm: nn.BatchNorm

        def __call__(self, x, state):
            y, new = self.norm(x, state)
            pairs = zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True)
            same.extend(a is b for a, b in pairs)
            return y, new

    assert seen(Look(model), X, state) == ["norm", ""]
    assert same == [True] * 3


def test_what_is_around_a_model_has_no_row():
    """Methods, Partials and jitted functions show the model that is in them."""
    model = Twins(lambda m, x: m.a(x))
    paths = ["", "a", "b"]
    for around in (model, vn.filter_jit(model), vn.Partial(model), model.encode):
        assert [path_text(path) for path, _ in modules(around)] == paths
    held = vn.Partial(lambda model, x: model(x), model)
    assert [path_text(path) for path, _ in modules(held)] == [
        "args[0]",
        "args[0].a",
        "args[0].b",
    ]
