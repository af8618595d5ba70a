"""The base classes by which containers and tools know stateful layers."""

import abc
from typing import Any, TypeVar

from .._module.module import Module
from .._state.state import State

# What goes in comes out. A layer may take None for a state, and then returns None.
MaybeState = TypeVar("MaybeState", State, None)


class StatefulLayer(Module):
    """Base class of layers that are called as ``y, state = layer(x, state)``.

    :class:`Sequential` hands the state to those of its layers that derive from this
    class and whose :meth:`is_stateful` is true. It has no other effect.

    >>> import vernal as vn
    >>> isinstance(vn.nn.BatchNorm(3, axis_name="batch"), vn.nn.StatefulLayer)
    True
    """

    def is_stateful(self) -> bool:
        """Whether this layer takes and returns the state. True unless overridden."""
        return True


class RunningStatistics(StatefulLayer):
    """Base class of layers whose statistics :func:`recalibrate` computes anew."""

    @abc.abstractmethod
    def cumulative(self) -> Any:
        """A layer whose statistics will be those of all that it sees."""

    @abc.abstractmethod
    def adopted(self, state: State, other: Any, found: State, steps: int) -> State:
        """The state with the statistics that the cumulative layer ``other`` found.

        Where it saw nothing, they stay. ``steps`` is the number of batches.
        """
