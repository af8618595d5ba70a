"""Leaves in files: round trips, exchange with Equinox, and files that are damaged."""

import gzip
import io
import os
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given

import vernal as vn
from tests.model_files import (
    assert_same,
    mlp,
    read,
    records,
    written,
    zeros_like,
)
from tests.strategies import refuses, trees
from vernal.errors import ModelFileError, TreeError

# Round trips.


@given(trees)
def test_loading_undoes_saving(tree: Any) -> None:
    """Any tree comes back from a file, with the leaves that are not stored of like."""
    assert_same(read(written(tree), zeros_like(tree)), tree)


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


# Files that do not fit.


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


def test_swapped_arguments(tmp_path: pathlib.Path) -> None:
    """A tree in the place of the file is refused, and nothing is written."""
    for path in (str(tmp_path / "a.eqx"), tmp_path / "a.eqx"):
        for call in (vn.tree_serialise_leaves, vn.tree_deserialise_leaves):
            with refuses(
                ModelFileError, "neither a path nor", "MLP", "path comes first"
            ):
                call(mlp(), path)
    assert os.listdir(tmp_path) == []
