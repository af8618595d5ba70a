"""One of two processes that save and restore one tree together by Orbax.

Called with a free port, the number of the process (0 or 1), and a folder.
"""

import sys
from typing import Any

import jax
import jax.random as jr
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec as P

import vernal as vn
from vernal.errors import TreeError


def model_and_state(seed: int) -> Any:
    """A model and its State."""

    def make(key: jax.Array) -> vn.nn.Sequential:
        layers = [vn.nn.Linear(8, 16, key=key), vn.nn.BatchNorm(16, "batch")]
        return vn.nn.Sequential(layers)

    return vn.nn.make_with_state(make)(jr.key(seed))


def weight(tree: Any) -> Any:
    """An array to be sharded."""
    return tree[0].layers[0].weight


def spread(x: jax.Array, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array of all processes, from one that each of them has."""
    host = jax.device_get(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: host[index])


def same_shards(x: jax.Array, y: jax.Array) -> bool:
    pairs = zip(x.addressable_shards, y.addressable_shards, strict=True)
    return all((a.data == b.data).all() for a, b in pairs)


def main(port: str, number: str, folder: str) -> None:
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(number))
    mesh = jax.make_mesh((8,), ("x",))
    rows, everywhere = NamedSharding(mesh, P("x")), NamedSharding(mesh, P())
    local = model_and_state(0)
    tree = jax.tree.map(lambda x: spread(x, everywhere), local)
    tree = vn.tree_at(weight, tree, spread(weight(local), rows))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(f"{folder}/run", tree)
        checkpointer.wait_until_finished()
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        loaded = checkpointer.restore(f"{folder}/run", like)
    assert weight(loaded).sharding == rows
    assert all(jax.tree.leaves(jax.tree.map(same_shards, loaded, tree)))
    # In one file goes what each process has as a whole.
    try:
        vn.save(f"{folder}/file{number}", tree)
    except TreeError as error:
        assert "leaf `[0].layers[0].weight`" in str(error)
        assert "several processes" in str(error)
    else:
        raise AssertionError("a part of an array was saved as the whole")
    vn.save(f"{folder}/state{number}", tree[1])
    assert vn.tree_equal(vn.load(f"{folder}/state{number}", local[1]), local[1])
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
