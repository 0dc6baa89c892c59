"""Count what a reader of the code meets: ``python -m benchmarks.house [FOLDER ...]``, a column a checkout."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx as nx

PACKAGES = ("catalog", "probes", "search", "advisor", "app")
PRESENTATION = re.compile(r"app/|advisor/(cli|render)/")
LONG = 60
"""Lines of a function, its signature and docstring aside, above which it counts as long."""
WORDS = ("found", "each", "told")
"""Words that stand where a noun would say more."""


def modules(folder: Path) -> dict[str, ast.Module]:
    """Parse every module of the five packages, by its path."""
    paths = sorted(path for package in PACKAGES for path in (folder / package).rglob("*.py"))
    return {path.relative_to(folder).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def imports(trees: dict[str, ast.Module]) -> nx.DiGraph:
    """Return which file imports which, those for type checkers only among them."""
    import networkx as nx  # of developers alone: tests count lines without it

    files = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in trees}
    graph = nx.DiGraph()
    graph.add_nodes_from(trees)
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                named = [f"{node.module}.{alias.name}" for alias in node.names]
                wanted = [name if name in files else node.module for name in named]
            elif isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            else:
                continue
            graph.add_edges_from((path, files[name]) for name in wanted if name in files and files[name] != path)
    faces = [path for path in trees if path.endswith("__init__.py")]
    graph.remove_nodes_from(faces)  # a package's face hands names on
    return graph


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function below its signature and docstring."""
    first = function.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno + 1 if documented else first.lineno
    return function.end_lineno - start + 1


def counts(folder: Path) -> dict[str, str]:
    """Count the figures of one checkout."""
    trees = modules(folder)
    texts = {path: (folder / path).read_text(encoding="utf-8") for path in trees}
    lines = {path: text.count("\n") for path, text in texts.items()}
    total = sum(lines.values())
    shown = sum(number for path, number in lines.items() if PRESENTATION.match(path))
    homes: dict[str, set[str]] = defaultdict(set)
    long = 0
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(path)
            elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                long += body_lines(node) > LONG
    words = Counter(word for text in texts.values() for word in re.findall(r"[a-z]+", text))
    graph = imports(trees)
    import networkx as nx

    circles = [part for part in nx.strongly_connected_components(graph) if len(part) > 1]
    rooms = {path: "/".join(path.split("/")[:2]) if path.count("/") > 1 else path for path in graph}
    arrows = {(rooms[a], rooms[b]) for a, b in graph.edges if rooms[a] != rooms[b]}
    return {
        "source lines": f"{total:,}",
        "files": str(len(trees)),
        "presentation, share of the lines": f"{shown / total:.1%}",
        "largest file, lines": str(max(lines.values())),
        "functions above 60 lines, signature and docstring aside": str(long),
        **{f"uses of `{word}`": str(words[word]) for word in WORDS},
        "`# fmt: skip`": str(sum(text.count("# fmt: skip") for text in texts.values())),
        "`noqa`": str(sum(text.count("noqa") for text in texts.values())),
        "class names with several homes": str(sum(len(places) > 1 for places in homes.values())),
        "circles of files": str(len(circles)),
        "arrows between folders": str(len(arrows)),
    }


def main(folders: list[str]) -> None:
    """Print the counts of every folder side by side, as a Markdown table."""
    columns = [counts(Path(folder)) for folder in folders]
    print("| | " + " | ".join(Path(folder).resolve().name for folder in folders) + " |")
    print("| --- |" + " --- |" * len(folders))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main(sys.argv[1:] or ["."])
