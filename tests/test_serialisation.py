"""Leaves in files: round trips, exchange with Equinox, and files that are damaged."""

import gzip
import io
import os
import pathlib
import stat
import threading
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, strategies as st

import vernal as vn
from tests.strategies import Scale, refuses, trees
from tests.world import x64
from vernal.errors import ModelFileError, TreeError

ML_DTYPES = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4"]
DTYPES = ["bool", "int8", "uint32", "float16", "float32", "complex64", *ML_DTYPES]
NUMBERS = [True, False, 0, -(2**63), 2**64 - 1, 0.1, float("inf"), 1 - 2j]


def written(tree: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    vn.tree_serialise_leaves(file, tree, **options)
    return file.getvalue()


def read(data: bytes, like: Any, **options: Any) -> Any:
    return vn.tree_deserialise_leaves(io.BytesIO(data), like, **options)


def records(*arrays: Any) -> bytes:
    """What NumPy writes for these arrays."""
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array)
    return file.getvalue()


def claiming(shape: tuple[int, ...] | str, descr: str) -> bytes:
    """The header of an array of this shape and dtype."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def mlp(seed: int = 0, module: Any = vn, **options: Any) -> Any:
    return module.nn.MLP(2, 3, 4, 1, key=jr.key(seed), **options)


def zeros_like(tree: Any) -> Any:
    """The same tree with other values in all leaves that are stored."""

    def zero(x: Any) -> Any:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jr.wrap_key_data(jnp.zeros_like(jr.key_data(x)))
        if isinstance(x, jax.Array | np.ndarray):
            return x & False if x.dtype == bool else x * np.zeros((), x.dtype)
        return type(x)() if vn.is_array_like(x) else x

    return jax.tree.map(zero, tree)


def assert_same(a: Any, b: Any) -> None:
    """Equal trees, also in the types and the dtypes of the leaves."""
    assert bool(vn.tree_equal(a, b, typematch=True))


# Round trips.


@given(trees)
def test_loading_undoes_saving(tree: Any) -> None:
    """Any tree comes back from a file, with the leaves that are not stored of like."""
    assert_same(read(written(tree), zeros_like(tree)), tree)


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


def test_a_model_with_state() -> None:
    """A model and its State come back as one tree, into shapes as well."""

    @vn.nn.make_with_state
    def make() -> Any:
        return vn.nn.Sequential(
            [vn.nn.BatchNorm(3, "batch"), vn.nn.Linear(3, 2, key=jr.key(0))]
        )

    model, state = make()
    call = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = call(jr.normal(jr.key(1), (5, 3)), state)
    data = written((model, state))
    for like in (make(), vn.filter_eval_shape(make)):
        loaded = read(data, like)
        assert_same(loaded, (model, state))
        assert jax.tree.structure(loaded) == jax.tree.structure((model, state))


def test_under_jit() -> None:
    """Loading while a function is traced gives the values all the same."""
    data = written(jnp.arange(3.0))
    loaded = jax.jit(lambda: read(data, jnp.zeros(3)))()
    assert_same(loaded, jnp.arange(3.0))


# Exchange with Equinox.

PLAIN = {
    "jax": [jnp.arange(6.0).reshape(2, 3), jnp.array(True), jnp.ones(2, jnp.bfloat16)],
    "numpy": (np.arange(3, dtype=np.int8), np.float32(0.5), np.eye(2)),
    "numbers": [True, 3, -0.25, 1j],
    "others": [None, "text", jax.nn.relu],
}


@pytest.mark.parametrize("tree", [PLAIN, jnp.ones(()), [], 3.5, (np.eye(2).T,)])
def test_the_same_bytes_as_equinox(tree: Any) -> None:
    """Both write the same bytes for the same tree, and read each other's."""
    theirs = io.BytesIO()
    eqx.tree_serialise_leaves(theirs, tree)
    data = written(tree)
    assert data == theirs.getvalue()
    like = zeros_like(tree)
    assert_same(read(theirs.getvalue(), like), tree)
    assert_same(eqx.tree_deserialise_leaves(io.BytesIO(data), like), tree)


