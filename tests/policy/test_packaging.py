"""The wheel holds vernal and nothing else, and pyproject.toml tells the truth."""

import re
import sys
import tomllib
import zipfile

import jax
import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.version import Version

from tests.policy.source import ROOT, pyproject, source_files

CORE = {"jax", "jaxtyping", "safetensors", "wadler-lindig"}
NEVER_INSTALLED_BY_MAKE = {"torch", "flax", "dm-haiku"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The names in a wheel that was really built."""
    folder = tmp_path_factory.mktemp("wheel")
    builder = WheelBuilder(str(ROOT))
    (path,) = builder.build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def strangers(names):
    """Members of a wheel that are neither vernal's nor about the wheel itself."""
    allowed = re.compile(r"vernal/|vernal-[^/]+\.dist-info/")
    is_test = re.compile(r"(^|/)(tests?|conftest)(/|\.py$)|(^|/)test_")
    return [x for x in names if not allowed.match(x) or is_test.search(x)]


def requirements(project, extra=None):
    """Name -> requirement; an extra's own references to other extras are followed."""
    extras = project.get("optional-dependencies", {})
    lines = project["dependencies"] if extra is None else extras[extra]
    found = {}
    for line in lines:
        item = Requirement(line)
        name = item.name.lower().replace("_", "-")
        if name == project["name"]:
            for inner in sorted(item.extras):
                found |= requirements(project, inner)
        else:
            found[name] = item
    return found


def unbounded(project):
    """Requirements without both a lower and an upper bound, or an exact pin."""
    groups = [None, *project.get("optional-dependencies", {})]
    items = [x for group in groups for x in requirements(project, group).values()]
    operators = {str(item): {s.operator for s in item.specifier} for item in items}
    return sorted(k for k, ops in operators.items() if ops not in ({"=="}, {">=", "<"}))


def lower_bound(requirement):
    return next(s.version for s in requirement.specifier if s.operator == ">=")


def constraints(text):
    """The lines `name==version` of a constraints file."""
    pins = [line.split("==") for line in text.splitlines() if "==" in line]
    return {name.lower().replace("_", "-"): version for name, version in pins}


def version_claims(config):
    """Each place that names the oldest supported Python, with what it says."""
    minor = config["tool"]["ruff"]["target-version"].removeprefix("py3")
    return {
        "requires-python": config["project"]["requires-python"].removeprefix(">="),
        "mypy": config["tool"]["mypy"]["python_version"],
        "ruff": f"3.{minor}",
    }


def named_paths(config):
    """The paths inside the repository that pyproject.toml names."""
    tool = config["tool"]
    return [
        config["project"]["readme"],
        *config["project"]["license-files"],
        *tool["mypy"]["files"],
        *tool["pytest"]["ini_options"]["testpaths"],
        *tool["hatch"]["build"]["targets"]["wheel"]["packages"],
        *(x.lstrip("/") for x in tool["hatch"]["build"]["targets"]["sdist"]["include"]),
    ]


def test_wheel_holds_only_vernal(wheel):
    """No tests, examples or tools travel in the wheel."""
    assert strangers(wheel) == []


def test_wheel_holds_all_of_vernal(wheel):
    """No source file is lost on the way into the wheel."""
    sources = {path.relative_to(ROOT).as_posix() for path in source_files()}
    assert sources - set(wheel) == set()


def test_wheel_says_that_it_is_typed(wheel):
    """Type checkers use the annotations only if the marker file is there."""
    assert "vernal/py.typed" in wheel


def test_core_dependencies_are_few():
    """Nothing but the four core packages is needed to use vernal."""
    assert set(requirements(pyproject()["project"])) == CORE


def test_every_requirement_has_bounds():
    """A release of somebody else cannot break an installation unseen."""
    assert unbounded(pyproject()["project"]) == []


@pytest.mark.parametrize("extra", ["test", "dev"])
def test_make_installs_no_rival_framework(extra):
    """No newcomer's command downloads PyTorch or the rivals in the benchmarks."""
    assert NEVER_INSTALLED_BY_MAKE.isdisjoint(
        requirements(pyproject()["project"], extra)
    )


def test_dev_includes_what_examples_and_tests_need():
    """One environment runs the demo and the tests."""
    project = pyproject()["project"]
    needed = {**requirements(project, "examples"), **requirements(project, "test")}
    assert needed.items() <= requirements(project, "dev").items()


def test_oldest_versions_are_the_ones_tested():
    """`make test-oldest` installs exactly the lower bounds that are claimed."""
    core = requirements(pyproject()["project"])
    pins = constraints((ROOT / "tests" / "oldest.txt").read_text())
    assert pins.pop("jaxlib") == pins["jax"]
    assert pins == {name: lower_bound(item) for name, item in core.items()}


def test_this_jax_and_python_are_supported():
    """The tests run on versions that the package claims to support."""
    project = pyproject()["project"]
    assert Version(jax.__version__) in requirements(project)["jax"].specifier
    assert sys.version_info >= tuple(
        map(int, version_claims(pyproject())["mypy"].split("."))
    )


def test_the_oldest_python_is_the_same_everywhere():
    """pip, mypy and ruff agree on the oldest Python."""
    assert set(version_claims(pyproject()).values()) == {"3.11"}


def test_named_paths_exist():
    """Every path that the configuration names is there."""
    assert [x for x in named_paths(pyproject()) if not (ROOT / x).exists()] == []


def test_version_is_said_once_or_equally():
    """If the package names its version, it is that of pyproject.toml."""
    texts = [path.read_text(encoding="utf-8") for path in source_files()]
    said = re.findall(r'^__version__ = "(.+)"', "\n".join(texts), re.MULTILINE)
    assert set(said) <= {pyproject()["project"]["version"]}


BAD = tomllib.loads(
    """
    name = "vernal"
    dependencies = ["jax>=0.7.2", "numpy"]
    [optional-dependencies]
    test = ["torch>=2,<3"]
    dev = ["vernal[test]", "ruff==1.0"]
    """
)


def test_strangers_in_a_wheel_are_seen():
    """A top-level package, and tests inside the package, are found."""
    names = [
        "vernal/a.py",
        "tests/a.py",
        "vernal/test_a.py",
        "vernal-1.dist-info/RECORD",
    ]
    assert strangers(names) == ["tests/a.py", "vernal/test_a.py"]


def test_bad_requirements_are_seen():
    """A missing bound, a rival behind two extras and a changed core are found."""
    assert unbounded(BAD) == ["jax>=0.7.2", "numpy"]
    assert not NEVER_INSTALLED_BY_MAKE.isdisjoint(requirements(BAD, "dev"))
    assert set(requirements(BAD)) != CORE


def test_constraints_are_read():
    """A pin that is not the lower bound would be noticed."""
    assert constraints("# x\njax==0.7.1\n") == {"jax": "0.7.1"}
    assert lower_bound(requirements(BAD)["jax"]) == "0.7.2"
