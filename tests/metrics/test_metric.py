"""What holds for all metrics, beside scikit-learn over all of the data at once."""

import copy
import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import vernal as vn
from vernal import metrics, nn
from vernal.errors import (
    AxisNameError,
    ForeignStateError,
    HyperparameterError,
    InputError,
    StateValueError,
)

sklearn = pytest.importorskip("sklearn.metrics")
CLASSES = 4


def draw(seed: int, n: int) -> Any:
    """Logits, labels, and which of them count."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, n)
    logits = random.normal(size=(n, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    mask = random.random(n) < 0.7
    return logits.astype(np.float32), labels, mask


def score(logits: Any) -> Any:
    """One number for a class against the others."""
    return jax.nn.sigmoid(logits[..., 0])


class Case:
    """A metric, what it is given of an example, and what scikit-learn says."""

    def __init__(self, make: Any, inputs: Any, oracle: Any, atol: float) -> None:
        self.make, self.inputs, self.oracle, self.atol = make, inputs, oracle, atol

    def split(self, axis_name: Any = None) -> Any:
        return nn.make_with_state(self.make)(axis_name)

    def update(
        self, metric: Any, state: Any, logits: Any, labels: Any, mask: Any
    ) -> Any:
        return metric.update(*self.inputs(logits, labels), state, mask=mask)

    def check(self, metric: Any, state: Any, data: Any) -> None:
        """Compares with the oracle on all data, of which the masked is left out."""
        logits, labels, mask = (np.concatenate(x) for x in zip(*data, strict=True))
        want = self.oracle(logits[mask], labels[mask])
        got = metric.compute(state)
        np.testing.assert_allclose(np.asarray(got), want, rtol=1e-6, atol=self.atol)


CASES = {
    "Average": Case(
        lambda axis_name: metrics.Average(axis_name),
        lambda logits, labels: (logits[..., 1],),
        lambda logits, labels: logits[:, 1].astype(np.float64).mean(),
        1e-7,
    ),
    "Accuracy": Case(
        lambda axis_name: metrics.Accuracy(axis_name),
        lambda logits, labels: (logits, labels),
        lambda logits, labels: sklearn.accuracy_score(labels, logits.argmax(1)),
        0,
    ),
    "ConfusionMatrix": Case(
        lambda axis_name: metrics.ConfusionMatrix(CLASSES, axis_name),
        lambda logits, labels: (logits, labels),
        lambda logits, labels: sklearn.confusion_matrix(labels, logits.argmax(1)),
        0,
    ),
    "AUROC": Case(
        lambda axis_name: metrics.AUROC(axis_name, num_bins=4096),
        lambda logits, labels: (score(logits), labels == 0),
        lambda logits, labels: sklearn.roc_auc_score(labels == 0, logits[:, 0]),
        2e-4,
    ),
}
every_metric = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SIZES = [5, 32, 1, 17]  # batches are not even
DATA = [draw(i, n) for i, n in enumerate(SIZES)]


def run(case: Case, metric: Any, state: Any, data: Any = DATA) -> Any:
    """Batch after batch, without vmap."""
    update = jax.jit(case.update)
    for batch in data:
        state = update(metric, state, *map(jnp.asarray, batch))
    return state


def same(a: Any, b: Any) -> None:
    """All counts are equal; sums up to rounding."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        if x.dtype == jnp.uint32:
            np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_allclose(jnp.sum(x), jnp.sum(y), rtol=1e-6)


@every_metric
def test_uneven_batches_with_masks(case):
    """The value is that of all the data at once, not a mean of means."""
    metric, state = case.split()
    state = run(case, metric, state)
    case.check(metric, state, DATA)
    empty = [(logits, labels, mask & False) for logits, labels, mask in DATA[:1]]
    same(run(case, metric, copy.copy(state), empty), state)


@every_metric
def test_masked_entries_may_be_anything(case):
    """What does not count may be NaN, and no class."""
    metric, state = case.split()
    data = [tuple(map(np.copy, batch)) for batch in DATA]
    for logits, labels, mask in data:
        logits[~mask] = np.nan
        labels[~mask] = -7
    same(run(case, metric, copy.copy(state), data), run(case, metric, state))


