"""Writes tests/fixtures/attention.npz: PyTorch's MultiheadAttention, with gradients.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
"""

import json
import pathlib

import numpy as np
import torch

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "attention.npz"
NAMES = ("query", "key", "value", "output")
# Axes of the mask (True where a query may attend), and hyperparameters in vernal's
# words. PyTorch has all four biases or none.
CASES = [
    (0, {"num_heads": 1, "query_size": 6}),
    (0, {"num_heads": 4, "query_size": 8, "use_bias": True}),
    (2, {"num_heads": 2, "query_size": 6}),
    (2, {"num_heads": 2, "query_size": 8, "key_size": 3, "value_size": 5}),
    (3, {"num_heads": 3, "query_size": 6, "use_bias": True}),
    (3, {"num_heads": 2, "query_size": 4, "value_size": 7, "use_bias": True}),
]
QUERY_LENGTH, KV_LENGTH = 4, 5


def draw(rng, shape):
    """Normal numbers that float32 holds exactly: both precisions see the same ones."""
    numbers = torch.tensor(rng.normal(size=shape).astype(np.float32))
    return numbers.double().requires_grad_()


def draw_inputs(rng, options):
    """Query, keys, values, and the parameters by vernal's names."""
    size = options["query_size"]
    sizes = [options.get(f"{name}_size", size) for name in NAMES]
    lengths = (QUERY_LENGTH, KV_LENGTH, KV_LENGTH)
    pairs = zip(NAMES[:3], lengths, sizes[:3], strict=True)
    arrays = {name: draw(rng, (length, n)) for name, length, n in pairs}
    for name, n in zip(NAMES, sizes, strict=True):
        arrays[f"{name}_proj.weight"] = draw(rng, (size, n))
        if "use_bias" in options:
            arrays[f"{name}_proj.bias"] = draw(rng, size)
    return arrays


def call(options, arrays, mask):
    """PyTorch's layer with these parameters, which it keeps under other names."""
    layer = torch.nn.MultiheadAttention(
        options["query_size"],
        options["num_heads"],
        bias="use_bias" in options,
        kdim=options.get("key_size"),
        vdim=options.get("value_size"),
        dtype=torch.float64,
    )
    weights = [arrays[f"{name}_proj.weight"] for name in NAMES]
    tensors = {"out_proj.weight": weights[3]}
    if layer.in_proj_weight is None:
        letters = zip("qkv", weights, strict=False)
        tensors |= {f"{letter}_proj_weight": weight for letter, weight in letters}
    else:
        tensors["in_proj_weight"] = torch.cat(weights[:3])
    if "use_bias" in options:
        biases = [arrays[f"{name}_proj.bias"] for name in NAMES]
        tensors |= {"in_proj_bias": torch.cat(biases[:3]), "out_proj.bias": biases[3]}
    args = tuple(arrays[name] for name in NAMES[:3])
    forbidden = None if mask is None else torch.tensor(~mask)
    return torch.func.functional_call(layer, tensors, args, {"attn_mask": forbidden})[0]


def evaluate(rng, mask_axes, options):
    """The arrays of one case: inputs, parameters, cotangent, output and gradients."""
    arrays = draw_inputs(rng, options)
    shape = (options["num_heads"], QUERY_LENGTH, KV_LENGTH)[3 - mask_axes :]
    mask = rng.random(shape) < 0.5 if mask_axes else None
    if mask_axes:
        mask[..., 2] = True  # where nothing is allowed, PyTorch gives NaN
    y = call(options, arrays, mask)
    cotangent = draw(rng, y.shape)
    (y * cotangent).sum().backward()
    found = {name: x.detach().numpy().astype(np.float32) for name, x in arrays.items()}
    found |= {f"{name}_grad": x.grad.numpy() for name, x in arrays.items()}
    found["cotangent"] = cotangent.detach().numpy().astype(np.float32)
    found["y"] = y.detach().numpy()
    return found | ({} if mask is None else {"mask": mask})


def main():
    """Evaluates all cases in float64 and writes one compressed file."""
    rng = np.random.default_rng(0)
    arrays = {"cases": np.array(json.dumps([options for _, options in CASES]))}
    for i, case in enumerate(CASES):
        found = evaluate(rng, *case)
        arrays |= {f"{i}.{name}": array for name, array in found.items()}
    np.savez_compressed(FILE, **arrays)
    print(f"PyTorch {torch.__version__}: {len(CASES)} cases, {FILE.stat().st_size} B")


if __name__ == "__main__":
    main()
