"""``summary``: a table of a model's layers, their shapes, sizes and costs."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from .._module.module import Module
from .._module.register import is_function
from .._state.index import StateIndex, is_index
from .._state.state import State
from .._transform.split import is_abstract
from .._transform.trace import filter_make_jaxpr
from .._tree.format import tree_pformat
from .._tree.paths import path_text
from .._tree.table import Table, Tabular, sized
from ..errors import InputError, report, short
from ..typing import PyTree
from .costs import CALLS, COST, LOOPS, Costs, costs
from .spy import Calls, modules, watched


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer, with all that is inside of it.

    Attributes:
        path: where it stands in the model, as ``layers[0].norm``; "" is the model.
        name: the name of its class.
        configuration: the arguments it was made with, in short.
        calls: how often it is called; 0 if it is used in another way, or not at all.
        outputs: the results of its calls without the state, with
            ``jax.ShapeDtypeStruct`` for arrays; as the layer sees them, so of one
            example under ``vmap``.
        parameters: number of entries of the floating arrays in it.
        state: number of entries of its slots.
        bytes: size of its arrays and slots.
        multiply_adds: of its matrix products and convolutions, in all calls.
    """

    path: str
    name: str
    configuration: str
    calls: int
    outputs: tuple[PyTree, ...]
    parameters: int
    state: int
    bytes: int
    multiply_adds: int


@dataclasses.dataclass(frozen=True, repr=False)
class Summary(Tabular):
    """What :func:`summary` returns: print it, or look at its numbers.

    Attributes:
        rows: one :class:`Row` for each layer, outer ones first.
        title: what was called with what.
        parameters, state, bytes, multiply_adds: of the whole, as in a row.
        loops: number of loops of which nobody knows how often they run; each body was
            counted once.
    """

    title: str
    rows: tuple[Row, ...]
    parameters: int
    state: int
    bytes: int
    multiply_adds: int
    loops: int

    def table(self) -> Table:
        """The summary as a table of texts."""
        columns = ["layer", "class", "output", "calls"]
        columns += ["params", "state", "bytes", "mult-adds"]
        whole = ("total", "", "", "", *_sizes(self))
        note = f"{self.loops} loop(s) of unknown length counted as one turn"
        dim = [i for i, row in enumerate(self.rows) if not row.calls]
        return Table(
            title=self.title,
            columns=columns,
            rows=list(_lines(self.rows)),
            right=frozenset(range(3, 8)),
            total=whole,
            notes=[note] if self.loops else [],
            dim=frozenset(dim),
        )


