"""Layers, and the tools for their state."""

from .._state.build import (
    delete_init_state as delete_init_state,
    join_state as join_state,
    make_with_state as make_with_state,
    split_state as split_state,
)
from .._state.index import StateIndex as StateIndex
from .._state.state import State as State
from ._batch_norm import BatchNorm as BatchNorm
from ._linear import Linear as Linear
from ._mlp import MLP as MLP
from ._mode import inference_mode as inference_mode
from ._sequential import Sequential as Sequential
from ._simple import Dropout as Dropout, Identity as Identity, Lambda as Lambda
from ._spectral_norm import SpectralNorm as SpectralNorm
from ._stateful import StatefulLayer as StatefulLayer

__all__ = [
    "MLP",
    "BatchNorm",
    "Dropout",
    "Identity",
    "Lambda",
    "Linear",
    "Sequential",
    "SpectralNorm",
    "State",
    "StateIndex",
    "StatefulLayer",
    "delete_init_state",
    "inference_mode",
    "join_state",
    "make_with_state",
    "split_state",
]
