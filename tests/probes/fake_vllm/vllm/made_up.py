"""The made-up hardware: what a step takes, how a worker tells of its memory, and how things go wrong."""

import json
import os
import sys
from importlib import import_module
from types import SimpleNamespace

GIB = 2**30
BLOCKS, BLOCK = 4000, 16
STEP_S, PER_SEQUENCE_S, PER_TOKEN_S = 0.002, 0.00002, 0.000002


def step_s(sequences, new_tokens=0):
    return STEP_S + PER_SEQUENCE_S * sequences + PER_TOKEN_S * new_tokens


def faults(config):
    found = json.loads(os.environ.get("FAKE_VLLM", "{}"))
    return found if found.get("only") in (None, config.scheduler_config.max_num_seqs) else {}


def log(text):
    print(f"(EngineCore pid=7) {text}", file=sys.stderr, flush=True)


def start(config):
    """Log what a start logs; fail as vLLM does, whose client is not told why."""
    lacking = faults(config).get("starve")
    if lacking:
        log("ERROR 11-21 12:00:00 [core.py:1100] Traceback (most recent call last):")
        log(
            "ERROR 11-21 12:00:00 [core.py:1100] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
            if lacking == "weights"
            else "ERROR 11-21 12:00:00 [core.py:1100] ValueError: No available memory for the cache blocks. Try increasing"
        )
        raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
    log(f"INFO 11-21 12:00:00 [kv_cache_utils.py:2146] GPU KV cache size: {BLOCKS * BLOCK:,} tokens")
    log("INFO 11-21 12:00:00 [gpu_model_runner.py:6500] Graph capturing finished in 3 secs, took 0.50 GiB")


def go_wrong(config, sequences):
    wanted = faults(config)
    if sequences == wanted.get("crash"):
        os._exit(11)
    if sequences == wanted.get("dies"):
        log(
            "ERROR 11-21 12:00:00 [core.py:1200] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB."
        )
        raise RuntimeError("EngineCore encountered an issue. See stack trace (above) for the root cause.")


def reports(method, extension):
    """``collective_rpc`` of a worker with the extension mixed in (``worker_extension_cls``)."""
    module, _, name = extension.rpartition(".")
    worker = type("Worker", (getattr(import_module(module), name),), {})()
    worker.device = "cuda:0"
    worker.rank = 0
    worker.init_snapshot = SimpleNamespace(total_memory=140 * GIB, free_memory=139 * GIB)
    worker.requested_memory = 126 * GIB
    worker.model_runner = SimpleNamespace(model_memory_usage=13 * GIB)
    worker.peak_activation_memory = GIB
    worker.non_torch_memory = GIB // 2
    worker.cudagraph_memory_estimate = 0
    worker.available_kv_cache_memory_bytes = 100 * GIB
    worker.cache_config = SimpleNamespace(num_gpu_blocks=BLOCKS, block_size=BLOCK)
    return [getattr(worker, method)()]
