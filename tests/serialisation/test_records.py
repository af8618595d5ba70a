"""One leaf in a file: dtypes, numbers and keys, and records that are damaged."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, strategies as st

import vernal as vn
from tests.model_files import assert_same, claiming, read, records, written
from tests.strategies import Scale, refuses
from tests.world import x64
from vernal.errors import ModelFileError

ML_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"]
DTYPES = ["bool", "int8", "uint32", "float16", "float32", "complex64", *ML_DTYPES]
NUMBERS = [True, False, 0, -(2**63), 2**64 - 1, 0.1, float("inf"), 1 - 2j]


def test_integers_stand_for_other_numbers() -> None:
    """A float that was written as ``1`` is read as 1.0, as Equinox does."""
    for number, like in [(1, 0.5), (1, 1j), (0.5, 1j)]:
        loaded = read(written(number), like)
        assert type(loaded) is type(like) and loaded == number


def test_a_number_that_its_type_refuses() -> None:
    """A subclass of a number is rebuilt by its class, which may refuse."""

    class Positive(int):
        def __new__(cls, value: int) -> Any:
            if value <= 0:
                raise ValueError
            return super().__new__(cls, value)

    assert type(read(written(3), Positive(1))) is Positive
    with refuses(ModelFileError, "Positive", "-3"):
        read(written(-3), Positive(1))


def test_objects_are_never_read() -> None:
    """A pickle in a file is not run, even where ``like`` asks for objects."""

    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("a pickle was run",)

    data = records(np.array([Bomb()], object))
    for like in (np.array([None], object), jnp.ones(1), 1, np.ones(1)):
        with refuses(ModelFileError):
            read(data, like)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 some other file that is longer than a header",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x01\x00\xff\xff" + b" " * 100,
        b"\x93NUMPY\x01\x00\x02\x00{}",
    ],
)
def test_foreign_files(data: bytes) -> None:
    """What does not begin as an array does is refused, with its first bytes."""
    with refuses(ModelFileError, "leaf `[0]`"):
        read(data, [jnp.ones(3)])


@pytest.mark.parametrize("like", [jnp.ones(3), jax.ShapeDtypeStruct((3,), np.float32)])
def test_a_huge_shape_is_only_a_mismatch(like: Any) -> None:
    """Nothing is allocated for what a header claims."""
    for shape in [(10**18,), (10**9,) * 30, (10**18 + 3, 0)]:
        with refuses(ModelFileError, "shape", str(shape[0])):
            read(claiming(shape, "<f4") + bytes(12), like)
    with refuses(ModelFileError):
        read(claiming(f"({'9' * 5000},)", "<f4") + bytes(12), like)


def test_a_large_leaf_of_a_short_file_takes_no_memory() -> None:
    """Memory grows with what is in the file, not with what ``like`` asks for."""
    like = jax.ShapeDtypeStruct((1 << 50,), np.dtype(np.uint8))
    with refuses(ModelFileError, "cut short", f"{1 << 50} bytes", "3 bytes"):
        read(claiming((1 << 50,), "|u1") + bytes(3), like)


def test_booleans_are_0_or_1() -> None:
    """A byte that is no truth value is damage, not a third truth value."""
    data = written(jnp.array([True, False]))
    with refuses(ModelFileError, "bool"):
        read(data[:-1] + b"\x02", jnp.zeros(2, bool))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)])
def test_dtypes(dtype: str, shape: tuple[int, ...]) -> None:
    """Each dtype and shape comes back, as JAX and as NumPy array, from a shape too."""
    x = jnp.ones(shape, dtype)
    like = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
    assert_same(read(written(x), jnp.zeros(shape, dtype)), x)
    assert_same(read(written(x), like), x)
    assert_same(read(written(np.asarray(x)), np.zeros(shape, dtype)), np.asarray(x))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float64", "complex128"])
def test_double_precision(dtype: str) -> None:
    """In 64-bit mode the long dtypes come back; without it, NumPy's still do."""
    array = np.arange(3).astype(dtype)
    assert_same(read(written(array), np.zeros_like(array)), array)
    with x64():
        x = jnp.asarray(array)
        assert_same(read(written(x), jnp.zeros_like(x)), x)


def test_a_long_dtype_without_its_mode() -> None:
    """A float64 leaf is refused where JAX would make a float32 of it."""
    like = jax.ShapeDtypeStruct((3,), np.dtype("float64"))
    with refuses(ModelFileError, "float64", "float32"):
        read(records(np.ones(3)), like)


@pytest.mark.parametrize("number", NUMBERS)
def test_numbers(number: Any) -> None:
    """Python's numbers come back with their type."""
    assert_same(read(written(number), type(number)()), number)


def test_numpy_numbers() -> None:
    """NumPy's scalars come back with their type, those of other packages too."""
    for number in (np.float32(2.5), np.int8(-3), jnp.bfloat16(1.5).dtype.type(1.5)):
        loaded = read(written(number), type(number)(0))
        assert type(loaded) is type(number) and loaded == number


