"""What the adapters of the libraries on JAX share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optax
from program import fill

from .tasks import channels_last


def jit(step: Any, donate: bool = False) -> Any:
    """``jax.jit`` of a step, which may take over the buffers of the carry."""
    return jax.jit(step, donate_argnums=0 if donate else ())


class Arranged:
    """A compiled function of a carry and a batch that takes its arguments otherwise."""

    def __init__(self, jitted: Any, arrange: Callable[[Any, Any], Any]) -> None:
        self.jitted = jitted
        self.arrange = arrange

    def __call__(self, carry: Any, batch: Any) -> Any:
        """Runs it."""
        return self.jitted(*self.arrange(carry, batch))

    def lower(self, carry: Any, batch: Any) -> Any:
        """Traces and lowers it."""
        return self.jitted.lower(*self.arrange(carry, batch))


def batch_first(filter_jit: Callable[..., Any]) -> Callable[..., Any]:
    """The same with a ``filter_jit``, which can donate all arguments but the first."""

    def jit(step: Any, donate: bool = False) -> Any:
        if not donate:
            return filter_jit(step)

        def swapped(batch: Any, carry: Any) -> Any:
            return step(carry, batch)

        jitted = filter_jit(swapped, donate="all-except-first")
        return Arranged(jitted, lambda carry, batch: (batch, carry))

    return jit


def last(batch: Any) -> Any:
    """Images channels last, on the device."""
    return jax.device_put(channels_last(batch))


def cross_entropy(logits: Any, labels: Any) -> Any:
    """The mean over all predictions, in nats."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(losses)


def filled(
    params: Any, weights: Callable[[str, Any], Any] = lambda _, shape: fill(shape)
) -> Any:
    """Parameters with the initial weights of all libraries, and no random biases.

    Arguments:
        params: any tree of them; each leaf has a name by its path.
        weights: gives those of a kernel, by its name and shape.
    """

    def leaf(path: Any, a: Any) -> Any:
        name = jtu.keystr(path, simple=True, separator=".")
        if getattr(a, "ndim", 0) > 1:
            return jnp.asarray(weights(name, a.shape))
        return jnp.zeros_like(a) if name.endswith("bias") else a

    return jtu.tree_map_with_path(leaf, params)
