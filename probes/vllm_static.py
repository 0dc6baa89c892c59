"""Measure vLLM in the static regime: all requests of a batch at t=0, fixed output length, dummy weights.

    python -m probes.vllm_static PLAN.json OUT --gpus 0,1,2,3 --minutes 20

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

import argparse
import csv
import hashlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from catalog.models import find_model
from catalog.names import suggestion
from catalog.runs import append_runs, read_runs
from catalog.schema import Deployment, InputError, Measurement, Model, require_positive
from catalog.tables import construct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

GIB = 2**30
SHAPES = (
    (1, 128, 128),
    (32, 128, 128),
    (1, 1024, 128),
    (16, 1024, 128),
    (1, 8192, 32),
    (256, 128, 128),
    (64, 1024, 128),
    (8, 8192, 32),
    (4, 1024, 128),
    (256, 1024, 128),
)
"""(batch, input_len, output_len), the most telling first: a load that runs out of time leaves out the last ones."""

MOST_REPEATS = 3
REPEAT_S = 4.0
"""A shape is timed again until it has had ``MOST_REPEATS`` turns or this many seconds."""

WARM_UP_TOKENS = 8
WARM_UP_MOST_PROMPT = 65_536
"""Each shape is run once untimed, with this many output tokens; not so batches with more prompt tokens than that, whose
steps are full chunks that the engine has run before."""

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One start of the engine and what to measure on it."""

    name: str
    model: Model
    role: str
    deployment: Deployment
    shapes: tuple[tuple[int, int, int], ...]
    gpu: str
    interconnect: str
    source: str
    measure_s: float
    """No new shape is begun after this many seconds of measuring."""
    point_s: float
    """Shapes that would run longer than this, the prefill-only run included, are left out."""
    start_s: float
    """The load is given up if it takes this much longer than ``measure_s``."""

    def run_id(self, shape: tuple[int, int, int]) -> str:
        batch, input_len, output_len = shape
        return f"{self.name}-b{batch}-i{input_len}-o{output_len}"


class Engine(Protocol):
    """What ``measure`` asks of an engine."""

    version: str
    kv_capacity_tokens: int
    fingerprint: Mapping[str, Any]

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[float]:
        """Run all prompts to exactly ``output_len`` tokens; seconds to the first token of each, or nothing."""
        ...

    def used_gib(self) -> float:
        """Memory in use on the fullest GPU."""
        ...

    def energy_j(self) -> float | None:
        """A running count of the energy that all its GPUs have used."""
        ...


def read_plan(path: Path) -> tuple[Load, ...]:
    """The loads of a plan: a JSON object with ``prefix``, ``source``, ``gpu``, ``interconnect``, the limits of ``Load``,
    a ``deployment`` that all share, ``shapes``, and ``loads``, each with ``model``, ``role`` and what it has of its own
    (``deployment``, ``shapes``, ``label``).

    Raises:
        InputError: it cannot be read, or a field is missing, unknown or impossible.
    """
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    entries = _taken(plan, str(path), "loads", list)
    shared = {name: value for name, value in plan.items() if name != "loads"}
    loads = tuple(_load({**shared, **entry}, shared, f"{path} load {n}") for n, entry in enumerate(entries, 1))
    names = [load.name for load in loads]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has {twice[0]} twice; give one of them a label")
    return loads


def _load(entry: Mapping[str, Any], shared: Mapping[str, Any], where: str) -> Load:
    known = {
        *("prefix", "source", "gpu", "interconnect", "deployment", "shapes", "model", "role", "label"),
        *("measure_s", "point_s", "start_s"),
    }
    for name in entry:
        if name not in known:
            raise InputError(f"{where}: unknown field {name!r}; {suggestion(name, known, otherwise='')}")
    role = _taken(entry, where, "role", str)
    if role not in ("fit", "validate"):
        raise InputError(f"{where}: role is {role!r}; it must be 'fit' or 'validate'")
    knobs = {**shared.get("deployment", {}), **entry.get("deployment", {})}
    deployment = construct(Deployment, knobs, where)
    model = find_model(_taken(entry, where, "model", str)).value
    shapes = tuple(_shape(each, where) for each in entry.get("shapes", SHAPES))
    limits = {name: entry.get(name, default) for name, default in LIMITS.items()}
    for name, value in limits.items():
        require_positive(f"{where}: {name}", value, whole=False)
    layout = f"tp{deployment.tp}pp{deployment.pp}dp{deployment.dp}"
    short = model.name.rsplit("/", 1)[-1].casefold().removesuffix("-hf").removeprefix("meta-")
    parts = (entry.get("prefix", ""), short, layout, entry.get("label", ""))
    return Load(
        name="-".join(part for part in parts if part),
        model=model,
        role=role,
        deployment=deployment,
        shapes=shapes,
        gpu=_taken(entry, where, "gpu", str),
        interconnect=entry.get("interconnect", ""),
        source=_taken(entry, where, "source", str),
        **limits,
    )


