"""Counting the multiply-adds of a traced call, and of each layer in it."""

import functools
import math
import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .spy import number_of

# Of a call by its number, or of the whole for None.
COST, CALLS, LOOPS = "multiply-adds", "calls", "loops of unknown length"
Costs = Counter[tuple[str, int | None]]


def costs(jaxpr: Any) -> Costs:
    """What a jaxpr costs: multiply-adds, calls, and loops of unknown length.

    Counted are matrix products and convolutions, each one as often as it is executed:
    times the sizes that ``vmap`` maps over, the length of each ``scan``, and the
    devices of each ``shard_map``. Of the branches of a ``cond`` the costliest counts.
    The body of a ``while_loop`` counts once, as nobody knows how often it will run.
    """
    found: Costs = Counter()
    for equation in jaxpr.eqns:
        found += _costs_of(equation)
    return found


def _costs_of(equation: Any) -> Costs:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return Counter({(COST, None): _dot(equation)})
    if name == "conv_general_dilated":
        return Counter({(COST, None): _convolution(equation)})
    if name == "cond":
        return functools.reduce(operator.or_, map(costs, _jaxprs(params)))
    inner: Costs = Counter()
    for jaxpr in _jaxprs(params):
        inner += costs(jaxpr)
    if name == "while" and inner:
        inner[LOOPS, None] += 1
    number = number_of(params.get("name"))
    if number is not None:
        inner[COST, number] += inner[COST, None]
        inner[CALLS, number] += 1
    times = 1
    if name == "scan":
        times = params["length"]
    elif name == "shard_map":
        times = params["mesh"].size
    return Counter({key: times * n for key, n in inner.items()})


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for x in value if isinstance(value, tuple | list) else [value]:
            jaxpr = getattr(x, "jaxpr", x)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    sizes = [equation.invars[0].aval.shape[i] for i in contracted]
    return math.prod(sizes) * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> int:
    """Every output entry takes the whole kernel, with padding as in the literature.

    But where the input is dilated, as in transposed convolutions, only every so many
    entries are not zero: there every input entry takes the whole kernel.
    """
    x, kernel = [v.aval.shape for v in equation.invars]
    out = list(equation.outvars[0].aval.shape)
    spec = equation.params["dimension_numbers"]
    dilation = equation.params["lhs_dilation"]
    for i, j, rate in zip(spec.out_spec[2:], spec.lhs_spec[2:], dilation, strict=True):
        out[i] = out[i] if rate == 1 else x[j]
    return math.prod(out) * math.prod(kernel) // max(1, kernel[spec.rhs_spec[0]])