def test_models_go_both_ways(tmp_path: pathlib.Path) -> None:
    """A file of an MLP of one library fills an MLP of the other."""
    x = jnp.array([0.5, -2.0])
    eqx.tree_serialise_leaves(tmp_path / "theirs", mlp(1, eqx))
    loaded = vn.tree_deserialise_leaves(tmp_path / "theirs", mlp(0))
    np.testing.assert_allclose(loaded(x), mlp(1, eqx)(x), rtol=1e-6)
    vn.tree_serialise_leaves(tmp_path / "ours", mlp(2))
    filled = eqx.tree_deserialise_leaves(tmp_path / "ours", mlp(0, eqx))
    np.testing.assert_allclose(filled(x), mlp(2)(x), rtol=1e-6)


def test_the_suffix(tmp_path: pathlib.Path) -> None:
    """A path without suffix gets ``.eqx``; another suffix stays."""
    for name, file in [("a", "a.eqx"), ("b.eqx", "b.eqx"), ("c.v1", "c.v1")]:
        vn.tree_serialise_leaves(str(tmp_path / name), 1)
        assert (tmp_path / file).exists()
        assert vn.tree_deserialise_leaves(str(tmp_path / name), 0) == 1
        assert eqx.tree_deserialise_leaves(tmp_path / name, 0) == 1
    assert len(os.listdir(tmp_path)) == 3


# File objects and filter specifications.


def test_a_file_object_may_hold_more(tmp_path: pathlib.Path) -> None:
    """What was open stays open, and reading ends just after the last leaf."""
    with open(tmp_path / "file", "wb") as file:
        file.write(b"header\n")
        vn.tree_serialise_leaves(file, mlp(1))
        vn.tree_serialise_leaves(file, [3, 4.5])
        file.write(b"end")
    with open(tmp_path / "file", "rb") as file:
        assert file.readline() == b"header\n"
        assert_same(vn.tree_deserialise_leaves(file, mlp(0)), mlp(1))
        assert vn.tree_deserialise_leaves(file, [0, 0.0]) == [3, 4.5]
        assert file.read() == b"end"


def test_a_compressed_file(tmp_path: pathlib.Path) -> None:
    """A file object needs only ``write``, or ``read``."""
    with gzip.open(tmp_path / "model.gz", "wb") as file:
        vn.tree_serialise_leaves(file, mlp(1))
    with gzip.open(tmp_path / "model.gz", "rb") as file:
        assert_same(vn.tree_deserialise_leaves(file, mlp(0)), mlp(1))