LIMITS = {"measure_s": 45.0, "point_s": 15.0, "start_s": 240.0}


def _taken(entry: Any, where: str, name: str, kind: type) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get(name), kind):
        raise InputError(f"{where} needs {name}, a {'list' if kind is list else 'text'}")
    return entry[name]


def _shape(each: Any, where: str) -> tuple[int, int, int]:
    if not isinstance(each, (list, tuple)) or len(each) != 3:
        raise InputError(f"{where}: {each!r} is no shape; it must be [batch, input_len, output_len]")
    for name, value in zip(("batch", "input_len", "output_len"), each, strict=True):
        require_positive(f"{where}: {name}", value)
    return (each[0], each[1], each[2])


def config_json(model: Model, *, max_model_len: int | None = None) -> dict[str, Any]:
    """A Hugging Face configuration of the model's shape, enough for an engine to run it with random weights.

    The model's longest context is raised to ``max_model_len`` where it is shorter: with random weights nothing but a
    table of rotary angles depends on it.

    Raises:
        InputError: a kind of model that this does not know how to write down.
    """
    if model.model_type not in ARCHITECTURES or model.quantization:
        what = f"{model.quantization} checkpoints" if model.quantization else f"model type {model.model_type!r}"
        raise InputError(f"{model.name}: no dummy config for {what}; there is one for {', '.join(ARCHITECTURES)}")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[model.model_type]],
        "model_type": model.model_type,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.intermediate_size,
        "vocab_size": model.vocab_size,
        "max_position_embeddings": max(model.max_position_embeddings, max_model_len or 0),
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": model.tie_word_embeddings,
        "torch_dtype": model.dtype,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if model.model_type == "llama":
        config |= {"attention_bias": model.qkv_bias, "mlp_bias": model.mlp_bias}
    if model.model_type in ("mistral", "mixtral"):
        config |= {"sliding_window": model.sliding_window or None}
    if model.model_type == "mixtral":
        config |= {"num_local_experts": model.num_experts, "num_experts_per_tok": model.num_experts_per_tok}
    if model.model_type == "qwen3_moe":
        config |= {
            "num_experts": model.num_experts,
            "num_experts_per_tok": model.num_experts_per_tok,
            "moe_intermediate_size": model.moe_intermediate_size,
            "decoder_sparse_step": model.moe_layer_step,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
        }
    return config


