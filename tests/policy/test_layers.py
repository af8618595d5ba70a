"""Imports go down only, in circles never, and only to re-export in an __init__."""

import ast
import graphlib

from tests.policy.source import imports, is_package, package_sources, plain

# The table of ARCHITECTURE, "The layers". A name that is missing here has no layer.
LAYERS = {
    0: {"errors", "typing", "_compat", "_deprecate", "_lazy"},
    1: {"_tree"},
    2: {"_module"},
    3: {"_transform"},
    4: {"_state"},
    5: {"_summary", "nn"},
    6: {"checkpoint", "debug", "_runtime", "interop", "_serialisation", "metrics"},
}
RANK = {name: rank for rank, names in LAYERS.items() for name in names}

# What every layer of nn may import; these import nothing else of nn.
NN_BASE = {
    "_axes",
    "_batch_axis",
    "_batch_moments",
    "_checks",
    "_init",
    "_linear_part",
    "_merging",
    "_mode",
    "_named_weight",
    "_numerics",
    "_running",
    "_spatial",
    "_stacking",
    "_stateful",
}


def edges(sources):
    """Yields (module, line, imported vernal module) for each import inside vernal."""
    known = {plain(module) for module in sources} | {"vernal"}
    for module, text in sources.items():
        for line, target, name in imports(module, text):
            if target.split(".")[0] == "vernal":
                submodule = f"{target}.{name}"
                yield module, line, submodule if submodule in known else target


def layer(module):
    """The rank of a module, or None for the façade and for what the table lacks."""
    return RANK.get([*plain(module).split("."), ""][1])


def upward_imports(sources):
    """Imports of a higher layer, of the façade, or by a module without a layer."""
    inside = {x: text for x, text in sources.items() if plain(x) != "vernal"}
    unranked = [x for x in inside if layer(x) is None]
    bad = [f"{module}: has no layer in the table" for module in unranked]
    for module, line, target in edges(inside):
        above, below = layer(module), layer(target)
        if target == "vernal":
            bad.append(f"{module}:{line}: imports the façade")
        elif above is not None and (below is None or below > above):
            bad.append(f"{module}:{line}: imports {target}, which is not below it")
    return sorted(bad)


def nn_base_violations(sources):
    """Base modules of nn that import layers of nn."""
    bad = []
    for module, line, target in edges(sources):
        parts, goal = plain(module).split("."), target.split(".")
        is_base = parts[1:2] == ["nn"] and parts[2:3] and parts[2] in NN_BASE
        if is_base and goal[1] == "nn" and not (goal[2:] and goal[2] in NN_BASE):
            bad.append(f"{module}:{line}: a base module imports {target}")
    return bad


def cycle(sources):
    """One circle of imports, as a list of modules, or an empty list."""
    graph = {plain(module): set() for module in sources}
    for module, _, target in edges(sources):
        graph[plain(module)].add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def is_lazy(node):
    """The block of imports for type checkers, which lazy_names reads at run time."""
    if not isinstance(node, ast.If) or ast.unparse(node.test) != "TYPE_CHECKING":
        return False
    (otherwise,) = map(ast.unparse, node.orelse)
    return otherwise == "__getattr__, __dir__ = lazy_names(__name__)" and all(
        isinstance(line, ast.ImportFrom) for line in node.body
    )


def logic_in_init(sources):
    """Statements of __init__ files other than imports, __all__ and the docstring."""
    bad = []
    for module, text in filter(lambda item: is_package(item[0]), sources.items()):
        for node in ast.parse(text).body:
            is_all = isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" in {
                name.id for name in ast.walk(node) if isinstance(name, ast.Name)
            }
            is_docstring = isinstance(node, ast.Expr) and ast.get_docstring(
                ast.Module([node], [])
            )
            is_import = isinstance(node, ast.Import | ast.ImportFrom)
            if not (is_import or is_lazy(node) or is_all or is_docstring):
                bad.append(f"{module}:{node.lineno}: more than re-exports")
    return bad


def test_imports_go_down():
    """Every module has a layer and imports only its own layer and those below."""
    assert upward_imports(package_sources()) == []


def test_the_base_of_nn_knows_no_layers():
    """The shared modules of nn import each other at most."""
    assert nn_base_violations(package_sources()) == []


def test_no_import_cycles():
    """No modules import each other in a circle, not even inside functions."""
    assert cycle(package_sources()) == []


def test_init_files_only_reexport():
    """An __init__ file holds a docstring, imports and __all__."""
    assert logic_in_init(package_sources()) == []


BAD = {
    "vernal.__init__": "from .nn import Linear as Linear\nprint(1)\n",
    "vernal._tree.filters": "def f():\n    from ..nn import Linear\n",
    "vernal._state.state": "from vernal import Linear\n",
    "vernal._module.module": "if TYPE_CHECKING:\n    import vernal._state.state\n",
    "vernal.nn.__init__": "from ._linear import Linear as Linear\n",
    "vernal.nn._linear": "from ._checks import check\n",
    "vernal.nn._checks": "from . import _linear\n",
    "vernal.extra": "",
}


def test_upward_imports_are_seen():
    """A function-level, a TYPE_CHECKING, a façade and an unranked import all count."""
    assert upward_imports(BAD) == [
        "vernal._module.module:2: imports vernal._state.state, which is not below it",
        "vernal._state.state:1: imports the façade",
        "vernal._tree.filters:2: imports vernal.nn, which is not below it",
        "vernal.extra: has no layer in the table",
    ]


def test_a_base_module_that_imports_a_layer_is_seen():
    """The base of nn is not above its layers."""
    expected = ["vernal.nn._checks:1: a base module imports vernal.nn._linear"]
    assert nn_base_violations(BAD) == expected


def test_cycles_are_seen():
    """A circle of two modules is found and named."""
    assert set(cycle(BAD)) == {"vernal.nn._linear", "vernal.nn._checks"}


def test_logic_in_an_init_file_is_seen():
    """A statement that does something is found."""
    assert logic_in_init(BAD) == ["vernal.__init__:2: more than re-exports"]
