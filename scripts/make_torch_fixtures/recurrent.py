"""Writes tests/fixtures/recurrent.npz: PyTorch's GRUCell and LSTMCell.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
All numbers are computed in float64 from inputs that float32 holds exactly.

Each case is a sequence: the hidden states after every step, and the gradients of their
product with a cotangent. Parameters and gradients have PyTorch's own names.
"""

import pathlib

import numpy as np
import torch

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "recurrent.npz"
CELLS = {"GRUCell": torch.nn.GRUCell, "LSTMCell": torch.nn.LSTMCell}
INPUT, HIDDEN = 3, 4
STEPS = [1, 50]


def draw(rng, shape, scale=1.0):
    """Normal numbers that float32 holds exactly."""
    numbers = (scale * rng.normal(size=shape)).astype(np.float32)
    return torch.tensor(numbers, dtype=torch.float64, requires_grad=True)


def run(rng, name, use_bias, steps):
    """The arrays of one case."""
    cell = CELLS[name](INPUT, HIDDEN, bias=use_bias, dtype=torch.float64)
    for key in dict(cell.named_parameters()):
        shape = getattr(cell, key).shape
        setattr(cell, key, torch.nn.Parameter(draw(rng, shape, 0.5).detach()))
    xs = draw(rng, (steps, INPUT))
    parts = 2 if name == "LSTMCell" else 1
    start = draw(rng, (parts, HIDDEN))
    cotangent = draw(rng, (steps, parts, HIDDEN)).detach()
    hidden, out = start, []
    for x in xs:
        new = cell(x, tuple(hidden) if parts == 2 else hidden[0])
        hidden = torch.stack(new) if parts == 2 else new[None]
        out.append(hidden)
    out = torch.stack(out)
    (out * cotangent).sum().backward()
    arrays = {"xs": xs, "start": start, "cotangent": cotangent, "out": out}
    arrays |= dict(cell.named_parameters())
    arrays |= {"xs.grad": xs.grad, "start.grad": start.grad}
    arrays |= {f"{key}.grad": p.grad for key, p in cell.named_parameters()}
    return {key: value.detach().numpy() for key, value in arrays.items()}


def main():
    """Writes the file; a case is called after cell, use of bias, and steps."""
    rng = np.random.default_rng(2024)
    arrays = {}
    for name in CELLS:
        for use_bias in (True, False):
            for steps in STEPS:
                case = run(rng, name, use_bias, steps)
                prefix = f"{name}.{use_bias}.{steps}"
                arrays |= {f"{prefix}.{key}": value for key, value in case.items()}
    np.savez_compressed(FILE, **arrays, torch=np.array(torch.__version__))


if __name__ == "__main__":
    main()
