"""Layers, and the tools for their state."""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .._state.build import (
        delete_init_state as delete_init_state,
        join_state as join_state,
        make_with_state as make_with_state,
        split_state as split_state,
    )
    from .._state.diff import state_diff as state_diff
    from .._state.index import StateIndex as StateIndex
    from .._state.merge import merge_states as merge_states
    from .._state.recorder import StateRecorder as StateRecorder
    from .._state.reset import reset as reset
    from .._state.rows import (
        reset_rows as reset_rows,
        row_axes as row_axes,
        with_rows as with_rows,
    )
    from .._state.state import State as State
    from .._summary.summary import summary as summary
    from ._act_norm import ActNorm as ActNorm
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
    from ._bake import bake as bake
    from ._batch_norm import BatchNorm as BatchNorm
    from ._batch_renorm import BatchRenorm as BatchRenorm
    from ._batched import batched as batched
    from ._cached_attention import CachedAttention as CachedAttention
    from ._causal_conv import CausalConv1d as CausalConv1d
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
    from ._ema import ExponentialMovingAverage as ExponentialMovingAverage
    from ._embedding import Embedding as Embedding
    from ._ensemble import Ensemble as Ensemble
    from ._fold import fold_norms as fold_norms
    from ._freeze import freeze as freeze, unfreeze as unfreeze
    from ._group_norm import GroupNorm as GroupNorm
    from ._instance_norm import InstanceNorm as InstanceNorm
    from ._keys import Keyed as Keyed, KeyStream as KeyStream
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
    from ._recalibrate import recalibrate as recalibrate
    from ._recurrent import GRUCell as GRUCell, LSTMCell as LSTMCell
    from ._rnn import RNN as RNN
    from ._rotary import RotaryPositionalEmbedding as RotaryPositionalEmbedding
    from ._running_norm import RunningNorm as RunningNorm
    from ._sequential import Sequential as Sequential
    from ._shared import Shared as Shared
    from ._simple import Dropout as Dropout, Identity as Identity, Lambda as Lambda
    from ._spectral_norm import SpectralNorm as SpectralNorm
    from ._stack import Stack as Stack
    from ._stateful import StatefulLayer as StatefulLayer
    from ._vector_quantizer import (
        Quantized as Quantized,
        VectorQuantizer as VectorQuantizer,
    )
    from ._weight_norm import WeightNorm as WeightNorm
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "ActNorm",
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
    "BatchRenorm",
    "CachedAttention",
    "CausalConv1d",
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
    "ExponentialMovingAverage",
    "GRUCell",
    "GroupNorm",
    "Identity",
    "InstanceNorm",
    "KeyStream",
    "Keyed",
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
    "Quantized",
    "RMSNorm",
    "RNN",
    "RotaryPositionalEmbedding",
    "RunningNorm",
    "Sequential",
    "Shared",
    "SpectralNorm",
    "Stack",
    "State",
    "StateIndex",
    "StateRecorder",
    "StatefulLayer",
    "VectorQuantizer",
    "WeightNorm",
    "bake",
    "batched",
    "delete_init_state",
    "fold_norms",
    "freeze",
    "inference_mode",
    "join_state",
    "make_with_state",
    "merge_states",
    "recalibrate",
    "reset",
    "reset_rows",
    "row_axes",
    "split_state",
    "state_diff",
    "summary",
    "unfreeze",
    "with_rows",
]
