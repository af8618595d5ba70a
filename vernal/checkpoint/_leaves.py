"""One leaf as an array of a dtype that files know, or as a number; and back.

An array of another dtype is stored as bytes, a complex one as pairs of real numbers; an
array of random keys as their data. The record of a leaf says what it was.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from ..errors import TreeError, report

# The dtypes that every reader of the format gives back to NumPy as they are.
NATIVE = {
    "bool": "BOOL",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}
_PAIRS = {"complex64": "F32", "complex128": "F64"}

# An integer may stand for a float, and both for a complex number, as everywhere in
# Python.
_NUMBERS: dict[type, tuple[str, ...]] = {
    bool: ("bool",),
    int: ("int",),
    float: ("float", "int"),
    complex: ("complex", "float", "int"),
}
_PARSERS: dict[str, Any] = {
    "bool": {"True": True, "False": False}.__getitem__,
    "int": int,
    "float": float,
    "complex": complex,
}


class Kind(NamedTuple):
    """What a leaf is, as far as a file can tell."""

    dtype: str
    """``float32``, ``key<fry>``; of a Python number ``float``, with shape None."""

    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"Python {self.dtype}"
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def kind_of(leaf: Any) -> Kind | None:
    """The kind of a leaf, or None for what is not stored, such as a function."""
    if is_key(leaf):
        return Kind(f"key<{_key_impl(leaf)[0]}>", leaf.shape)
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic):
        return Kind(np.dtype(leaf.dtype).name, leaf.shape)
    for kind in _NUMBERS:
        if isinstance(leaf, kind):
            return Kind(kind.__name__, None)
    return None


def fits(stored: Kind, wanted: Kind) -> bool:
    """Whether a leaf in a file can take the place of one in a tree."""
    if stored.shape is None or wanted.shape is None:
        accepted = {kind.__name__: names for kind, names in _NUMBERS.items()}
        both = stored.shape is None and wanted.shape is None
        return both and stored.dtype in accepted[wanted.dtype]
    return stored == wanted


def to_number(leaf: Any) -> str:
    """A Python number as text, exactly."""
    base: Any = next(kind for kind in _NUMBERS if isinstance(leaf, kind))
    text: str = base.__repr__(leaf)  # a subclass, such as an IntEnum, has its own
    return text


def from_number(kind: str, text: str, leaf: Any) -> Any:
    """The number in a text, of the type of ``leaf``; ValueError if it is none."""
    try:
        return type(leaf)(_PARSERS[kind](text))
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None


def check_storable(leaf: Any, kind: Kind) -> None:
    """Refuses an array whose values are not here, or are no numbers.

    Raises:
        TreeError: it is one.
    """
    if isinstance(leaf, jax.ShapeDtypeStruct):
        raise _unsuited("an abstract array without values", "save the real tree")
    if isinstance(leaf, jax.core.Tracer):
        raise _unsuited("a value that JAX is tracing", "save outside of `jit`")
    if isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    ):
        fix = "gather it with jax.experimental.multihost_utils, or use Orbax"
        raise _unsuited("an array that is spread over several processes", fix)
    if kind.shape is None or is_key(leaf) or {kind.dtype} & {*NATIVE, *_PAIRS}:
        return
    if leaf.dtype.itemsize != 1 or not jnp.issubdtype(leaf.dtype, jnp.number):
        raise _unsuited(f"a NumPy array of dtype {leaf.dtype}", "convert it")


def to_array(leaf: Any, *, copy: bool) -> np.ndarray[Any, Any]:
    """The values of a storable array on the host, as :func:`layout` says.

    Arguments:
        leaf: the array.
        copy: whether the result must share no memory with the leaf.
    """
    values = jr.key_data(leaf) if is_key(leaf) else leaf
    array = np.array(values, order="C") if copy else np.asarray(values, order="C")
    name = array.dtype.name
    if name in NATIVE:
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    part = np.dtype(f"f{array.dtype.itemsize // 2}" if name in _PAIRS else np.uint8)
    shape = (*array.shape, 2) if name in _PAIRS else array.shape
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.reshape(-1).view(part).reshape(shape)


def from_array(
    array: np.ndarray[Any, Any], leaf: Any, sharding: jax.sharding.Sharding | None
) -> Any:
    """The inverse of :func:`to_array`: a leaf of the kind and type of ``leaf``."""
    if is_key(leaf):
        _, impl = _key_impl(leaf)
        keys = jr.wrap_key_data(jnp.asarray(array), impl=impl)
        return keys if sharding is None else jax.device_put(keys, sharding)
    dtype, shape = np.dtype(leaf.dtype), leaf.shape
    if array.dtype.name != dtype.name:
        array = array.reshape(-1).view(dtype).reshape(shape)
    if isinstance(leaf, np.ndarray | np.generic):
        array = array.astype(dtype)  # which may have another byte order
        return array if isinstance(leaf, np.ndarray) else array[()]
    if sharding is None:
        return jnp.asarray(array)
    # Each device is given its part only.
    return jax.make_array_from_callback(shape, sharding, lambda index: array[index])


def layout(leaf: Any, kind: Kind) -> tuple[str, tuple[int, ...]]:
    """The dtype and shape that a leaf of this kind has in the file's own table."""
    shape = kind.shape or ()
    if is_key(leaf):
        return "U32", tuple(jax.eval_shape(jr.key_data, leaf).shape)
    if kind.dtype in _PAIRS:
        return _PAIRS[kind.dtype], (*shape, 2)
    return NATIVE.get(kind.dtype, "U8"), shape


def is_key(x: Any) -> bool:
    """Whether a leaf is an array of random keys."""
    if not isinstance(x, jax.Array | jax.ShapeDtypeStruct):
        return False
    is_plain = isinstance(x.dtype, np.dtype)  # asked first, as it is quick
    return not is_plain and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> tuple[str, Any]:
    impls = []

    def ask(keys: jax.Array) -> jax.Array:
        impls.append(jr.key_impl(keys))
        return keys

    # Traced, as a ShapeDtypeStruct cannot be asked for its implementation.
    jax.eval_shape(ask, leaf)
    return str(impls[0]), impls[0]


def _unsuited(got: str, fix: str) -> TreeError:
    expected = "arrays of numbers, numbers, and random keys"
    title = "the leaf cannot be stored."
    return TreeError(report(title, expected=expected, got=got, fix=fix))
