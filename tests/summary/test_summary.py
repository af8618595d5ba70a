"""The summary of a model: its numbers, and how it looks."""

import io

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from rich.console import Console

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import InputError

KEY = jr.key(0)


def struct(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


# The number of parameters by PyTorch's formulas for its layers of the same names.
PARAMETERS = [
    (nn.Linear(7, 5, key=KEY), (7,), 7 * 5 + 5),
    (nn.Linear(7, 5, use_bias=False, key=KEY), (7,), 35),
    (nn.Conv2d(4, 6, (3, 5), groups=2, key=KEY), (4, 9, 9), 6 * 2 * 15 + 6),
    (nn.ConvTranspose1d(4, 6, 3, key=KEY), (4, 9), 4 * 6 * 3 + 6),
    (nn.LayerNorm((4, 6)), (4, 6), 2 * 24),
    (nn.GroupNorm(2, 4), (4, 9), 2 * 4),
    (nn.PReLU(), (4,), 1),
    (nn.Dropout(0.5, inference=True), (4,), 0),
]


@pytest.mark.parametrize(("layer", "shape", "expected"), PARAMETERS)
def test_parameters(layer, shape, expected):
    """Parameters are counted as by PyTorch; there are four bytes to each."""
    found = nn.summary(layer, struct(*shape))
    assert (found.parameters, found.bytes) == (expected, 4 * expected)
    assert found.rows[0].parameters == expected and found.state == 0


def block(key):
    layers = [nn.Linear(8, 8, key=key), nn.BatchNorm(8, "batch"), jax.nn.relu]
    return nn.Sequential([*layers, nn.Dropout(0.1)])


def network(key):
    keys = jr.split(key, 4)
    return nn.Sequential(
        [
            nn.Conv2d(1, 4, 3, padding=1, key=keys[0]),
            nn.BatchNorm(4, "batch"),
            nn.Lambda(jnp.ravel),
            nn.SpectralNorm(nn.Linear(64, 8, key=keys[1]), "weight", key=keys[1]),
            nn.Stack(block, 5, key=keys[2]),
            nn.Ensemble(lambda key: nn.Linear(8, 3, key=key), 7, key=keys[3]),
        ]
    )


def by_path(found):
    return {row.path: row for row in found.rows}


def test_a_network_by_hand():
    """Every number of a network with all kinds of containers, as counted by hand."""
    model, state = nn.make_with_state(network)(KEY)
    batch = 10
    found = nn.summary(nn.batched(model), state, struct(batch, 1, 4, 4), key=KEY)
    rows = {path.removeprefix("model."): row for path, row in by_path(found).items()}

    def numbers(path):
        row = rows[path]
        sizes = row.parameters, row.state, row.multiply_adds
        return (row.calls, *[x.shape for x in row.outputs], *sizes)

    # A power iteration, and the norm: three products with a vector and u · Wv.
    conv, power = batch * 4 * 16 * 9, 3 * 64 * 8 + 8
    assert numbers("layers[0]") == (1, (4, 4, 4), 4 * 9 + 4, 0, conv)
    assert numbers("layers[1]") == (1, (4, 4, 4), 8, 1 + 8, 0)
    assert numbers("layers[2]") == (1, (64,), 0, 0, 0)
    # Its vectors are renewed once for the whole batch.
    dot = batch * 64 * 8
    assert numbers("layers[3].layer") == (1, (8,), 64 * 8 + 8, 0, dot)
    assert numbers("layers[3]") == (1, (8,), 64 * 8 + 8, 64 + 8, dot + power)
    # Each of five layers has parameters, state and costs of its own.
    deep = 5 * (8 * 8 + 8), 5 * 16, 5 * (1 + 16), 5 * batch * 64
    assert numbers("layers[4].layers.layers[0]") == (5, (8,), deep[0], 0, deep[3])
    assert numbers("layers[4].layers.layers[1]") == (5, (8,), deep[1], deep[2], 0)
    assert numbers("layers[4]") == (1, (8,), deep[0] + deep[1], deep[2], deep[3])
    heads = 7 * (8 * 3 + 3), 0, 7 * batch * 8 * 3
    assert numbers("layers[5].members") == (1, (3,), *heads)
    assert numbers("layers[5]") == (1, (7, 3), *heads)
    whole = [rows[f"layers[{i}]"] for i in range(6)]
    for name in ("parameters", "state", "bytes", "multiply_adds"):
        parts = sum(getattr(row, name) for row in whole)
        assert getattr(found, name) == parts == getattr(rows["model"], name)
    assert found.bytes == 4 * (found.parameters + found.state)
    assert rows[""].outputs[0].shape == (batch, 7, 3) and found.loops == 0


def test_abstract_models():
    """A model that exists in shapes only has the same summary as a real one."""
    model, state = nn.make_with_state(network)(KEY)
    shapes = vn.filter_eval_shape(lambda: nn.make_with_state(network)(KEY))
    x, key = struct(10, 1, 4, 4), struct(dtype=KEY.dtype)
    real = nn.summary(nn.batched(model), state, jnp.zeros(x.shape), key=KEY)
    assert nn.summary(nn.batched(shapes[0]), shapes[1], x, key=key) == real
    # The state may also stand where the call has it, or still be in the model.
    assert nn.summary(nn.batched(shapes[0]), x, shapes[1], key=key) == real
    whole = nn.summary(nn.Linear(3, 5, key=KEY), struct(3))
    norm = nn.inference_mode(nn.BatchNorm(3, "batch"))
    assert (whole.state, nn.summary(nn.Lambda(lambda x: x), x).state) == (0, 0)
    assert nn.summary(vn.Partial(lambda norm, x: x, norm), x).state == 7


def test_no_device_work():
    """A model and an input that no machine could hold are no trouble."""
    n = 10**7
    model = vn.filter_eval_shape(nn.Linear, n, n, key=KEY)
    found = nn.summary(nn.batched(model), struct(10**6, n))
    assert found.parameters == n * n + n and found.multiply_adds == n * n * 10**6
    assert "total" in str(found) and "400TB" in str(found).replace(" ", "")


def test_nothing_is_consumed():
    """Model and state are as good as before, also after a failure."""
    model, state = nn.make_with_state(block)(KEY)
    before = jax.tree.leaves((model, state))
    nn.summary(nn.batched(model), state, struct(4, 8), key=KEY)
    with pytest.raises(InputError, match=r"Linear at `model.layers\[0\]`"):
        nn.summary(nn.batched(model), state, struct(4, 9), key=KEY)
    _, new = nn.batched(model)(jnp.ones((4, 8)), state, key=KEY)
    after = jax.tree.leaves((model, state))
    assert all(a is b for a, b in zip(before, after, strict=True))
    assert "replaced" not in repr(new)


class Uses(vn.Module):
    """Uses one layer twice, one by its weight alone, and one not at all."""

    twice: nn.Linear
    weight: nn.Linear
    never: nn.Linear
    table: jax.Array

    def __init__(self, key):
        linear = nn.Linear(4, 4, key=key)
        self.twice = self.weight = self.never = linear
        self.table = jnp.arange(3)

    def __call__(self, x):
        y = self.twice(self.twice(x).astype(jnp.bfloat16).astype(jnp.float32))
        return self.weight.weight @ y, self.table

    def half(self, x):
        return self.twice(x)


def test_calls():
    """Calls are counted; what is used without a call costs where it is used."""
    found = nn.summary(Uses(KEY), struct(4))
    rows = by_path(found)
    assert [rows[k].calls for k in ("", "twice", "weight", "never")] == [1, 2, 0, 0]
    assert [row.multiply_adds for row in found.rows] == [48, 32, 0, 0]
    assert rows["weight"].outputs == () and len(rows["twice"].outputs) == 2
    # Whole numbers are no parameters, but take up space.
    assert found.parameters == 60 and found.bytes == 4 * 63
    never = next(line for line in str(found).splitlines() if "never" in line)
    assert "—" in never and "20" in never
    method = nn.summary(Uses(KEY).half, struct(4))
    assert [row.calls for row in method.rows] == [0, 1, 0, 0]
    assert method.title == "half, called with f32[4]" or method.title.startswith("Uses")


def test_one_slot_at_two_places():
    """A norm that stands at two places of a model has one state, which counts once."""

    class Twice(vn.Module):
        a: nn.BatchNorm
        b: nn.BatchNorm

        def __call__(self, x, state):
            return self.b(*self.a(x, state))

    norm = nn.BatchNorm(4, "batch")
    model, state = nn.split_state(Twice(norm, norm))
    found = nn.summary(nn.batched(model), state, struct(3, 4))
    assert [row.state for row in found.rows] == [9] * 4 and found.state == 9
    assert found.parameters == 16  # an optimizer sees them twice


def test_calls_that_come_to_nothing():
    """A call that is only asked for its shape is none."""

    class Asks(vn.Module):
        linear: nn.Linear

        def __call__(self, x):
            return jnp.zeros(jax.eval_shape(self.linear, x).shape)

    found = nn.summary(Asks(nn.Linear(3, 5, key=KEY)), struct(3))
    linear = found.rows[1]
    assert (linear.calls, linear.outputs, found.multiply_adds) == (0, (), 0)


def test_outputs_of_any_kind():
    """Outputs may be trees; their dtypes are shown; the state is left out."""
    found = nn.summary(Uses(KEY), struct(4))
    assert "(f32[4], i32[3])" in str(found)
    cell = nn.LSTMCell(3, 5, key=KEY)
    state = struct(5), struct(5)
    assert "(f32[5], f32[5])" in str(nn.summary(cell, struct(3), state))
    half = nn.Linear(3, 5, dtype=jnp.bfloat16, key=KEY)
    assert "bf16[5]" in str(nn.summary(half, struct(3, dtype="bfloat16")))


CONFIGURATIONS = [
    (nn.Conv2d(1, 4, 3, padding=1, key=KEY), "1, 4, 3, padding=1"),
    (nn.Conv2d(1, 4, (3, 5), stride=2, key=KEY), "1, 4, (3, 5), stride=2"),
    (nn.BatchNorm(4, "batch", momentum=0.9), "4, 'batch', momentum=0.9"),
    (nn.BatchNorm(4, "batch", mode="ema"), "4, 'batch', mode='ema'"),
    (nn.Dropout(0.1), "p=0.1"),
    (nn.Lambda(jax.nn.relu), "relu"),
    (nn.MLP(2, 3, 4, 1, jnp.tanh, key=KEY), "2, 3, 4, 1, activation=tanh"),
    (nn.MLP(2, 3, 4, 1, lambda x: x, key=KEY), "2, 3, 4, 1, activation=<lambda>"),
    (nn.MaxPool2d(2, 2), "2, stride=2"),
]


@pytest.mark.parametrize(("layer", "expected"), CONFIGURATIONS)
def test_configuration(layer, expected):
    """A layer is described by the arguments that are not defaults."""
    sequence = nn.Sequential([nn.Identity(), layer])
    call = vn.Partial(lambda sequence, x: x, sequence)
    assert nn.summary(call, struct(1)).rows[2].configuration == expected


def test_it_is_shown_everywhere():
    """As text with one row to a layer, as HTML, and by rich."""
    found = nn.summary(nn.Sequential([nn.Linear(3, 5, key=KEY)]), struct(3))
    lines = str(found).splitlines()
    assert lines[0] == "Sequential, called with f32[3]" and len(lines) == 7
    cells = " ".join(lines[4].split())
    assert cells == "layers[0] Linear(3, 5) f32[5] 1 20 · 80 B 15"
    assert repr(found) == str(found)
    output = io.StringIO()
    Console(file=output, width=100).print(found)
    for text in (output.getvalue(), found._repr_html_()):
        for word in ("Sequential", "layers[0]", "Linear(3, 5)", "f32[5]", "20", "80 B"):
            assert word in text


def test_a_loop_of_unknown_length_is_told():
    """Where the cost depends on values, the table says so."""

    class Search(vn.Module):
        linear: nn.Linear

        def __call__(self, x):
            return jax.lax.while_loop(lambda x: x[0] < 9, self.linear, x)

    found = nn.summary(Search(nn.Linear(3, 3, key=KEY)), struct(3))
    assert (found.multiply_adds, found.loops) == (9, 1)
    assert "1 loop(s) of unknown length" in str(found)


def test_without_jit():
    """Also where jit is switched off, each layer has its costs."""
    model = Uses(KEY)
    with jax.disable_jit():
        found = nn.summary(model, struct(4))
    assert [row.multiply_adds for row in found.rows] == [48, 32, 0, 0]
    assert found == nn.summary(model, struct(4))


def test_functions():
    """A plain function has no layers, but a total."""
    found = nn.summary(lambda x: x @ x, struct(2, 2))
    assert (found.rows, found.multiply_adds) == ((), 8)
    assert str(found).splitlines()[0] == "<lambda>, called with f32[2,2]"


def test_what_is_not_callable():
    """Something that is no model is refused."""
    with refuses(InputError, "summary", "not callable", "dict"):
        nn.summary({"a": 1}, struct(2))