def engine_args(load: Load, folder: str) -> dict[str, Any]:
    """Keyword arguments of ``vllm.LLM``; a knob left ``None`` is left to the engine."""
    wanted = load.deployment
    quantised = wanted.dtype not in ("auto", "bfloat16", "float16", "float32")
    args: dict[str, Any] = {
        "model": folder,
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "worker_extension_cls": "probes.vllm_static.MemoryReport",
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


def measure(
    engine: Engine,
    load: Load,
    *,
    done: frozenset[str] = frozenset(),
    clock: Callable[[], float] = time.perf_counter,
    say: Callable[[str], None] = print,
) -> Iterator[Measurement]:
    """One measurement a shape of the load, as soon as it is taken. Medians over the repeats.

    ``done`` holds run_ids to pass over. What is left out, and why, is told to ``say``.
    """
    began = clock()
    prefill_s_per_token = decode_s = 0.0
    for shape in load.shapes:
        batch, input_len, output_len = shape
        run_id = load.run_id(shape)
        expected = 2 * prefill_s_per_token * batch * input_len + decode_s * (output_len - 1)
        if run_id in done:
            continue
        if why := _left_out(load, engine, shape, expected=expected, elapsed=clock() - began):
            say(f"{run_id} left out: {why}")
            continue
        prompts = _prompts(load.model.vocab_size, batch, input_len)
        if batch * input_len <= WARM_UP_MOST_PROMPT:
            engine.generate(prompts, min(WARM_UP_TOKENS, output_len))
        prefills: list[float] = []
        wholes: list[float] = []
        firsts: list[float] = []
        joules: list[float] = []
        start = clock()
        while len(wholes) < MOST_REPEATS and (not wholes or clock() - start < REPEAT_S):
            before = clock()
            engine.generate(prompts, 1)
            prefills.append(clock() - before)
            energy = engine.energy_j()
            before = clock()
            ttfts = engine.generate(prompts, output_len)
            wholes.append(clock() - before)
            after = engine.energy_j()
            if energy is not None and after is not None:
                joules.append(after - energy)
            if ttfts:
                firsts.append(statistics.fmean(ttfts))
        prefill, whole = statistics.median(prefills), statistics.median(wholes)
        tpot = (whole - prefill) / (output_len - 1) if output_len > 1 else None
        prefill_s_per_token = prefill / (batch * input_len)
        decode_s = max(decode_s, tpot or 0.0)
        say(f"{run_id}: prefill {1e3 * prefill:.1f} ms, e2e {1e3 * whole:.1f} ms, {len(wholes)} times")
        yield _measurement(
            load,
            engine,
            shape,
            prefill_ms=round(1e3 * prefill, 3),
            ttft_ms=round(1e3 * statistics.median(firsts), 3) if firsts else None,
            tpot_ms=None if tpot is None else round(1e3 * tpot, 4),
            e2e_ms=round(1e3 * whole, 3),
            output_tok_s=round(batch * output_len / whole, 2),
            repeats=len(wholes),
            spread=round(statistics.stdev(wholes) / statistics.fmean(wholes), 5) if len(wholes) > 1 else None,
            energy_j=round(statistics.median(joules), 1) if joules else None,
        )


def _left_out(load: Load, engine: Engine, shape: tuple[int, int, int], *, expected: float, elapsed: float) -> str:
    batch, input_len, output_len = shape
    longest = load.deployment.max_model_len
    if longest is not None and input_len + output_len > longest:
        return f"{input_len + output_len} tokens exceed max_model_len {longest}"
    if batch * (input_len + output_len) > engine.kv_capacity_tokens:
        return f"{batch * (input_len + output_len)} tokens exceed the KV capacity {engine.kv_capacity_tokens}"
    if expected > load.point_s:
        return f"it would take {expected:.0f} s"
    if elapsed > load.measure_s:
        return f"{elapsed:.0f} s were spent on this load"
    return ""


def _prompts(vocab_size: int, batch: int, input_len: int) -> list[list[int]]:
    import numpy as np  # noqa: PLC0415  the program is also imported to read plans

    # low ids are special tokens; a model may treat them in its own way
    ids = np.random.default_rng(0).integers(min(1000, vocab_size - 1), vocab_size, (batch, input_len))
    return [[int(each) for each in row] for row in ids]


def _measurement(load: Load, engine: Engine, shape: tuple[int, int, int], **measured: Any) -> Measurement:
    knobs = load.deployment
    batch, input_len, output_len = shape
    role: Any = load.role
    return Measurement(
        run_id=load.run_id(shape),
        role=role,
        source=load.source,
        gpu=load.gpu,
        gpus=knobs.num_gpus,
        interconnect=load.interconnect,
        engine="vllm",
        engine_version=engine.version,
        model=load.model.name,
        dtype=load.model.dtype if knobs.dtype == "auto" else knobs.dtype,
        kv_dtype=knobs.kv_dtype,
        tp=knobs.tp,
        pp=knobs.pp,
        dp=knobs.dp,
        ep=knobs.ep,
        max_num_batched_tokens=knobs.max_num_batched_tokens,
        max_num_seqs=knobs.max_num_seqs,
        max_model_len=knobs.max_model_len,
        gpu_memory_utilization=knobs.gpu_memory_utilization,
        compiled=knobs.compiled,
        batch=batch,
        input_len=input_len,
        output_len=output_len,
        peak_memory_gib=round(engine.used_gib(), 3),
        kv_capacity_tokens=engine.kv_capacity_tokens,
        fingerprint=json.dumps(dict(engine.fingerprint), separators=(",", ":")),
        **measured,
    )


class MemoryReport:
    """Mixed into vLLM's workers (``worker_extension_cls``), each of which then tells how its GPU's memory is used."""

    def memory_report(self) -> dict[str, float]:
        """GiB by part, as the worker found them while it profiled itself (``vllm/v1/worker/gpu_worker.py``)."""
        worker: Any = self
        free, total = import_module("torch").cuda.mem_get_info(worker.device)
        first = worker.init_snapshot
        sizes = {
            "total_gib": total,
            "context_gib": first.total_memory - first.free_memory,
            "requested_gib": worker.requested_memory,
            "weights_gib": worker.model_runner.model_memory_usage,
            "peak_activation_gib": worker.peak_activation_memory,
            "non_torch_gib": worker.non_torch_memory,
            "graph_estimate_gib": worker.cudagraph_memory_estimate,
            "kv_gib": worker.available_kv_cache_memory_bytes,
            "used_gib": total - free,
        }
        report = {name: round(float(size) / GIB, 4) for name, size in sizes.items()}
        cache = worker.cache_config
        return {**report, "num_blocks": cache.num_gpu_blocks, "block_size": cache.block_size, "rank": worker.rank}


class Meter:
    """Energy counters and identity of some GPUs, by NVML; without NVML it knows nothing."""

    def __init__(self, gpus: Sequence[int]) -> None:
        self._handles: list[Any] = []
        try:
            self._nvml = import_module("pynvml")
            self._nvml.nvmlInit()
            self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(gpu) for gpu in gpus]
        except Exception as error:  # noqa: BLE001  pynvml's errors derive from Exception alone; it may be missing too
            print(f"no NVML: {error}")

    def energy_j(self) -> float | None:
        """Joules all the GPUs have used since their driver was loaded."""
        if not self._handles:
            return None
        with suppress(self._nvml.NVMLError):
            return math.fsum(self._nvml.nvmlDeviceGetTotalEnergyConsumption(each) for each in self._handles) / 1e3
        return None

    def used_gib(self) -> float:
        """Memory in use on the fullest GPU."""
        return max((self._nvml.nvmlDeviceGetMemoryInfo(each).used / GIB for each in self._handles), default=0.0)

    def identity(self) -> dict[str, Any]:
        """Driver, GPU name and a hash that tells one GPU from another without giving its serial number away."""
        if not self._handles:
            return {}
        nvml, handle = self._nvml, self._handles[0]
        return {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "gpu": nvml.nvmlDeviceGetName(handle),
            "uuid": hashlib.sha256(str(nvml.nvmlDeviceGetUUID(handle)).encode()).hexdigest()[:12],
            "sm_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
        }


