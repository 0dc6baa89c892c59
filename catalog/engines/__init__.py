"""Engines: what they can run, what they choose by default, and the commands that start them."""

from catalog.engines.commands import Process, command, environment, processes
from catalog.engines.facts import BatchDefaults, Engine, all_engines, find_engine
from catalog.engines.knobs import compute_dtype, resolve
from catalog.engines.layout import (
    check_layout,
    kv_heads_per_gpu,
    padded_vocab,
    pipeline_layers,
    tp_problem,
    valid_ep,
    valid_pp,
    valid_tp,
)

__all__ = [
    "BatchDefaults",
    "Engine",
    "Process",
    "all_engines",
    "check_layout",
    "command",
    "compute_dtype",
    "environment",
    "find_engine",
    "kv_heads_per_gpu",
    "padded_vocab",
    "pipeline_layers",
    "processes",
    "resolve",
    "tp_problem",
    "valid_ep",
    "valid_pp",
    "valid_tp",
]
