"""Measure vLLM in the static regime: all requests of a batch at t=0, fixed output length, dummy weights.

    python -m probes.vllm_engine.static PLAN.json OUT --gpus 0,1,2,3 --minutes 20

A *load* is one start of the engine: a model in one deployment, on which many batch shapes are measured. Each load runs
in a process session of its own, with its own GPUs and ports, so a crash or a hang ends that load and no other. Loads
run side by side while GPUs are free. A sweep that was stopped goes on where it stood: shapes already in OUT/runs.jsonl
and loads that are done are passed over.

OUT then holds ``runs.jsonl`` (a store of ``Measurement``, see ``catalog.runs``), ``memory.csv`` (GPU memory by part, one
row a GPU), ``loads.jsonl`` (what became of each load) and ``logs/``. No weights or tokenizer are needed: the model's
``config.json`` is written from the catalog, weights are random, prompts are random token ids.

What is timed is ``LLM.generate`` from its call to its return, engine front end included. Batches above the KV capacity
are left out: the engine would queue.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from catalog.units import GIB
from probes.benchmark_plan import config_json
from probes.gpu_telemetry import Meter, wait_until_free
from probes.static_benchmark import OutOfMemory
from probes.sweep_command import record, record_failure, run_sweep, sweep_parser, take_order, tell
from probes.vllm_engine.memory_shortages import shortage
from probes.vllm_engine.versions import check_version, installed_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from probes.benchmark_plan import BenchmarkJob
    from probes.sweep_command import Order

ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that NVML and CUDA count the GPUs alike
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
MEMORY_COLUMNS = (
    *("load", "model", "dtype", "kv_dtype", "tp", "pp", "ep", "rank", "max_num_batched_tokens", "max_num_seqs"),
    *("max_model_len", "gpu_memory_utilization", "compiled", "total_gib", "context_gib", "requested_gib"),
    *("weights_gib", "peak_activation_gib", "non_torch_gib", "graph_estimate_gib", "graph_gib", "kv_gib"),
    *("used_gib", "num_blocks", "block_size", "startup_s"),
)
"""``context_gib`` is what was in use when the engine first looked (CUDA context, NCCL), ``kv_gib`` what the engine found
left for KV, ``graph_estimate_gib`` what it set aside for CUDA graphs and ``graph_gib`` what they took, ``used_gib`` what
was in use on the whole GPU at the end."""

MEASURED_SIZES = {
    "requested_gib": "requested_memory",
    "peak_activation_gib": "peak_activation_memory",
    "non_torch_gib": "non_torch_memory",
    "graph_estimate_gib": "cudagraph_memory_estimate",
    "kv_gib": "available_kv_cache_memory_bytes",
}
"""What a worker of vLLM calls them (``v1/worker/gpu_worker.py``), in bytes."""


def check_load(load: BenchmarkJob) -> None:
    """Raise ``InputError``, one line, for what ``engine_args`` does not hand on."""
    wanted = load.deployment
    for name, value, only in (
        ("dp", wanted.dp, 1),
        ("offload", wanted.offload, 0.0),
        ("sequence_parallel", wanted.sequence_parallel, False),
        ("graphs", wanted.has_graphs, wanted.compiled),
    ):
        if value != only:
            raise InputError(f"{load.name}: {name} is {value}; vLLM is measured here with {name} {only} only")


def engine_args(load: BenchmarkJob, folder: str) -> dict[str, Any]:
    """Return keyword arguments of ``vllm.LLM``; a knob left ``None`` is left to the engine."""
    wanted = load.deployment
    quantised = wanted.dtype not in ("auto", "bfloat16", "float16", "float32")
    args: dict[str, Any] = {
        "model": folder,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "worker_extension_cls": "probes.vllm_engine.static.MemoryReport",
        "dtype": load.model.dtype if quantised else wanted.dtype,
        "quantization": wanted.dtype if quantised else None,
        "kv_cache_dtype": "auto" if wanted.kv_dtype in ("auto", "bfloat16", "float16") else wanted.kv_dtype,
        "tensor_parallel_size": wanted.tp,
        "pipeline_parallel_size": wanted.pp,
        "enable_expert_parallel": wanted.ep > 1,
        "gpu_memory_utilization": wanted.gpu_memory_utilization,
        "enforce_eager": not wanted.compiled,
        "max_num_seqs": wanted.max_num_seqs,
        "max_num_batched_tokens": wanted.max_num_batched_tokens,
        "max_model_len": wanted.max_model_len,
    }
    if wanted.num_gpus > 1:
        args["distributed_executor_backend"] = "mp"
    return {name: value for name, value in args.items() if value is not None}


class MemoryReport:
    """Mixed into vLLM's workers (``worker_extension_cls``), each of which then tells how its GPU's memory is used."""

    def memory_report(self) -> dict[str, float]:
        """Return GiB by part, as the worker found them while it profiled itself (``vllm/v1/worker/gpu_worker.py``)."""
        return gib_by_part(self, import_module("torch").cuda.mem_get_info, MEASURED_SIZES)


def gib_by_part(
    worker: Any, free_and_total: Callable[[Any], tuple[int, int]], measured: Mapping[str, str]
) -> dict[str, float]:
    """Return GiB by part of a worker of vLLM, and its KV blocks.

    ``free_and_total`` gives the bytes of a device, ``measured`` the worker's names of further sizes, of which other
    versions may lack some.
    """
    free, total = free_and_total(worker.device)
    first = worker.init_snapshot
    sizes = {
        "total_gib": total,
        "context_gib": first.total_memory - first.free_memory,
        "used_gib": total - free,
        "weights_gib": worker.model_runner.model_memory_usage,
    }
    sizes |= {name: getattr(worker, source) for name, source in measured.items() if hasattr(worker, source)}
    report = {name: round(float(size) / GIB, 4) for name, size in sizes.items()}
    cache = worker.cache_config
    return {**report, "num_blocks": cache.num_gpu_blocks, "block_size": cache.block_size, "rank": worker.rank}


def engine_fingerprint(meter: Meter, config: Any, startup_s: float) -> dict[str, Any]:
    """Return what the times of an engine with this ``VllmConfig`` depend on beside the load."""
    return {
        **meter.identity(),
        "cuda": import_module("torch").version.cuda,
        "torch": metadata.version("torch"),
        "vllm": import_module("vllm").__version__,
        **runner(config),
        "weights": "dummy",
        "temperature": 1.0,
        "startup_s": round(startup_s, 1),
        "started": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


def runner(config: Any) -> dict[str, Any]:
    """Say how a ``VllmConfig`` runs steps; what it does not tell in its version is left out."""
    second = getattr(config, "use_v2_model_runner", None)
    asynchronous = getattr(config.scheduler_config, "async_scheduling", None)
    traits = {"model_runner": None if second is None else 1 + bool(second), "async_scheduling": asynchronous}
    return {name: value for name, value in traits.items() if value is not None}


class VllmEngine:
    """``vllm.LLM`` with random weights, as an ``Engine``."""

    name = "vllm"

    def __init__(self, load: BenchmarkJob, folder: str, gpus: Sequence[int]) -> None:
        vllm = import_module("vllm")
        began = time.perf_counter()
        self.meter = Meter(gpus)
        self._sampling = vllm.SamplingParams
        self.running: tuple[int, int, int] | None = None
        """The batch that was last begun."""
        self._llm = vllm.LLM(**engine_args(load, folder))
        self.startup_s = time.perf_counter() - began
        self.version: str = vllm.__version__
        self.fingerprint: Mapping[str, Any] = engine_fingerprint(
            self.meter, self._llm.llm_engine.vllm_config, self.startup_s
        )
        first = self.memory()[0]
        self.kv_capacity_tokens = int(first["num_blocks"] * first["block_size"])

    def prepare(self, batch: int, input_len: int) -> None:
        """Do nothing: vLLM tries its memory and records its graphs when it starts."""

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[float]:
        self.running = (len(prompts), len(prompts[0]), output_len)
        sampling = self._sampling(temperature=1.0, max_tokens=output_len, ignore_eos=True, detokenize=False)
        results = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        for result in results:
            if len(result.outputs[0].token_ids) != output_len:
                raise RuntimeError(f"asked for {output_len} tokens, got {len(result.outputs[0].token_ids)}")
        return [result.metrics.first_token_latency for result in results if result.metrics]

    def memory(self) -> list[dict[str, float]]:
        reports: list[dict[str, float]] = self._llm.collective_rpc("memory_report")
        return reports

    def used_gib(self) -> float:
        return max(report["used_gib"] for report in self.memory())

    def comm_bytes(self) -> None:
        """Return None: vLLM does not count what it sends."""


def graph_gib(log: str) -> float | None:
    """Read the GiB that CUDA graphs took on the GPU where they took most, from vLLM's log; None where it captured none."""
    sizes = re.findall(r"Graph capturing finished in \d+ secs, took (-?[\d.]+) GiB", log)
    return max(map(float, sizes), default=None)


