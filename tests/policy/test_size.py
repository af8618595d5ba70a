"""Files stay under 400 lines and function bodies under 60, docstrings not counted."""

import ast

from tests.policy.source import package_sources

FILE_LINES = 400
BODY_LINES = 60

# What is longer on purpose, with the reason: "module" or "module.function" -> why.
LONGER: dict[str, str] = {}


def body_lines(function):
    """The lines from the first statement after the docstring to the end."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    return function.end_lineno - body[0].lineno + 1 if body else 0


def functions(node, prefix):
    """Yields (dotted name, function) for every function, nested ones too."""
    for child in ast.iter_child_nodes(node):
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        inner = prefix
        if is_function or isinstance(child, ast.ClassDef):
            inner = f"{prefix}.{child.name}"
        if is_function:
            yield inner, child
        yield from functions(child, inner)


def too_long(sources):
    """A dictionary from the name of what is too long to its number of lines."""
    found = {}
    for module, text in sources.items():
        found[module] = text.count("\n")
        for name, function in functions(ast.parse(text), module):
            found[name] = body_lines(function)
    limits = {name: FILE_LINES if name in sources else BODY_LINES for name in found}
    return {name: lines for name, lines in found.items() if lines > limits[name]}


def test_sizes():
    """Nothing is too long but what is listed with its reason."""
    found = too_long(package_sources())
    assert {name: n for name, n in found.items() if name not in LONGER} == {}


def test_the_allow_list_is_not_stale():
    """What is short again is no longer listed."""
    assert set(LONGER) - set(too_long(package_sources())) == set()


def sample(statements):
    head = 'class A:\n    def f(self):\n        """Doc."""\n'
    return head + "        1\n" * statements


def test_a_long_function_is_seen():
    """Sixty lines of body pass, one more does not."""
    assert too_long({"m": sample(60)}) == {}
    assert too_long({"m": sample(61)}) == {"m.A.f": 61}


def test_a_long_file_is_seen():
    """Four hundred lines pass, one more does not."""
    assert too_long({"m": "x = 1\n" * 400}) == {}
    assert too_long({"m": "x = 1\n" * 401}) == {"m": 401}
