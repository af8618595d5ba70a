"""Static fields in files: they come back, and stand where Equinox has them."""

import io
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import vernal as vn
from tests.model_files import assert_same, read, written
from tests.strategies import refuses
from vernal.errors import ModelFileError, ModuleError


class Decay(vn.Module):
    """A static rate between two arrays, and one that is not stored."""

    first: Any
    rate: float = vn.field(static=True, stored=True)
    name: str = vn.field(static=True)
    last: Any


def decay(rate: float, first: Any = 1.0) -> Decay:
    return Decay(jnp.float32(1), rate, "name", first)


def test_a_stored_field_comes_back() -> None:
    """The value in the file takes the place of the one in like, also when nested."""
    loaded = read(written([decay(0.5, decay(0.25))]), [decay(0.0, decay(0.0))])
    assert loaded[0].rate == 0.5 and loaded[0].last.rate == 0.25
    assert_same(loaded, [decay(0.5, decay(0.25))])


def test_the_order_is_that_of_the_fields() -> None:
    """The record stands between those of the fields around it."""
    module = decay(0.5, jnp.arange(3))
    assert written(module) == written([module.first, 0.5, module.last])


def test_other_static_fields_are_those_of_like() -> None:
    """What is not stored is not asked of the file."""
    loaded = read(written(decay(0.5)), Decay(jnp.float32(0), 0.0, "other", 0.0))
    assert loaded.name == "other"


def test_like_stays_as_it_is() -> None:
    """Loading makes a new Module."""
    like = decay(0.0)
    read(written(decay(0.5)), like)
    assert like.rate == 0.0


def test_a_wrong_kind_names_the_field() -> None:
    """A number of another kind is refused with the path of the static field."""
    with refuses(ModelFileError, "leaf `rate`", "bool", "float64"):
        read(written(decay(True)), decay(0.5))


def test_a_tree_of_functions() -> None:
    """A filter_spec with the model's structure treats stored fields by the default."""
    model = decay(0.5, decay(0.25))

    def halve(file: Any, x: Any) -> None:
        vn.default_serialise_filter_spec(file, x / 2)

    spec = jax.tree.map(lambda _: halve, model)
    loaded = read(written(model, filter_spec=spec), decay(0.0, decay(0.0)))
    assert loaded.first == 0.5 and loaded.last.first == 0.5
    assert loaded.rate == 0.5 and loaded.last.rate == 0.25


def test_a_static_function_is_no_leaf() -> None:
    """A function that is metadata stays so in a Module with stored fields."""

    class Activated(vn.Module):
        rate: float = vn.field(static=True, stored=True)
        function: Any = vn.field(static="if_function")

    seen: list[Any] = []
    written(Activated(0.5, jnp.tanh), filter_spec=lambda f, x: seen.append(x))
    assert seen == [0.5]


def test_is_leaf() -> None:
    """A Module that is_leaf takes for a leaf reaches the function whole."""
    seen: list[Any] = []
    is_leaf = lambda x: isinstance(x, Decay)  # noqa: E731
    written([decay(0.5)], filter_spec=lambda f, x: seen.append(x), is_leaf=is_leaf)
    assert [type(x) for x in seen] == [Decay]


def test_only_static_fields_are_declared_so() -> None:
    """A field that is a child anyway is not marked as stored."""
    with pytest.raises(ModuleError, match="static=True"):
        vn.field(stored=True)


KEY = jr.key(0)
LAYERS: dict[str, Any] = {
    "batch": lambda nn, x: nn.BatchNorm(3, "batch", mode="batch", inference=x),
    "ema": lambda nn, x: nn.BatchNorm(3, ("a", "b"), mode="ema", inference=x),
    "spectral": lambda nn, x: nn.SpectralNorm(
        nn.Linear(3, 4, key=KEY), "weight", inference=x, key=KEY
    ),
    "dropout": lambda nn, x: nn.Dropout(0.25 if x else 0.5, inference=x),
    "max": lambda nn, x: nn.MaxPool2d(3),
    "average": lambda nn, x: nn.AvgPool2d(3),
    "adaptive": lambda nn, x: nn.AdaptiveAvgPool1d(3),
    "transposed": lambda nn, x: nn.ConvTranspose2d(2, 3, 3, key=KEY),
    "attention": lambda nn, x: nn.MultiheadAttention(
        2, 4, use_value_bias=True, dropout_p=0.25 if x else 0.5, key=KEY
    ),
    "rotary": lambda nn, x: nn.RotaryPositionalEmbedding(4),
    "embedding": lambda nn, x: nn.Embedding(5, 3, key=KEY),
    "GRU": lambda nn, x: nn.GRUCell(2, 3, key=KEY),
    "LSTM": lambda nn, x: nn.LSTMCell(2, 3, use_bias=False, key=KEY),
    "weight norm": lambda nn, x: nn.WeightNorm(nn.Linear(2, 3, key=KEY)),
    "scanned": lambda nn, x: nn.MLP(2, 3, 4, 3, scan=True, key=KEY),
    "norms": lambda nn, x: [nn.LayerNorm(3), nn.RMSNorm(3), nn.GroupNorm(1, 3)],
    "convolution": lambda nn, x: nn.Conv1d(2, 3, 3, key=KEY),
    "slopes": lambda nn, x: nn.PReLU(0.5 if x else 0.25),
    "sequential": lambda nn, x: nn.Sequential(
        [nn.Linear(3, 3, key=KEY), nn.Lambda(jnp.tanh), nn.Dropout(0.5, x)]
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_files_of_equinox(name: str) -> None:
    """A model and its state come over from an Equinox file, flags and rates too."""
    theirs = eqx.nn.make_with_state(LAYERS[name])(eqx.nn, True)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, theirs)
    like = vn.nn.make_with_state(LAYERS[name])(vn.nn, False)
    ours = read(file.getvalue(), like)
    loaded = written(ours)
    assert loaded == file.getvalue()
    assert getattr(ours[0], "inference", True) is True
    assert getattr(ours[0], "p", 0.25) == 0.25


@pytest.mark.parametrize("name", LAYERS)
def test_files_for_equinox(name: str) -> None:
    """Equinox reads what was written here."""
    data = written(vn.nn.make_with_state(LAYERS[name])(vn.nn, True))
    like = eqx.nn.make_with_state(LAYERS[name])(eqx.nn, False)
    theirs = eqx.tree_deserialise_leaves(io.BytesIO(data), like)
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, theirs)
    assert file.getvalue() == data
