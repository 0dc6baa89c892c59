"""Measure static batches on many vLLM engines that share a few GPUs: started at once, timed one after another.

    python -m benchmarks.measure_vllm run LOADS.json OUT --seconds 590
    python -m benchmarks.measured_tables OUT PREFIX

LOADS.json and the order of things are those of ``benchmarks.shared_gpu_loads``; ``share`` is ``gpu_memory_utilization``, ``args``
more of ``vllm.LLM``. What an engine finds out about its memory is its own all the same: memory in use by other processes is
counted as free (``count_own_memory``).

The protocol of a shape is that of ``probes.static_benchmark``. OUT then holds ``runs.jsonl`` and ``memory.jsonl``, to
which each row is added as soon as it is known, ``loads.jsonl`` (what became of each load) and ``logs/``. Weights and prompts
are random, no tokenizer is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.shared_gpu_loads import add_run_arguments, job_of, run_chosen
from catalog.jsonl_store import append_lines
from catalog.runs import append_runs
from probes.gpu_telemetry import Meter
from probes.static_benchmark import measure
from probes.vllm_engine.exported import logged_tokens
from probes.vllm_engine.static import MEASURED_SIZES, VllmEngine, engine_fingerprint, gib_by_part, graph_gib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from probes.benchmark_plan import BenchmarkJob

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_MOE_ROUTING_SIMULATION_STRATEGY": "uniform_random",
    "MEASURE_VLLM_OWN_MEMORY": "1",
}
LEFT = "own memory"
"""The note that ``count_own_memory`` leaves on the function it puts in place of PyTorch's."""


def count_own_memory() -> None:
    """Make ``torch.accelerator.get_memory_info``, by which vLLM sizes itself, count other processes' memory as free.

    NVML tells the memory of each process on a GPU; where it does not, nothing changes.
    """
    accelerator = import_module("torch").accelerator
    whole = accelerator.get_memory_info
    if getattr(whole, "__doc__", None) == LEFT:
        return
    nvml = import_module("pynvml")

    def own(device: Any = None, /) -> tuple[int, int]:
        nvml.nvmlInit()
        index = getattr(device, "index", device)
        place = accelerator.current_device_index() if index is None else int(index)
        gpu = int(os.environ["CUDA_VISIBLE_DEVICES"].split(",")[place])
        handle = nvml.nvmlDeviceGetHandleByIndex(gpu)
        for _ in range(200):
            free, total = whole(device)
            seen = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            if whole(device)[0] == free:  # nobody took or gave back memory meanwhile
                break
            time.sleep(0.01)
        others = sum(process.usedGpuMemory or 0 for process in seen if process.pid != os.getpid())
        return min(free + others, total), total

    own.__doc__ = LEFT
    accelerator.get_memory_info = own


if os.environ.get("MEASURE_VLLM_OWN_MEMORY"):
    # vLLM's workers import this module for OwnMemory before they look at their GPU
    with suppress(ImportError):
        count_own_memory()


class OwnMemory:
    """Mixed into vLLM's workers (``worker_extension_cls``), each of which then tells how it uses its GPU's memory."""

    def memory_report(self) -> dict[str, float]:
        """Return GiB by part, as the worker found them while it profiled itself (``vllm/v1/worker/gpu_worker.py``)."""
        measured = {name: source for name, source in MEASURED_SIZES.items() if name != "non_torch_gib"}
        measured["consumed_gib"] = "total_consumed"
        return gib_by_part(self, import_module("torch").accelerator.get_memory_info, measured)


