"""PyTorch, as it is written without compilation; only what makes sense there."""

from typing import Any

import numpy as np
import torch
from program import Program, fill
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from . import values


def linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fill((outputs, inputs))))
        layer.bias.zero_()
    return layer


def norm(size: int) -> nn.BatchNorm1d:
    return nn.BatchNorm1d(size, momentum=1 - values.MOMENTUM)


def example() -> dict[str, Program]:
    inner, relu = spectral_norm(linear(3, 32)), nn.ReLU()
    vectors = inner.parametrizations.weight[0]
    for old, new in zip((vectors._u, vectors._v), values.singular(32, 3), strict=True):
        old.copy_(torch.from_numpy(np.array(new)))
    layers = [norm(3), inner, relu, norm(32), linear(32, 32), relu, linear(32, 3)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), values.LEARNING_RATE)

    def step(carry: Any, batch: Any) -> tuple[Any, Any]:
        # In so small a network, more threads only wait for each other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        loss = train(batch)
        torch.set_num_threads(threads)
        return carry, loss

    def train(batch: Any) -> Any:
        xs, ys = (torch.from_numpy(np.array(a)) for a in batch)
        optimizer.zero_grad()
        loss = ((model(xs) - ys) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return {"torch": Program(step, None, lambda step, donate=False: step)}
