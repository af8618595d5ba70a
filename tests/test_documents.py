"""Both source documents run as written.

Only the import is changed, and the lines that were lost from the second are restored:
``weight_name="weight", key=key2,`` with the bracket that closes SpectralNorm, the
bracket that closes ``jax.vmap(``, and ``@eqx.filter_jit`` above ``make_step``.
"""

import jax
import jax.numpy as jnp
import pytest

import vernal as vn
from tests.strategies import Counted

COUNTER = """
import vernal as eqx
import jax.numpy as jnp
from jaxtyping import Array

class Counter(eqx.Module):
    index: eqx.nn.StateIndex

    def __init__(self):
        init_state = jnp.array(0)
        self.index = eqx.nn.StateIndex(init_state)

    def __call__(self, x: Array, state: eqx.nn.State) -> tuple[Array, eqx.nn.State]:
        value = state.get(self.index)
        new_x = x + value
        new_state = state.set(self.index, value + 1)
        return new_x, new_state

counter, state = eqx.nn.make_with_state(Counter)()
x = jnp.array(2.3)

num_calls = state.get(counter.index)
print(f"Called {num_calls} times.")  # 0

_, state = counter(x, state)
num_calls = state.get(counter.index)
print(f"Called {num_calls} times.")  # 1

_, state = counter(x, state)
num_calls = state.get(counter.index)
print(f"Called {num_calls} times.")  # 2
"""

VMAPPED = """
import jax.random as jr

class Model(eqx.Module):
    linear: eqx.nn.Linear
    counter: Counter
    v_counter: Counter

    def __init__(self, key):
        # Not-stateful layer
        self.linear = eqx.nn.Linear(2, 2, key=key)
        # Stateful layer.
        self.counter = Counter()
        # Vmap'd stateful layer. (Whose initial state will include a batch dimension.)
        self.v_counter = eqx.filter_vmap(Counter, axis_size=2)()

    def __call__(self, x: Array, state: eqx.nn.State) -> tuple[Array, eqx.nn.State]:
        # This bit happens as normal.
        assert x.shape == (2,)
        x = self.linear(x)
        x, state = self.counter(x, state)

        # For the vmap, we have to restrict our state to just those states we want to
        # vmap, and then update the overall state again afterwards.
        #
        # After all, the state for `self.counter` isn't expecting to be batched, so we
        # have to remove that.
        substate = state.substate(self.v_counter)
        x, substate = eqx.filter_vmap(self.v_counter)(x, substate)
        state = state.update(substate)

        return x, state

key = jr.PRNGKey(0)
model, state = eqx.nn.make_with_state(Model)(key)
x = jnp.array([5.0, -1.0])
model(x, state)
"""

EXAMPLE = """
import vernal as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax  #
# This model is just a weird mish-mash of stateful and non-stateful layers for
# demonstration purposes, it isn't doing any clever.
class Model(eqx.Module):
    norm1: eqx.nn.BatchNorm
    spectral_linear: eqx.nn.SpectralNorm[eqx.nn.Linear]
    norm2: eqx.nn.BatchNorm
    linear1: eqx.nn.Linear
    linear2: eqx.nn.Linear

    def __init__(self, key):
        key1, key2, key3, key4 = jr.split(key, 4)
        self.norm1 = eqx.nn.BatchNorm(input_size=3, axis_name="batch")
        self.spectral_linear = eqx.nn.SpectralNorm(
            layer=eqx.nn.Linear(in_features=3, out_features=32, key=key1),
            weight_name="weight", key=key2,
        )
        self.norm2 = eqx.nn.BatchNorm(input_size=32, axis_name="batch")
        self.linear1 = eqx.nn.Linear(in_features=32, out_features=32, key=key3)
        self.linear2 = eqx.nn.Linear(in_features=32, out_features=3, key=key4)

    def __call__(self, x, state):
        x, state = self.norm1(x, state)
        x, state = self.spectral_linear(x, state)
        x = jax.nn.relu(x)
        x, state = self.norm2(x, state)
        x = self.linear1(x)
        x = jax.nn.relu(x)
        x = self.linear2(x)
        return x, state

def compute_loss(model, state, xs, ys):
    batch_model = jax.vmap(
        model, axis_name="batch", in_axes=(0, None), out_axes=(0, None)
    )
    pred_ys, state = batch_model(xs, state)
    loss = jnp.mean((pred_ys - ys) ** 2)
    return loss, state

@eqx.filter_jit
def make_step(model, state, opt_state, xs, ys):
    grads, state = eqx.filter_grad(compute_loss, has_aux=True)(model, state, xs, ys)
    updates, opt_state = optim.update(grads, opt_state)
    model = eqx.apply_updates(model, updates)
    return model, state, opt_state

dataset_size = 10
learning_rate = 3e-4
steps = 5
seed = 5678

key = jr.PRNGKey(seed)
mkey, xkey, xkey2 = jr.split(key, 3)

model, state = eqx.nn.make_with_state(Model)(mkey)

xs = jr.normal(xkey, (dataset_size, 3))
ys = jnp.sin(xs) + 1
optim = optax.adam(learning_rate)
opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))

for _ in range(steps):
    # Full-batch gradient descent in this simple example.
    model, state, opt_state = make_step(model, state, opt_state, xs, ys)

inference_model = eqx.nn.inference_mode(model)
inference_model = eqx.Partial(inference_model, state=state)

def evaluate(model, xs):
    # discard state
    out, _ = jax.vmap(model)(xs)
    return out

test_dataset_size = 5
test_xs = jr.normal(xkey2, (test_dataset_size, 3))
pred_test_ys = evaluate(inference_model, test_xs)
"""


