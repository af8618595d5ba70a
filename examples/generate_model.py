"""A transformer that reads whole texts, or goes on from where its cache is."""

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

import vernal as vn

HEADS, KV_HEADS = 4, 2  # pairs of heads share their keys and values
WINDOW = (
    64  # characters that one attends to: so texts may be longer than any it learned
)

Vectors = Float[Array, "length size"]
State = vn.nn.State | None  # None for whole texts


class Block(vn.Module):
    """Attention to the last characters, then a network for each character."""

    norm: vn.nn.RMSNorm
    attention: vn.nn.CachedAttention
    mlp: vn.nn.Sequential

    def __init__(self, size: int, key: PRNGKeyArray) -> None:
        key1, key2 = jax.random.split(key)
        heads = vn.nn.MultiheadAttention(HEADS, size, num_kv_heads=KV_HEADS, key=key1)
        rotary = vn.nn.RotaryPositionalEmbedding(size // HEADS)
        self.norm = vn.nn.RMSNorm(size)
        self.attention = vn.nn.CachedAttention(heads, window=WINDOW, rotary=rotary)
        mlp = vn.nn.MLP(size, size, 4 * size, 1, jax.nn.gelu, key=key2)
        self.mlp = vn.nn.Sequential([vn.nn.RMSNorm(size), mlp])

    def __call__(self, x: Vectors, state: State) -> tuple[Vectors, State]:
        y, state = self.attention(jax.vmap(self.norm)(x), state)
        x = x + y
        return x + jax.vmap(self.mlp)(x), state


class Writer(vn.Module):
    """Predicts each next character. Input and output have one table of characters."""

    embedding: vn.nn.Embedding
    blocks: vn.nn.Stack[Block]
    norm: vn.nn.RMSNorm

    def __init__(self, kinds: int, size: int, depth: int, key: PRNGKeyArray) -> None:
        key1, key2 = jax.random.split(key)
        weight = 0.02 * jax.random.normal(key1, (kinds, size))
        self.embedding = vn.nn.Embedding(weight=weight)
        self.blocks = vn.nn.Stack(lambda key: Block(size, key), depth, key=key2)
        self.norm = vn.nn.RMSNorm(size)

    def __call__(
        self, tokens: Int[Array, " length"], state: State
    ) -> tuple[Float[Array, "length kinds"], State]:
        x, state = self.blocks(jax.vmap(self.embedding)(tokens), state)
        return jax.vmap(self.norm)(x) @ self.embedding.weight.T, state