class VllmEngine:
    """``vllm.LLM`` with random weights, as an ``Engine``."""

    def __init__(self, load: Load, folder: str, gpus: Sequence[int]) -> None:
        vllm = import_module("vllm")
        began = time.perf_counter()
        self._meter = Meter(gpus)
        self._sampling = vllm.SamplingParams
        self._llm = vllm.LLM(**engine_args(load, folder))
        self.startup_s = time.perf_counter() - began
        self.version: str = vllm.__version__
        config = self._llm.llm_engine.vllm_config
        self.fingerprint: Mapping[str, Any] = {
            **self._meter.identity(),
            "cuda": import_module("torch").version.cuda,
            "torch": metadata.version("torch"),
            "vllm": vllm.__version__,
            "model_runner": 2 if config.use_v2_model_runner else 1,
            "async_scheduling": bool(config.scheduler_config.async_scheduling),
            "weights": "dummy",
            "temperature": 1.0,
            "started": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
        }
        first = self.memory()[0]
        self.kv_capacity_tokens = int(first["num_blocks"] * first["block_size"])

    def generate(self, prompts: Sequence[Sequence[int]], output_len: int) -> list[float]:
        sampling = self._sampling(temperature=1.0, max_tokens=output_len, ignore_eos=True, detokenize=False)
        results = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        for each in results:
            if len(each.outputs[0].token_ids) != output_len:
                raise RuntimeError(f"asked for {output_len} tokens, got {len(each.outputs[0].token_ids)}")
        return [each.metrics.first_token_latency for each in results if each.metrics]

    def memory(self) -> list[dict[str, float]]:
        reports: list[dict[str, float]] = self._llm.collective_rpc("memory_report")
        return reports

    def used_gib(self) -> float:
        return max(report["used_gib"] for report in self.memory())

    def energy_j(self) -> float | None:
        return self._meter.energy_j()


