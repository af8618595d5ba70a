"""Writes tests/fixtures/conv_transpose.npz: PyTorch's transposed convolutions.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
"""

import json
import pathlib

import numpy as np
import torch

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "conv_transpose.npz"
SIZES = (5, 4, 3)
# In vernal's words. A tuple has an entry for each of up to three spatial axes.
OPTIONS = [
    {},
    {"kernel_size": 1, "stride": 2, "use_bias": False},
    {"stride": (2, 1, 3)},
    {"stride": (3, 2, 2), "output_padding": (2, 1, 0)},
    {"padding": (1, 0, 2), "dilation": 2},
    {"padding": (4, 3, 1), "stride": 3, "output_padding": (1, 2, 0)},
    {"groups": 2, "use_bias": False},
    {"stride": 2, "padding": 1, "dilation": (3, 1, 2), "groups": 2},
]


def case(num_spatial_dims, options):
    """All hyperparameters of one case, cut to the number of axes."""
    options = {"kernel_size": (3, 2, 2), "in_channels": 4, "out_channels": 2, **options}
    cut = {k: v[:num_spatial_dims] for k, v in options.items() if isinstance(v, tuple)}
    return {"num_spatial_dims": num_spatial_dims, **options, **cut}


def draw(rng, shape):
    """Normal numbers that float32 holds exactly: both precisions see the same ones."""
    numbers = torch.tensor(rng.normal(size=shape).astype(np.float32))
    return numbers.double().requires_grad_()


def evaluate(rng, options):
    """The arrays of one case: input, parameters, cotangent, output and gradients."""
    options = dict(options)
    n = options.pop("num_spatial_dims")
    x = draw(rng, (1, options["in_channels"], *SIZES[:n]))
    options["bias"] = options.pop("use_bias", True)
    layer = getattr(torch.nn, f"ConvTranspose{n}d")(dtype=torch.float64, **options)
    weight = draw(rng, layer.weight.shape)
    bias = draw(rng, layer.bias.shape) if options["bias"] else None
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    y = torch.func.functional_call(layer, tensors, (x,))
    cotangent = draw(rng, y.shape)
    (y * cotangent).sum().backward()
    found = {"x": x[0], "cotangent": cotangent[0], "y": y[0], "x_grad": x.grad[0]}
    found |= {**tensors, **{f"{k}_grad": v.grad for k, v in tensors.items()}}
    drawn = ("x", "cotangent", "weight", "bias")
    return {
        k: v.detach().numpy().astype(np.float32 if k in drawn else np.float64)
        for k, v in found.items()
    }


def main():
    """Evaluates all cases in float64 and writes one compressed file."""
    rng = np.random.default_rng(0)
    cases = [case(n, options) for n in (1, 2, 3) for options in OPTIONS]
    arrays = {"cases": np.array(json.dumps(cases))}
    for i, options in enumerate(cases):
        found = evaluate(rng, options)
        arrays |= {f"{i}.{name}": array for name, array in found.items()}
    np.savez_compressed(FILE, **arrays)
    print(f"PyTorch {torch.__version__}: {len(cases)} cases, {FILE.stat().st_size} B")


if __name__ == "__main__":
    main()
