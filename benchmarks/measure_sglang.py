"""Measure SGLang engines that share a GPU: static batches, and closed loops and Poisson arrivals, every request timed.

    python -m benchmarks.measure_sglang run LOADS.json OUT --seconds 590

LOADS.json and the order of things are those of ``benchmarks.shared_gpu_loads``. ``share`` is ``mem_fraction_static``,
which SGLang takes of the memory that is free when it starts: loads must start one after another (``after``). The protocol of
a shape is that of ``probes.static_benchmark``, that of an offer that of ``probes.vllm_engine.serving``. What is timed is
``sglang.Engine``, the engine behind SGLang's HTTP server. Tokens are the likeliest ones, as with SGLang's own benchmark
client. OUT then holds ``runs.jsonl``, ``requests.jsonl``, ``memory.jsonl`` (as SGLang's log states it), ``loads.jsonl`` and
``logs/``. Weights and prompts are random, no tokenizer is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.shared_gpu_loads import add_run_arguments, job_of, run_chosen
from catalog.jsonl_store import append_lines
from catalog.runs import append_runs
from probes.gpu_telemetry import Meter
from probes.static_benchmark import measure
from probes.sweep_command import Order
from probes.vllm_engine.serving import record_offers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from probes.benchmark_plan import BenchmarkJob

ENVIRONMENT = {"SGLANG_USE_SGL_FA3_KERNEL": "1"}
SERVER_ARGS = (
    *("mem_fraction_static", "chunked_prefill_size", "max_prefill_tokens", "attention_backend", "sampling_backend"),
    *("schedule_policy", "schedule_conservativeness", "page_size", "disable_overlap_schedule", "enable_mixed_chunk"),
    *("stream_interval", "num_continuous_decode_steps", "max_running_requests", "cuda_graph_max_bs"),
)
"""Of SGLang's arguments as it resolved them, those that go into the fingerprint."""

MEMORY_LINES = {
    "free_before_gb": r"Load weight begin\. avail mem=([\d.]+) GB",
    "free_after_weights_gb": r"Load weight end\..*?avail mem=([\d.]+) GB",
    "weights_gb": r"Load weight end\..*?mem usage=([\d.]+) GB",
    "k_gb": r"K size: ([\d.]+) GB",
    "v_gb": r"V size: ([\d.]+) GB",
    "kv_tokens": r"max_total_num_tokens=(\d+)",
    "max_running_requests": r"max_running_requests=(\d+)",
    "free_at_end_gb": r"available_gpu_mem=([\d.]+) GB",
    "graph_gb": r"Capture .*? end\..*?mem usage=([\d.]+) GB",
}


def stated(log: str) -> dict[str, float]:
    """Read memory and tokens as SGLang's log states them; what it does not state is left out."""
    found = {name: re.findall(pattern, log) for name, pattern in MEMORY_LINES.items()}
    return {name: float(values[-1]) for name, values in found.items() if values}