@every_metric
def test_one_example_per_call(case):
    """Under vmap with an axis name, with the state shared, counts are the same."""
    metric, state = case.split("batch")

    def one(state: Any, *example: Any) -> Any:
        return case.update(metric, state, *example)

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        axes = (None, 0, 0, 0)
        return jax.vmap(one, axes, None, axis_name="batch")(state, *batch)

    for batch in DATA:
        state = step(state, tuple(map(jnp.asarray, batch)))
    plain, plain_state = case.split()
    want = run(case, plain, plain_state)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@every_metric
@pytest.mark.parametrize("names", ["d", ("batch", "d")], ids=str)
def test_eight_devices(case, names):
    """Over devices, with vmap on each or not, it is as on one."""
    metric, state = case.split(names)
    mesh = Mesh(np.array(jax.devices()), ("d",), axis_types=(AxisType.Auto,))
    batch = tuple(map(jnp.asarray, draw(9, 32)))

    def local(state: Any, *batch: Any) -> Any:
        update = lambda state, *x: case.update(metric, state, *x)  # noqa: E731
        if names == "d":
            return update(state, *batch)
        axes = (None, 0, 0, 0)
        return jax.vmap(update, axes, None, axis_name="batch")(state, *batch)

    split = (P(), P("d"), P("d"), P("d"))
    step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=split, out_specs=P()))
    for _ in range(2):
        state = step(state, *batch)
    plain, plain_state = case.split()
    placed = jax.device_put(batch, NamedSharding(mesh, P("d")))
    want = run(case, plain, plain_state, [placed, placed])
    same(jax.tree.leaves(state), jax.tree.leaves(want))


@every_metric
def test_merged_states(case):
    """Workers with data of their own give exactly the metric of all the data."""
    metric, state = case.split()
    states = [run(case, metric, copy.copy(state), [batch]) for batch in DATA]
    merged = jax.jit(nn.merge_states)(states)
    case.check(metric, merged, DATA)
    same(merged, run(case, metric, state))


@every_metric
def test_beyond_32_bits(case):
    """After doubling 40 times the value is the same, and one more batch counts."""
    metric, state = case.split()
    state = run(case, metric, state)
    value = metric.compute(state)
    double = jax.jit(lambda state: nn.merge_states([state, state]))
    for _ in range(40):
        state = double(state)
    counts = [x for x in jax.tree.leaves(state) if x.dtype == jnp.uint32]
    before = sum(int(high) * 2**32 + int(low) for high, low in _pairs(counts))
    assert before > 2**43
    after = run(case, metric, copy.copy(state), DATA[2:3])
    counts = [x for x in jax.tree.leaves(after) if x.dtype == jnp.uint32]
    more = sum(int(high) * 2**32 + int(low) for high, low in _pairs(counts)) - before
    _, fresh = case.split()
    single = run(case, metric, fresh, DATA[2:3])
    counts = [x for x in jax.tree.leaves(single) if x.dtype == jnp.uint32]
    assert more == sum(int(low) for _, low in _pairs(counts))
    if isinstance(metric, metrics.ConfusionMatrix):
        largest = np.where(np.asarray(value) > 0, 2**32 - 1, 0)
        np.testing.assert_array_equal(metric.compute(state), largest)
        fractions = np.asarray(value, float) / np.sum(value, dtype=float)
        got = metric.compute(state, normalize="all")
        np.testing.assert_allclose(got, fractions, rtol=1e-6)
    else:
        np.testing.assert_allclose(metric.compute(state), value, rtol=1e-6)


def _pairs(counts: Any) -> Any:
    for count in counts:
        yield from np.asarray(count).reshape(2, -1).T


@every_metric
def test_reset(case):
    """It starts anew; before any data there is no value."""
    metric, state = case.split()
    initial = copy.copy(state)
    state = metric.reset(run(case, metric, state))
    same(state, initial)
    if isinstance(metric, metrics.ConfusionMatrix):
        assert not np.any(metric.compute(state))
        assert not np.any(metric.compute(state, normalize="true"))
    else:
        assert np.isnan(metric.compute(state))


