"""Writes tests/fixtures/spectral_norm.npz: PyTorch's spectral_norm, both variants.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
All numbers are computed in float64 from inputs that float32 holds exactly.

The older variant updates v before u in each iteration, as the paper does and as vernal
does: it serves for training. The parametrization updates u before v: it serves for
inference, with given u and v.
"""

import json
import pathlib
import warnings

import numpy as np
import torch
from torch.nn.utils import parametrizations, spectral_norm

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "spectral_norm.npz"
STEPS = 2
# Shape of the weight, iterations per step.
CASES = [((4, 3), 1), ((3, 5), 3), ((4, 2, 3, 3), 1)]


def draw(rng, shape):
    """Normal numbers that float32 holds exactly."""
    numbers = rng.normal(size=shape).astype(np.float32)
    return torch.tensor(numbers, dtype=torch.float64)


def unit(rng, size):
    """A vector of length 1."""
    vector = draw(rng, (size,))
    return vector / vector.norm()


def build(weight):
    """A layer with this weight and no bias."""
    if weight.ndim == 2:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    else:
        layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, bias=False)
    layer.weight = torch.nn.Parameter(weight.clone())
    return layer


def backward(layer, original, x, cotangent):
    """One pass; the output, the normalized weight, and the gradient of the weight."""
    original.grad = None
    y = layer(x)
    (y * cotangent).sum().backward()
    return {"y": y, "normalized": layer.weight.clone(), "grad": original.grad.clone()}


def run(rng, shape, iterations):
    """The arrays of one case: training steps, then inference with given u, v."""
    weight = draw(rng, shape)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    x = draw(rng, (shape[1],) if len(shape) == 2 else (1, shape[1], 4, 5))
    u, v = unit(rng, rows), unit(rng, columns)
    cotangent = draw(rng, build(weight)(x).shape)
    arrays = {"weight": weight, "x": x, "u": u, "v": v, "cotangent": cotangent}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the older variant
        older = spectral_norm(build(weight), n_power_iterations=iterations)
    older.weight_u, older.weight_v = u.clone(), v.clone()
    for step in range(STEPS):
        got = backward(older, older.weight_orig, x, cotangent)
        got |= {"u": older.weight_u.clone(), "v": older.weight_v.clone()}
        arrays |= {f"{step}.{key}": value for key, value in got.items()}

    newer = parametrizations.spectral_norm(build(weight)).eval()
    norm = newer.parametrizations.weight[0]
    norm._u, norm._v = u.clone(), v.clone()
    original = newer.parametrizations.weight.original
    got = backward(newer, original, x, cotangent)
    arrays |= {f"inference.{key}": value for key, value in got.items()}
    return {key: value.detach().numpy() for key, value in arrays.items()}


def main():
    """Writes the file, with the cases as JSON beside the arrays."""
    rng = np.random.default_rng(2024)
    arrays = {}
    for i, (shape, iterations) in enumerate(CASES):
        case = run(rng, shape, iterations)
        arrays |= {f"{i}.{key}": value for key, value in case.items()}
    cases = [{"shape": shape, "iterations": n} for shape, n in CASES]
    arrays["cases"] = np.array(json.dumps(cases))
    np.savez_compressed(FILE, **arrays, torch=np.array(torch.__version__))


if __name__ == "__main__":
    main()
