"""The catalog is light: a command that needs one model must not pay for pandas."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY = ("pandas", "scipy", "optuna", "huggingface_hub", "torch", "numpy", "difflib", "logging", "catalog.runs")

BASELINE = """
import time
began = time.process_time()
import dataclasses, pathlib, re, tomllib, typing
print(time.process_time() - began)
"""

SCRIPT = f"""
import sys, time
began = time.process_time()
from catalog.models.find import find_model
from catalog.gpus import parse_cluster
find_model("llama-13b"), parse_cluster("4xA100")
print(time.process_time() - began)
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def run(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_one_model_and_one_cluster_are_quick_and_light():
    """CPU time, against that of the standard library's part in it taken just before: a busy machine slows both."""
    ratios = []
    for _ in range(5):
        standard = float(run(BASELINE)[0])
        ratios.append(float(run(SCRIPT)[0]) / standard)
    assert min(ratios) < 4
    assert run(SCRIPT)[1] == "[]"
