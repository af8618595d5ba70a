"""Layers without parameters that pass their input on, drop it, or apply a function."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from .._module.by_value import by_value
from .._module.fields import field
from .._module.module import Module
from ..errors import short
from ..typing import Key
from ._checks import (
    check_array,
    fail,
    is_key,
    is_number,
    require,
)


class Identity(Module):
    """Returns its input unchanged; any constructor arguments are ignored.

    >>> import vernal as vn
    >>> vn.nn.Identity()(3)
    3
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, x: Any, *, key: Key | None = None) -> Any:
        """Returns ``x``; ``key`` is not used."""
        return x


class Lambda(Module):
    """Makes a layer of a function of one array, for use in :class:`Sequential`.

    Arguments:
        fn: the function. A plain function is static metadata; a Module, such as one
            with learnable parameters, stays part of the pytree.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> vn.nn.Lambda(jax.nn.relu)(jnp.array([-1.0, 1.0]))
    Array([0., 1.], dtype=float32)
    """

    fn: Callable[[Any], Any] = field(static="if_function", converter=by_value)

    def __init__(self, fn: Callable[[Any], Any]) -> None:
        require(callable(fn), "Lambda", "fn", "a function of one array", fn)
        self.fn = fn

    def __call__(self, x: Any, *, key: Key | None = None) -> Any:
        """Returns ``fn(x)``; ``key`` is not used."""
        return self.fn(x)


class Dropout(Module):
    r"""Sets elements to zero with probability p, and scales the others by 1/(1-p).

    In inference it passes its input on unchanged. For ``p = 1`` the output is zero. As
    in PyTorch and Flax, but the key is an argument; Flax calls p ``rate``.

    Reference: Srivastava et al., *Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting*, 2014, JMLR 15.

    Arguments:
        p: probability to drop an element, in [0, 1].
        inference: pass the input on. See :func:`inference_mode`.
        deterministic: an older name of ``inference``, which it overrides.

    Raises:
        HyperparameterError: ``p`` is outside [0, 1].
        InputError: a training call without ``key``.

    >>> import vernal as vn, jax, jax.numpy as jnp
    >>> dropout = vn.nn.Dropout(0.5)
    >>> y = dropout(jnp.ones(1000), key=jax.random.key(0))
    >>> bool(0.4 < (y == 0).mean() < 0.6)
    True
    """

    p: float = field(static=True, stored=True)
    inference: bool = field(static=True, stored=True)

    def __init__(
        self,
        p: float = 0.5,
        inference: bool = False,
        *,
        deterministic: bool | None = None,
    ) -> None:
        ok = is_number(p, maximum=1)
        require(ok, "Dropout", "p", "a probability, from 0 to 1", p)
        self.p = p
        self.inference = inference if deterministic is None else deterministic

    @property
    def deterministic(self) -> bool:
        """An older name of ``inference``."""
        return self.inference

    def __call__(
        self,
        x: Array,
        *,
        key: Key | None = None,
        inference: bool | None = None,
        deterministic: bool | None = None,
    ) -> Array:
        """Drops elements of ``x``.

        Arguments:
            x: an array of any shape.
            key: a PRNG key; needed unless in inference.
            inference: overrides the field of that name, if not None.
            deterministic: an older name of ``inference``, which it overrides.

        Returns:
            An array of the same shape and dtype.
        """
        check_array(self, x)
        inference = inference if deterministic is None else deterministic
        inference = self.inference if inference is None else inference
        if inference or self.p == 0:
            return x
        if key is None:
            fail(
                self,
                "there is no key to draw from",
                expected="a PRNG key in training",
                got="key=None",
                fix="pass `key=`, or switch it off: vernal.nn.inference_mode(model)",
            )
        if not is_key(key):
            fail(
                self,
                "`key` is not a PRNG key",
                expected="a single key, such as jax.random.key(0)",
                got=f"{short(repr(key))} ({type(key).__name__})",
                fix="for several examples: jax.vmap over jax.random.split(key, n)",
            )
        if self.p == 1:
            return jnp.zeros_like(x)
        keep = 1 - self.p
        return jnp.where(jr.bernoulli(key, keep, x.shape), x / keep, 0)
