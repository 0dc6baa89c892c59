"""The project keeps its own promises: what its files contain, how they are named, and what it says it needs."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from benchmarks.house import LONG, body_lines

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("catalog", "probes", "search", "advisor", "app")
MOST_LINES = 450
"""What one reads in one go."""
LONG_FUNCTIONS = {
    "advisor/simulator/scheduler_loop.py serve": 319,  # one compiled loop, whose parts share all of its state
    "advisor/simulator/simulation.py simulate": 67,  # each of some forty keywords goes to the one place that it is for
}
"""Functions above ``benchmarks.house.LONG`` lines, signature and docstring aside, and how long they may be."""
PUBLIC_FUNCTIONS = {"estimate", "recommend", "simulate", "plan", "probe", "tune", "export", "fit", "validate"}
"""Those there are and those to come: a module of that name would hide the function, or be hidden by it."""
DISTRIBUTIONS = {
    "prometheus_client": "prometheus-client",
    "annotated_types": "annotated-types",
    "yaml": "pyyaml",
    "pynvml": "nvidia-ml-py",
    "vl_convert": "vl-convert-python",
    "sklearn": "scikit-learn",
}
"""Distributions named otherwise than what is imported."""
BROUGHT_ALONG = {"triton", "vllm"}
"""Imported only where somebody else has brought it: PyTorch's builds for CUDA, and the user's engine, which pins its own
torch, so that no extra can ask for it."""


def tracked() -> list[Path]:
    """Files that are part of the project, in a clone or in an unpacked sdist."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
        files = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        files = [path for path in ROOT.rglob("*") if "__pycache__" not in path.parts]
    return [path for path in files if path.is_file()]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = [path for path in tracked() if path.suffix not in {".png", ".gz"}]
SOURCES = [path for path in FILES if path.suffix == ".py"]
MODULES = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in PACKAGES]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_functions_are_read_in_one_go():
    lengths = {
        f"{relative(path)} {node.name}": body_lines(node)
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    assert {name: length for name, length in lengths.items() if length > LONG_FUNCTIONS.get(name, LONG)} == {}
    assert [name for name in LONG_FUNCTIONS if lengths.get(name, 0) <= LONG] == []  # an exception goes with its reason


def lines_with(pattern: str) -> list[str]:
    found = re.compile(pattern)
    hits = []
    for path in FILES:
        if path == Path(__file__).resolve() or path.name == "LICENSE":
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        hits += [
            f"{relative(path)}:{number}: {line.strip()[:80]}"
            for number, line in enumerate(lines, 1)
            if found.search(line)
        ]
    return hits


def test_files_were_found():
    assert {relative(path).split("/")[0] for path in SOURCES} >= {*PACKAGES, "tests"}
    assert len(MODULES) > 50


def test_nothing_is_left_to_do():
    assert lines_with(r"\b(TODO|FIXME|XXX)\b|NotImplementedError") == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w.}~])/(work|opt|home|Users)/",
        r"(?i)\bfarm",
        r"(?i)pypi\.|pythonhosted|npmjs\.|registry\.npm|proxy\.golang|crates\.io|deb\.debian",
    ],
    ids=["paths of one machine", "words of a workplace", "hosts of package registries"],
)
def test_no_file_mentions(pattern):
    assert lines_with(pattern) == []


def test_every_module_says_what_it_is():
    named = [path for path in SOURCES if not path.name.startswith("test_")]  # a test's name says what it is about
    silent = [relative(path) for path in named if not ast.get_docstring(tree(path))]
    assert silent == []


def names_of(statement: ast.AST) -> list[str]:
    """Modules that a statement imports, or may."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if isinstance(statement, ast.ImportFrom) and statement.module:
        return [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]
    return []


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """All that is below a node, but what is for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from statements(child)