class Dripping:
    """A file that gives a few bytes at a time, as a socket does."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self.file.read(min(size, 7))


def test_a_slow_file() -> None:
    """Short reads are no end of file."""
    like: Any = mlp(0)
    file: Any = Dripping(written(mlp(1)))
    assert_same(vn.tree_deserialise_leaves(file, like), mlp(1))


def test_a_filter_spec_of_ones_own() -> None:
    """A function treats each leaf as it likes, with the default for the others."""

    def save(file: Any, x: Any) -> None:
        if isinstance(x, str):
            file.write(x.encode().ljust(8))
        else:
            vn.default_serialise_filter_spec(file, x)

    def load(file: Any, x: Any) -> Any:
        if isinstance(x, str):
            return file.read(8).decode().strip()
        return vn.default_deserialise_filter_spec(file, x)

    tree = ["name", jnp.ones(2), 3]
    data = written(tree, filter_spec=save)
    assert_same(read(data, ["", jnp.zeros(2), 0], filter_spec=load), tree)


def test_a_filter_spec_as_prefix() -> None:
    """A tree of functions treats each subtree by its own."""

    def skip(file: Any, x: Any) -> Any:
        return x

    tree = {"a": [jnp.ones(2), 5], "b": jnp.ones(3)}
    save, load = vn.default_serialise_filter_spec, vn.default_deserialise_filter_spec
    data = written(tree, filter_spec={"a": skip, "b": save})
    assert data == records(jnp.ones(3))
    loaded = read(data, zeros_like(tree), filter_spec={"a": skip, "b": load})
    assert_same(loaded, {"a": [jnp.zeros(2), 0], "b": jnp.ones(3)})
    shapes = jax.eval_shape(lambda: tree)
    kept = read(data, shapes, filter_spec={"a": skip, "b": load})
    assert isinstance(kept["a"][0], jax.ShapeDtypeStruct)  # skipped, so left as it is


def test_is_leaf() -> None:
    """What ``is_leaf`` takes as a leaf reaches the functions in one piece."""
    seen: list[Any] = []

    def load(file: Any, x: Any) -> Any:
        seen.append(x)
        return x

    def is_pair(x: Any) -> bool:
        return isinstance(x, tuple)

    like = [(1, 2), 3]
    assert read(b"", like, filter_spec=load, is_leaf=is_pair) == like
    assert seen == [(1, 2), 3]


@pytest.mark.parametrize(
    ("like", "new"),
    [
        (jnp.ones(2), np.ones(2, np.float32)),
        (jnp.ones(2), jnp.ones(3)),
        (jnp.ones(2), jnp.ones(2, jnp.int32)),
        (np.ones(2), np.ones(2, np.float32)),
        (1, True),
        (1.0, 1),
        ("text", None),
    ],
)
def test_a_filter_spec_that_changes_the_kind(like: Any, new: Any) -> None:
    """A leaf of another type, shape or dtype than in ``like`` is refused."""
    with refuses(ModelFileError, "<file object>, leaf `[0]`"):
        read(b"", [like], filter_spec=lambda file, x: new)


def test_an_error_in_a_filter_spec_keeps_its_type() -> None:
    """An error of the user's own function gets a note of the place, no more."""

    def fail(file: Any, x: Any) -> Any:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as info:
        read(b"", {"a": [1]}, filter_spec=fail)
    assert info.value.__notes__ == ["This was at <file object>, leaf `['a'][0]`."]


# Writing.


@pytest.mark.parametrize(
    "leaf",
    [
        2**64,
        np.array([{}, None], object),
        np.array([(1, "a")], [("a", int), ("b", object)]),
    ],
)
def test_what_cannot_be_stored(leaf: Any) -> None:
    """Objects would have to be pickled; a leaf that is one is refused, by path."""
    with refuses(TreeError, "<file object>, leaf `[1]['x']`", "filter_spec"):
        written([jnp.ones(2), {"x": leaf}])


def test_an_array_in_disguise() -> None:
    """A leaf that only converts to an array is refused, not lost in silence."""

    class Disguise:
        def __jax_array__(self) -> jax.Array:
            return jnp.ones(2)

    with refuses(TreeError, "Disguise"):
        written([Disguise()])


@pytest.mark.parametrize("there", [True, False])
def test_writing_is_all_or_nothing(tmp_path: pathlib.Path, there: bool) -> None:
    """A leaf that fails leaves the old file, or none, and no other file."""
    path = tmp_path / "model.eqx"
    if there:
        vn.tree_serialise_leaves(path, [1, 2])
    with refuses(TreeError, str(path), "leaf `[1]`"):
        vn.tree_serialise_leaves(path, [jnp.ones(10_000), 2**64])
    assert os.listdir(tmp_path) == (["model.eqx"] if there else [])
    if there:
        assert vn.tree_deserialise_leaves(path, [0, 0]) == [1, 2]


