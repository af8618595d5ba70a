"""Writes tests/fixtures/adaptive_pool.npz: PyTorch's adaptive pools and gradients.

Only where its windows are vernal's: the target divides the size, or is larger than it.
Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
"""

import json
import pathlib

import numpy as np
import torch

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "adaptive_pool.npz"
# Input sizes and target shapes.
SHAPES = [
    ((6,), (2,)),
    ((5,), (1,)),
    ((5,), (13,)),
    ((2,), (7,)),
    ((6, 4), (3, 4)),
    ((4, 3), (2, 5)),
    ((3, 1), (7, 7)),
    ((4, 2, 3), (2, 3, 1)),
    ((2, 6, 1), (2, 2, 2)),
]


def evaluate(rng, name, sizes, target):
    """The arrays of one case: input, cotangent, output and gradient."""
    x = torch.tensor(rng.normal(size=(2, *sizes)).astype(np.float32))
    x = x.double().requires_grad_()
    y = getattr(torch.nn, f"Adaptive{name}Pool{len(sizes)}d")(target)(x)
    cotangent = torch.tensor(rng.normal(size=y.shape).astype(np.float32))
    (y * cotangent.double()).sum().backward()
    return {
        "x": x.detach().numpy().astype(np.float32),
        "cotangent": cotangent.numpy(),
        "y": y.detach().numpy(),
        "x_grad": x.grad.numpy(),
    }


def main():
    """Evaluates all cases in float64 and writes one compressed file."""
    rng = np.random.default_rng(0)
    cases = [(name, *shapes) for name in ("Avg", "Max") for shapes in SHAPES]
    arrays = {"cases": np.array(json.dumps(cases))}
    for i, case in enumerate(cases):
        found = evaluate(rng, *case)
        arrays |= {f"{i}.{name}": array for name, array in found.items()}
    np.savez_compressed(FILE, **arrays)
    print(f"PyTorch {torch.__version__}: {len(cases)} cases, {FILE.stat().st_size} B")


if __name__ == "__main__":
    main()
