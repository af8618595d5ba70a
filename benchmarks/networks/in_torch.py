"""The networks in PyTorch, run eagerly on all cores; parameters change in place."""

import os
from typing import Any

import torch
import torch.nn.functional as F
from program import Program, fill
from torch import nn

from . import tasks
from .tasks import SIZES, WIDTH, Case, Sizes

torch.set_num_threads(len(os.sched_getaffinity(0)))


def conv(n: int, m: int, size: int, stride: int) -> nn.Conv2d:
    """A convolution that keeps the size, but for the stride."""
    return nn.Conv2d(n, m, size, stride, size // 2, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalization; its momentum is the weight of the new."""
    return nn.BatchNorm2d(channels, tasks.EPS, 1 - tasks.MOMENTUM)


class Block(nn.Module):
    """A basic block."""

    def __init__(self, n: int, m: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(n, m, 3, stride), norm(m)
        self.conv2, self.norm2 = conv(m, m, 3, 1), norm(m)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n != m:
            self.shortcut = nn.Sequential(conv(n, m, 1, stride), norm(m))

    def forward(self, x: Any) -> Any:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(self.shortcut(x) + y)


class ResNet(nn.Module):
    """Logits of images ``(batch, 3, height, width)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, width, 3, 1), norm(width)
        self.blocks = nn.Sequential(*(Block(*plan) for plan in tasks.blocks(width)))
        self.head = nn.Linear(8 * width, tasks.CLASSES)

    def forward(self, x: Any) -> Any:
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(x.mean((2, 3)))


def resnet_model(key: int, width: int = WIDTH) -> ResNet:
    """The model, with its state in it; the key is a seed."""
    torch.manual_seed(key)
    return ResNet(width)


def abstract_resnet(key: int, width: int = WIDTH) -> ResNet:
    """Its shapes only."""
    with torch.device("meta"):
        return ResNet(width)


class Attention(nn.Module):
    """Causal attention."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(size, size, bias=False) for _ in range(4)
        )

    def forward(self, x: Any) -> Any:
        shape = (*x.shape[:2], self.heads, -1)
        projections = (self.query, self.key, self.value)
        q, k, v = (part(x).view(shape).transpose(1, 2) for part in projections)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(x.shape))


class Layer(nn.Module):
    """Causal attention, then a network for each token."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(size), Attention(size, heads)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * size, size),
        )

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Logits of the next token, at each of a batch of texts."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        depth, width, heads, length, vocabulary = sizes
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Any) -> Any:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.layers(x)))


def training(model: nn.Module, make_optimizer: Any, **options: Any) -> Program:
    """A training step of either model; there is nothing to compile."""
    with torch.no_grad():
        for name, a in model.named_parameters():
            if a.ndim > 1:
                a.copy_(torch.from_numpy(fill(tuple(a.shape))))
            elif name.endswith("bias"):
                a.zero_()
    optimizer = make_optimizer(
        model.parameters(), lr=options.pop("learning_rate"), **options
    )

    def step(model: Any, batch: Any) -> Any:
        xs, labels = batch
        logits = model(xs)
        loss = F.cross_entropy(logits.flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return model, loss.detach()

    return Program(step, model, lambda step, donate=False: step)


def resnet(width: int = WIDTH) -> Program:
    """A training step of the ResNet."""
    return training(ResNet(width), torch.optim.SGD, **tasks.SGD)


def transformer(sizes: Sizes = SIZES) -> Program:
    """A training step of the transformer."""
    return training(Transformer(sizes), torch.optim.AdamW, **tasks.ADAMW)


def place(batch: Any) -> Any:
    """Arrays as tensors, numbers of classes as it wants them."""
    xs, labels = map(torch.tensor, batch)
    return xs, labels.long()


RESNETS = {"torch": Case(resnet, place)}
TRANSFORMERS = {"torch": Case(transformer, place)}