def test_no_modules_import_each_other_in_a_circle():
    paths = {relative(path).removesuffix(".py").replace("/", "."): path for path in MODULES}
    imports = {
        name: {other for statement in statements(tree(path)) for other in names_of(statement) if other in paths}
        for name, path in paths.items()
    }
    assert sum(map(len, imports.values())) > 1000
    TopologicalSorter(imports).prepare()  # raises CycleError


def test_every_file_can_be_read_in_one_go():
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_no_module_is_named_like_a_public_function():
    functions = {name for name in public() if inspect.isfunction(public()[name])}
    assert functions >= {"estimate", "recommend"}
    names = {part for path in MODULES for part in path.relative_to(ROOT).with_suffix("").parts}
    assert names & (functions | PUBLIC_FUNCTIONS) == set()


@cache
def public() -> dict[str, object]:
    advisor = importlib.import_module("advisor")
    return {name: getattr(advisor, name) for name in advisor.__all__}


def test_public_names_are_documented():
    for name, value in public().items():
        if not callable(value):
            continue
        text = inspect.getdoc(value) or ""
        generated = text.startswith(f"{name}(")  # what @dataclass writes where nobody has
        assert text, f"advisor.{name} has no docstring"
        assert not generated, f"advisor.{name} has no docstring of its own"


def test_public_functions_are_annotated():
    for name, value in public().items():
        if inspect.isfunction(value):
            signature = inspect.signature(value)
            blank = [each for each, it in signature.parameters.items() if it.annotation is inspect.Parameter.empty]
            assert blank == [], f"advisor.{name}"
            assert signature.return_annotation is not inspect.Signature.empty, f"advisor.{name}"


def test_the_packages_are_the_five():
    assert tuple(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
    assert set(PROJECT["tool"]["mypy"]["packages"]) == set(PACKAGES)
    assert set(PROJECT["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)
    assert {path.parent.name for path in FILES if path.name == "__init__.py" and path.parents[1] == ROOT} == set(
        PACKAGES
    )
    assert {path.parent.name for path in FILES if path.name == "py.typed"} == set(PACKAGES)


def imported() -> dict[str, set[str]]:
    """Top-level names that the packages import from outside the standard library, each with the files that do."""
    names: dict[str, set[str]] = {}
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found = [node.module or ""]
            else:
                continue
            for name in found:
                names.setdefault(name.split(".")[0], set()).add(relative(path))
    return {name: files for name, files in names.items() if name not in sys.stdlib_module_names | set(PACKAGES)}


def requirement_names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", each, maxsplit=1)[0].lower() for each in requirements} - {"advisor"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    base = requirement_names(project["dependencies"])
    optional = {
        name
        for extra in (
            "probes",
            "app",
            "serve",
            "mcp",
            "hub",
            "prices",
            "plots",
            "baselines",
            "dask",
            "ray",
            "observe",
            "postgres",
        )
        for name in requirement_names(extras[extra])
    }
    used = {DISTRIBUTIONS.get(name, name) for name in imported()} - BROUGHT_ALONG
    assert used - base - optional == set()
    assert base - used == set()


def test_every_requirement_has_a_floor_and_no_ceiling():
    project = PROJECT["project"]
    every = project["dependencies"] + [each for extra in project["optional-dependencies"].values() for each in extra]
    outside = [each for each in every if not each.startswith("advisor[")]
    assert [each for each in outside if not re.fullmatch(r"[\w-]+>=[\d.]+", each)] == []


def test_the_changelog_tells_of_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(PROJECT['project']['version'])}\]", changelog, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "lines"),
    [("main", r"pip install \.\nadvisor recommend .+"), ("tests", r"pip install '\.\[test\]'\npytest")],
)
def test_the_readme_has_the_commands_that_are_run_on_every_commit(name, lines):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^<!-- run: {name} -->\n```\w*\n(.*?)\n```$", readme, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    assert re.fullmatch(lines, blocks[0])


@pytest.mark.parametrize("page", [path for path in FILES if path.suffix == ".md"], ids=relative)
def test_links_between_files_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
