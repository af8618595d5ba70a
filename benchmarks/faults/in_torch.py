"""The tasks in PyTorch, whose layers take whole batches and keep their own state."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from . import tasks
from .tasks import NOT_APPLICABLE, NOT_POSSIBLE, Without

PACKAGES = ("torch",)


def batch(mean: float, deviation: float) -> Any:
    """The same data as a tensor."""
    return torch.from_numpy(tasks.batch(mean, deviation))


class Counter(nn.Module):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0))

    def forward(self, x: Any) -> Any:
        self.count += 1
        return x


def make_body() -> Any:
    """A linear layer and a batch norm."""
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))


def early(**options: Any) -> Any:
    """Trains one norm, and looks in between."""
    norm, xs, outputs = nn.BatchNorm1d(3, **options), batch(3, 2), {}
    for i in range(1, max(tasks.STEPS) + 1):
        norm.train()(xs)
        if i in tasks.STEPS:
            outputs[i] = norm.eval()(xs).detach().numpy()
    return outputs


def shared() -> Any:
    """The same layer, twice in a Sequential."""
    counter = Counter()
    model = nn.Sequential(counter, counter)
    model(torch.ones(3))
    return [int(count) for count in model.buffers()]


def put_into_new_model(body: Any) -> Any:
    """What it takes."""
    net = nn.Sequential(body, make_body())
    return net


def transfer() -> Any:
    """Trains a body, puts it into a new model, and trains that for a step."""
    body, xs = make_body(), batch(3, 2)
    untrained = body.eval()(xs).tolist()
    body.train()(xs)
    before = body.eval()(xs).tolist()
    net = put_into_new_model(body)
    after = net.eval()[0](xs).tolist()
    net.train()(xs)
    return {
        "untrained": untrained,
        "before": before,
        "after": after,
        "statements": tasks.statements(put_into_new_model),
    }


def half(is_cast: bool) -> Any:
    """Half precision in; the layer in float32, or cast like the input."""
    found = {}
    for dtype in ("float16", "bfloat16"):
        xs = batch(1000, 20).to(getattr(torch, dtype))
        norm = nn.BatchNorm1d(3, momentum=1.0)
        ys = (norm.to(xs.dtype) if is_cast else norm)(xs)
        found[dtype] = {
            "x": xs.float().tolist(),
            "variance": norm.running_var.tolist(),
            "y": ys.float().tolist(),
            "dtype": str(ys.dtype).removeprefix("torch."),
        }
    return found


class Saved(nn.Module):
    """Two norms of one shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(3, momentum=1.0)
        self.second = nn.BatchNorm1d(3, momentum=1.0)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x) + 5)


class Loaded(nn.Module):
    """The same with its fields in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.BatchNorm1d(3, momentum=1.0)
        self.first = nn.BatchNorm1d(3, momentum=1.0)


def means(model: Any) -> dict[str, Any]:
    """The running means of both norms."""
    return {n: getattr(model, n).running_mean.tolist() for n in ("first", "second")}


def reordered() -> Any:
    """``state_dict`` and ``load_state_dict``."""
    model, new = Saved(), Loaded()
    model(batch(1, 2))
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "file")
        new.load_state_dict(torch.load(Path(folder) / "file", weights_only=True))
    return {"saved": means(model), "loaded": means(new)}


def lost() -> Any:
    """Nothing but the output comes back, ever."""
    counter = Counter()
    for _ in range(2):
        counter(torch.ones(3))
    return int(counter.count)


def zero() -> Any:
    """A Linear of zeros."""
    linear = nn.Linear(3, 3)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return spectral_norm(linear)(torch.ones(3)).detach().numpy()


def overwritten() -> Any:
    """A Linear, called in training mode."""
    layer = spectral_norm(nn.Linear(3, 3))
    weight = layer.parametrizations.weight.original
    before = weight.tolist()
    for _ in range(3):
        layer(torch.ones(3))
    return {"before": before, "after": weight.tolist()}


RUNS = {
    "early": {"": early, "momentum=None": functools.partial(early, momentum=None)},
    "shared": {"": shared},
    "transfer": {"": transfer},
    "scan": {"": Without(NOT_POSSIBLE, "layers are called one by one")},
    "half": {
        "": functools.partial(half, False),
        "norm.to(dtype)": functools.partial(half, True),
    },
    "forgotten": {"": Without(NOT_APPLICABLE, "the layer takes a whole batch")},
    "reordered": {"state_dict": reordered},
    "stale": {"": Without(NOT_APPLICABLE, "the layer itself changes")},
    "lost": {"": lost},
    "zero": {"": zero},
    "overwritten": {"": overwritten},
}
