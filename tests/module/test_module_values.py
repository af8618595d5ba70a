"""``Module`` as a value: equality, hash, repr, copies, pickles, and plain JAX."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import vernal as vn
from tests.strategies import Counted, Node, Scale


class Leaf(vn.Module):
    k: object

    def __call__(self, x):
        return jnp.asarray(self.k)


class Affine(vn.Module):
    weight: object
    bias: object = 0.0
    traced: object = vn.field(static=True, default=None)

    def __call__(self, x):
        if self.traced is not None:
            self.traced()
        return self.weight * x + self.bias


def test_equal_modules():
    """Modules are equal by class, structure and values, arrays included."""
    assert Node(jnp.ones(2), [1]) == Node(jnp.ones(2), [1])
    assert hash(Node(jnp.ones(2), [1])) == hash(Node(jnp.ones(2), [1]))
    assert Node(jnp.ones(2)) == Node(jnp.ones(2), None, "tag", jnp.tanh)


@pytest.mark.parametrize(
    "other",
    [
        Node(jnp.zeros(2)),
        Node(jnp.ones(3)),
        Node(jnp.ones(2, jnp.float16)),
        Node(jnp.ones(2), 1),
        Node(jnp.ones(2), tag="other"),
        Node(jnp.ones(2), fn=jnp.sin),
        Scale(jnp.ones(2)),
        "text",
        None,
    ],
)
def test_unequal_modules(other):
    """A difference in value, shape, dtype, metadata or class is one."""
    assert Node(jnp.ones(2)) != other
    assert other != Node(jnp.ones(2))


def test_equality_is_a_bool():
    """The result is Python's own, so that it can stand in an `if` and a set."""
    assert (Scale(jnp.ones(2)) == Scale(jnp.ones(2))) is True
    assert (Scale(jnp.ones(2)) == Scale(jnp.zeros(2))) is False
    assert len({Scale(1), Scale(1), Scale(2)}) == 2


def test_numbers_of_other_types_differ():
    """1, 1.0 and True are different programs, so Modules with them differ."""
    modules = [Leaf(k) for k in (1, 1.0, True)]
    for i, a in enumerate(modules):
        for j, b in enumerate(modules):
            assert (a == b) is (i == j)


def test_jit_tells_numbers_of_other_types():
    """`jax.jit(model)` of equal-looking models computes for each its own result."""
    models = [Leaf(k) for k in (1, 1.0, True)]
    dtypes = [jax.jit(model)(0).dtype for model in models]
    assert dtypes == [jnp.int32, jnp.float32, jnp.bool_]


def test_jit_of_equal_models_compiles_once():
    """`jax.jit` takes a Module as a function; equal ones share one compilation."""
    traced = Counted(lambda: None)
    models = [Affine(jnp.ones(2), traced=traced) for _ in range(2)]
    results = [jax.jit(model)(jnp.ones(2)).tolist() for model in models]
    assert results == [[1.0, 1.0]] * 2
    assert traced.calls == 1


def test_jit_of_different_models():
    """Models that differ in values only are never taken for each other."""
    models = [Affine(jnp.full(2, k)) for k in (1.0, 2.0, 3.0)]
    results = [float(jax.jit(model)(jnp.ones(2))[0]) for model in models]
    assert results == [1.0, 2.0, 3.0]


def test_equality_under_a_trace():
    """Inside jit, known models compare as outside, and traced ones are unequal."""
    a, b, c = Scale(jnp.ones(2)), Scale(jnp.ones(2)), Scale(jnp.zeros(2))

    def ask(x):
        assert a == b and a != c
        traced = Scale(x)
        assert traced == traced and traced != Scale(x) and traced != a
        assert hash(traced) == hash(a)
        return x

    jax.jit(ask)(jnp.ones(2))


TRANSFORMS = {
    "jit": lambda model, x: jax.jit(model)(x),
    "vmap": lambda model, x: jax.vmap(model)(x),
    "checkpoint": lambda model, x: jax.checkpoint(model)(x),
    "grad": lambda model, x: jax.grad(lambda y: model(y).sum())(x),
    "scan": lambda model, x: jax.lax.scan(lambda c, y: (c, model(y)), 0.0, x)[1],
    "map": lambda model, x: jax.lax.map(model, x),
    "cond": lambda model, x: jax.lax.cond(True, model, lambda y: y, x),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_two_models_under_one_trace(transform):
    """Two models that differ in values can be transformed inside one jitted function.

    JAX looks functions up by hash and equality, also while it traces.
    """
    models = [Affine(jnp.asarray(k)) for k in (2.0, 3.0)]

    @jax.jit
    def both(x):
        return [transform(model, x) for model in models]

    two, three = both(jnp.ones(2))
    assert (two.tolist(), three.tolist()) == ([2.0, 2.0], [3.0, 3.0])


def test_a_model_whose_buffers_were_donated():
    """An old model without its arrays does not get in the way of a new one."""
    old = Affine(jnp.ones(2) * 2)
    keep = jax.jit(old)
    keep(jnp.ones(2))
    step = vn.filter_jit(
        lambda m: vn.tree_at(lambda n: n.weight, m, m.weight + 1), donate="all"
    )
    new = step(old)
    assert old.weight.is_deleted()
    assert old == old and hash(old) == hash(new)
    assert jax.jit(new)(jnp.ones(2)).tolist() == [3.0, 3.0]


def test_repr():
    """A Module prints as its constructor call, arrays as dtype and shape."""
    linear = vn.nn.Linear(2, 3, key=jax.random.key(0))
    assert repr(Scale(jnp.ones((2, 3)))) == "Scale(factor=f32[2,3])"
    text = repr([linear])
    assert "weight=f32[3,2]" in text and "in_features=2" in text
    assert str(linear) == repr(linear)


def test_repr_of_nested_modules_is_indented():
    """What does not fit into a line is laid out like code."""
    text = repr(Node([Scale(jnp.ones(2))] * 4, "long enough " * 3))
    assert text.splitlines()[:2] == ["Node(", "  first=["]


def test_pickle():
    """A Module comes back from a pickle equal, frozen, and of equal structure."""
    linear = vn.nn.Linear(2, 3, key=jax.random.key(0))
    node = Node(linear, {"a": np.ones(2)}, ("t", 1), len)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(node, protocol))
        assert back == node
        assert jax.tree.structure(back) == jax.tree.structure(node)
        with pytest.raises(AttributeError):
            back.first = 1


