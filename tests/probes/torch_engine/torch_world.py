"""Little worlds of processes that run every model of a job in every layout, and save what they saw.

python torch_world.py JOB.json, started by ``run_world``. Other tests have their tiny model from here.
"""

import json
import multiprocessing
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from catalog.models.hf_config import read_config
from catalog.schema import Deployment
from probes.torch_engine.engine import TorchEngine

TINY = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "torch_dtype": "float32",
}
"""The ``config.json`` of a model that a CPU runs in no time."""


ROOT = Path(__file__).resolve().parents[3]


def case(name, folder, prompts, *, output_len, **deployment):
    """A model in a folder with the prompts that it continues; a prefill micro-batch holds two of them."""
    limits = {"max_model_len": 48, "max_num_seqs": 4, "max_num_batched_tokens": 2 * len(prompts[0]) + 1}
    return {
        "name": name,
        "folder": str(folder),
        "prompts": prompts,
        "output_len": output_len,
        "deployment": {**limits, **deployment},
    }


def run_world(folder, layouts, cases):
    """Run every case in every layout (tp, pp), in processes of a program of its own, which leaves its files in the folder."""
    job = folder / "job.json"
    job.write_text(json.dumps({"folder": str(folder), "layouts": layouts, "cases": cases}))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, __file__, str(job)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def run(case, tp, pp, rank, folder):
    """One model in one layout; the last stage saves logits, rank 0 tokens, and each rank its traffic."""
    deployment = Deployment(engine="torch", tp=tp, pp=pp, compiled=False, **case["deployment"])
    engine = TorchEngine(read_config(case["folder"]), deployment, rank=rank)
    seen = {}

    def watch(rows, number, logits):
        for row, each in zip(rows, logits, strict=True):
            seen[row, number] = each.numpy()

    name = f"{case['name']}-tp{tp}pp{pp}"
    if rank == 0:
        tokens, firsts = engine.tokens(case["prompts"], case["output_len"], watch)
        assert len(firsts) == len(case["prompts"])
        np.save(folder / f"{name}-tokens.npy", tokens.numpy())
        engine.stop()
    else:
        engine.follow(watch)
    if engine.layout.is_last:
        rows, numbers = len(case["prompts"]), case["output_len"]
        logits = np.stack([[seen[row, number] for number in range(numbers)] for row in range(rows)])
        np.save(folder / f"{name}-logits-{engine.layout.tp_rank}.npy", logits)
    traffic = engine._transformer.links.traffic
    report = {
        "calls": traffic.calls,
        "payload": traffic.payload,
        "sent": traffic.sent_bytes(tp),
        "weights": engine.weight_bytes,
        "layers": list(engine.layout.layers),
    }
    (folder / f"{name}-rank{rank}.json").write_text(json.dumps(report))


def world(job, size, rank):
    """One process of ``size``, with the layouts for as many."""
    folder = Path(job["folder"])
    if size > 1:
        meeting = f"file://{folder / 'meeting'}{size}"
        distributed.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=size, timeout=timedelta(seconds=60)
        )
    for tp, pp in job["layouts"]:
        for case in job["cases"] if tp * pp == size else []:
            run(case, tp, pp, rank, folder)
    if size > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(1)
    for size in sorted({tp * pp for tp, pp in job["layouts"]}):
        # forked, not spawned: importing torch takes longer than all that is run here
        children = [context.Process(target=world, args=(job, size, rank)) for rank in range(size)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        if codes := [child.exitcode for child in children if child.exitcode]:
            raise SystemExit(codes[0])


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    main()