def graph_gib(log: str) -> float | None:
    """What CUDA graphs took on the GPU where they took most, from vLLM's log; None where it captured none."""
    found = re.findall(r"Graph capturing finished in \d+ secs, took (-?[\d.]+) GiB", log)
    return max(map(float, found), default=None)


def add_memory(path: Path, load: Load, engine: VllmEngine, log: str) -> None:
    """Add a row for each GPU of the load to a CSV file."""
    knobs = load.deployment
    shared: dict[str, Any] = {
        **{name: getattr(knobs, name) for name in MEMORY_COLUMNS if hasattr(knobs, name)},
        "load": load.name,
        "model": load.model.name,
        "graph_gib": graph_gib(log),
        "startup_s": round(engine.startup_s, 1),
    }
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, MEMORY_COLUMNS)
        if not file.tell():
            writer.writeheader()
        writer.writerows({**shared, **report} for report in engine.memory())


def work() -> None:
    """A worker: import the engine, wait on standard input for the order of one load, run it, end.

    It is started before its GPUs are free, because importing vLLM takes as long as a few measurements.
    """
    with suppress(ImportError):  # then the load fails, with a traceback in its log
        vllm = import_module("vllm")
        _ = (vllm.LLM, vllm.SamplingParams)
    line = sys.stdin.readline()
    if not line:
        return
    order = json.loads(line)
    log = Path(order["log"])
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(order["environment"])
    out = Path(order["out"])
    load = read_plan(Path(order["plan"]))[order["load"]]
    gpus = order["gpus"]
    _wait_until_free(Meter(gpus))
    with tempfile.TemporaryDirectory() as folder:
        config = config_json(load.model, max_model_len=load.deployment.max_model_len)
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        engine = VllmEngine(load, folder, gpus)
        add_memory(out / "memory.csv", load, engine, log.read_text(encoding="utf-8", errors="replace"))
        store = out / "runs.jsonl"
        done = frozenset(run.run_id for run in read_runs(store)) if store.exists() else frozenset()
        for run in measure(engine, load, done=done, say=lambda text: print(text, flush=True)):
            append_runs(store, [run])
    sys.stdout.flush()
    os._exit(0)  # an orderly end takes the engine several seconds; the sweep clears up what is left


def _wait_until_free(meter: Meter, *, seconds: float = 60.0) -> None:
    """Wait for the memory of the load before to come back; the engine's own profiling fails if it grows meanwhile."""
    last = time.monotonic() + seconds
    while meter.used_gib() > 2.0:
        if time.monotonic() > last:
            raise RuntimeError(f"{meter.used_gib():.1f} GiB are still in use on a GPU of this load")
        time.sleep(0.25)


@dataclass(slots=True, kw_only=True)
class Running:
    """A load under way."""

    load: Load
    gpus: tuple[int, ...]
    process: subprocess.Popen[str]
    began: float


