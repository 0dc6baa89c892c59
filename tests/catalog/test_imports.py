"""The catalog is light: a command that needs one model must not pay for pandas."""

import subprocess
import sys

HEAVY = ("pandas", "scipy", "optuna", "huggingface_hub", "torch", "numpy", "difflib", "logging", "catalog.runs")

SCRIPT = f"""
import sys, time
began = time.process_time()
from catalog.models import find_model
from catalog.gpus import parse_cluster
find_model("llama-13b"), parse_cluster("4xA100")
print(time.process_time() - began)
print([name for name in {HEAVY!r} if name in sys.modules])
"""


def test_one_model_and_one_cluster_are_quick_and_light():
    def once():
        command = [sys.executable, "-c", SCRIPT]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    seconds, heavy = zip(*(once() for _ in range(3)), strict=True)
    assert set(heavy) == {"[]"}
    assert min(map(float, seconds)) < 0.15, "about 0.04 s on an idle core; the rest is room for a busy one"