def test_shallow_and_deep_copies():
    """`copy.copy` shares the fields' values; `copy.deepcopy` shares nothing mutable."""
    node = Node([jnp.ones(2)], Scale(1), tag=("t",), fn=len)
    shallow, deep = copy.copy(node), copy.deepcopy(node)
    assert shallow == deep == node and shallow is not node
    assert shallow.first is node.first
    assert deep.first is not node.first and deep.second is not node.second
    for x in (shallow, deep):
        with pytest.raises(AttributeError):
            x.first = 1


@pytest.mark.parametrize("fn", [jnp.tanh, jax.nn.relu, jnp.add])
def test_functions_of_jax_are_copied_and_pickled(fn):
    """Functions of JAX, whatever they are made of, come back as the same ones."""
    for model in (vn.nn.Lambda(fn), Node(1, tag=fn, fn=None)):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert jax.tree.structure(twin) == jax.tree.structure(model)


def test_functions_that_only_look_like_others():
    """What its own name does not lead to is never replaced by what the name gives."""
    impostor = functools.wraps(copy.copy)(lambda x: x)
    assert copy.deepcopy(Node(1, fn=impostor)).fn is impostor
    node = Node(("math", "pi"), tag=("math", "pi"), fn=None)
    twin = pickle.loads(pickle.dumps(node))
    assert twin.first == twin.tag == ("math", "pi")


def test_built_in_models_are_copied_and_pickled():
    """A model of built-in layers with its default activations is copied and pickled."""
    model = built_in_model()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        mean = jax.tree.map(lambda a, b: (a + b) / 2, model, other)
        assert bool(vn.tree_equal(mean, model))


@functools.cache  # compiling the initializers takes most of the time
def built_in_model():
    keys = jax.random.split(jax.random.key(0), 3)
    return vn.nn.Sequential(
        [
            vn.nn.Linear(3, 4, key=keys[0]),
            jax.nn.relu,
            vn.nn.Dropout(0.5, inference=True),
            vn.nn.Lambda(jnp.tanh),
            vn.nn.MLP(4, 2, 5, 1, key=keys[1]),
            vn.nn.Identity(),
        ]
    )


def loss(model, x):
    return (model(x) ** 2).sum()


def test_built_in_layers_have_only_arrays():
    """Every leaf of a model of built-in layers is an array."""
    model = built_in_model()
    assert all(map(vn.is_array, jax.tree.leaves(model)))
    assert len(jax.tree.leaves(model)) == 6


def test_plain_jit_and_grad():
    """`jax.jit` and `jax.grad` take a model as an argument, without filtering."""
    model, x = built_in_model(), jnp.ones(3)
    value = jax.jit(loss)(model, x)
    grads = jax.jit(jax.grad(loss))(model, x)
    assert jnp.allclose(value, loss(model, x))
    assert jax.tree.structure(grads) == jax.tree.structure(model)
    assert jax.jit(model)(x).shape == (2,)


@pytest.mark.relaxed  # optax mixes integers and floats
def test_plain_scan_over_a_carried_model():
    """A model can be the carry of `lax.scan`, with an optax optimizer beside it."""
    model, optimizer = built_in_model(), optax.adam(1e-2)

    def step(carry, x):
        model, opt_state = carry
        value, grads = jax.value_and_grad(loss)(model, x)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (vn.apply_updates(model, updates), opt_state), value

    carry = (model, optimizer.init(model))
    (trained, _), losses = jax.lax.scan(step, carry, jnp.ones((20, 3)))
    assert losses[-1] < losses[0]
    assert jax.tree.structure(trained) == jax.tree.structure(model)


def test_optax_takes_a_model_as_it_is():
    """`optax.adam(1e-3).init(model)` needs no filter, and gives the same moments."""
    model = built_in_model()
    plain = optax.adam(1e-3).init(model)
    filtered = optax.adam(1e-3).init(vn.filter(model, vn.is_inexact_array))
    assert vn.tree_equal(plain[0].mu, filtered[0].mu)


def test_masks_keep_the_structure():
    """Mapping all leaves to booleans or None keeps the static fields in their place."""
    model = built_in_model()
    mask = jax.tree.map(lambda _: True, model)
    assert jax.tree.structure(mask) == jax.tree.structure(model)
    empty = jax.tree.map(lambda _: None, model)
    assert jax.tree.leaves(empty) == [] and empty.layers[3].fn is jnp.tanh
