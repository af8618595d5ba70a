"""What `load` gives back, and what it refuses."""

import pathlib
import re
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given
from jax.sharding import NamedSharding, PartitionSpec as P, SingleDeviceSharding

import vernal as vn
from tests import strategies
from tests.model_files import assert_same, zeros_like
from tests.strategies import Node, refuses
from tests.world import x64
from vernal.errors import ModelFileError, TreeError


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "file.safetensors"


@given(strategies.trees)
def test_load_undoes_save(tree: Any) -> None:
    """Whatever the tree, loading into one with other values gives the tree."""
    with tempfile.TemporaryDirectory() as folder:
        vn.save(folder + "/f", tree)
        assert_same(vn.load(folder + "/f", zeros_like(tree)), tree)


@given(strategies.layer_plans())
def test_load_undoes_save_for_states(plan: Any) -> None:
    """So it does for a model and its State, whichever layers are shared."""
    model, state = vn.nn.split_state(strategies.build(plan))
    tree = {"model": model, "state": jax.tree.map(strategies._flip, state)}
    with tempfile.TemporaryDirectory() as folder:
        vn.save(folder + "/f", tree)
        assert_same(vn.load(folder + "/f", {"model": model, "state": state}), tree)


class Model(vn.Module):
    """Layers with state, with a stored field, and without."""

    layers: list[vn.nn.Linear]
    norm: vn.nn.BatchNorm
    dropout: vn.nn.Dropout

    def __init__(self, key: jax.Array, *, rate: float = 0.5) -> None:
        self.layers = [vn.nn.Linear(3, 3, key=k) for k in jr.split(key, 2)]
        self.norm = vn.nn.BatchNorm(3, "batch")
        self.dropout = vn.nn.Dropout(rate)


def training(seed: int, rate: float = 0.5) -> dict[str, Any]:
    key = jr.key(seed)
    model, state = vn.nn.make_with_state(Model)(key, rate=rate)
    state = jax.tree.map(lambda x: x + jnp.full((), seed, x.dtype), state)
    opt_state = optax.adam(1e-3).init(model)
    return {"model": model, "state": state, "opt_state": opt_state, "key": key}


def test_a_training_run_comes_back(path: pathlib.Path) -> None:
    """Model, State, optimizer, key and stored fields, into an abstract tree."""
    saved = training(1, rate=0.25)
    vn.save(path, saved)
    loaded = vn.load(path, vn.filter_eval_shape(training, 2))
    assert_same(loaded, saved)
    assert loaded["model"].dropout.p == 0.25


def test_layers_of_one_shape_are_not_mixed_up(path: pathlib.Path) -> None:
    """A class that lists its layers in another order gets each of them right."""

    class Before(vn.Module):
        first: vn.nn.BatchNorm
        second: vn.nn.BatchNorm

    class After(vn.Module):
        second: vn.nn.BatchNorm
        first: vn.nn.BatchNorm

    def make(kind: Any) -> Any:
        norms = {k: vn.nn.BatchNorm(2, "batch") for k in ("first", "second")}
        return vn.nn.split_state(kind(**norms))

    model, state = make(Before)
    model = vn.tree_at(lambda m: m.first.weight, model, jnp.array([1.0, 2.0]))
    state = state.set(model.first.batch_counter, jnp.array(7))
    vn.save(path, (model, state))
    new, new_state = vn.load(path, make(After))
    assert (new.first.weight == jnp.array([1.0, 2.0])).all()
    assert (new.second.weight == 1).all()
    assert new_state.get(new.first.batch_counter) == 7
    assert new_state.get(new.second.batch_counter) == 0


def test_all_that_is_amiss_is_told_at_once(path: pathlib.Path) -> None:
    """Missing, unexpected and mismatching names, in six lines."""
    vn.save(
        path, {"a": jnp.ones(3), "b": 1, "c": jr.key(0), "d": jnp.ones(2), "e": 0.5}
    )
    like = {"a": jnp.ones(4), "b": 1.0, "c": jr.key(0, impl="rbg"), "x": 1, "e": 1}
    with refuses(
        ModelFileError,
        f"{path}: 5 names do not fit the tree, and 1 do.",
        "missing:     1: `x`",
        "unexpected:  1: `d`",
        "`a` is float32[3] and should be float32[4]",
        "`c` is key<threefry2x32>[] and should be key<rbg>[]",
        "`e` is Python float and should be Python int",
    ):
        vn.load(path, like)


