"""Every layer, once: how to build it, what it takes, and who vouches for its numbers.

The laws in tests/laws run on every row; a public layer without a row fails them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

import vernal as vn
from vernal import nn


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer: ``make(key, dtype)`` builds it, for one example of ``shape``."""

    name: str
    make: Callable[[Any, Any], Any]
    shape: tuple[int, ...]
    oracle: str  # the test file in which another implementation vouches for it
    stateful: bool = False
    has_key: bool = False  # needs a key in training
    per_row: bool = False  # each row has its own state, which goes on in inference too
    is_smooth: bool = True  # its gradient is the derivative, and no estimate of it
    # How one example is applied, where that is not ``layer(x)``.
    apply: Callable[..., Any] = lambda layer, *args, **kwargs: layer(*args, **kwargs)

    def split(self, dtype: Any = jnp.float32, size: int = 4) -> tuple[Any, nn.State]:
        """The layer and its state for a batch, which is empty for most."""
        layer, state = nn.make_with_state(self.make)(jr.key(0), dtype)
        return layer, nn.with_rows(state, size) if self.per_row else state

    def batch(self, size: int = 4, dtype: Any = jnp.float32, seed: int = 1) -> Any:
        """A batch of inputs."""
        return jr.normal(jr.key(seed), (size, *self.shape)).astype(dtype)

    def call(self, layer: Any, state: Any, xs: Any) -> tuple[Any, Any]:
        """Applies the layer to a batch; for all layers as if they were stateful."""

        def one(x: Any, key: Any, state: Any) -> tuple[Any, Any]:
            extra = {"key": key} if self.has_key else {}
            args = (x, state) if self.stateful else (x,)
            out = self.apply(layer, *args, **extra)
            return out if self.stateful else (out, state)

        keys = jr.split(jr.key(7), xs.shape[0])
        rows = nn.row_axes(state)
        axes = {"in_axes": (0, 0, rows), "out_axes": (0, rows)}
        return jax.vmap(one, axis_name="batch", **axes)(xs, keys, state)

    def __str__(self) -> str:
        return self.name


def _spectral(key: Any, dtype: Any) -> nn.SpectralNorm[nn.Linear]:
    linear = nn.Linear(3, 5, dtype=dtype, key=key)
    return nn.SpectralNorm(linear, "weight", key=key)


def _weight_norm(key: Any, dtype: Any) -> nn.WeightNorm[nn.Linear]:
    return nn.WeightNorm(nn.Linear(3, 5, dtype=dtype, key=key))


def _sequential(key: Any, dtype: Any) -> nn.Sequential:
    norm = nn.BatchNorm(5, "batch", dtype=dtype)
    return nn.Sequential([_spectral(key, dtype), norm, jax.nn.tanh])


def _frozen(key: Any, dtype: Any) -> Any:
    first, last = (nn.Linear(3, 3, dtype=dtype, key=key) for _ in range(2))
    norms = [nn.BatchNorm(3, "batch", dtype=dtype) for _ in range(2)]
    model, state = nn.split_state(nn.Sequential([first, norms[0], last, norms[1]]))
    return nn.join_state(*nn.freeze(model, state, "layers[1]"))


def _batched(key: Any, dtype: Any) -> Any:
    norm = nn.BatchNorm(2, ("batch", "inner"), dtype=dtype)
    return nn.batched(norm, "inner")


def _folded(key: Any, dtype: Any) -> Any:
    norm = nn.BatchNorm(5, "batch", dtype=dtype)
    layers = [nn.Linear(3, 5, dtype=dtype, key=key), norm, jax.nn.tanh]
    model, state = nn.fold_norms(*nn.split_state(nn.Sequential(layers)))
    return nn.join_state(model, state)


def _baked(key: Any, dtype: Any) -> Any:
    return nn.bake(*nn.split_state(_spectral(key, dtype)))[0].layer


