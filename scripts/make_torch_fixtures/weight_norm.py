"""Writes tests/fixtures/weight_norm.npz: PyTorch's weight_norm.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
All numbers are computed in float64 from inputs that float32 holds exactly.
"""

import json
import pathlib

import numpy as np
import torch
from torch.nn.utils.parametrizations import weight_norm

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "weight_norm.npz"
# Shape of the weight, and the axis that PyTorch calls `dim`.
CASES = [((4, 3), 0), ((4, 3), 1), ((4, 3), None), ((4, 2, 3, 3), 0), ((4, 2, 3, 3), 1)]


def draw(rng, shape):
    """Normal numbers that float32 holds exactly."""
    numbers = rng.normal(size=shape).astype(np.float32)
    return torch.tensor(numbers, dtype=torch.float64)


def run(rng, shape, dim):
    """The arrays of one case: with g as at the start, and with another g."""
    v = draw(rng, shape)
    if len(shape) == 2:
        layer = torch.nn.Linear(shape[1], shape[0], bias=False)
        x = draw(rng, (1, shape[1]))
    else:
        layer = torch.nn.Conv2d(shape[1], shape[0], shape[2], bias=False)
        x = draw(rng, (1, shape[1], 4, 5))
    layer.weight = torch.nn.Parameter(v.clone())
    layer = weight_norm(layer, dim=dim)
    parameters = layer.parametrizations.weight
    start = parameters.original0.detach().clone()
    g = draw(rng, start.shape)
    parameters.original0 = torch.nn.Parameter(g)
    y = layer(x)
    cotangent = draw(rng, y.shape)
    (y * cotangent).sum().backward()
    arrays = {"v": v, "x": x, "start": start, "g": g, "y": y, "cotangent": cotangent}
    arrays |= {"g.grad": parameters.original0.grad, "v.grad": parameters.original1.grad}
    return {key: value.detach().numpy() for key, value in arrays.items()}


def main():
    """Writes the file, with the cases as JSON beside the arrays."""
    rng = np.random.default_rng(2024)
    arrays = {}
    for i, (shape, dim) in enumerate(CASES):
        case = run(rng, shape, dim)
        arrays |= {f"{i}.{key}": value for key, value in case.items()}
    cases = [{"shape": shape, "dim": dim} for shape, dim in CASES]
    arrays["cases"] = np.array(json.dumps(cases))
    np.savez_compressed(FILE, **arrays, torch=np.array(torch.__version__))


if __name__ == "__main__":
    main()
