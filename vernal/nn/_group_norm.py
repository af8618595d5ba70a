"""Normalization of groups of channels."""

from typing import Any, overload

import jax.numpy as jnp
from jaxtyping import Array, Float

from .._module.fields import field
from .._module.module import Module
from .._state.state import State
from ..typing import DTypeLike, Key
from ._checks import check_floating, check_shape, fail, is_number, is_size, require
from ._init import default_dtype
from ._numerics import moments, normalize

_UNSET: Any = object()


class GroupNorm(Module):
    r"""Normalizes groups of channels, each to mean 0 and variance 1.

    $$y_c = \frac{x_c - \mathrm{E}[x_{g(c)}]}
    {\sqrt{\mathrm{Var}[x_{g(c)}] + \epsilon}} \gamma_c + \beta_c$$

    where $g(c)$ is the group of channel $c$: the channels are cut, in order, into
    ``groups`` pieces of equal length. Mean and (biased) variance are taken over the
    channels of a group and over all spatial axes of the one example
    ``(channels, *spatial)``. One group normalizes the example as a whole, and as many
    groups as channels is instance normalization.

    Training and inference are the same. Statistics are taken in at least float32, and
    the output has the dtype of the input. Where a group is a single value, the output
    is the bias.

    Reference: Wu and He, *Group Normalization*, 2018, arXiv:1803.08494. PyTorch's layer
    takes a batch; Flax's has the channels last, 32 groups unless told otherwise, and
    ``epsilon=1e-6``.

    Arguments:
        groups: number of groups, at least 1.
        channels: number of channels, a multiple of ``groups``. May be None without
            ``channelwise_affine``: then any multiple will do.
        eps: added to the variance, in its units; at least 0.
        channelwise_affine: whether to learn ``weight`` and ``bias`` per channel.
        dtype: of the parameters; by default float32 (float64 in 64-bit mode).

    Attributes:
        weight, bias: parameters ``(channels,)``, initially 1 and 0; None without
            affine.

    Raises:
        HyperparameterError: an argument is outside its range.
        InputError: wrong number of channels, or an input that is not real
            floating-point.

    >>> import vernal as vn, jax.numpy as jnp
    >>> norm = vn.nn.GroupNorm(groups=2, channels=6)
    >>> norm(jnp.ones((6, 32, 32))).shape
    (6, 32, 32)
    """

    weight: Float[Array, " channels"] | None
    bias: Float[Array, " channels"] | None
    groups: int = field(static=True)
    channels: int | None = field(static=True)
    eps: float = field(static=True)
    channelwise_affine: bool = field(static=True)

    def __init__(
        self,
        groups: int,
        channels: int | None = None,
        eps: float = 1e-5,
        channelwise_affine: bool = True,
        dtype: DTypeLike | None = None,
    ) -> None:
        require(is_size(groups), "GroupNorm", "groups", "an int ≥ 1", groups)
        require(is_number(eps), "GroupNorm", "eps", "a number ≥ 0", eps)
        _check_channels(channels, groups, channelwise_affine)
        dtype = default_dtype(dtype)
        is_floating = jnp.issubdtype(dtype, jnp.floating)
        require(is_floating, "GroupNorm", "dtype", "a floating-point dtype", dtype)
        size = channels or 0
        self.weight = jnp.ones(size, dtype) if channelwise_affine else None
        self.bias = jnp.zeros(size, dtype) if channelwise_affine else None
        self.groups = groups
        self.channels = channels
        self.eps = eps
        self.channelwise_affine = channelwise_affine

    @overload
    def __call__(
        self, x: Float[Array, "channels *spatial"], *, key: Key | None = None
    ) -> Float[Array, "channels *spatial"]: ...
    @overload
    def __call__(
        self,
        x: Float[Array, "channels *spatial"],
        state: State,
        *,
        key: Key | None = None,
    ) -> tuple[Float[Array, "channels *spatial"], State]: ...
    def __call__(
        self,
        x: Float[Array, "channels *spatial"],
        state: State = _UNSET,
        *,
        key: Key | None = None,
    ) -> (
        Float[Array, "channels *spatial"]
        | tuple[Float[Array, "channels *spatial"], State]
    ):
        """Normalizes one example.

        Arguments:
            x: one example, ``(channels, *spatial)``.
            state: if given, it is returned as it is, so that this layer can stand in
                the place of :class:`BatchNorm`.
            key: not used.

        Returns:
            An array of the same shape and dtype; with a state, both.
        """
        self._check_input(x)

        def grouped(a: Array) -> Array:
            return a.reshape(self.groups, a.shape[0] // self.groups, -1)

        affine = [None if a is None else grouped(a) for a in (self.weight, self.bias)]
        groups = grouped(x)
        mean, variance = moments(groups, (1, 2))
        out = normalize(groups, mean, variance, self.eps, *affine).reshape(x.shape)
        return out if state is _UNSET else (out, state)

    def _check_input(self, x: Any) -> None:
        check_floating(self, x)
        if self.channels is not None:
            check_shape(self, x, "channels ...", channels=self.channels)
            return
        check_shape(self, x, "channels ...")
        if x.shape[0] % self.groups != 0:
            fail(
                self,
                "the channels cannot be divided into the groups",
                expected=f"(channels, ...) with a multiple of {self.groups} channels",
                got=f"{tuple(x.shape)}, {x.dtype}",
            )


def _check_channels(channels: int | None, groups: int, affine: bool) -> None:
    if channels is None:
        wanted = "an int, as channelwise_affine=True"
        require(not affine, "GroupNorm", "channels", wanted, channels)
        return
    ok = is_size(channels) and channels % groups == 0
    require(ok, "GroupNorm", "channels", f"a multiple of groups = {groups}", channels)