class Sweep:
    """Runs the loads of a plan, in order, side by side on the GPUs it may use."""

    def __init__(
        self, plan: Path, out: Path, gpus: Sequence[int], *, seconds: float = math.inf, spare: int = 2
    ) -> None:
        self.plan, self.out = plan.resolve(), out.resolve()
        self.loads = read_plan(plan)
        widest = max((load.deployment.num_gpus for load in self.loads), default=0)
        if widest > len(gpus):
            raise InputError(f"a load of {plan} needs {widest} GPUs; --gpus names {len(gpus)}")
        self.free = sorted(gpus)
        self.ends = time.monotonic() + seconds
        self.running: list[Running] = []
        self.workers: list[subprocess.Popen[str]] = []
        self.spare = spare
        (self.out / "logs").mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Run every load that is not done; rows and outcomes are on disk as soon as they are known."""
        over = outcomes(self.out)
        waiting = [load for load in self.loads if over.get(load.name) != "done"]
        try:
            while waiting or self.running:
                self._reap()
                left = self.ends - time.monotonic()
                while waiting and left > 0 and len(self.free) >= waiting[0].deployment.num_gpus:
                    self._start(waiting.pop(0))
                if left <= 0:
                    break
                self._keep_spares(min(self.spare, len(waiting)))
                time.sleep(0.25)
        finally:
            for each in self.running:
                _end(each.process)
            for worker in self.workers:
                _end(worker)

    def _worker(self) -> subprocess.Popen[str]:
        with (self.out / "logs" / "workers.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "probes.vllm_static", "--worker"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
                env={**os.environ, **ENVIRONMENT},
            )

    def _keep_spares(self, count: int) -> None:
        while len(self.workers) < count:
            self.workers.append(self._worker())

    def _start(self, load: Load) -> None:
        number = self.loads.index(load)
        gpus = tuple(self.free[: load.deployment.num_gpus])
        self.free = self.free[len(gpus) :]
        port = 20_000 + 200 * number
        order = {
            "plan": str(self.plan),
            "load": number,
            "out": str(self.out),
            "log": str(self.out / "logs" / f"{load.name}.log"),
            "gpus": gpus,
            "environment": {
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
                "MASTER_PORT": str(port),
                "VLLM_PORT": str(port + 20),
            },
        }
        process = self.workers.pop(0) if self.workers else self._worker()
        with suppress(BrokenPipeError):  # a worker that died is reaped as a failed load
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        self.running.append(Running(load=load, gpus=gpus, process=process, began=time.monotonic()))
        print(f"{load.name} on {gpus}", flush=True)

    def _reap(self) -> None:
        for each in tuple(self.running):
            code = each.process.poll()
            seconds = time.monotonic() - each.began
            late = seconds > each.load.start_s + each.load.measure_s
            if code is None and not late:
                continue
            _end(each.process)
            self.running.remove(each)
            self.free = sorted((*self.free, *each.gpus))
            outcome = "done" if code == 0 else "failed"
            log = self.out / "logs" / f"{each.load.name}.log"
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:] if log.exists() else []
            record = {"load": each.load.name, "outcome": outcome, "seconds": round(seconds, 1), "late": late}
            with (self.out / "loads.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record if outcome == "done" else {**record, "log": tail}) + "\n")
            print(f"{each.load.name} {outcome} after {seconds:.0f} s", flush=True)


ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # so that NVML and CUDA count the GPUs alike
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def outcomes(out: Path) -> dict[str, str]:
    """What became of each load that a sweep into this folder has begun: "done" or "failed"."""
    path = out / "loads.jsonl"
    if not path.exists():
        return {}
    records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {record["load"]: record["outcome"] for record in records}


def _end(process: subprocess.Popen[str]) -> None:
    """Kill a worker and the engine processes it started, which share its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(BrokenPipeError), process:  # closes its pipe and waits for it
        pass


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m probes.vllm_static", description="Measure vLLM, static batches.")
    parser.add_argument("plan", type=Path, nargs="?", help="JSON file, see read_plan")
    parser.add_argument("out", type=Path, nargs="?", help="folder for what is measured")
    parser.add_argument("--gpus", default="0", help="indices of the GPUs to use, as nvidia-smi counts them: 0,1")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work()
        return 0
    if args.plan is None or args.out is None:
        parser.error("a plan and a folder are needed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        gpus = [int(each) for each in args.gpus.split(",")]
        Sweep(args.plan, args.out, gpus, seconds=60 * args.minutes).run()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except ValueError:
        print(f"--gpus is {args.gpus!r}; it must be indices such as 0,1", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