def run(code, names=None):
    """Runs a script; a warning anywhere in it is an error."""
    names = names or {"__name__": __name__}
    exec(compile(code, "<document>", "exec"), names)
    return names


# The documents know nothing of strict promotion: `x + value` adds int to float.
relaxed = pytest.mark.relaxed


@pytest.fixture(scope="module")
def example():
    """The second document, run once; with the promotion rules of a user."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        definitions, separator, rest = EXAMPLE.partition("dataset_size = 10")
        names = run(definitions)
        names["compute_loss"] = Counted(names["compute_loss"])
        yield run(separator + rest, names)


@relaxed
def test_the_counter(capsys):
    """The counter of the first document prints 0, 1 and 2."""
    run(COUNTER)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"Called {n} times." for n in (0, 1, 2)]


@relaxed
def test_the_vmapped_counter(capsys):
    """The model with a vmapped counter runs, and each counter counts by itself."""
    names = run(COUNTER + VMAPPED)
    model, state, x = (names[name] for name in ("model", "state", "x"))
    # The script dropped the result of its call, so this state is used up.
    _, state = vn.nn.make_with_state(names["Model"])(names["key"])
    expected = model.linear(x)
    y, state = model(x, state)
    assert jnp.allclose(y, expected)
    y, state = model(x, state)
    assert jnp.allclose(y, expected + 2)
    assert int(state.get(model.counter.index)) == 2
    assert state.get(model.v_counter.index).tolist() == [2, 2]


def test_the_training_loop(example):
    """Training moves the parameters and the statistics, and lowers the loss."""
    fresh, old = vn.nn.make_with_state(example["Model"])(example["mkey"])
    loss = jax.jit(example["compute_loss"].fn)
    data = example["xs"], example["ys"]
    first, _ = loss(fresh, old, *data)
    last, _ = loss(example["model"], example["state"], *data)
    assert float(last) < float(first)
    assert bool(jnp.isfinite(example["pred_test_ys"]).all())


def test_the_training_loop_compiles_once(example):
    """The step is traced in the first of the five iterations only."""
    assert example["steps"] == 5
    assert example["compute_loss"].calls == 1


def test_training_without_filters(example):
    """The loop of the second document runs with plain JAX and optax, to equal values.

    Models of built-in layers have only arrays as leaves, so nothing need be filtered.
    """
    code, _, _ = EXAMPLE.partition("inference_model = ")
    code = code.replace("eqx.filter_jit", "jax.jit")
    code = code.replace("eqx.filter_grad", "jax.grad")
    code = code.replace("eqx.filter(model, eqx.is_inexact_array)", "model")
    assert "filter" not in code
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        plain = run(code)
    for name in ("model", "state"):
        one, two = (jax.tree.leaves(names[name]) for names in (plain, example))
        assert bool(vn.tree_equal(one, two, rtol=1e-5, atol=1e-6))


def test_inference(example):
    """In inference, outputs depend on each example alone and the state stays."""
    model, state = vn.nn.inference_mode(example["model"]), example["state"]
    predicted, call = example["pred_test_ys"], jax.jit(model)
    assert predicted.shape == (5, 3)
    for x, expected in zip(example["test_xs"], predicted, strict=True):
        y, after = call(x, state)
        assert jnp.allclose(y, expected, atol=1e-5)
    assert bool(vn.tree_equal(after, state))


def test_the_inference_model_is_a_partial(example):
    """The inference model is a pytree, a Partial that holds model and state."""
    partial = example["inference_model"]
    assert type(partial) is vn.Partial
    leaves = jax.tree.leaves(partial)
    expected = jax.tree.leaves((example["model"], example["state"]))
    assert len(leaves) == len(expected) and all(map(vn.is_array, leaves))
    assert partial.func.norm1.inference is True
    assert example["model"].norm1.inference is False


def test_the_state_prints_as_a_table(example):
    """Slots are shown under the names that they have in the model."""
    lines = str(example["state"]).splitlines()
    assert lines[0].startswith("State of Model with 5 slots")
    names = [name for line in lines[1:] if (name := line[2:].split(" ")[0])]
    assert {name.partition(".")[0] for name in names} == {
        "norm1",
        "norm2",
        "spectral_linear",
    }
    assert "spectral_linear.uv_index" in names
