"""How the policy tests see the package: its files, modules, trees and imports."""

import ast
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vernal"


def source_files():
    """Every Python file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    """vernal/nn/_linear.py -> vernal.nn._linear; an __init__ file names its package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def package_sources():
    """A dictionary from each module's name to its text; packages end in `.__init__`.

    The checkers take such a dictionary, so that a small bad sample is easy to write.
    """
    sources = {}
    for path in source_files():
        suffix = ".__init__" if path.name == "__init__.py" else ""
        sources[module_name(path) + suffix] = path.read_text(encoding="utf-8")
    return sources


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def repository_files():
    """Every file that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = done.stdout.decode().split("\0")
    return [ROOT / name for name in sorted(names) if (ROOT / name).is_file()]


def is_package(module):
    return module.endswith(".__init__")


def plain(module):
    """The name under which a module is imported."""
    return module.removesuffix(".__init__")


def imports(module, text):
    """Yields (line, dotted module, imported name or None) for every import statement.

    Function-level and TYPE_CHECKING imports count too. Relative ones are resolved.
    """
    package = plain(module) if is_package(module) else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, target, alias.name
