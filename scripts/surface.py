"""Compares vernal's public names and signatures with those it offers to have.

Prints what is missing or differs, a line each; prints nothing if all is well.
Additional parameters are no difference if calls without them work.
"""

import argparse
import ast
import importlib
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

import vernal as vn

FILE = pathlib.Path(__file__).with_name("surface.txt")
UNSET = object()


def identity(x: Any) -> Any:
    return x


def never(x: Any) -> bool:
    return False


# What the defaults in the file are written with.
NAMES = {
    "UNSET": UNSET,
    "default_deserialise_filter_spec": vn.default_deserialise_filter_spec,
    "default_serialise_filter_spec": vn.default_serialise_filter_spec,
    "identity": identity,
    "if_array": vn.if_array,
    "jax": jax,
    "jnp": jnp,
    "never": never,
}


def entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yields (module, name with the names around it, rest of the line)."""
    module = owner = ""
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line or line.startswith("#"):
            continue
        if indent == 0:
            module = line
        elif line.split()[0] == "attributes":
            for name in line.split(None, 1)[1].split(", "):
                yield module, f"{owner}.{name}", ""
        else:
            name, bracket, rest = line.strip().partition("(")
            owner = name if indent == 2 else owner
            path = name if indent == 2 else owner + name
            yield module, path, bracket + rest


def find(module: str, path: str) -> Any:
    """The object of this name; UNSET if there is none. Fields count as attributes."""
    found: Any = importlib.import_module(module)
    for name in path.split("."):
        fields = getattr(found, "__dataclass_fields__", {})
        if not hasattr(found, name) and name in fields:
            return fields[name]
        found = getattr(found, name, UNSET)
        if found is UNSET:
            return UNSET
    return found


def parameters(signature: str) -> list[inspect.Parameter]:
    """Parses ``(a, /, b=1, *, c)``."""
    arguments = ast.parse(f"def f{signature}: pass").body[0].args  # type: ignore[attr-defined]
    kinds = inspect.Parameter
    rows = [(a, kinds.POSITIONAL_ONLY) for a in arguments.posonlyargs]
    rows += [(a, kinds.POSITIONAL_OR_KEYWORD) for a in arguments.args]
    defaults = [None] * (len(rows) - len(arguments.defaults)) + arguments.defaults
    if arguments.vararg:
        rows += [(arguments.vararg, kinds.VAR_POSITIONAL)]
        defaults += [None]
    rows += [(a, kinds.KEYWORD_ONLY) for a in arguments.kwonlyargs]
    defaults += arguments.kw_defaults
    if arguments.kwarg:
        rows += [(arguments.kwarg, kinds.VAR_KEYWORD)]
        defaults += [None]
    return [
        kinds(argument.arg, kind, default=value(default))
        for (argument, kind), default in zip(rows, defaults, strict=True)
    ]


def value(default: ast.expr | None) -> Any:
    if default is None:
        return inspect.Parameter.empty
    return eval(ast.unparse(default), dict(NAMES))


def same_default(want: Any, got: Any) -> bool:
    """Whether a call that leaves the parameter out means the same."""
    if want is UNSET:
        return True
    if want is identity or want is never:
        return callable(got) and got(3) == want(3)
    return type(want) is type(got) and bool(want == got)


def difference(signature: str, function: Callable[..., Any]) -> str:
    """What a call written for this signature would stumble over; "" for nothing."""
    try:
        ours = inspect.signature(function).parameters
    except ValueError:
        return "has no signature"
    theirs = [p for p in parameters(signature) if p.name != "self"]
    mine = [p for p in ours.values() if p.name != "self"]
    kinds = inspect.Parameter
    variable = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    for want in theirs:
        got = ours.get(want.name)
        if want.kind in variable:
            if want.kind not in {p.kind for p in mine}:
                return f"does not take {want}"
        elif got is None:
            return f"has no parameter `{want.name}`"
        elif got.kind != want.kind:
            return f"`{want.name}` is {got.kind.description}"
        elif not same_default(want.default, got.default):
            return f"`{want.name}` has the default {got.default}, not {want.default}"
    places = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    order = [[p.name for p in ps if p.kind in places] for ps in (theirs, mine)]
    if order[0] != order[1][: len(order[0])]:
        return f"has the parameters in the order {', '.join(order[1])}"
    names = {p.name for p in theirs}
    needed = [
        p.name
        for p in mine
        if p.name not in names and p.default is p.empty and p.kind not in variable
    ]
    return f"needs {', '.join(needed)}" if needed else ""


def differences(text: str) -> list[str]:
    """A line for each name that is missing or differs."""
    found = []
    for module, path, signature in entries(text):
        ours = find(module, path)
        if ours is UNSET:
            found.append(f"{module}.{path}: missing")
        elif signature and (words := difference(signature, ours)):
            found.append(f"{module}.{path}: {words}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=pathlib.Path, default=FILE, help="another list")
    found = differences(parser.parse_args().file.read_text())
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