def add_memory(
    path: Path, load: BenchmarkJob, reports: Iterable[Mapping[str, float]], *, startup_s: float, log: str
) -> None:
    """Add the ``MemoryReport`` of each GPU of the load as a row to a CSV file."""
    knobs = load.deployment
    shared: dict[str, Any] = {
        **{name: getattr(knobs, name) for name in MEMORY_COLUMNS if hasattr(knobs, name)},
        "load": load.name,
        "model": load.model.name,
        "graph_gib": graph_gib(log),
        "startup_s": round(startup_s, 1),
    }
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, MEMORY_COLUMNS)
        if not file.tell():
            writer.writeheader()
        writer.writerows({**shared, **report} for report in reports)


def check_installed() -> str:
    """See ``versions.check_version``, of the version that is installed."""
    return check_version(installed_version())


def worker_command() -> list[str]:
    return [sys.executable, "-m", "probes.vllm_engine.static", "--worker"]


def work(engine: str, run: Callable[[Order, str], None]) -> None:
    """Be a worker: import the module ``engine``, wait on standard input for the order of one load, run it, end.

    It is started before its GPUs are free, because importing vLLM takes as long as a few measurements. ``run`` is handed
    the order and a folder that holds the model's configuration.
    """
    with suppress(ImportError):  # then the load fails, with a traceback in its log
        vllm = import_module(engine)
        _ = getattr(vllm, "LLM", None)  # vllm itself imports its parts when they are asked for
    order = take_order()
    if order is None:
        return
    os.environ |= {"MASTER_PORT": str(order.port), "VLLM_PORT": str(order.port + 20)}
    wait_until_free(Meter(order.gpus))
    with tempfile.TemporaryDirectory() as folder:
        config = config_json(order.load.model, max_model_len=order.load.deployment.max_model_len)
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        run(order, folder)
    sys.stdout.flush()
    os._exit(0)  # an orderly end takes the engine several seconds; the sweep clears up what is left


