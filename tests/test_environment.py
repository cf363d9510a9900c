"""environment.yml, pyproject.toml and constraints.txt name the same things."""

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
PIN_LINES = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PINS = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in PIN_LINES}
EXTRAS = PROJECT["optional-dependencies"]
WANTED = [Requirement(line) for line in PROJECT["dependencies"] + sum(EXTRAS.values(), [])]


def test_conda_installs_the_project_with_its_tests_under_the_constraints():
    python, pip, pip_lines = CONDA["dependencies"]
    assert pip == "pip"
    assert pip_lines == {"pip": ["-c constraints.txt", "-e .[test]"]}
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))


def test_the_installer_asks_for_the_same_extra():
    assert '"-e", ".[test]"' in (ROOT / "course.py").read_text()
    assert list(EXTRAS) == ["test"]


def test_every_pin_is_one_exact_version_of_another_package():
    assert [line for line in PIN_LINES if not re.fullmatch(r"[a-z0-9.-]+==[0-9][\w.]*", line)] == []
    assert len(PINS) == len(PIN_LINES)


@pytest.mark.parametrize("requirement", WANTED, ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_to_a_version_it_allows(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_every_dependency_says_why_it_is_there():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    uncommented = [
        requirement.name
        for requirement in WANTED
        if not any(re.match(rf' +"{re.escape(requirement.name)}[^"]*", +# \S', x) for x in lines)
    ]
    assert uncommented == []


def test_torch_is_pinned_to_the_version_the_course_is_measured_with():
    assert PINS["torch"] == "2.13.0"


def test_what_the_dependencies_need_is_pinned_too():
    """Followed through the installed packages, for this system and this Python."""
    todo, seen, unpinned = list(WANTED), set(), set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            continue
        if name not in PINS and not name.startswith(("nvidia-", "cuda-", "triton")):
            unpinned.add(name)
        for need in map(Requirement, needs):
            extras = requirement.extras or {""}
            if not need.marker or any(need.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(need)
    if sys.platform.startswith("linux"):  # elsewhere a few system packages come along
        assert unpinned == set()


def test_what_the_package_imports_is_pinned():
    homes = packages_distributions()
    undeclared = set()
    for path in (ROOT / "course_utils").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for top in {name.split(".")[0] for name in names}:
                if top in sys.stdlib_module_names or top == "course_utils":
                    continue
                if not any(canonicalize_name(home) in PINS for home in homes.get(top, [])):
                    undeclared.add(f"{path.name}: {top}")
    assert undeclared == set()
