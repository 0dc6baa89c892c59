"""KV capacity of every load that was measured (``benchmarks/measured``), as the engine's log states it and as is said.

python -m benchmarks.kv_capacity

Two columns of each: from the memory that the engine said it had for the cache ("pages": the rules of groups, pages and blocks alone),
and from the deployment ("all": weights, activations, graphs and what is outside of torch, too), with the difference in GiB.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.memory.kv_capacity import blocks_of_request
from catalog.engines import resolve
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.models.hf_config import model_from_config
from catalog.schema import Deployment
from catalog.units import GIB

if TYPE_CHECKING:
    from catalog.schema import Model

HERE = Path(__file__).parent / "measured"
VERSIONS = {"vllm": "0.33", "sglang": ""}
LOADS = (
    *("vllm_0.33_h200", "vllm_0.33_h200_more", "vllm_0.33_h200_long", "vllm_0.33_h200_serving"),
    *("vllm_0.33_h200_layouts", "vllm_0.33_h200_sizes", "vllm_0.33_h200_replicas", "sglang_0.5.15_h200"),
)


def capacities() -> list[tuple[str, float, float, float, float, float]]:
    """Return of each load its name, the tokens logged, those of the engine's own GiB and those said, and GiB logged and said."""
    loads = []
    for name in LOADS:
        stated = json.loads((HERE / f"{name}_loads.json").read_text())
        configs = {load["name"]: load["config"] for load in stated}
        drafted = {load["name"] for load in stated if "draft_config" in load}
        rows: dict[str, dict[str, str]] = {}
        for row in csv.DictReader((HERE / f"{name}_memory.csv").read_text().splitlines()):
            if row["load"] not in drafted:  # a head that drafts takes memory of its own
                rows.setdefault(row["load"], row)
        for load, row in rows.items():
            paged, tokens, gib, kv = _capacity(_model(row, configs), row)
            loads.append((load, float(row["kv_tokens"]), paged, tokens, kv, gib))
    return loads


def main() -> None:
    print("| load | tokens logged | pages alone | said | GiB logged | said |")
    print("|---|---|---|---|---|---|")
    shares = []
    for load, logged, paged, tokens, kv, gib in capacities():
        shares.append(abs(tokens / logged - 1.0))
        pages = f"{paged / logged - 1.0:+.2%}" if paged > 0 else ""
        print(f"| {load} | {logged:,.0f} | {pages} | {tokens / logged - 1.0:+.2%} | {kv:.2f} | {gib:.2f} |")
    print(f"\nwithin 1%: {sum(share <= 0.01 for share in shares)} of {len(shares)}; mean {np.mean(shares):.2%}")


def _model(row: dict[str, str], configs: dict[str, dict[str, object]]) -> Model:
    """Return the model of a load by its own configuration, which may be the text part of a catalog model."""
    config = next((config for name, config in configs.items() if name == row["load"]), None)
    return model_from_config(config, row["model"]) if config else find_model(row["model"]).value


def _capacity(model: Model, row: dict[str, str]) -> tuple[float, float, float, float]:
    """Return KV tokens from the engine's own GiB and from the deployment, and those GiB: said and logged."""
    cluster = parse_cluster("2xH200").value
    static = row["engine"] == "sglang"
    share = float(row["gpu_memory_utilization"])
    deployment = Deployment(
        engine=row["engine"],
        tp=int(row["tp"]),
        pp=int(row["pp"]),
        dp=int(row.get("dp") or 1),
        ep=int(row.get("ep") or 1),
        max_num_seqs=int(row["max_num_seqs"]),
        max_num_batched_tokens=int(row["max_num_batched_tokens"]),
        max_model_len=int(row["max_model_len"]),
        gpu_memory_utilization=share,
        dtype="auto" if model.quantization else row["dtype"],
        engine_version=VERSIONS[row["engine"]],
    )
    model = replace(model, max_position_embeddings=max(model.max_position_embeddings, int(row["max_model_len"])))
    resolved = resolve(deployment, model, cluster).value
    layout = DeploymentArrays.of([resolved], model, cluster.gpu)
    room = memory(model, cluster, layout, row["engine"])
    said = float(room.kv_capacity_tokens[0])
    if static:  # its share is ``mem_fraction_static``, of what was free before loading, weights included
        free = share * float(row["free_before_gb"]) - float(room.weights_gib[0])
        return math.nan, free * GIB / float(room.kv_bytes_per_token[0]), free, float(row["k_gb"]) + float(row["v_gb"])
    blocks = float(row["num_blocks"])
    taken = float(blocks_of_request(model, layout.max_model_len, layout, room.window_chunks)[0])
    return blocks / taken * resolved.max_model_len, said, float(room.slack_gib[0]), float(row["kv_gib"])


if __name__ == "__main__":
    main()
