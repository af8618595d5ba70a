"""What layers should compute, as plain formulas in float64 NumPy.

Nothing here imports vernal or JAX: an oracle shares no code with what it judges.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


class Moments(NamedTuple):
    """Mean and variance of each channel."""

    mean: Numbers
    variance: Numbers


def to_float64(x: npt.ArrayLike) -> Numbers:
    """Exact for all narrower floating dtypes, JAX's bfloat16 included."""
    return np.asarray(x).astype(np.float64)


def _per_channel(a: npt.ArrayLike, ndim: int) -> Numbers:
    return to_float64(a).reshape(1, -1, *[1] * (ndim - 2))


def by_channel(xs: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Numbers:
    """The values of each channel of a batch (examples, channels, ...), one row each.

    The mask, (examples, ...) without channels, says which of them there are.
    """
    rows = np.moveaxis(to_float64(xs), 1, 0)
    rows = rows.reshape(len(rows), -1)
    return rows if mask is None else rows[:, np.asarray(mask).ravel()]


def batch_moments(xs: npt.ArrayLike, mask: npt.ArrayLike | None = None) -> Moments:
    """Mean and biased variance of each channel of a batch (examples, channels, ...)."""
    rows = by_channel(xs, mask)
    mean = rows.mean(1)
    return Moments(mean, np.square(rows - mean[:, None]).mean(1))


def batch_norm(
    xs: npt.ArrayLike,
    moments: Moments,
    eps: float = 1e-5,
    weight: npt.ArrayLike = 1.0,
    bias: npt.ArrayLike = 0.0,
) -> Numbers:
    """A batch (examples, channels, ...) normalized by given moments."""
    xs = to_float64(xs)
    mean, variance = (_per_channel(a, xs.ndim) for a in moments)
    weight, bias = (_per_channel(a, xs.ndim) for a in (weight, bias))
    return (xs - mean) / np.sqrt(variance + eps) * weight + bias


def unbiased(moments: Moments, count: int) -> Moments:
    """With the variance that ``count`` values estimate for what they are drawn from."""
    return moments._replace(variance=moments.variance * count / (count - 1))


class BatchNormGradients(NamedTuple):
    """Gradients with respect to the batch and the parameters."""

    xs: Numbers
    weight: Numbers
    bias: Numbers


def batch_norm_gradients(
    xs: npt.ArrayLike,
    cotangents: npt.ArrayLike,
    weight: npt.ArrayLike,
    eps: float,
    mask: npt.ArrayLike | None = None,
) -> BatchNormGradients:
    """Of :func:`batch_norm` by the batch's own moments, which depend on the batch.

    With z the normalized batch, g the cotangent times the weight, and sums over all
    but the channels: ``(g - c (Σ g + z Σ g z) / n) / sqrt(Var + eps)``, where c is 1
    for the n values that the moments are of, and 0 for those that the mask leaves out.
    """
    xs, cotangents = to_float64(xs), to_float64(cotangents)
    axes = (0, *range(2, xs.ndim))
    counts = np.ones_like(xs[:, :1]) if mask is None else np.asarray(mask)[:, None]
    moments = batch_moments(xs, mask)
    normalized = batch_norm(xs, moments, eps)
    g = cotangents * _per_channel(weight, xs.ndim)
    along = normalized * (g * normalized).sum(axes, keepdims=True)
    through = counts * (g.sum(axes, keepdims=True) + along) / counts.sum()
    scale = np.sqrt(_per_channel(moments.variance, xs.ndim) + eps)
    return BatchNormGradients(
        (g - through) / scale,
        (cotangents * normalized).sum(axes),
        cotangents.sum(axes),
    )


def weighted_average(history: Sequence[Moments], momentum: float) -> Moments:
    """The mean over steps, oldest first, with weights ``momentum**age``."""
    ages = np.arange(len(history))[::-1]
    weights = np.power(float(momentum), ages)
    means, variances = (np.stack(rows) for rows in zip(*history, strict=True))
    weights /= weights.sum()
    return Moments(weights @ means, weights @ variances)


def exponential_average(history: Sequence[Moments], momentum: float) -> Moments:
    """Starts with the first step; then each new one has the weight 1 - momentum."""
    mean, variance = history[0]
    for new in history[1:]:
        mean = momentum * mean + (1 - momentum) * new.mean
        variance = momentum * variance + (1 - momentum) * new.variance
    return Moments(mean, variance)


def torch_running(
    average: Moments, steps: int, count: int, torch_momentum: float | None
) -> Moments:
    """PyTorch's running statistics, from the weighted average over the same steps.

    PyTorch's momentum ``a`` is the weight of the new value, ``a = 1 - m``. From 0 and
    1 it iterates ``r ← m r + (1 - m) s``, so that after t steps::

        r = m**t r0 + (1 - m) Σ m**age s = m**t r0 + (1 - m**t) A

    where A is the average with weights ``m**age`` normalized to 1, because
    ``Σ m**age = (1 - m**t) / (1 - m)``. The variances s that it averages are the
    unbiased ones, larger by ``n / (n - 1)`` for n values per channel. With
    ``momentum=None`` it weighs all steps equally, and 0 and 1 not at all.
    """
    unbiased = average.variance * count / (count - 1)
    if torch_momentum is None:
        return Moments(average.mean, unbiased)
    start = (1 - torch_momentum) ** steps
    mean = (1 - start) * average.mean
    return Moments(mean, start + (1 - start) * unbiased)


def as_matrix(weight: npt.ArrayLike) -> Numbers:
    """A weight of any number of axes, as the matrix that is normalized."""
    weight = to_float64(weight)
    return weight.reshape(weight.shape[0], -1)


def spectral_norm(weight: npt.ArrayLike) -> float:
    """The largest singular value."""
    return float(np.linalg.svd(as_matrix(weight), compute_uv=False)[0])


def power_iteration(
    weight: npt.ArrayLike, u: npt.ArrayLike, v: npt.ArrayLike, steps: int
) -> tuple[Numbers, Numbers]:
    """The paper's iteration: first v from u, then u from v."""
    matrix, u, v = as_matrix(weight), to_float64(u), to_float64(v)
    for _ in range(steps):
        v = matrix.T @ u / np.linalg.norm(matrix.T @ u)
        u = matrix @ v / np.linalg.norm(matrix @ v)
    return u, v


def spectral_normalize(
    weight: npt.ArrayLike, u: npt.ArrayLike, v: npt.ArrayLike
) -> Numbers:
    """The weight over ``uᵀ W v``."""
    sigma = to_float64(u) @ as_matrix(weight) @ to_float64(v)
    return to_float64(weight) / sigma


def spectral_normalize_gradient(
    weight: npt.ArrayLike, u: npt.ArrayLike, v: npt.ArrayLike, cotangent: npt.ArrayLike
) -> Numbers:
    """Of :func:`spectral_normalize` by the weight: ``G/σ - <G, W>/σ² u vᵀ``."""
    matrix, g = as_matrix(weight), as_matrix(cotangent)
    u, v = to_float64(u), to_float64(v)
    sigma = u @ matrix @ v
    gradient = g / sigma - np.sum(g * matrix) / sigma**2 * np.outer(u, v)
    return gradient.reshape(np.shape(weight))
