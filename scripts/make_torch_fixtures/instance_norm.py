"""Writes tests/fixtures/instance_norm.npz: PyTorch's InstanceNorm1d to 3d over steps.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
All numbers are computed in float64 from inputs that float32 holds exactly.
"""

import json
import pathlib

import numpy as np
import torch

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "instance_norm.npz"
STEPS = 2
# The class, the shape of one batch, and options in PyTorch's words.
CASES = [
    ("InstanceNorm1d", (3, 2, 5), {}),
    ("InstanceNorm2d", (2, 3, 4, 3), {"affine": True, "eps": 0.1}),
    ("InstanceNorm1d", (4, 3, 6), {"affine": True, "track_running_stats": True}),
    ("InstanceNorm2d", (3, 2, 3, 2), {"track_running_stats": True, "momentum": 0.3}),
    ("InstanceNorm3d", (2, 2, 2, 3, 2), {"track_running_stats": True, "momentum": 1.0}),
]


def draw(rng, shape):
    """Normal numbers away from 0, of another mean in each example."""
    numbers = rng.normal(size=shape) + np.arange(shape[0]).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    return torch.tensor(numbers.astype(np.float32), dtype=torch.float64)


def train(rng, name, shape, options):
    """The arrays of one case: training steps, then one of inference."""
    layer = getattr(torch.nn, name)(shape[1], dtype=torch.float64, **options)
    if layer.affine:
        layer.weight.data = draw(rng, (shape[1],))
        layer.bias.data = draw(rng, (shape[1],))
    arrays = {key: value.detach().clone() for key, value in layer.named_parameters()}
    for step in range(STEPS):
        x = draw(rng, shape).requires_grad_()
        cotangent = draw(rng, shape)
        layer.zero_grad()
        y = layer(x)
        (y * cotangent).sum().backward()
        arrays |= {f"{step}.x": x, f"{step}.cotangent": cotangent, f"{step}.y": y}
        arrays[f"{step}.x_grad"] = x.grad
        for key, value in layer.named_parameters():
            arrays[f"{step}.{key}_grad"] = value.grad.clone()
        if layer.track_running_stats:
            arrays[f"{step}.mean"] = layer.running_mean.clone()
            arrays[f"{step}.variance"] = layer.running_var.clone()
    arrays["y_inference"] = layer.eval()(x)
    return {key: value.detach().numpy() for key, value in arrays.items()}


def main():
    """Writes the file, with the cases as JSON beside the arrays."""
    rng = np.random.default_rng(2024)
    arrays = {}
    for i, (name, shape, options) in enumerate(CASES):
        case = train(rng, name, shape, options)
        arrays |= {f"{i}.{key}": value for key, value in case.items()}
    cases = [
        {"name": name, "shape": shape, "momentum": 0.1, "eps": 1e-5, **options}
        for name, shape, options in CASES
    ]
    arrays["cases"] = np.array(json.dumps(cases))
    np.savez_compressed(FILE, **arrays, torch=np.array(torch.__version__))


if __name__ == "__main__":
    main()