def _stack(key: Any, dtype: Any) -> nn.Stack[nn.Sequential]:
    def block(key: Any) -> nn.Sequential:
        linear = nn.Linear(3, 3, dtype=dtype, key=key)
        norm = nn.BatchNorm(3, "batch", dtype=dtype)
        return nn.Sequential([linear, norm, jax.nn.tanh])

    return nn.Stack(block, 2, key=key)


def _ensemble(key: Any, dtype: Any) -> nn.Ensemble[nn.Sequential]:
    def member(key: Any) -> nn.Sequential:
        norm = nn.BatchNorm(2, "batch", dtype=dtype)
        return nn.Sequential([nn.Linear(3, 2, dtype=dtype, key=key), norm])

    return nn.Ensemble(member, 2, key=key)


def _mlp(key: Any, dtype: Any) -> nn.MLP:
    return nn.MLP(3, 2, 8, 2, activation=jnp.tanh, dtype=dtype, key=key)


def _mlp_scan(key: Any, dtype: Any) -> nn.MLP:
    return nn.MLP(3, 2, 8, 3, activation=jnp.tanh, dtype=dtype, scan=True, key=key)


def _mlp_prelu(key: Any, dtype: Any) -> nn.MLP:
    slope = nn.PReLU(jnp.full((8,), 0.25, dtype))
    return nn.MLP(3, 2, 8, 2, activation=slope, dtype=dtype, key=key)


def _conv(layer: Any, **kwargs: Any) -> Callable[[Any, Any], Any]:
    return lambda key, dtype: layer(2, 4, 3, dtype=dtype, key=key, **kwargs)


def _gru(cell: Any, x: Any) -> Any:
    return cell(x[:3], x[3:])


def _lstm(cell: Any, x: Any) -> Any:
    return jnp.concatenate(cell(x[:3], (x[3:7], x[7:])))


def _transposed(pair: Any) -> Any:
    return pair[0].weight.T


def _second_weight(pair: Any) -> Any:
    return pair[1].weight


def _shared(key: Any, dtype: Any) -> nn.Shared[Any]:
    pair = [nn.Linear(*sizes, dtype=dtype, key=key) for sizes in ((3, 5), (5, 3))]
    return nn.Shared(pair, _second_weight, _transposed)


def _autoencode(shared: Any, x: Any) -> Any:
    encoder, decoder = shared()
    return decoder(jnp.tanh(encoder(x)))


def _quantizer(key: Any, dtype: Any, **kwargs: Any) -> nn.VectorQuantizer:
    return nn.VectorQuantizer(5, 2, "batch", dtype=dtype, key=key, **kwargs)


def _revived(key: Any, dtype: Any) -> nn.VectorQuantizer:
    return _quantizer(key, dtype, revive_below=1.0)


def _vectors(layer: Any, *args: Any, **kwargs: Any) -> Any:
    out, state = layer(*args, **kwargs)
    return out.vectors, state


def _ema(key: Any, dtype: Any) -> nn.ExponentialMovingAverage:
    return nn.ExponentialMovingAverage(jnp.zeros(3, dtype), 0.9, "batch")


def _plain(layer: Any, *args: Any, **kwargs: Any) -> Callable[[Any, Any], Any]:
    return lambda key, dtype: layer(*args, **kwargs)


def _typed(layer: Any, *args: Any, **kwargs: Any) -> Callable[[Any, Any], Any]:
    return lambda key, dtype: layer(*args, dtype=dtype, **kwargs)


def _attention(key: Any, dtype: Any) -> nn.MultiheadAttention:
    biases = {"use_query_bias": True, "use_value_bias": True, "use_output_bias": True}
    return nn.MultiheadAttention(2, 6, dropout_p=0.3, dtype=dtype, key=key, **biases)


def _attend(layer: Any, x: Any, **kwargs: Any) -> Any:
    return layer(x, x, x, mask=jnp.tri(x.shape[0], dtype=bool), **kwargs)