@every_metric
def test_transformations(case):
    """In scan, cond, checkpoint and grad the counts are those of plain calls."""
    metric, state = case.split()
    batch = tuple(map(jnp.asarray, draw(7, 8)))
    want = run(case, metric, copy.copy(state), [batch] * 3)

    def body(state: Any, _: Any) -> Any:
        step = jax.checkpoint(lambda s: case.update(metric, s, *batch))
        return jax.lax.cond(jnp.array(True), step, lambda s: s, state), None

    got, _ = jax.jit(lambda s: jax.lax.scan(body, s, length=3))(copy.copy(state))
    same(got, want)

    def loss(logits: Any) -> Any:
        new = case.update(metric, copy.copy(state), logits, *batch[1:])
        floats = [x for x in jax.tree.leaves(new) if x.dtype == jnp.float32]
        return sum(map(jnp.sum, floats), jnp.sum(logits)), new

    grads, new = jax.jit(jax.grad(loss, has_aux=True))(batch[0])
    np.testing.assert_array_equal(grads, 1)  # of the logits alone
    same(new, run(case, metric, copy.copy(state), [batch]))


@every_metric
def test_ensembles(case):
    """Several metrics under one vmap count each for itself."""
    metric, state = case.split()
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    batches = [tuple(map(jnp.asarray, draw(seed, 6))) for seed in (1, 2)]
    both = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    got = jax.vmap(lambda s, b: case.update(metric, s, *b))(stacked, both)
    for i, batch in enumerate(batches):
        want = run(case, metric, copy.copy(state), [batch])
        same(jax.tree.map(lambda x, i=i: x[i], got), want)


@every_metric
def test_files_and_traces(case, tmp_path):
    """Counts come back from both kinds of files; batches of one size trace once."""
    metric, state = case.split()
    traces = []

    @jax.jit
    def step(metric: Any, state: Any, batch: Any) -> Any:
        traces.append(None)
        return case.update(metric, state, *batch)

    for seed in range(3):
        state = step(metric, state, tuple(map(jnp.asarray, draw(seed, 4))))
        metric, _ = case.split()
    assert len(traces) == 1
    vn.save(tmp_path / "state", state)
    file = io.BytesIO()
    vn.tree_serialise_leaves(file, state)
    file.seek(0)
    like = case.split()[1]
    same(vn.load(tmp_path / "state", like), state)
    same(vn.tree_deserialise_leaves(file, like), state)


@every_metric
def test_errors(case):
    """A bad name, a name out of scope, a bad mask and no state are told."""
    with pytest.raises(HyperparameterError, match="`axis_name`"):
        case.make(0)
    logits, labels, mask = map(jnp.asarray, DATA[0])
    metric, state = case.split("batch")
    with pytest.raises(AxisNameError, match="no axis named 'batch' is in scope"):
        case.update(metric, state, logits, labels, mask)
    metric, state = case.split()
    for bad in (mask[:-1], mask.astype(jnp.int32), jnp.ones((5, 5), bool)):
        with pytest.raises(InputError, match="the mask does not fit"):
            case.update(metric, state, logits, labels, bad)
    with pytest.raises(InputError, match="not a State"):
        case.update(metric, None, logits, labels, mask)
    with pytest.raises(ForeignStateError):
        case.update(metric, state.substate([]), logits, labels, mask)


def test_a_forgotten_axis_name():
    """Without the name the batched counts do not fit into the state."""
    metric, state = nn.make_with_state(metrics.Accuracy)()
    logits, labels, _ = map(jnp.asarray, DATA[0])
    update = lambda x, y: metric.update(x, y, state)  # noqa: E731
    with pytest.raises((StateValueError, ValueError)):
        jax.vmap(update, out_axes=None)(logits, labels)


def test_with_a_model_in_one_state():
    """A metric may be a part of the model, and is averaged where that is."""

    class Model(vn.Module):
        norm: Any
        loss: Any

        def __init__(self) -> None:
            self.norm = nn.BatchNorm(CLASSES, "batch")
            self.loss = metrics.Average("batch")

        def __call__(self, x: Any, state: Any) -> Any:
            y, state = self.norm(x, state)
            return y, self.loss.update(jnp.sum(x), state)

    model, state = nn.make_with_state(Model)()
    xs = jnp.asarray(DATA[1][0])
    for _ in range(2):
        _, state = jax.jit(nn.batched(model))(xs, state)
    want = np.asarray(xs, np.float64).sum(1).mean()
    np.testing.assert_allclose(model.loss.compute(state), want, rtol=1e-6)