class SglangEngine:
    """``sglang.Engine`` with random weights: an engine of static batches, and a server of traffic."""

    name = "sglang"

    def __init__(self, load: Mapping[str, Any], job: BenchmarkJob, folder: str, log: Path) -> None:
        knobs = job.deployment
        self.meter = Meter(load["gpus"])
        began = time.perf_counter()
        self.engine: Any = import_module("sglang").Engine(
            model_path=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            disable_radix_cache=True,
            tp_size=knobs.tp,
            mem_fraction_static=knobs.gpu_memory_utilization,
            max_running_requests=knobs.max_num_seqs,
            chunked_prefill_size=knobs.max_num_batched_tokens,
            context_length=knobs.max_model_len,
            log_level="info",
            **load.get("args", {}),
        )
        self.startup_s = time.perf_counter() - began
        self.version: str = metadata.version("sglang")
        assert knobs.max_model_len is not None
        self.max_len: int = knobs.max_model_len - 1
        self.memory = stated(log.read_text(encoding="utf-8", errors="replace"))
        self.kv_capacity_tokens = int(self.memory["kv_tokens"])
        self.reports: list[dict[str, float]] = []
        arguments = self.engine.server_args
        self.fingerprint = {
            **self.meter.identity(),
            "cuda": import_module("torch").version.cuda,
            "torch": metadata.version("torch"),
            "sglang": self.version,
            "sglang_kernel": metadata.version("sglang-kernel"),
            **{
                name: value
                for name in SERVER_ARGS
                if isinstance(value := getattr(arguments, name, None), (str, int, float))
            },
            "cuda_graphs": str(getattr(arguments, "cuda_graph_config", ""))[:400],
            "weights": "dummy",
            "temperature": 0.0,
            "startup_s": round(self.startup_s, 1),
            "started": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        }

    def prepare(self, batch: int, input_len: int) -> None:
        """Do nothing: SGLang records its graphs when it starts."""

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[float]:
        """See ``probes.static_benchmark.BenchmarkEngine``; the times of first tokens are not measured."""
        answers = self.engine.generate(input_ids=[list(ids) for ids in prompts], sampling_params=sampling(output_len))
        for answer in answers:
            if answer["meta_info"]["completion_tokens"] != output_len:
                raise RuntimeError(f"asked for {output_len} tokens, got {answer['meta_info']['completion_tokens']}")
        return []

    async def stream(self, prompt: Sequence[int], output_len: int) -> AsyncIterator[int]:
        """See ``probes.serving_benchmark.Stream``."""
        known = 0
        answer = await self.engine.async_generate(
            input_ids=list(prompt), sampling_params=sampling(output_len), stream=True
        )
        async for chunk in answer:
            total = chunk["meta_info"]["completion_tokens"]
            if total > known:
                yield total - known
                known = total

    async def look(self) -> None:
        """Ask NVML how much memory is in use, that of other engines on the GPU included."""
        self.reports = [{"used_gib": self.used_gib()}]

    def used_gib(self) -> float:
        free, total = import_module("torch").cuda.mem_get_info(0)
        return float(total - free) / 2**30

    def comm_bytes(self) -> None:
        """Return None: SGLang does not count what it sends."""


def sampling(output_len: int) -> dict[str, Any]:
    """Ask for exactly so many tokens, the likeliest ones."""
    return {"temperature": 0.0, "max_new_tokens": output_len, "ignore_eos": True}


def work(order: Mapping[str, Any]) -> None:
    """Be a worker: start the engine of one load, say ``READY`` on its descriptor, wait for a line, measure, end."""
    load, out, log = order["load"], Path(order["out"]), Path(order["log"])
    job = job_of(load, measure_s=order["measure_s"])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(load["config"]), encoding="utf-8")
        engine = SglangEngine(load, job, folder, log)
        known = {"load": job.name, "model": job.model.name, **asdict(job.deployment)}
        known |= {"startup_s": round(engine.startup_s, 1), **engine.memory}
        append_lines(out / "memory.jsonl", json.dumps(known) + "\n")
        os.write(int(order["ready"]), b"READY\n")
        sys.stdin.readline()
        for run in measure(engine, job, say=lambda text: print(text, flush=True)):
            append_runs(out / "runs.jsonl", [run])
        if job.offers:
            place = Order(
                text="", load=job, out=out, store=out / "runs.jsonl", log=log, gpus=tuple(load["gpus"]), port=0
            )
            engine.engine.loop.run_until_complete(record_offers(engine, place))
    sys.stdout.flush()
    os._exit(0)  # its processes are ended by who started it


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measure_sglang")
    add_run_arguments(parser.add_subparsers(dest="step", required=True))
    args = parser.parse_args(argv)
    if args.step == "work":
        work(args.order)
    else:
        run_chosen(args, "benchmarks.measure_sglang", ENVIRONMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