def _cached(**kwargs: Any) -> Callable[[Any, Any], Any]:
    def make(key: Any, dtype: Any) -> nn.CachedAttention:
        heads = nn.MultiheadAttention(
            2, 6, num_kv_heads=1, qk_size=4, dtype=dtype, key=key
        )
        rotary = nn.RotaryPositionalEmbedding(4, dtype=dtype)
        return nn.CachedAttention(heads, rotary=rotary, dtype=dtype, **kwargs)

    return make


def _look_up(layer: Any, x: Any) -> Any:
    return layer(jnp.sum(x > 0))


def _spectral_operator(key: Any, dtype: Any) -> nn.SpectralNorm[nn.Conv2d]:
    conv = nn.Conv2d(2, 2, 3, padding=1, dtype=dtype, key=key)
    # Larger weights, as 1/σ of small ones is too curved for finite differences.
    conv = vn.tree_at(lambda m: m.weight, conv, 3 * conv.weight)
    return nn.SpectralNorm(conv, "weight", input_shape=(2, 4, 4), key=key)


def _keyed(key: Any, dtype: Any) -> nn.Keyed[nn.Dropout]:
    return nn.Keyed(nn.Dropout(0.5), "batch", key=key)


ROWS = [
    Row("Linear", lambda k, d: nn.Linear(3, 5, dtype=d, key=k), (3,), "nn/test_linear"),
    Row("MLP", _mlp, (3,), "nn/test_mlp"),
    Row("MLP scan", _mlp_scan, (3,), "nn/test_mlp"),
    Row("MLP with PReLU", _mlp_prelu, (3,), "nn/test_prelu"),
    Row("Identity", _plain(nn.Identity), (3,), "nn/test_simple"),
    Row("Lambda", _plain(nn.Lambda, jnp.tanh), (3,), "nn/test_simple"),
    Row("Dropout", _plain(nn.Dropout, 0.5), (64,), "nn/test_simple", has_key=True),
    Row("Sequential", _sequential, (3,), "nn/test_sequential", stateful=True),
    Row("Stack", _stack, (3,), "nn/test_stack", stateful=True),
    Row("Ensemble", _ensemble, (3,), "nn/test_ensemble", stateful=True),
    Row(
        "Conv", lambda k, d: nn.Conv(1, 2, 4, 3, dtype=d, key=k), (2, 8), "nn/test_conv"
    ),
    Row("Conv1d", _conv(nn.Conv1d), (2, 8), "nn/test_conv"),
    Row("Conv2d", _conv(nn.Conv2d, padding=1), (2, 6, 5), "nn/test_conv"),
    Row("Conv3d", _conv(nn.Conv3d, groups=2), (2, 4, 4, 4), "nn/test_conv"),
    Row(
        "ConvTranspose",
        lambda k, d: nn.ConvTranspose(1, 2, 4, 3, dtype=d, key=k),
        (2, 5),
        "nn/test_conv_transpose",
    ),
    Row(
        "ConvTranspose1d",
        _conv(nn.ConvTranspose1d, stride=2, output_padding=1),
        (2, 5),
        "nn/test_conv_transpose",
    ),
    Row(
        "ConvTranspose2d",
        _conv(nn.ConvTranspose2d, padding="SAME", padding_mode="CIRCULAR"),
        (2, 4, 3),
        "nn/test_conv_transpose",
    ),
    Row(
        "ConvTranspose3d",
        _conv(nn.ConvTranspose3d, groups=2, padding=1),
        (2, 3, 3, 3),
        "nn/test_conv_transpose",
    ),
    Row("AvgPool1d", _plain(nn.AvgPool1d, 2, 2), (2, 8), "nn/test_pool"),
    Row("AvgPool2d", _plain(nn.AvgPool2d, 2, 2), (2, 6, 4), "nn/test_pool"),
    Row("AvgPool3d", _plain(nn.AvgPool3d, 2), (2, 3, 4, 4), "nn/test_pool"),
    Row("MaxPool1d", _plain(nn.MaxPool1d, 2, 2), (2, 8), "nn/test_pool"),
    Row("MaxPool2d", _plain(nn.MaxPool2d, 2, 2), (2, 6, 4), "nn/test_pool"),
    Row("MaxPool3d", _plain(nn.MaxPool3d, 2), (2, 3, 4, 4), "nn/test_pool"),
    Row(
        "Pool",
        _plain(nn.Pool, 0, jax.lax.add, num_spatial_dims=1, kernel_size=2),
        (2, 8),
        "nn/test_pool",
    ),
    Row(
        "AdaptiveAvgPool1d",
        _plain(nn.AdaptiveAvgPool1d, 3),
        (2, 7),
        "nn/test_adaptive_pool",
    ),
    Row(
        "AdaptiveAvgPool2d",
        _plain(nn.AdaptiveAvgPool2d, (2, 3)),
        (2, 6, 4),
        "nn/test_adaptive_pool",
    ),
    Row(
        "AdaptiveAvgPool3d",
        _plain(nn.AdaptiveAvgPool3d, 2),
        (2, 3, 4, 4),
        "nn/test_adaptive_pool",
    ),
    Row(
        "AdaptiveMaxPool1d",
        _plain(nn.AdaptiveMaxPool1d, 3),
        (2, 7),
        "nn/test_adaptive_pool",
    ),
    Row(
        "AdaptiveMaxPool2d",
        _plain(nn.AdaptiveMaxPool2d, (2, 3)),
        (2, 6, 4),
        "nn/test_adaptive_pool",
    ),
    Row(
        "AdaptiveMaxPool3d",
        _plain(nn.AdaptiveMaxPool3d, 2),
        (2, 3, 4, 4),
        "nn/test_adaptive_pool",
    ),
    Row(
        "AdaptivePool",
        _plain(nn.AdaptivePool, 3, num_spatial_dims=1, operation=jnp.sum),
        (2, 7),
        "nn/test_adaptive_pool",
    ),
    Row("LayerNorm", _typed(nn.LayerNorm, 6), (6,), "nn/test_layer_norm"),
    Row("RMSNorm", _typed(nn.RMSNorm, 6), (6,), "nn/test_layer_norm"),
    Row("GroupNorm", _typed(nn.GroupNorm, 2, 4), (4, 3, 3), "nn/test_group_norm"),
    Row(
        "MultiheadAttention",
        _attention,
        (5, 6),
        "nn/test_attention",
        has_key=True,
        apply=_attend,
    ),
    Row(
        "CachedAttention",
        _cached(length=10),
        (3, 6),
        "nn/test_cached_attention",
        stateful=True,
        per_row=True,
    ),
    Row(
        "CachedAttention window",
        _cached(window=4),
        (3, 6),
        "nn/test_cached_attention",
        stateful=True,
        per_row=True,
    ),
    Row(
        "RotaryPositionalEmbedding",
        _typed(nn.RotaryPositionalEmbedding, 6),
        (5, 6),
        "nn/test_rotary",
    ),
    Row(
        "Embedding",
        lambda k, d: nn.Embedding(4, 5, dtype=d, key=k),
        (3,),
        "nn/test_embedding",
        apply=_look_up,
    ),
    Row("PReLU", lambda k, d: nn.PReLU(jnp.asarray(0.1, d)), (3,), "nn/test_prelu"),
    Row(
        "GRUCell",
        lambda k, d: nn.GRUCell(3, 4, dtype=d, key=k),
        (7,),
        "nn/test_recurrent",
        apply=_gru,
    ),
    Row(
        "LSTMCell",
        lambda k, d: nn.LSTMCell(3, 4, dtype=d, key=k),
        (11,),
        "nn/test_recurrent",
        apply=_lstm,
    ),
    Row("batched", _batched, (3, 2), "nn/test_batched", stateful=True),
    Row("fold_norms", _folded, (3,), "nn/test_fold"),
    Row("bake", _baked, (3,), "nn/test_bake"),
    Row("freeze", _frozen, (3,), "nn/test_freeze", stateful=True),
    *(
        Row(
            f"RNN {cell.__name__}",
            lambda k, d, cell=cell: nn.RNN(cell(3, 4, dtype=d, key=k)),
            (5, 3),
            "nn/test_rnn",
            stateful=True,
            per_row=True,
        )
        for cell in (nn.GRUCell, nn.LSTMCell)
    ),
    Row(
        "CausalConv1d",
        _conv(nn.CausalConv1d, dilation=2),
        (2, 3),
        "nn/test_causal_conv",
        stateful=True,
        per_row=True,
    ),
    Row("Shared", _shared, (3,), "nn/test_shared", apply=_autoencode),
    Row("SpectralNorm", _spectral, (3,), "nn/test_spectral_norm", stateful=True),
    Row(
        "SpectralNorm operator",
        _spectral_operator,
        (2, 4, 4),
        "nn/test_spectral_norm_operator",
        stateful=True,
    ),
    Row("Keyed", _keyed, (64,), "nn/test_keys", stateful=True),
    Row("WeightNorm", _weight_norm, (3,), "nn/test_weight_norm"),
    Row(
        "BatchNorm",
        _typed(nn.BatchNorm, 2, "batch"),
        (2, 3),
        "nn/test_batch_norm",
        stateful=True,
    ),
    Row(
        "BatchNorm ema",
        _typed(nn.BatchNorm, 2, "batch", mode="ema"),
        (2, 3),
        "nn/test_batch_norm",
        stateful=True,
    ),
    Row(
        "BatchRenorm",
        _typed(nn.BatchRenorm, 2, "batch"),
        (2, 3),
        "nn/test_batch_renorm",
        stateful=True,
    ),
    Row("InstanceNorm", _typed(nn.InstanceNorm, 2), (2, 3), "nn/test_instance_norm"),
    Row(
        "InstanceNorm running",
        _typed(nn.InstanceNorm, 2, running=True, axis_name="batch"),
        (2, 3),
        "nn/test_instance_norm",
        stateful=True,
    ),
    Row(
        "BatchNorm cumulative",
        _typed(nn.BatchNorm, 2, "batch", momentum=None, unbiased=True),
        (2, 3),
        "nn/test_batch_norm_cumulative",
        stateful=True,
    ),
    Row(
        "RunningNorm",
        _typed(nn.RunningNorm, (2, 3), "batch", clip=2.0),
        (2, 3),
        "nn/test_running_norm",
        stateful=True,
    ),
    Row(
        "ActNorm",
        _typed(nn.ActNorm, 2, "batch"),
        (2, 3),
        "nn/test_act_norm",
        stateful=True,
    ),
    Row("ExponentialMovingAverage", _ema, (3,), "nn/test_ema", stateful=True),
    Row(
        "VectorQuantizer",
        _quantizer,
        (2, 3),
        "nn/test_vector_quantizer",
        stateful=True,
        is_smooth=False,
        apply=_vectors,
    ),
    Row(
        "VectorQuantizer revived",
        _revived,
        (2, 3),
        "nn/test_vector_quantizer",
        stateful=True,
        has_key=True,
        is_smooth=False,
        apply=_vectors,
    ),
]

# Classes that functions make, under whose names they are public.
MADE = {"Frozen", "Batched"}

STATEFUL = [row for row in ROWS if row.stateful]

# Base classes and containers of values, which are no layers.
NO_LAYERS = {"KeyStream", "State", "StateIndex", "StatefulLayer"}


def public_layers() -> set[str]:
    """The names of all public Module classes in ``vernal.nn`` that are layers."""
    classes = {n for n in nn.__all__ if isinstance(getattr(nn, n), type)}
    return {n for n in classes if issubclass(getattr(nn, n), vn.Module)} - NO_LAYERS