@pytest.mark.parametrize(
    "saved, like",
    [
        (jnp.ones(2), jnp.ones(2, jnp.bfloat16)),
        (jnp.ones((2, 1)), jnp.ones(2)),
        (jnp.ones(()), 1.0),
        (1.0, jnp.ones(())),
        (jr.key_data(jr.key(0)), jr.key(0)),
        (jr.key(0), jr.key_data(jr.key(0))),
        (True, 1),
        (jnp.ones(4, jnp.int4), jnp.ones(4, jnp.uint8)),
    ],
)
def test_another_kind_is_a_mismatch(path: pathlib.Path, saved: Any, like: Any) -> None:
    """Shape, dtype, and whether it is a key, a number or an array, must agree."""
    vn.save(path, [saved])
    with refuses(ModelFileError, "mismatching: 1: `[0]` is"):
        vn.load(path, [like])


def test_like_decides_between_numpy_and_jax(path: pathlib.Path) -> None:
    """A tree that was fetched to the host can be loaded into one that was not."""
    vn.save(path, [np.ones(2, np.float32), jnp.ones(2), np.float32(1)])
    likes = [jnp.zeros(2), np.zeros(2, np.float32), jnp.zeros(())]
    loaded = vn.load(path, likes)
    assert_same(loaded, [jnp.ones(2), np.ones(2, np.float32), jnp.ones(())])


def test_not_strict_loads_what_fits(path: pathlib.Path) -> None:
    """The rest stays as it is in like, and the report tells which it is."""
    vn.save(path, {"a": jnp.ones(3), "b": jnp.ones(2), "c": 2})
    like = {"a": jnp.zeros(3), "b": jnp.zeros(3), "d": jnp.zeros(1)}
    tree, report = vn.load(path, like, strict=False)
    assert_same(tree, {**like, "a": jnp.ones(3)})
    assert report.loaded == ("a",)
    assert report.missing == ("d",)
    assert report.unexpected == ("c",)
    assert list(report.mismatching) == ["b"]
    assert not report.is_complete
    assert vn.load(path, {"a": like["a"], "b": jnp.ones(2), "c": 0}, strict=False)[
        1
    ].is_complete


def test_renamed_parts_are_found(path: pathlib.Path) -> None:
    """By a prefix, for all that is under it; the State has names of its own."""
    saved = training(1)
    vn.save(path, saved)
    like = training(2)
    new = {"net": {"body": like["model"]}, "state": like["state"]}
    rename = {"model": "net.body"}
    loaded = vn.load(path, new, rename=rename, only=("net", "state"))
    assert_same(loaded["net"]["body"], saved["model"])
    assert_same(loaded["state"], saved["state"])


def test_only_a_part_is_loaded(path: pathlib.Path) -> None:
    """All else stays as in like, and need not be in the file, nor like's in it."""
    saved = training(1)
    vn.save(path, saved)
    like = training(2)
    loaded = vn.load(path, {"model": like["model"], "new": 3}, only="model")
    assert_same(loaded, {"model": saved["model"], "new": 3})
    loaded = vn.load(path, like, only=re.compile("bias"))
    assert_same(loaded["model"].layers[0].bias, saved["model"].layers[0].bias)
    assert_same(loaded["model"].layers[0].weight, like["model"].layers[0].weight)
    with refuses(ModelFileError, "missing:     1: `model.x`"):
        vn.load(path, {"model": {"x": 1}}, only=lambda name: name == "model.x")


def test_like_stays_as_it_is(path: pathlib.Path) -> None:
    """Loading makes a new tree, and what is not stored is like's."""
    saved, like = training(1), training(2)
    vn.save(path, {**saved, "fn": len, "text": "old"})
    loaded = vn.load(path, {**like, "fn": max, "text": "new"})
    assert_same(like, training(2))
    assert loaded["fn"] is max and loaded["text"] == "new"


def test_loaded_arrays_are_as_computed_ones(path: pathlib.Path) -> None:
    """Strongly typed, on the default device, and free to be put elsewhere."""
    vn.save(path, [jnp.ones(4), jnp.asarray(2.0)])
    loaded = vn.load(path, [jnp.zeros(4), jnp.asarray(0.0)])
    assert not any(x.weak_type or x.committed for x in loaded)
    path.unlink()
    assert (loaded[0] == 1).all()