def record_shortage(order: Order, error: Exception, begin: int, running: tuple[int, int, int] | None = None) -> bool:
    """Store that an engine failed because a GPU's memory did not suffice, if that is why; whether it is.

    The reason stands in the log, from the place ``begin`` on, or in the error; ``running`` is the batch that was under way.
    """
    why = shortage(log_of(order, begin)) or shortage(str(error))
    if why is None:
        return False
    fingerprint = {"vllm": installed_version(), **Meter(order.gpus).identity()}
    record_failure(
        order,
        OutOfMemory(why),
        engine=VllmEngine.name,
        version=installed_version() or "",
        fingerprint=fingerprint,
        running=running,
    )
    tell(f"out of memory: {why}")
    return True


def log_of(order: Order, begin: int) -> str:
    """Read what the load's log says from a place on, in bytes: an earlier worker may have begun it."""
    with order.log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")


def _measure(order: Order, folder: str) -> None:
    begin = order.log.stat().st_size
    try:
        engine = VllmEngine(order.load, folder, order.gpus)
    except Exception as error:
        if record_shortage(order, error, begin):
            return  # that it does not start is what there is to know of this load
        raise
    log = log_of(order, begin)
    add_memory(order.out / "memory.csv", order.load, engine.memory(), startup_s=engine.startup_s, log=log)
    tell(f"started in {engine.startup_s:.1f} s, KV for {engine.kv_capacity_tokens} tokens")
    try:
        record(engine, order)
    except Exception as error:
        record_shortage(order, error, begin, engine.running)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    parser = sweep_parser("probes.vllm_engine.static", "Measure vLLM, static batches.")
    args = parser.parse_args(argv)
    if args.worker:
        work("vllm", _measure)
        return 0
    return run_sweep(
        parser, args, worker=worker_command(), environment=ENVIRONMENT, check=check_load, ready=check_installed
    )


if __name__ == "__main__":
    sys.exit(main())
