"""Writing and reading model files in memory, for the tests of them."""

import io
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import vernal as vn


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