def test_an_interrupt_leaves_the_old_file(tmp_path: pathlib.Path) -> None:
    """So does Ctrl-C."""
    path = tmp_path / "model.eqx"
    vn.tree_serialise_leaves(path, 1)

    def interrupt(file: Any, x: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vn.tree_serialise_leaves(path, 2, filter_spec=interrupt)
    assert os.listdir(tmp_path) == ["model.eqx"]
    assert vn.tree_deserialise_leaves(path, 0) == 1


def test_the_new_file_is_complete_before_it_takes_the_place(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All bytes are on the disk when the old file is replaced."""
    path = tmp_path / "model.eqx"
    path.write_bytes(b"old")
    synced, replace, fsync = [], os.replace, os.fsync

    def spy_fsync(number: int) -> None:
        fsync(number)
        synced.append(os.fstat(number).st_size)

    def spy_replace(source: Any, target: Any) -> None:
        assert synced == [os.path.getsize(source)] == [3]
        assert path.read_bytes() == b"old"
        assert os.path.dirname(source) == os.path.dirname(target)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    vn.tree_serialise_leaves(path, 1, filter_spec=lambda file, x: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_permissions_and_links(tmp_path: pathlib.Path) -> None:
    """A file that is replaced keeps its mode, and is still reached by its link."""
    path, link = tmp_path / "model.eqx", tmp_path / "link.eqx"
    vn.tree_serialise_leaves(path, 1)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    path.chmod(0o640)
    link.symlink_to(path)
    vn.tree_serialise_leaves(link, 2)
    assert link.is_symlink() and vn.tree_deserialise_leaves(path, 0) == 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_pipe_stays_a_pipe(tmp_path: pathlib.Path) -> None:
    """What is no regular file is written to, not replaced."""
    path = tmp_path / "pipe.eqx"
    os.mkfifo(path)
    received: list[bytes] = []
    reader = threading.Thread(
        target=lambda: received.append(path.read_bytes()), daemon=True
    )
    reader.start()
    # NumPy itself cannot write to a pipe; a function of the user's can.
    vn.tree_serialise_leaves(path, 1, filter_spec=lambda file, x: file.write(b"new"))
    reader.join(timeout=10)
    assert received == [b"new"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_directory_is_no_file(tmp_path: pathlib.Path) -> None:
    """Errors of the operating system come through as they are."""
    (tmp_path / "a.eqx").mkdir()
    with pytest.raises(IsADirectoryError):
        vn.tree_serialise_leaves(tmp_path / "a.eqx", 1)
    with pytest.raises(FileNotFoundError):
        vn.tree_serialise_leaves(tmp_path / "none" / "a.eqx", 1)
    with pytest.raises(FileNotFoundError):
        vn.tree_deserialise_leaves(tmp_path / "none", 1)


# Files that do not fit.


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


def test_another_number_of_leaves(tmp_path: pathlib.Path) -> None:
    """A file with fewer or more leaves than ``like`` is refused."""
    path = tmp_path / "model.eqx"
    vn.tree_serialise_leaves(path, [1, 2])
    with refuses(ModelFileError, str(path), "leaf `[2]`", "ends"):
        vn.tree_deserialise_leaves(path, [0, 0, 0])
    with refuses(ModelFileError, str(path), "goes on", "more bytes"):
        vn.tree_deserialise_leaves(path, [0])
    with refuses(ModelFileError, str(path), "goes on"):
        vn.tree_deserialise_leaves(path, [])


def test_the_message(tmp_path: pathlib.Path) -> None:
    """The text names the file, the leaf, what is wanted, what is there, a way out."""
    path = tmp_path / "model.eqx"
    vn.tree_serialise_leaves(path, mlp())
    with pytest.raises(ModelFileError) as info:
        vn.tree_deserialise_leaves(path, vn.nn.MLP(2, 3, 5, 1, key=jr.key(0)))
    assert str(info.value) == (
        f"{path}, leaf `layers[0].weight`: the stored array has another shape.\n"
        "  expected: (5, 2), float32\n"
        "  got:      (4, 2), float32\n"
        "  fix:      build `like` with the hyperparameters that the file was written "
        "with"
    )


def test_a_state_slot_is_named() -> None:
    """A leaf inside a State is called by the name of its slot."""
    like = vn.nn.make_with_state(vn.nn.BatchNorm)(3, "batch")[1]
    stored = vn.nn.make_with_state(vn.nn.BatchNorm)(4, "batch")[1]
    with refuses(ModelFileError, "batch_state_index"):
        read(written(stored), like)


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
