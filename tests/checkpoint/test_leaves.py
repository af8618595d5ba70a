"""One leaf to an array and back."""

import enum
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import ml_dtypes
import numpy as np
import pytest

from tests.strategies import Opaque, refuses
from vernal.checkpoint._leaves import (
    NATIVE,
    Kind,
    check_storable,
    fits,
    from_array,
    from_number,
    kind_of,
    layout,
    to_array,
    to_number,
)
from vernal.errors import TreeError

DTYPES = [
    *NATIVE,
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
    "int4",
    "uint4",
]
TABLE = {
    "BOOL": np.bool_,
    "BF16": ml_dtypes.bfloat16,
    **{f"{k.upper()}{8 * n}": f"{k}{n}" for k in "iu" for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": f"f{n}" for n in (2, 4, 8)},
}


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("name", DTYPES)
def test_arrays_come_back(name: str, shape: tuple[int, ...]) -> None:
    """The same bits, dtype and shape; in between, what the file's table says."""
    values = np.random.default_rng(0).integers(0, 2, shape)
    leaf = np.asarray(values).astype(np.dtype(name))
    check_storable(leaf, kind_of(leaf))
    array = to_array(leaf, copy=False)
    dtype, stored_shape = layout(leaf, kind_of(leaf))
    assert (array.dtype, array.shape) == (np.dtype(TABLE[dtype]), stored_shape)
    assert array.flags.c_contiguous
    back = from_array(array, leaf, None)
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (leaf.dtype, leaf.shape)
    assert back.tobytes() == leaf.tobytes()


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_come_back(impl: str) -> None:
    """With their implementation and shape, also from an abstract tree."""
    keys = jr.split(jr.key(1, impl=impl), (2, 3))
    assert kind_of(keys) == Kind(f"key<{impl}>", (2, 3))
    array = to_array(keys, copy=True)
    assert layout(keys, kind_of(keys)) == ("U32", array.shape)
    for like in (keys, jax.eval_shape(lambda: keys)):
        assert kind_of(like) == kind_of(keys)
        back = from_array(array, like, None)
        assert back.dtype == keys.dtype
        assert (jr.key_data(back) == jr.key_data(keys)).all()


def test_layout_in_memory_does_not_matter() -> None:
    """Strided, transposed and byte-swapped arrays are stored by their values."""
    base = np.arange(12.0).reshape(3, 4)
    for leaf in (base.T, base[:, ::2], base.astype(">f8"), np.asfortranarray(base)):
        back = from_array(to_array(leaf, copy=False), leaf, None)
        assert (back == leaf).all() and back.dtype == leaf.dtype


@pytest.mark.parametrize("leaf", [np.arange(3.0), jnp.arange(3.0), jnp.ones(3, bool)])
def test_a_copy_is_one(leaf: Any) -> None:
    """It shares no memory with the leaf, so that this may be donated."""
    assert not np.shares_memory(to_array(leaf, copy=True), np.asarray(leaf))


def test_scalars_and_jax_arrays_keep_their_type() -> None:
    """The leaf of `like` says which type an array comes back as."""
    array = np.array(2.5, np.float32)
    assert type(from_array(array, np.float32(0), None)) is np.float32
    out = from_array(array, jax.ShapeDtypeStruct((), jnp.float32), None)
    assert isinstance(out, jax.Array) and not out.weak_type and out == 2.5


class Level(enum.IntEnum):
    """A number with a type of its own."""

    LOW = 1
    HIGH = 2


@pytest.mark.parametrize(
    "x", [True, False, 0, -(2**70), 0.1, -0.0, float("inf"), 1 - 2j, Level.HIGH]
)
def test_numbers_come_back(x: Any) -> None:
    """Exactly, and with their type."""
    kind = kind_of(x)
    assert kind is not None and kind.shape is None
    back = from_number(kind.dtype, to_number(x), x)
    assert type(back) is type(x) and repr(back) == repr(x)


@pytest.mark.parametrize(
    "kind, text, leaf",
    [("int", "7", Level.LOW), ("bool", "yes", True), ("int", "x", 1), ("y", "1", 1)],
)
def test_what_is_no_such_number_is_refused(kind: str, text: str, leaf: Any) -> None:
    """Text that is none of its type is a ValueError, whatever it is."""
    with pytest.raises(ValueError):
        from_number(kind, text, leaf)


@pytest.mark.parametrize("leaf", ["text", b"bytes", None, len, Opaque(), Opaque])
def test_other_leaves_have_no_kind(leaf: Any) -> None:
    """What is no number is not stored."""
    assert kind_of(leaf) is None


@pytest.mark.parametrize(
    "leaf, words",
    [
        (np.array([None]), "object"),
        (np.array(["text"]), "<U4"),
        (np.array([b"x"]), "|S1"),
        (np.zeros(2, "V1"), "|V1"),
        (np.zeros(1, "M8[s]"), "datetime64"),
        (np.zeros(1, np.longdouble), str(np.dtype(np.longdouble))),
        (jax.ShapeDtypeStruct((2,), jnp.float32), "abstract"),
    ],
)
def test_unsuited_arrays_are_refused(leaf: Any, words: str) -> None:
    """Arrays of something else than numbers, or without values, are named."""
    with refuses(TreeError, "cannot be stored", words):
        check_storable(leaf, kind_of(leaf))


def test_fits() -> None:
    """Arrays fit exactly; an int may stand for a float, and both for a complex."""
    number = {k: Kind(k, None) for k in ("bool", "int", "float", "complex")}
    pairs = {(a, b) for a in number for b in number if fits(number[a], number[b])}
    wider = {("int", "float"), ("int", "complex"), ("float", "complex")}
    assert pairs == {(k, k) for k in number} | wider
    a = Kind("float32", (2,))
    assert fits(a, Kind("float32", (2,)))
    for other in (Kind("float32", (3,)), Kind("int32", (2,)), number["float"]):
        assert not fits(a, other) and not fits(other, a)
    assert not fits(number["float"], Kind("float64", ()))


def test_kinds_read_well() -> None:
    """As in a table of a file."""
    texts = [str(kind_of(x)) for x in (jnp.ones((2, 3)), np.int8(1), 0.5)]
    assert texts == ["float32[2,3]", "int8[]", "Python float"]
