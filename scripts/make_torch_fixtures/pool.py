"""Writes tests/fixtures/pool.npz: what PyTorch's pools and their gradients are.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
"""

import json
import pathlib

import numpy as np
import torch

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "pool.npz"
SIZES = (9, 6, 5)
# In vernal's words. A tuple has an entry for each of up to three spatial axes.
OPTIONS = [
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": 3, "stride": 1, "padding": 1},
    {"kernel_size": (3, 2, 1), "stride": (2, 3, 1), "padding": (1, 1, 0)},
    {"kernel_size": 2, "stride": 2, "use_ceil": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "use_ceil": True},
    {"kernel_size": 2, "stride": 3, "padding": (1, 0, 1), "use_ceil": True},
    {"kernel_size": (4, 3, 2), "stride": 4, "padding": (2, 1, 1), "use_ceil": True},
    {"kernel_size": (5, 4, 3), "stride": (3, 2, 5), "use_ceil": True},
]


def case(name, num_spatial_dims, options):
    """The layer's name and all hyperparameters of one case, cut to the axes."""
    cut = {k: v[:num_spatial_dims] for k, v in options.items() if isinstance(v, tuple)}
    return {"layer": f"{name}Pool{num_spatial_dims}d", **options, **cut}


def evaluate(rng, options):
    """The arrays of one case: input, cotangent, output and gradient."""
    options = dict(options)
    name = options.pop("layer")
    options["ceil_mode"] = options.pop("use_ceil", False)
    shape = (2, *SIZES[: int(name[-2])])
    # Few different values, so that the maximum is often attained twice.
    x = torch.tensor(rng.integers(-4, 4, shape) / 7, dtype=torch.float32)
    x = x.double().requires_grad_()
    y = getattr(torch.nn, name)(**options)(x)
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
    cases = [
        case(name, n, options)
        for name in ("Avg", "Max")
        for n in (1, 2, 3)
        for options in OPTIONS
    ]
    arrays = {"cases": np.array(json.dumps(cases))}
    for i, options in enumerate(cases):
        found = evaluate(rng, options)
        arrays |= {f"{i}.{name}": array for name, array in found.items()}
    np.savez_compressed(FILE, **arrays)
    print(f"PyTorch {torch.__version__}: {len(cases)} cases, {FILE.stat().st_size} B")


if __name__ == "__main__":
    main()
