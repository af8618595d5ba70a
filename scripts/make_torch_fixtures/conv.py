"""Writes tests/fixtures/conv.npz: what PyTorch's convolutions and their gradients are.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
"""

import json
import pathlib

import numpy as np
import torch

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "conv.npz"
SIZES = (7, 5, 4)
# In vernal's words. A tuple has an entry for each of up to three spatial axes.
OPTIONS = [
    {},
    {"kernel_size": 1, "use_bias": False},
    {"stride": (2, 1, 3)},
    {"padding": (1, 0, 2)},
    {"padding": ((0, 1), (2, 0), (1, 1)), "stride": 2},
    {"padding": "VALID", "dilation": (2, 1, 1)},
    {"padding": "SAME"},
    {"padding": "SAME", "dilation": 2},
    {"groups": 2},
    {"stride": 2, "padding": 2, "dilation": (2, 2, 1), "groups": 2},
    {"padding_mode": "REFLECT", "padding": (2, 1, 1)},
    {"padding_mode": "REFLECT", "padding": "SAME"},
    {"padding_mode": "REPLICATE", "padding": ((0, 1), (2, 0), (1, 1)), "stride": 2},
    {"padding_mode": "CIRCULAR", "padding": (2, 1, 1), "groups": 2},
    {"padding_mode": "CIRCULAR", "padding": "SAME", "dilation": 2},
]


def case(num_spatial_dims, options):
    """All hyperparameters of one case, cut to the number of axes."""
    options = {"kernel_size": (3, 2, 2), "padding": 0, **options}
    options = {"in_channels": 4, "out_channels": 2, **options}
    cut = {k: v[:num_spatial_dims] for k, v in options.items() if isinstance(v, tuple)}
    return {"num_spatial_dims": num_spatial_dims, **options, **cut}


def draw(rng, shape):
    """Normal numbers that float32 holds exactly: both precisions see the same ones."""
    numbers = torch.tensor(rng.normal(size=shape).astype(np.float32))
    return numbers.double().requires_grad_()


def evaluate(rng, options):
    """The arrays of one case: input, parameters, cotangent, output and gradients."""
    options = dict(options)
    n, padding = options.pop("num_spatial_dims"), options.pop("padding")
    mode = options.pop("padding_mode", "ZEROS").lower()
    x = draw(rng, (1, options["in_channels"], *SIZES[:n]))
    padded = x
    if isinstance(padding, tuple) and isinstance(padding[0], tuple):
        sides = [side for pair in reversed(padding) for side in pair]
        how = "constant" if mode == "zeros" else mode
        padded, padding = torch.nn.functional.pad(x, sides, how), 0
    padding = padding.lower() if isinstance(padding, str) else padding
    options["bias"] = options.pop("use_bias", True)
    layer = getattr(torch.nn, f"Conv{n}d")(
        padding=padding, padding_mode=mode, dtype=torch.float64, **options
    )
    weight = draw(rng, layer.weight.shape)
    bias = draw(rng, layer.bias.shape) if options["bias"] else None
    tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
    y = torch.func.functional_call(layer, tensors, (padded,))
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
