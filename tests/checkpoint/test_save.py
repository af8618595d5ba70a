"""What `save` writes, and what it refuses."""

import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vernal as vn
from tests.strategies import Opaque, refuses
from vernal.checkpoint._save import items_of
from vernal.errors import TreeError


def names(path: pathlib.Path) -> list[str]:
    return [entry.name for entry in vn.checkpoint.inspect(path).entries]


def test_arrays_numbers_and_stored_fields_are_saved(tmp_path: pathlib.Path) -> None:
    """Functions, texts and objects are not; static fields that are stored are."""
    path = tmp_path / "f"
    tree = {
        "layer": vn.nn.Dropout(0.5),
        "a": [jnp.ones(1), np.ones(1), np.int8(1), 1, True, 1j],
        "b": ["text", len, Opaque(), None],
    }
    vn.save(path, tree)
    expected = [f"a[{i}]" for i in range(6)]
    assert names(path) == [*expected, "layer.p", "layer.inference"]


def test_names_have_no_suffix_of_ours(tmp_path: pathlib.Path) -> None:
    """The file is at the path that was given, as text or not."""
    vn.save(str(tmp_path / "f"), 1)
    vn.save(tmp_path / "f.x.y", 1)
    assert sorted(os.listdir(tmp_path)) == ["f", "f.x.y"]


class Convertible:
    """A leaf that JAX could make an array of."""

    def __jax_array__(self) -> jax.Array:
        return jnp.ones(1)


@pytest.mark.parametrize(
    "leaf, words",
    [
        (jax.ShapeDtypeStruct((1,), jnp.float32), "abstract"),
        (np.array(["x"]), "<U1"),
        (Convertible(), "Convertible"),
    ],
)
def test_what_cannot_be_saved_is_named(
    tmp_path: pathlib.Path, leaf: Any, words: str
) -> None:
    """And the old file stays."""
    path = tmp_path / "f"
    vn.save(path, 1)
    with refuses(TreeError, "leaf `a[1]`", words):
        vn.save(path, {"a": [2, leaf]})
    assert os.listdir(tmp_path) == ["f"] and vn.load(path, 0) == 1


def test_a_tree_is_not_saved_under_jit(tmp_path: pathlib.Path) -> None:
    """A tracer has no values, and no file is left."""
    with refuses(TreeError, "leaf `value`", "tracing"):
        jax.jit(lambda x: vn.save(tmp_path / "f", x))(jnp.ones(2))
    assert os.listdir(tmp_path) == []


def test_donated_arrays_are_refused(tmp_path: pathlib.Path) -> None:
    """What is gone cannot be saved; what was copied before can."""
    x = jnp.arange(1000.0)
    items = items_of(x, copy=True)
    jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    assert x.is_deleted()
    (item,) = items
    assert item.fetch is not None and (item.fetch() == np.arange(1000)).all()
    with pytest.raises(RuntimeError, match="deleted"):
        vn.save(tmp_path / "f", x)
    assert os.listdir(tmp_path) == []
