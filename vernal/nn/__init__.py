"""Layers, and the tools for their state."""

from .._state.build import (
    delete_init_state as delete_init_state,
    join_state as join_state,
    make_with_state as make_with_state,
    split_state as split_state,
)
from .._state.index import StateIndex as StateIndex
from .._state.recorder import StateRecorder as StateRecorder
from .._state.state import State as State
from .._summary.summary import summary as summary
from ._adaptive_pool import (
    AdaptiveAvgPool1d as AdaptiveAvgPool1d,
    AdaptiveAvgPool2d as AdaptiveAvgPool2d,
    AdaptiveAvgPool3d as AdaptiveAvgPool3d,
    AdaptiveMaxPool1d as AdaptiveMaxPool1d,
    AdaptiveMaxPool2d as AdaptiveMaxPool2d,
    AdaptiveMaxPool3d as AdaptiveMaxPool3d,
    AdaptivePool as AdaptivePool,
)
from ._attention import MultiheadAttention as MultiheadAttention
from ._batch_norm import BatchNorm as BatchNorm
from ._batched import batched as batched
from ._conv import (
    Conv as Conv,
    Conv1d as Conv1d,
    Conv2d as Conv2d,
    Conv3d as Conv3d,
)
from ._conv_transpose import (
    ConvTranspose as ConvTranspose,
    ConvTranspose1d as ConvTranspose1d,
    ConvTranspose2d as ConvTranspose2d,
    ConvTranspose3d as ConvTranspose3d,
)
from ._embedding import Embedding as Embedding
from ._ensemble import Ensemble as Ensemble
from ._group_norm import GroupNorm as GroupNorm
from ._layer_norm import LayerNorm as LayerNorm, RMSNorm as RMSNorm
from ._linear import Linear as Linear
from ._mlp import MLP as MLP
from ._mode import inference_mode as inference_mode
from ._pool import (
    AvgPool1d as AvgPool1d,
    AvgPool2d as AvgPool2d,
    AvgPool3d as AvgPool3d,
    MaxPool1d as MaxPool1d,
    MaxPool2d as MaxPool2d,
    MaxPool3d as MaxPool3d,
    Pool as Pool,
)
from ._prelu import PReLU as PReLU
from ._recurrent import GRUCell as GRUCell, LSTMCell as LSTMCell
from ._rotary import RotaryPositionalEmbedding as RotaryPositionalEmbedding
from ._sequential import Sequential as Sequential
from ._shared import Shared as Shared
from ._simple import Dropout as Dropout, Identity as Identity, Lambda as Lambda
from ._spectral_norm import SpectralNorm as SpectralNorm
from ._stack import Stack as Stack
from ._stateful import StatefulLayer as StatefulLayer
from ._weight_norm import WeightNorm as WeightNorm

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AdaptivePool",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BatchNorm",
    "Conv",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Dropout",
    "Embedding",
    "Ensemble",
    "GRUCell",
    "GroupNorm",
    "Identity",
    "LSTMCell",
    "Lambda",
    "LayerNorm",
    "Linear",
    "MLP",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MultiheadAttention",
    "PReLU",
    "Pool",
    "RMSNorm",
    "RotaryPositionalEmbedding",
    "Sequential",
    "Shared",
    "SpectralNorm",
    "Stack",
    "State",
    "StateIndex",
    "StateRecorder",
    "StatefulLayer",
    "WeightNorm",
    "batched",
    "delete_init_state",
    "inference_mode",
    "join_state",
    "make_with_state",
    "split_state",
    "summary",
]
