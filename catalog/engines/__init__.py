"""Engines: what they can run, what they choose by default, and the commands that start them."""

from catalog.engines.defaults import compute_dtype, known_format, resolve
from catalog.engines.kv_cache import (
    KvGroups,
    graph_sizes,
    kv_groups,
    profile_rows,
    reserves_graphs,
    static_fraction,
    static_gib,
    static_share,
)
from catalog.engines.launch.commands import command, environment, processes
from catalog.engines.launch.formats import FORMATS, export_format, render
from catalog.engines.launch.process import Process
from catalog.engines.parallelism import (
    check_layout,
    kv_heads_per_gpu,
    padded_vocab,
    pipeline_layers,
    tp_problem,
    valid_ep,
    valid_pp,
    valid_tp,
)
from catalog.engines.registry import (
    BatchDefaults,
    Engine,
    all_engines,
    engine_family,
    engine_name,
    engine_timing,
    find_engine,
    minor_release,
    prometheus_metrics,
    release_distance,
    releases_apart,
)
from catalog.engines.traits import EngineGeneration, EngineMemory, EngineMetrics, EngineTiming

__all__ = [
    "FORMATS",
    "BatchDefaults",
    "Engine",
    "EngineGeneration",
    "EngineMemory",
    "EngineMetrics",
    "EngineTiming",
    "KvGroups",
    "Process",
    "all_engines",
    "check_layout",
    "command",
    "compute_dtype",
    "engine_family",
    "engine_name",
    "engine_timing",
    "environment",
    "export_format",
    "find_engine",
    "graph_sizes",
    "known_format",
    "kv_groups",
    "kv_heads_per_gpu",
    "minor_release",
    "padded_vocab",
    "pipeline_layers",
    "processes",
    "profile_rows",
    "prometheus_metrics",
    "release_distance",
    "releases_apart",
    "render",
    "reserves_graphs",
    "resolve",
    "static_fraction",
    "static_gib",
    "static_share",
    "tp_problem",
    "valid_ep",
    "valid_pp",
    "valid_tp",
]
