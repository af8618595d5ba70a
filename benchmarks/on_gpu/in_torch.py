"""PyTorch, run eagerly; kernels may be chosen by trying them (cuDNN's benchmark).

Channels last is a memory format there. What is not float32 is autocast, as its guide to
mixed precision advises.
"""

from typing import Any

import torch
import torch.nn.functional as F
from networks.in_torch import conv, norm, training
from networks.tasks import EPS, MOMENTUM, SGD, Case
from program import Program
from torch import nn

from . import tasks
from .tasks import Layout, Size, values
from .tools import Run

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.benchmark = True


def batch_norm(shape: tuple[int, ...], layout: Layout, dtype: str) -> Run:
    """Forward and backward pass; as users see them, ``(batch, channels, *pixels)``."""

    def given(seed: int) -> Any:
        a = torch.from_numpy(values(shape, layout, seed))
        a = a.to(DEVICE, getattr(torch, dtype))
        return a if layout == "NCHW" else a.permute(0, 3, 1, 2)  # channels last

    x, dy = given(0).requires_grad_(), given(1)
    mean, variance, scale, bias = (
        f(shape[1], device=DEVICE)
        for f in (torch.zeros, torch.ones, torch.ones, torch.zeros)
    )
    params = (scale.requires_grad_(), bias.requires_grad_())

    def run() -> Any:
        y = F.batch_norm(x, mean, variance, *params, True, 1 - MOMENTUM, EPS)
        dx, *dparams = torch.autograd.grad(y, (x, *params), dy)
        if layout == "NHWC":  # views, in the order of the memory
            y, dx = (a.permute(0, 2, 3, 1) for a in (y, dx))
        return y.detach(), dx, dparams, (mean, variance)

    return run


class Block(nn.Module):
    """A bottleneck."""

    def __init__(self, n: int, m: int, stride: int) -> None:
        super().__init__()
        relu = nn.ReLU(inplace=True)
        self.layers = nn.Sequential(
            *(conv(n, m, 1, 1), norm(m), relu),
            *(conv(m, m, 3, stride), norm(m), relu),
            *(conv(m, 4 * m, 1, 1), norm(4 * m)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n != 4 * m:
            self.shortcut = nn.Sequential(conv(n, 4 * m, 1, stride), norm(4 * m))

    def forward(self, x: Any) -> Any:
        return F.relu(self.shortcut(x) + self.layers(x))


class ResNet(nn.Module):
    """Logits of images ``(batch, 3, height, width)``."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.dtype = getattr(torch, size.dtype)
        self.body = nn.Sequential(
            *(conv(3, size.width, 7, 2), norm(size.width), nn.ReLU(inplace=True)),
            nn.MaxPool2d(3, 2, 1),
            *(Block(*plan) for plan in tasks.blocks(size)),
        )
        self.head = nn.Linear(size.features, size.classes)

    def forward(self, x: Any) -> Any:
        is_mixed = self.dtype != torch.float32
        with torch.autocast(DEVICE, self.dtype, enabled=is_mixed):
            return self.head(self.body(x).mean((2, 3))).float()


def resnet(size: Size) -> Program:
    """A training step of the ResNet."""
    model = ResNet(size).to(DEVICE, memory_format=torch.channels_last)
    return training(model, torch.optim.SGD, **SGD)


def place(batch: Any) -> Any:
    """Arrays as tensors on the device, numbers of classes as it wants them."""
    xs, labels = (torch.tensor(a).to(DEVICE) for a in batch)
    return xs.to(memory_format=torch.channels_last), labels.long()


NORMS = {"torch": batch_norm}
RESNETS = {"torch": Case(resnet, place)}
