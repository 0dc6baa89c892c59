"""The catalog is light: a command that needs one model must not pay for pandas."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY = ("pandas", "scipy", "optuna", "huggingface_hub", "torch", "numpy", "difflib", "logging", "catalog.runs")

SCRIPT = f"""
import sys
from catalog.models.find import find_model
from catalog.gpus import parse_cluster
find_model("llama-13b"), parse_cluster("4xA100")
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def run(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_one_model_and_one_cluster_are_light():
    assert run(SCRIPT) == ["[]"]
