"""What layers check, the form of their complaints, and where they say they stand."""

import fractions
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import vernal as vn
from tests.strategies import refuses
from vernal import nn
from vernal.errors import AxisNameError, HyperparameterError, InputError
from vernal.nn._checks import (
    check_array,
    check_floating,
    check_shape,
    check_state,
    fail,
    is_number,
    is_size,
    locate,
    require,
)


class Probe(vn.Module):
    """Tells where it stands; an array keeps JAX from taking equal ones for one."""

    array: jax.Array

    def __init__(self) -> None:
        self.array = jnp.zeros(())

    def __call__(self, x: Any, *, key: Any = None) -> Any:
        PLACES.append(locate(self))
        return x + self.array


class Block(vn.Module):
    """A part of a model, with layers in containers."""

    layers: list[Any]
    table: dict[str, Any]

    def __init__(self) -> None:
        self.layers = [nn.Identity(), Probe()]
        self.table = {"last": Probe()}

    def __call__(self, x: Any) -> Any:
        return self.table["last"](self.layers[1](self.layers[0](x)))


class Model(vn.Module):
    """A model of blocks, one of them used twice."""

    blocks: tuple[Block, ...]
    head: nn.Sequential

    def __init__(self) -> None:
        self.blocks = (Block(), Block())
        self.head = nn.Sequential([jnp.negative, nn.Sequential([Probe()])])

    def __call__(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return self.apply_head(x)

    def apply_head(self, x: Any) -> Any:
        return self.head(x)


PLACES: list[str] = []
EXPECTED = [
    " at `blocks[0].layers[1]` of Model",
    " at `blocks[0].table['last']` of Model",
    " at `blocks[1].layers[1]` of Model",
    " at `blocks[1].table['last']` of Model",
    " at `head.layers[1].layers[0]` of Model",
]


@pytest.fixture(autouse=True)
def no_places() -> None:
    PLACES.clear()


def places(call: Any, *args: Any) -> list[str]:
    """Where each Probe said that it stands, in the order of the calls."""
    jax.block_until_ready(call(*args))
    return PLACES


# Where a layer stands.


def test_a_layer_by_itself() -> None:
    """A layer that no other calls has no path."""
    assert places(Probe(), jnp.ones(())) == [""]


def test_nested_models() -> None:
    """The path leads from the outermost model through blocks and containers."""
    assert places(Model(), jnp.ones(())) == EXPECTED


def test_under_transformations() -> None:
    """It does so while JAX traces, too, where all objects are rebuilt."""
    x = jnp.ones(())
    assert places(vn.filter_jit(Model()), x) == EXPECTED
    PLACES.clear()
    assert places(jax.jit(lambda m, x: m(x)), Model(), x) == EXPECTED
    PLACES.clear()
    assert places(jax.vmap(Model()), jnp.ones(3)) == EXPECTED
    PLACES.clear()
    assert places(vn.filter_grad(lambda m, x: m(x)), Model(), x) == EXPECTED
    PLACES.clear()
    both = vn.filter_jit(vn.filter_value_and_grad(lambda m, x: m(x)))
    assert places(both, Model(), x) == EXPECTED


def test_a_bound_method_is_no_model() -> None:
    """Neither it nor Partial stands between a model and its layers."""
    model = Model()
    assert places(model.apply_head, jnp.ones(())) == EXPECTED[-1:]
    PLACES.clear()
    assert places(vn.Partial(model), jnp.ones(())) == EXPECTED


def test_a_transformation_inside() -> None:
    """A block mapped inside the model has its path; one compiled there, from there on.

    Compilation rebuilds the block, and nothing tells that it was a part of the model.
    """

    class Inside(vn.Module):
        block: Block
        transform: Any = vn.field(static=True)

        def __call__(self, x: Any) -> Any:
            return self.transform(self.block)(x)

    for transform in (jax.vmap, vn.filter_vmap, jax.checkpoint):
        PLACES.clear()
        assert places(Inside(Block(), transform), jnp.ones(3)) == [
            " at `block.layers[1]` of Inside",
            " at `block.table['last']` of Inside",
        ]
    PLACES.clear()
    assert places(Inside(Block(), vn.filter_jit), jnp.ones(3)) == [
        " at `layers[1]` of Block",
        " at `table['last']` of Block",
    ]


def test_a_shared_layer() -> None:
    """A layer at two places is called by the first, or by its own under jit."""

    class Twice(vn.Module):
        first: Probe
        second: Probe

        def __call__(self, x: Any) -> Any:
            return self.second(self.first(x))

    probe = Probe()
    model = Twice(probe, probe)
    assert places(model, jnp.ones(())) == [" at `first` of Twice"] * 2
    PLACES.clear()
    first, second = places(vn.filter_jit(model), jnp.ones(()))
    assert (first, second) == (" at `first` of Twice", " at `second` of Twice")


def test_a_layer_that_is_not_part_of_the_model() -> None:
    """A layer from elsewhere has no path in the model that calls it."""
    probe = Probe()

    class Stranger(vn.Module):
        def __call__(self, x: Any) -> Any:
            return probe(x)

    assert places(Stranger(), jnp.ones(())) == [""]


def test_a_layer_that_is_an_item_of_a_sequential() -> None:
    """In a Sequential the path is that of its field."""
    model = nn.Sequential([jnp.negative, Probe()])
    assert places(model, jnp.ones(())) == [" at `layers[1]` of Sequential"]


# Arguments and inputs.


def test_require() -> None:
    """A bad argument is named, with what it should be and what it is."""
    require(True, "Layer", "size", "an int", None)
    with pytest.raises(HyperparameterError) as info:
        require(False, "Layer", "size", "an int ≥ 1", 2.5)
    assert str(info.value) == (
        "Layer: bad argument `size`.\n  expected: an int ≥ 1\n  got:      2.5 (float)"
    )


@pytest.mark.parametrize("value", [np.zeros((50, 50)), "x" * 500, nn.MLP])
def test_require_is_short(value: Any) -> None:
    """A large value takes one line."""
    with pytest.raises(HyperparameterError) as info:
        require(False, "Layer", "size", "an int", value)
    text = str(info.value)
    assert len(text.splitlines()) == 3 and len(text) < 200
    assert f"({type(value).__name__})" in text


def test_is_size() -> None:
    """Python's and NumPy's integers from the minimum on are sizes."""
    assert all(map(is_size, [1, 7, np.int64(3), np.uint8(1)]))
    assert is_size(0, minimum=0) and not is_size(0) and not is_size(1, minimum=2)
    no = [0, -1, 1.0, True, np.True_, "3", None, (3,), np.array([1]), jnp.array(3)]
    assert not any(map(is_size, no))


def test_is_number() -> None:
    """Finite real numbers in the range are numbers."""
    yes = [0, 1e-5, np.float32(2), np.int8(3), fractions.Fraction(1, 2)]
    assert all(map(is_number, yes))
    assert is_number(1, maximum=1) and not is_number(1.1, maximum=1)
    assert is_number(-1, minimum=-1) and not is_number(-1)
    no = [True, "1", None, 1j, float("nan"), float("inf"), jnp.ones(()), np.ones(2)]
    assert not any(map(is_number, no))


def test_check_array() -> None:
    """JAX's and NumPy's arrays pass, traced ones too; lists and numbers do not."""
    layer = nn.Identity()
    for x in (jnp.ones(2), np.ones(2), np.float32(1), jr.key(0)):
        check_array(layer, x)
    jax.jit(lambda x: check_array(layer, x))(1.0)
    for x in ([1.0], 1.0, None, "text"):
        with refuses(InputError, "Identity", type(x).__name__, "jnp.asarray"):
            check_array(layer, x)


def test_check_floating() -> None:
    """Real floating-point passes; integers, booleans, complex numbers, keys do not."""
    layer = nn.Identity()
    for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
        check_floating(layer, jnp.ones(2, dtype))
    for x in (jnp.arange(2), jnp.array([True]), jnp.array(1j), jr.key(0), [1.0]):
        with refuses(InputError, "Identity"):
            check_floating(layer, x)


@pytest.mark.parametrize(
    ("dims", "sizes", "shape"),
    [
        ("", {}, ()),
        ("n", {}, (7,)),
        ("n", {"n": 7}, (7,)),
        ("c h w", {"c": 3}, (3, 5, 6)),
        ("c ...", {"c": 3}, (3,)),
        ("c ...", {"c": 3}, (3, 5, 6)),
        ("...", {}, ()),
        ("...", {}, (2, 3)),
    ],
)
def test_shapes_that_match(dims: str, sizes: Any, shape: Any) -> None:
    """Named axes may have a size each; a closing ``...`` stands for any others."""
    check_shape(nn.Identity(), jnp.ones(shape), dims, **sizes)


@pytest.mark.parametrize(
    ("dims", "sizes", "shape", "expected"),
    [
        ("", {}, (1,), "()"),
        ("n", {"n": 7}, (6,), "(n,) with n = 7"),
        ("n", {}, (), "(n,)"),
        ("c h w", {"c": 3}, (3, 5), "(c, h, w) with c = 3"),
        ("c h w", {"c": 3}, (4, 5, 6), "(c, h, w) with c = 3"),
        ("c ...", {"c": 3}, (4, 5), "(c, ...) with c = 3"),
        ("c d ...", {"c": 3, "d": 2}, (3,), "(c, d, ...) with c = 3, d = 2"),
    ],
)
def test_shapes_that_do_not(dims: str, sizes: Any, shape: Any, expected: str) -> None:
    """The pattern, the sizes, and the shape that came are in the text."""
    with refuses(InputError, f"expected: {expected}\n", f"got:      {shape}, float32"):
        check_shape(nn.Identity(), jnp.ones(shape), dims, **sizes)


@pytest.mark.parametrize(
    ("dims", "sizes", "shape", "helps"),
    [
        ("n", {"n": 7}, (5, 7), True),
        ("c h w", {"c": 3}, (8, 3, 5, 5), True),
        ("c ...", {"c": 3}, (8, 3, 5), True),
        ("", {}, (8,), True),
        ("n", {"n": 7}, (5, 6), False),
        ("n", {"n": 7}, (6,), False),
    ],
)
def test_vmap_is_advised(dims: str, sizes: Any, shape: Any, helps: bool) -> None:
    """Where the shape fits behind a first axis, the text advises to use vmap."""
    with pytest.raises(InputError) as info:
        check_shape(nn.Identity(), jnp.ones(shape), dims, **sizes)
    assert ("jax.vmap" in str(info.value)) == helps


def test_check_state() -> None:
    """Only a State is a State."""
    layer, state = nn.make_with_state(nn.BatchNorm)(3, "batch")
    check_state(layer, state)
    for x in (None, {}, jnp.ones(2), (state,)):
        with refuses(InputError, "BatchNorm", type(x).__name__):
            check_state(layer, x)


def test_fail() -> None:
    """The text has the layer, its place, and only the lines that are given."""
    with pytest.raises(AxisNameError) as info:
        fail(nn.Identity(), "it is wrong", error=AxisNameError, got="x")
    assert str(info.value) == "Identity: it is wrong.\n  got:      x"


def test_message_in_a_model() -> None:
    """The whole text of an error deep in a model that is being compiled."""

    class Net(vn.Module):
        blocks: list[nn.Sequential]

        def __init__(self, key: Any) -> None:
            linear = nn.Linear(3, 3, key=key)
            self.blocks = [nn.Sequential([jnp.tanh, linear])]

        def __call__(self, x: Any) -> Any:
            return self.blocks[0](x)

    with pytest.raises(InputError) as info:
        vn.filter_jit(Net(jr.key(0)))(jnp.ones((16, 3)))
    assert str(info.value) == (
        "Linear at `blocks[0].layers[1]` of Net: the input has the wrong shape.\n"
        "  expected: (in_features,) with in_features = 3\n"
        "  got:      (16, 3), float32\n"
        "  fix:      layers take one example; for a batch use jax.vmap(layer)"
    )


@pytest.mark.parametrize("key", [0, None, "key", jnp.zeros(2), jr.split(jr.key(0))])
def test_bad_keys(key: Any) -> None:
    """Every constructor that draws refuses what is not a single PRNG key."""
    words = ("`key`", "a single PRNG key")
    makers: dict[str, Any] = {
        "Linear": lambda: nn.Linear(3, 2, key=key),
        "MLP": lambda: nn.MLP(3, 2, 4, 1, key=key),
        "Conv1d": lambda: nn.Conv1d(3, 2, 3, key=key),
        "ConvTranspose2d": lambda: nn.ConvTranspose2d(3, 2, 3, key=key),
        "Embedding": lambda: nn.Embedding(3, 2, key=key),
        "GRUCell": lambda: nn.GRUCell(3, 2, key=key),
        "LSTMCell": lambda: nn.LSTMCell(3, 2, key=key),
        "MultiheadAttention": lambda: nn.MultiheadAttention(1, 2, key=key),
        "SpectralNorm": lambda: nn.SpectralNorm(LINEAR, "weight", key=key),
        "Stack": lambda: nn.Stack(lambda k: LINEAR, 2, key=key),
        "Ensemble": lambda: nn.Ensemble(lambda k: LINEAR, 2, key=key),
    }
    for name, make in makers.items():
        with refuses(HyperparameterError, name, *words):
            make()
    if key is not None:
        with refuses(InputError, "Dropout", "`key` is not a PRNG key"):
            nn.Dropout(0.5)(jnp.ones(3), key=key)


LINEAR = nn.Linear(3, 3, key=jr.key(0))


def test_good_keys() -> None:
    """Keys of the old kind are taken, and keys inside of transformations."""
    nn.Linear(3, 2, key=jr.PRNGKey(0))
    nn.Linear(3, 2, key=jr.key(0, impl="rbg"))
    jax.vmap(lambda key: nn.Linear(3, 2, key=key))(jr.split(jr.key(0), 2))
    jax.jit(lambda key: nn.Linear(3, 2, key=key))(jr.PRNGKey(0))
    vn.filter_eval_shape(lambda key: nn.Dropout(0.5)(jnp.ones(3), key=key), jr.key(0))


def test_an_error_inside_of_a_constructor() -> None:
    """A layer called by an unfinished Module complains of its input all the same."""

    class Net(vn.Module):
        first: nn.Linear
        second: nn.Linear

        def __init__(self) -> None:
            self.first = LINEAR
            self.first(jnp.ones(5))
            self.second = LINEAR

    with refuses(InputError, "Linear", "(5,)"):
        Net()