def test_orders_of_memory() -> None:
    """An array stored column by column comes back with the same values."""
    x = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    loaded = read(written(x), np.zeros((2, 3)))
    assert_same(loaded, x)
    loaded[0, 0] = 7.0  # it is the reader's own
    assert_same(read(written(x[:, ::2]), np.zeros((2, 2))), x[:, ::2])


def test_structured_and_text_arrays() -> None:
    """NumPy arrays of other kinds come back, but for those of objects."""
    for x in (
        np.array(["a", "bcd"]),
        np.array([(1, 2.5)], [("a", "<i4"), ("b", "<f8")]),
        np.array(["2020-01-01"], "datetime64[D]"),
    ):
        assert np.array_equal(read(written(x), np.zeros_like(x)), x)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 2)])
def test_keys(impl: str, shape: tuple[int, ...]) -> None:
    """PRNG keys come back as keys of the same implementation."""
    count = int(np.prod(shape))
    keys = jr.split(jr.key(1, impl=impl), max(count, 1))[:count].reshape(shape)
    for like in (
        jr.split(jr.key(2, impl=impl), max(count, 1))[:count].reshape(shape),
        jax.eval_shape(lambda: keys),
    ):
        loaded = read(written(keys), like)
        assert loaded.dtype == keys.dtype and loaded.shape == shape
        assert jnp.array_equal(jr.key_data(loaded), jr.key_data(keys))


@pytest.mark.parametrize(
    ("stored", "like", "words"),
    [
        (jnp.ones(3), jnp.ones(4), ["(3,), float32", "(4,), float32", "shape"]),
        (jnp.ones(1), jnp.ones(()), ["(1,)", "()"]),
        (jnp.ones(3), jnp.ones(3, jnp.float16), ["float32", "float16", "dtype"]),
        (jnp.ones(3, jnp.bfloat16), jnp.ones(3, jnp.float16), ["bfloat16", "float16"]),
        (jnp.ones(3), np.ones(3), ["float32", "float64"]),
        (np.ones(3, ">f4"), np.ones(3, "<f4"), ["float32"]),
        (1.5, 1, ["float64", "int64"]),
        (True, 1, ["bool", "int64"]),
        (1, True, ["int64", "bool"]),
        (1j, 1.0, ["complex128", "float64"]),
        (np.float32(1), 1.0, ["float32", "float64"]),
        (jr.key(0), jr.key(0, impl="rbg"), ["key<threefry2x32>", "key<rbg>"]),
        (jr.PRNGKey(0), jr.key(0), ["uint32", "key<threefry2x32>"]),
        (jr.key(0), jr.PRNGKey(0), ["key<threefry2x32>", "uint32"]),
        (jr.split(jr.key(0)), jr.key(0), ["(2,)", "()"]),
    ],
)
def test_another_leaf(stored: Any, like: Any, words: list[str]) -> None:
    """Another shape, dtype or kind of leaf is refused, with both in the text."""
    with refuses(ModelFileError, "<file object>, leaf `['w']`", "fix:", *words):
        read(written({"w": stored}), {"w": like})


# Damage. The tree has a record of each kind.

SMALL = {
    "array": jnp.arange(6.0).reshape(2, 3),
    "flags": np.array([True, False, True]),
    "half": jnp.ones(3, jnp.bfloat16),
    "key": jr.key(3),
    "number": 2,
    "scale": Scale(0.5),
    "scalar": np.float32(1.5),
}
DATA = written(SMALL)


def test_truncation(tmp_path: pathlib.Path) -> None:
    """A file cut anywhere is refused, and so is one with bytes at the end."""
    path = tmp_path / "model.eqx"
    lengths = [*range(0, len(DATA), 37), len(DATA) - 1]
    for length in lengths:
        path.write_bytes(DATA[:length])
        with refuses(ModelFileError, str(path), "leaf `"):
            vn.tree_deserialise_leaves(path, SMALL)
    path.write_bytes(DATA + b"\0")
    with refuses(ModelFileError, str(path)):
        vn.tree_deserialise_leaves(path, SMALL)


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_altered_byte(place: int, change: int) -> None:
    """An altered byte is refused, or changes values only."""
    assert_harmless(place, change)


def test_many_altered_bytes() -> None:
    """The same for a few hundred bytes, drawn evenly over the file."""
    rng = np.random.default_rng(0)
    refused = sum(
        assert_harmless(place, int(rng.integers(1, 256)))
        for place in range(0, len(DATA), 3)
    )
    assert 0 < refused < len(DATA) // 3


def assert_harmless(place: int, change: int) -> bool:
    """Whether the altered file was refused; nothing else may have happened."""
    altered = bytearray(DATA)
    altered[place] ^= change
    try:
        loaded = read(bytes(altered), SMALL)
    except ModelFileError as error:
        assert len(str(error).splitlines()) <= 6
        return True
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(SMALL), strict=True):
        assert type(a) is type(b)
        assert (jnp.shape(a), jnp.result_type(a)) == (jnp.shape(b), jnp.result_type(b))
    return False