def summary(model: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Summary:
    """Lists the layers of a model: output shapes, parameters, state, multiply-adds.

    The model is called with the arguments given here, as far as shapes go: it is traced
    and not run, and nothing is put on a device, so that it works for models and inputs
    of any size that were made by ``filter_eval_shape``.

    Each row counts a layer with all that is inside of it, in all of its calls. Rows
    within ``vmap`` show outputs of one example, but count the multiply-adds of the
    whole batch; a layer in a :class:`Stack` has one row for all depths. Multiply-adds
    are those of matrix products and convolutions (with padding, as papers count them);
    two floating-point operations each. Nothing else is counted, such as activations.

    Arguments:
        model: a layer, or anything else that is called: ``nn.batched(model)`` for a
            batch, or a method.
        *args: what it is called with: arrays or ``jax.ShapeDtypeStruct``. The state
            may stand first too, as ``make_with_state`` returns it.
        **kwargs: likewise, as ``key``.

    Returns:
        A :class:`Summary`: ``print`` it; in a notebook it is shown as a table, and
        ``rich.print`` draws it with colors. Its ``rows`` have the numbers.

    Raises:
        InputError: the model is not callable; and whatever the call itself raises.

    >>> import vernal as vn, jax
    >>> model = vn.nn.MLP(2, 3, width_size=16, depth=2, key=jax.random.key(0))
    >>> overview = vn.nn.summary(model, jax.ShapeDtypeStruct((2,), "float32"))
    >>> print(overview)
    MLP, called with f32[2]
      layer        class             output   calls  params  state    bytes  mult-adds
      ────────────────────────────────────────────────────────────────────────────────
      (model)      MLP(2, 3, 16, 2)  f32[3]       1     371      ·  1,484 B        336
        layers[0]  Linear(2, 16)     f32[16]      1      48      ·    192 B         32
        layers[1]  Linear(16, 16)    f32[16]      1     272      ·  1,088 B        256
        layers[2]  Linear(16, 3)     f32[3]       1      51      ·    204 B         48
      ────────────────────────────────────────────────────────────────────────────────
      total                                             371      ·  1,484 B        336
    >>> overview.rows[1].parameters
    48
    """
    if not callable(model):
        raise InputError(
            report(
                "summary: the model is not callable.",
                expected="a layer or model, or a function of its inputs",
                got=f"{short(repr(model))} of type {type(model).__name__}",
            )
        )
    if args and isinstance(args[0], State):
        args = (*args[1:], args[0])
    calls = Calls()
    jaxpr, *_ = filter_make_jaxpr(watched(model, calls))(*args, **kwargs)
    found = costs(jaxpr)
    state = next(
        filter(_is_state, jax.tree.leaves((args, kwargs), is_leaf=_is_state)), None
    )
    rows = tuple([_row(*item, state, calls, found) for item in modules(model)])
    inputs = [tree_pformat(x, struct_as_array=True) for x in _inputs(args)]
    return Summary(
        f"{_name(model)}, called with {', '.join(inputs)}",
        rows,
        *_counts(model, state),
        found[COST, None],
        found[LOOPS, None],
    )


def _row(
    path: Any,
    layer: Module,
    state: State | None,
    calls: Calls,
    found: Costs,
) -> Row:
    numbers = [n for n, x in calls.items() if x.path == path and found[CALLS, n]]
    outputs = tuple([calls[n].output for n in numbers])
    return Row(
        path_text(path),
        type(layer).__name__,
        _configuration(layer),
        sum(found[CALLS, n] for n in numbers),
        outputs,
        *_counts(layer, state),
        sum(found[COST, n] for n in numbers),
    )


def _counts(tree: PyTree, state: State | None) -> tuple[int, int, int]:
    """The entries of the parameters and of the state in a tree, and all bytes."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda x: is_index(x) or _is_state(x))
    stored = {x.marker: _value(x, state) for x in nodes if is_index(x)}
    kept = [*stored.values(), *filter(_is_state, nodes)]
    slots = [x for x in jax.tree.leaves(kept) if is_abstract(x)]
    arrays = [x for x in nodes if is_abstract(x)]
    trained = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact)]
    size = sum(x.size * x.dtype.itemsize for x in arrays + slots)
    return sum(x.size for x in trained), sum(x.size for x in slots), size


def _value(index: StateIndex[Any], state: State | None) -> PyTree:
    return state.get(index) if index.is_stripped and state is not None else index.init


def _is_state(x: Any) -> bool:
    return isinstance(x, State)


def _configuration(layer: Module) -> str:
    """The arguments of the constructor that can be read off, without the defaults."""
    cls, values = type(layer), layer.__dict__
    texts = []
    for name, parameter in inspect.signature(cls).parameters.items():
        value = values.get(name, parameter.default)
        is_static = name in cls.__static_fields__ or is_function(value)  # type: ignore[attr-defined]
        default = _brief(parameter.default)
        if name not in values or not is_static or _brief(value) == default:
            continue
        # BatchNorm's "legacy" stands for the mode that it stores.
        if parameter.default == "legacy" and value == "batch":
            continue
        is_required = parameter.default is parameter.empty
        texts.append(_brief(value) if is_required else f"{name}={_brief(value)}")
    return ", ".join(texts)


def _brief(value: Any) -> str:
    """A value in short: functions by name, and (3, 3) as 3."""
    while isinstance(value, tuple) and value and all(x == value[0] for x in value):
        value = value[0]
    value = getattr(value, "__wrapped__", value)
    name = getattr(value, "__name__", None) if callable(value) else None
    return short(str(name) if name else repr(value), 24)


def _name(model: Any) -> str:
    inner = next(modules(model), None)
    if inner is not None and not inner[0]:
        return type(inner[1]).__name__
    return getattr(model, "__name__", type(model).__name__)


def _inputs(args: tuple[Any, ...]) -> list[Any]:
    return [x for x in args if not _is_state(x)]


def _lines(rows: tuple[Row, ...]) -> Iterator[tuple[str, ...]]:
    """The texts of the rows; each is indented below the layer that it is in."""
    above: list[str] = []  # the paths of the layers that the row is in
    for row in rows:
        while above and not _is_inside(row.path, above[-1]):
            above.pop()
        inner = row.path.removeprefix(above[-1] if above else "").removeprefix(".")
        place = "  " * len(above) + (inner or "(model)")
        above.append(row.path)
        outputs = dict.fromkeys(
            tree_pformat(x, width=10_000, struct_as_array=True) for x in row.outputs
        )
        text = short(", ".join(outputs), 40)
        made = f"{row.name}({row.configuration})"
        yield place, short(made, 44), text, str(row.calls or "—"), *_sizes(row)


def _is_inside(path: str, outer: str) -> bool:
    rest = path.removeprefix(outer)
    return not outer or (rest != path and rest[:1] in (".", "["))


def _sizes(x: Row | Summary) -> tuple[str, str, str, str]:
    numbers = [sized(n) if n else "·" for n in (x.parameters, x.state)]
    size = sized(x.bytes, (" B", " kB", " MB", " GB", " TB")) if x.bytes else "·"
    return *numbers, size, sized(x.multiply_adds) if x.multiply_adds else "·"  # type: ignore[return-value]