def test_64_bits_come_back(path: pathlib.Path) -> None:
    """In 64-bit mode, and to NumPy in any; elsewhere it is a mismatch."""
    with x64():
        saved = [jnp.array([0.1, 1e300]), jnp.array(1j), jnp.array(2**40)]
        vn.save(path, saved)
        assert_same(vn.load(path, zeros_like(saved)), saved)
    host = [np.asarray(x) for x in saved]
    assert_same(vn.load(path, [np.zeros_like(x) for x in host]), host)
    with refuses(ModelFileError, "`[0]` is float64[2] and should be float32[2]"):
        vn.load(path, [jnp.zeros(2), *host[1:]])


def test_a_mode_comes_back(path: pathlib.Path) -> None:
    """A model that was saved for inference is one when it is loaded."""
    model = training(0)["model"]
    vn.save(path, vn.nn.inference_mode(model))
    loaded = vn.load(path, model)
    assert loaded.dropout.inference and loaded.norm.inference
    assert not model.dropout.inference


def mesh(*sizes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(sizes, ("x", "y")[: len(sizes)])


def test_shardings_are_kept(path: pathlib.Path) -> None:
    """Each device gets its part only, whatever the sharding at the time of saving."""
    old = jax.device_put(jnp.arange(64.0).reshape(8, 8), NamedSharding(mesh(8), P("x")))
    saved = {"w": old, "b": jnp.arange(8), "n": 1, "keys": jr.split(jr.key(0), 8)}
    vn.save(path, saved)
    both = NamedSharding(mesh(2, 4), P("y", "x"))
    rows = NamedSharding(mesh(2, 4), P("x"))
    sharding = {"w": both, "b": rows, "n": None, "keys": rows}
    loaded = vn.load(path, zeros_like(saved), sharding=sharding)
    assert_same(loaded, saved)
    for name in ("w", "b", "keys"):
        assert loaded[name].sharding == sharding[name]
    assert {s.data.shape for s in loaded["w"].addressable_shards} == {(2, 4)}
    assert {s.data.shape for s in loaded["b"].addressable_shards} == {(4,)}


def test_one_sharding_holds_for_all_below_it(path: pathlib.Path) -> None:
    """A prefix of the tree will do, also with Modules and stored fields in it."""
    saved = training(1)
    vn.save(path, saved)
    everywhere = NamedSharding(mesh(8), P())
    shardings = {"model": everywhere, "state": None, "opt_state": None, "key": None}
    loaded = vn.load(path, vn.filter_eval_shape(training, 2), sharding=shardings)
    assert_same(
        jax.device_get(loaded["model"].layers), jax.device_get(saved["model"].layers)
    )
    weight = loaded["model"].layers[0].weight
    assert weight.sharding == everywhere
    assert len(loaded["state"].get(loaded["model"].norm.batch_counter).devices()) == 1
    loaded = vn.load(path, training(2), sharding=everywhere)
    assert loaded["opt_state"][0].count.sharding == everywhere
    one = SingleDeviceSharding(jax.devices()[3])
    loaded = vn.load(path, training(2), sharding=one)
    assert loaded["model"].layers[1].bias.devices() == {jax.devices()[3]}


def test_arrays_go_where_like_is(path: pathlib.Path) -> None:
    """By default, where that of like is spread, or says where it is to be."""
    vn.save(path, [jnp.arange(8), jnp.arange(8)])
    rows = NamedSharding(mesh(8), P("x"))
    like = [
        jax.device_put(jnp.zeros(8, jnp.int32), rows),
        jax.ShapeDtypeStruct((8,), jnp.int32, sharding=rows),
    ]
    for array in vn.load(path, like):
        assert array.sharding == rows and (array == jnp.arange(8)).all()


def test_bad_shardings_are_named(path: pathlib.Path) -> None:
    """Something else than a sharding, and one that does not divide the shape."""
    vn.save(path, {"a": jnp.ones(3)})
    like = {"a": jnp.zeros(3)}
    with refuses(TreeError, "`sharding`", "('x',)"):
        vn.load(path, like, sharding={"a": P("x")})
    with pytest.raises(ValueError) as info:
        vn.load(path, like, sharding=NamedSharding(mesh(8), P("x")))
    assert any("leaf `a`" in note for note in info.value.__notes__)


def test_nothing_is_kept_for_what_fails(path: pathlib.Path) -> None:
    """A static field of a wrong kind is named too, and like is not touched."""
    vn.save(path, Node(vn.nn.Dropout(0.5)))
    like = Node(vn.nn.Dropout(1, inference=True))
    assert vn.load(path, Node(vn.nn.Dropout(0.1))).first.p == 0.5
    with refuses(ModelFileError, "`first.p` is Python float and should be Python int"):
        vn.load(path, vn.tree_at(lambda n: n.first.p, like, 1))
