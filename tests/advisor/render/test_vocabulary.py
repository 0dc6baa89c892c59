"""The words of metrics have one home."""

import ast
from pathlib import Path

import pytest

from advisor.render import vocabulary

ROOT = Path(vocabulary.__file__).parents[2]
SHOWN = sorted([*(ROOT / "advisor" / "render").rglob("*.py"), *(ROOT / "app").rglob("*.py")])
WORDS = set(vocabulary.METRIC_NAMES.values())


def spelled(text):
    """Return the words of metrics in a module's string constants, docstrings aside."""
    tree = ast.parse(text)
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]
    return {word for value in texts for word in WORDS & set(value.replace(",", " ").split())}


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_but_the_vocabulary_spells_a_metric(path):
    if path.name != "vocabulary.py":
        assert not spelled(path.read_text(encoding="utf-8"))


def test_a_spelled_metric_is_seen():
    assert spelled('LABEL = f"TPOT, {unit}"') == {"TPOT"}
    assert spelled('"""TPOT is a word of prose."""') == set()
