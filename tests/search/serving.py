"""Deployments in miniature: an objective with the shape of the real one, and spaces to search it in."""

from __future__ import annotations

import numpy as np

from catalog.schema import Cluster, Gpu, Model
from search.parallelism import parallelisms
from search.scores import Scores
from search.space import Axis, Space, batch_sizes

DTYPES = ("bfloat16", "fp8", "int4")


def model(**changes):
    fields = {
        "name": "m",
        "model_type": "llama",
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 28672,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    }
    return Model(**(fields | changes))


def cluster(gpus_per_node=8, nodes=1):
    gpu = Gpu(name="g", memory_gib=80, memory_bandwidth_gbps=3350, fp16_tflops=989)
    return Cluster(gpu=gpu, gpus_per_node=gpus_per_node, nodes=nodes)


def layouts(gpus=8, **options):
    return list(parallelisms(model(), cluster(min(gpus, 8), max(gpus // 8, 1)), **options))


def deployments(gpus=8, batches=1024):
    """All choices of a small space, about 20,000 points for 8 GPUs."""
    return Space(
        (
            Axis.table(layouts(gpus, max_pp=4)),
            Axis.of("max_num_seqs", batch_sizes(batches)),
            Axis.of("max_num_batched_tokens", [512, 2048, 8192, 32768]),
            Axis.of("dtype", DTYPES),
        ),
        rules=(lambda columns: columns["max_num_batched_tokens"] >= columns["max_num_seqs"],),
    )


def many_deployments():
    """More than a million points: three kinds of GPU, two nodes of each, and engine knobs."""
    rows = [
        {"gpu": kind, "tp": layout.tp, "pp": layout.pp, "dp": layout.dp}
        for kind in ("A", "B", "C")
        for layout in layouts(16, max_pp=8)
    ]
    return Space(
        (
            Axis.table(rows),
            Axis.of("max_num_seqs", batch_sizes(1024)),
            Axis.of("max_num_batched_tokens", [512, 1024, 2048, 4096, 8192, 16384, 32768]),
            Axis.of("dtype", DTYPES),
            Axis.of("kv_dtype", ["auto", "fp8"]),
            Axis.of("gpu_memory_utilization", [0.85, 0.9]),
        ),
        rules=(lambda columns: columns["max_num_batched_tokens"] >= columns["max_num_seqs"],),
    )


class Serving:
    """Throughput that rises with the batch until memory is full or a latency limit is reached; ``seed`` draws the hardware.

    Throughput per GPU does not depend on the number of replicas, so it ties.
    """

    def __init__(self, seed=0, *, objectives=1, memory=1.0, patience=1.0):
        draw = np.random.default_rng(seed)
        self.bandwidth = draw.uniform(1000, 4000, 3)
        self.compute = draw.uniform(200, 1000, 3)
        self.memory = draw.choice([40, 80, 140], 3) * memory
        self.link = draw.uniform(0.01, 0.2, 3)
        self.weights = draw.uniform(10, 150)
        self.kv = draw.uniform(1e-4, 5e-4)
        self.tpot = draw.uniform(20, 200) * patience
        self.ttft = draw.uniform(100, 3000) * patience
        self.tokens = draw.uniform(500, 8000)
        self.objectives = objectives
        self.calls = 0

    def __call__(self, columns):
        self.calls += 1
        zeros = np.zeros_like(columns["tp"])
        kind = columns.get("gpu", zeros)
        tp, pp, batch = (columns[name].astype(float) for name in ("tp", "pp", "max_num_seqs"))
        chunk = columns["max_num_batched_tokens"]
        smaller = np.array([1, 0.5, 0.28])[columns["dtype"]]
        kv_smaller = np.array([1, 0.5])[columns.get("kv_dtype", zeros)]
        share = columns.get("gpu_memory_utilization", zeros + 0.9)
        weights = self.weights * smaller / (tp * pp)
        kv = batch * self.tokens * self.kv * kv_smaller / (tp * pp)
        need = weights + kv + chunk * 1e-4 + 1
        have = self.memory[kind] * share
        sync = self.link[kind] * 1.6 * np.log2(tp) * (1 + batch / 64)
        step = 1430 * (weights + kv) * pp / self.bandwidth[kind] + 2 * pp + sync
        step += batch * self.weights * smaller * 0.04 / self.compute[kind] / tp
        prefill = self.tokens * self.weights / self.compute[kind] / tp * (0.3 + 0.03 * abs(np.log2(chunk / 4096)))
        step += prefill * batch / 850 / (1 + chunk / 8192)
        throughput = 1e3 * batch / step / tp / pp**0.2 / (1 + 3 * np.maximum(need / have - 1, 0))
        throughput *= 1 - 0.02 * (share > 0.92)
        throughput[weights > have] = np.nan
        ttft = prefill * (1 + batch / 64)
        values = np.stack([throughput, step, ttft], axis=1)
        return Scores(
            values=values[:, : self.objectives],
            violations=np.stack([need / have, step / self.tpot, ttft / self.ttft], axis=1) - 1,
            limits=("memory", "tpot", "ttft"),
            attributes={"num_gpus": columns["tp"] * columns["pp"] * columns["dp"], "step_ms": step},
        )


DIRECTIONS = {"tok_s_per_gpu": "maximize", "tpot_ms": "minimize", "ttft_ms": "minimize"}


def directions(count):
    return dict(list(DIRECTIONS.items())[:count])