class SharedGpuEngine(VllmEngine):
    """``vllm.LLM`` on its share of its GPUs, of any model that vLLM reads."""

    def __init__(self, load: Mapping[str, Any], job: BenchmarkJob, folder: str, log: Path) -> None:
        vllm = import_module("vllm")
        knobs = job.deployment
        self.meter = Meter(load["gpus"])
        self._sampling = vllm.SamplingParams
        self.running = None
        began = time.perf_counter()
        self._llm = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            enable_prefix_caching=False,
            disable_log_stats=False,
            worker_extension_cls="benchmarks.measure_vllm.OwnMemory",
            tensor_parallel_size=knobs.tp,
            pipeline_parallel_size=knobs.pp,
            gpu_memory_utilization=knobs.gpu_memory_utilization,
            max_num_seqs=knobs.max_num_seqs,
            max_num_batched_tokens=knobs.max_num_batched_tokens,
            max_model_len=knobs.max_model_len,
            **({"distributed_executor_backend": "mp"} if knobs.num_gpus > 1 else {}),
            **load.get("args", {}),
        )
        self.startup_s = time.perf_counter() - began
        self.version: str = vllm.__version__
        text = log.read_text(encoding="utf-8", errors="replace")
        self.fingerprint = {
            **engine_fingerprint(self.meter, self._llm.llm_engine.vllm_config, self.startup_s),
            **({"routing": "uniform_random"} if job.model.num_experts else {}),
            **backends(text),
        }
        self.kv_capacity_tokens = kv_tokens(text)


def kv_tokens(log: str) -> int:
    """Read KV tokens, as vLLM's log states them: those of the stage that holds fewest.

    Raises:
        ValueError: the log does not say.
    """
    counts = logged_tokens(log)
    if not counts:
        raise ValueError("the log does not say how many KV tokens there are")
    return min(counts)


def backends(log: str) -> dict[str, str]:
    """Read which attention and expert kernels the engine says it runs, as far as its log tells."""
    patterns = {
        "attention": r"Using (?:AttentionBackendEnum\.)?(\w+) (?:attention )?backend",
        "experts": r"Using '?([\w ]+?)'? (?:Unquantized|Fp8|MxFp4|Mxfp4|WNA16)?\s*MoE backend",
        "linear": r"Selected (\w+) for (?:\w+)",
    }
    kernels = {name: re.findall(pattern, log) for name, pattern in patterns.items()}
    return {name: " ".join(sorted(set(seen))) for name, seen in kernels.items() if seen}


def write_model(folder: str, load: Mapping[str, Any]) -> None:
    """Write the folder that vLLM loads a model from: its ``config.json`` and, as ``files``, the code that some need to be read."""
    for name, text in {"config.json": json.dumps(load["config"]), **load.get("files", {})}.items():
        Path(folder, name).write_text(text, encoding="utf-8")


def work(order: Mapping[str, Any]) -> None:
    """Be a worker: start the engine of one load, say ``READY`` on descriptor 3, wait there for a line, measure, end."""
    load, out, log = order["load"], Path(order["out"]), Path(order["log"])
    count_own_memory()
    job = job_of(load, measure_s=order["measure_s"])
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, load)
        engine = SharedGpuEngine(load, job, folder, log)
        text = log.read_text(encoding="utf-8", errors="replace")
        known = {"load": job.name, "model": job.model.name, **asdict(job.deployment)}
        known |= {"graph_gib": graph_gib(text), "startup_s": round(engine.startup_s, 1)}
        known |= {"kv_tokens": engine.kv_capacity_tokens}
        for report in engine.memory():
            append_lines(out / "memory.jsonl", json.dumps({**known, **report}) + "\n")
        os.write(int(order["ready"]), b"READY\n")
        sys.stdin.readline()
        for run in measure(engine, job, say=lambda text: print(text, flush=True)):
            append_runs(out / "runs.jsonl", [run])
    sys.stdout.flush()
    os._exit(0)  # an orderly end takes the engine several seconds; its processes are ended by who started it


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure_vllm")
    add_run_arguments(parser.add_subparsers(dest="step", required=True))
    args = parser.parse_args(argv)
    if args.step == "work":
        work(args.order)
    else:
        run_chosen(args, "benchmarks.measure_vllm", ENVIRONMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
