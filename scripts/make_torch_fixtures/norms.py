"""Writes tests/fixtures/norms.npz: PyTorch's normalizations and PReLU, with gradients.

Run it in an environment with the extra `torch-fixtures`; the tests only read the file.
"""

import json
import pathlib

import numpy as np
import torch
from torch.nn import functional

FILE = pathlib.Path(__file__).parents[2] / "tests" / "fixtures" / "norms.npz"
# Layer, shape of one example, and hyperparameters in vernal's words.
CASES = [
    ("LayerNorm", (7,), {"shape": 7}),
    ("LayerNorm", (3, 5), {"shape": (3, 5), "eps": 0.1}),
    ("LayerNorm", (2, 3, 4), {"shape": (2, 3, 4), "use_bias": False}),
    ("LayerNorm", (6,), {"shape": 6, "use_weight": False, "use_bias": False}),
    ("RMSNorm", (7,), {"shape": 7, "use_bias": False}),
    ("RMSNorm", (3, 5), {"shape": (3, 5), "eps": 0.1, "use_bias": False}),
    ("RMSNorm", (6,), {"shape": 6, "use_weight": False, "use_bias": False}),
    ("GroupNorm", (6, 4), {"groups": 2, "channels": 6}),
    ("GroupNorm", (6, 3, 4), {"groups": 1, "channels": 6, "eps": 0.1}),
    ("GroupNorm", (4, 2, 3, 2), {"groups": 4, "channels": 4}),
    ("GroupNorm", (8,), {"groups": 2, "channels": 8}),
    ("GroupNorm", (6, 5), {"groups": 3, "channelwise_affine": False}),
    ("PReLU", (5, 4), {}),
    ("PReLU", (3, 2, 4), {"channels": 3}),
]


def draw(rng, shape):
    """Normal numbers that float32 holds exactly: both precisions see the same ones."""
    numbers = torch.tensor(rng.normal(size=shape).astype(np.float32))
    return numbers.double().requires_grad_()


def parameters(rng, name, shape, options):
    """The parameters that the layer has with these hyperparameters."""
    if name == "PReLU":
        return {"negative_slope": draw(rng, options.get("channels", 1))}
    size = options.get("channels", shape)
    affine = options.get("channelwise_affine", True)
    has = {"weight": options.get("use_weight", affine)}
    has["bias"] = options.get("use_bias", affine)
    return {key: draw(rng, size) for key, there in has.items() if there}


def apply(name, x, options, weight=None, bias=None, negative_slope=None):
    """One example through PyTorch's function of this name."""
    eps = options.get("eps", 1e-5)
    if name == "LayerNorm":
        return functional.layer_norm(x, x.shape, weight, bias, eps)
    if name == "RMSNorm":
        return functional.rms_norm(x, x.shape, weight, eps)
    if name == "GroupNorm":
        return functional.group_norm(x[None], options["groups"], weight, bias, eps)[0]
    return functional.prelu(x[None], negative_slope)[0]


def evaluate(rng, name, shape, options):
    """The arrays of one case: input, parameters, cotangent, output and gradients."""
    x = draw(rng, shape)
    tensors = parameters(rng, name, shape, options)
    y = apply(name, x, options, **tensors)
    cotangent = draw(rng, shape)
    (y * cotangent).sum().backward()
    drawn = {"x": x, "cotangent": cotangent, **tensors}
    grads = {f"{key}_grad": value.grad for key, value in {"x": x, **tensors}.items()}
    found = {k: v.detach().numpy().astype(np.float32) for k, v in drawn.items()}
    return found | {k: v.detach().numpy() for k, v in {"y": y, **grads}.items()}


def main():
    """Evaluates all cases in float64 and writes one compressed file."""
    rng = np.random.default_rng(0)
    cases = [(name, options) for name, _, options in CASES]
    arrays = {"cases": np.array(json.dumps(cases))}
    for i, (name, shape, options) in enumerate(CASES):
        found = evaluate(rng, name, shape, options)
        arrays |= {f"{i}.{key}": value for key, value in found.items()}
    np.savez_compressed(FILE, **arrays)
    print(f"PyTorch {torch.__version__}: {len(cases)} cases, {FILE.stat().st_size} B")


if __name__ == "__main__":
    main()
