"""Only vernal/_compat.py knows private JAX or asks which JAX this is."""

import ast

from tests.policy.source import package_sources

ALLOWED = "vernal._compat"
PRIVATE = ("jax._src", "jax.interpreters", "jax.extend", "jax.core", "jaxlib")
PUBLIC = {"jax.core.Tracer"}
VERSIONS = {"jax.__version__", "jax.__version_info__", "jax.version"}


def is_private(dotted):
    """Whether a dotted name is one that only the compatibility module may use."""
    if dotted in PUBLIC or dotted.split(".")[0] not in {"jax", "jaxlib"}:
        return False
    hidden = any(p[0] == "_" and p[-1] != "_" for p in dotted.split(".") if p)
    within = any(f"{dotted}.".startswith(f"{prefix}.") for prefix in PRIVATE)
    return hidden or within or dotted in VERSIONS


def aliases(tree):
    """Yields (line, local name, what it stands for) for every import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for item in node.names:
                if item.asname:
                    yield node.lineno, item.asname, item.name
                else:
                    yield node.lineno, item.name.split(".")[0], item.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for item in node.names:
                dotted = f"{node.module}.{item.name}"
                yield node.lineno, item.asname or item.name, dotted


def dotted_name(node, names):
    """`jtu.tree_map` -> "jax.tree_util.tree_map", or "" where it is no such chain."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def private_uses(sources):
    """Imports and attribute chains that reach private JAX, module by module."""
    bad = set()
    for module, text in sources.items():
        if module == ALLOWED:
            continue
        tree, names = ast.parse(text), {}
        for line, local, dotted in aliases(tree):
            # `import jax.core` binds `jax`; the chain that uses it is judged below.
            names[local] = local if dotted.startswith(f"{local}.") else dotted
            if is_private(dotted) and dotted != "jax.core":
                bad.add((module, line, dotted))
        inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and id(node) not in inner:
                dotted = dotted_name(node, names)
                if is_private(dotted):
                    bad.add((module, node.lineno, dotted))
    return [f"{module}:{line}: {dotted}" for module, line, dotted in sorted(bad)]


def test_private_jax_stays_in_compat():
    """No other module imports or mentions private JAX or JAX's version."""
    assert private_uses(package_sources()) == []


BAD = """\
import jax
import jax.core as jc
import jax.tree_util as jtu
from jax._src import core
from jax.interpreters import batching
from jax.core import Tracer

def f(x):
    from jax.extend.core import Primitive
    isinstance(x, (jax.core.Tracer, jc.Tracer))
    return jc.ClosedJaxpr, jtu._registry, jtu.tree_map, jax.__version__, jax.__name__
"""


def test_private_jax_is_seen():
    """Imports, aliases, private members and versions are found; `Tracer` is not."""
    assert private_uses({"vernal._compat": BAD}) == []
    assert private_uses({"vernal.bad": BAD}) == [
        "vernal.bad:4: jax._src.core",
        "vernal.bad:5: jax.interpreters.batching",
        "vernal.bad:9: jax.extend.core.Primitive",
        "vernal.bad:11: jax.__version__",
        "vernal.bad:11: jax.core.ClosedJaxpr",
        "vernal.bad:11: jax.tree_util._registry",
    ]
