"""What inference engines can do, as read from ``data/engines.toml``."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from catalog.engines.traits import EngineGeneration, EngineMemory, EngineMetrics, EngineTiming
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.schema import Deployment, Gpu, Model

FLASHINFER_HEAD_DIMS = (64, 128, 256, 512)


RELEASE = re.compile(r"\D{0,9}(\d{1,3})\.(\d{1,4})")
REFERENCE = "vllm"
"""The engine whose layouts, KV blocks and accounting of memory stand for those of engines that state none of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchDefaults:
    """Scheduler limits that an engine starts with on some GPUs."""

    min_memory_gib: float = 0.0
    """The row holds for GPUs with at least this much memory..."""
    named: str = ""
    """...whose name, in lower case, contains this..."""
    not_named: str = ""
    """...and does not contain this..."""
    capability: str = ""
    """...whose compute capability has this major number..."""
    from_minor: int = 0
    """...from release 0.x on with x of this."""
    max_num_batched_tokens: int
    max_num_seqs: int
    max_graph_size: int = 0
    """Largest batch that decode is captured as a CUDA graph for, below tp=4; 0: none."""
    max_graph_size_tp4: int = 0
    """The same from tp=4 on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One inference engine at one version."""

    name: str
    version: str
    fitted_release: str = ""
    """Release that the parameters of the fit are of, others being steps away from it; empty: ``version``."""
    aliases: tuple[str, ...] = ()
    images: Mapping[str, str] = field(default_factory=dict)
    """Container image by GPU vendor."""
    port: int = 8000
    health: str = "/health"
    """Path that answers 200 once the engine serves."""
    min_capability: str = "0"
    """Lowest NVIDIA compute capability that its kernels are built for; empty: it is described for other hardware alone."""
    gfx: tuple[str, ...] = ()
    """Architectures of AMD (gfx942), and instruction sets of CPUs (amx, avx512, sve2, metal), that its kernels are built for."""
    last_version_below_min: str = ""
    """Last version known to run below ``min_capability``."""
    parallel: tuple[str, ...] = ("tp", "dp")
    """Of "tp", "pp", "dp", "ep", "dcp" (decode context parallel), "sp" (sequence parallel), "offload" (weights kept in CPU memory) and
    "kv_offload" (KV blocks there and below)."""
    online: tuple[str, ...] = ()
    """Formats it can turn an unquantised checkpoint into while loading."""
    float16_refused: tuple[str, ...] = ()
    """Model types that it does not run in float16, for their numbers overflow."""
    fp8_kv_in_bfloat16: tuple[str, ...] = ()
    """Compute capabilities at which an fp8 KV cache is read into bfloat16 alone."""
    memory_rule: Literal["of_total", "static", "of_free"] = "of_total"
    """What ``gpu_memory_utilization`` is a share of: all that the engine uses, of the GPU's memory ("of_total", vLLM);
    weights and KV cache, of the GPU's memory ("static", SGLang); the KV cache, of what weights and activations left
    ("of_free", TensorRT-LLM, LMDeploy)."""
    gpu_memory_utilization: float = 0.9
    """The engine's own default, where ``memory_rule`` is not "static"."""
    earlier_memory_share: Mapping[str, float] = field(default_factory=dict)
    """Its default before each of these releases, the oldest first."""
    block_size: int = 16
    """Tokens in one block of KV cache."""
    vocab_padding: int = 1
    """Rows of the embedding and the head are padded to a multiple of this."""
    token_multiple: int = 1
    """``max_num_batched_tokens`` has to be a multiple of this."""
    models: tuple[str, ...] = ()
    """Model types it runs; empty: all that this catalog knows, but those dropped."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Model types it ran once, and the last version that did."""
    model_capability: Mapping[str, str] = field(default_factory=dict)
    """Lowest compute capability by model type, where a model needs more than the engine."""
    v2_runner: tuple[str, ...] = ()
    """Model types that vLLM gives to its second model runner, which profiles memory differently (see ``capacity``)."""
    mxfp4_padding: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Multiples to which kernels pad the width of an expert's slice and the hidden state where experts are in MXFP4, by the major
    compute capability."""
    earlier_mxfp4_padding: Mapping[str, Mapping[str, tuple[int, int]]] = field(default_factory=dict)
    """Those that releases before one of 0.x had, where they differ, by that release."""
    narrow_kv_needs_flashinfer: bool = False
    """Whether FlashInfer alone reads an 8-bit cache on some GPUs, and a 4-bit one anywhere (see ``kv_formats``)."""
    no_command: str = ""
    """Why no command that starts it can be written; empty if one can."""
    timing: EngineTiming = field(default_factory=EngineTiming)
    memory: EngineMemory = field(default_factory=EngineMemory)
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    generations: tuple[EngineGeneration, ...] = ()
    """Earlier versions that are fitted apart, the oldest first."""
    kin: str = ""
    """Engine whose parameters its own are offsets of, for both take most of their kernels from the same libraries; empty: none."""
    batch: tuple[BatchDefaults, ...]
    weights: Mapping[str, str]
    """Lowest compute capability by weight format."""
    weights_below: Mapping[str, str] = field(default_factory=dict)
    """Compute capability from which on a weight format has no kernels any more."""
    native: Mapping[str, str] = field(default_factory=dict)
    """Lowest compute capability at which products run in that format; below it only the storage is that small."""
    kv: Mapping[str, str]
    gfx_weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gfx_kv: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    source: str = ""

    def refusal(self, gpu: Gpu) -> str:
        """Return why this engine cannot start on ``gpu``, in one line; empty if it can."""
        if gpu.vendor != "nvidia":
            if gpu.compute_capability in self.gfx:
                return ""
            runs = f"it runs on {', '.join(self.gfx)}" if self.gfx else "it runs on NVIDIA GPUs"
            return f"{self.name} {self.version} does not run on {gpu.name} ({gpu.compute_capability}); {runs}"
        if not self.min_capability:
            return f"{self.name} is described for {', '.join(self.gfx)} only, not for {gpu.name}; choose another engine"
        if not gpu.compute_capability or at_least(gpu.compute_capability, self.min_capability):
            return ""
        older = f"; the last version that does is {self.last_version_below_min}" if self.last_version_below_min else ""
        return (
            f"{self.name} {self.version} has no kernels for {gpu.name} (compute capability {gpu.compute_capability}, "
            f"it needs {self.min_capability}){older}"
        )

    def model_refusal(self, model: Model, gpu: Gpu, version: str = "") -> str:
        """Return why this engine, at its ``version`` or another, does not run ``model`` on ``gpu``, in one line; empty if it does."""
        kind = model.model_type
        if kind in self.dropped and minor_release(version or self.version) > minor_release(self.dropped[kind]):
            return f"{self.name} {version or self.version} no longer runs {kind} models; {self.dropped[kind]} was the last that did"
        if self.models and kind not in self.models:
            return f"{self.name} {self.version} does not run {kind} models; it runs {', '.join(self.models)}"
        least = self.model_capability.get(kind, "")
        if least and (
            gpu.vendor != "nvidia" or (gpu.compute_capability and not at_least(gpu.compute_capability, least))
        ):
            return (
                f"{self.name} {self.version} runs {kind} models on compute capability {least} and later, not {gpu.name}"
            )
        return ""

    def weight_formats(self, gpu: Gpu) -> tuple[str, ...]:
        """Return formats that weights can be stored in on ``gpu``."""
        formats = self._formats(gpu, self.weights, self.gfx_weights)
        if gpu.vendor != "nvidia" or not gpu.compute_capability:
            return formats
        ends = {name for name, end in self.weights_below.items() if at_least(gpu.compute_capability, end)}
        return tuple(name for name in formats if name not in ends)

    def computes_in(self, gpu: Gpu, weights: str) -> bool:
        """Return whether matrix products run in ``weights``' own format there, rather than after turning them into 16 bit."""
        if gpu.vendor != "nvidia":
            return weights in self.weight_formats(gpu)
        return weights in self._formats(gpu, self.native or self.weights, {})

    def kv_formats(self, gpu: Gpu, model: Model) -> tuple[str, ...]:
        """Return formats that the KV cache can have for ``model`` on ``gpu``."""
        formats = self._formats(gpu, self.kv, self.gfx_kv)
        if not self.narrow_kv_needs_flashinfer or gpu.vendor != "nvidia" or not gpu.compute_capability:
            return formats
        if not at_least(gpu.compute_capability, "10.0") or at_least(gpu.compute_capability, "11.0"):
            formats = tuple(f for f in formats if f != "nvfp4")
        # FlashInfer alone reads an 8-bit cache below 8.9: not MLA, only some head sizes, no attention sinks, no ALiBi
        # (v1/attention/backends/flashinfer.py). Triton reads fp8 from 8.9 on; nothing but FlashInfer reads nvfp4.
        flashinfer = (
            model.attention == "gqa"
            and model.head_dim in FLASHINFER_HEAD_DIMS
            and model.model_type not in {"gpt_oss", "bloom", "mpt"}
        )
        if flashinfer:
            return formats
        wide = at_least(gpu.compute_capability, "8.9")
        return tuple(f for f in formats if f != "nvfp4" and (f != "fp8" or wide))

    def memory_share(self, version: str = "") -> float:
        """Return the ``gpu_memory_utilization`` it starts with; that of another ``version`` where it is known to differ.

        The default of an engine whose ``memory_rule`` is "static" depends on the deployment (``kv_cache.static_share``).
        """
        minor = minor_release(version) or minor_release(self.version)
        earlier = (share for before, share in self.earlier_memory_share.items() if minor < minor_release(before))
        return next(earlier, self.gpu_memory_utilization)

    def batch_defaults(self, gpu: Gpu, version: str = "") -> BatchDefaults:
        """Return the scheduler limits it starts with on ``gpu``; those of another ``version`` where they are known to differ."""
        name, minor = gpu.name.lower(), minor_release(version or self.version)
        return next(
            row
            for row in self.batch
            if gpu.memory_gib >= row.min_memory_gib
            and minor >= row.from_minor
            and row.named in name
            and row.capability in ("", gpu.compute_capability.partition(".")[0])
            and not (row.not_named and row.not_named in name)
        )

    def mxfp4_multiples(self, capability: str, minor: int = 0) -> tuple[int, int]:
        """Return ``mxfp4_padding`` at a compute capability, of release 0.x with ``minor`` for x; 0: the one that the catalog describes."""
        major = capability.partition(".")[0]
        earlier = (
            table[major]
            for before, table in self.earlier_mxfp4_padding.items()
            if major in table and 0 < minor < minor_release(before)
        )
        return next(earlier, self.mxfp4_padding.get(major, (1, 1)))

    def _formats(self, gpu: Gpu, table: Mapping[str, str], gfx_table: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        if gpu.vendor != "nvidia":
            return tuple(name for name, archs in gfx_table.items() if gpu.compute_capability in archs)
        if not gpu.compute_capability:  # a GPU somebody invented: its numbers say what it computes in
            lacks = {"bfloat16": not gpu.bf16, "fp8": not gpu.fp8_tflops}
            lacks |= dict.fromkeys(("mxfp4", "nvfp4"), not gpu.fp4_tflops)
            return tuple(name for name in table if not lacks.get(name, False))
        return tuple(
            name
            for name, least in table.items()
            if at_least(gpu.compute_capability, least) and (name != "bfloat16" or gpu.bf16)
        )


def at_least(capability: str, least: str) -> bool:
    """Return whether one compute capability is not below another: ``at_least("10.0", "8.9")``."""
    return _numbers(capability) >= _numbers(least)


def _numbers(capability: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in capability.split("."))
    except ValueError:
        raise InputError(f"compute capability {capability!r} is not a number such as 9.0") from None


@cache
def _engines() -> Mapping[str, Engine]:
    path = Path(__file__).parent.parent / "data" / "engines.toml"
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return MappingProxyType({name: _engine(name, table) for name, table in tables.items()})


def _engine(name: str, table: dict[str, Any]) -> Engine:
    kinds = {f.name: f.type for f in fields(Engine)}
    values: dict[str, Any] = {
        "name": name,
        "batch": tuple(BatchDefaults(**row) for row in table.pop("batch")),
        "timing": _timing(table.pop("timing", {})),
        "memory": EngineMemory(**{key: _frozen(value) for key, value in table.pop("memory", {}).items()}),
        "metrics": EngineMetrics(**table.pop("metrics", {})),
        "generations": tuple(
            EngineGeneration(**row | {"timing": _timing(row.get("timing", {}))}) for row in table.pop("generations", ())
        ),
    }
    for key, value in table.items():
        if isinstance(value, dict):
            values[key] = _frozen(value)
        else:
            values[key] = tuple(value) if str(kinds[key]).startswith("tuple") else value
    return Engine(**values)


def _timing(table: dict[str, Any]) -> EngineTiming:
    return EngineTiming(**{key: _frozen(value) for key, value in table.items()})


def _frozen(value: Any) -> Any:
    """Turn lists of a TOML value into tuples, tables into views that nobody can change."""
    if isinstance(value, dict):
        return MappingProxyType({key: _frozen(part) for key, part in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def engine_family(engine: str, version: str) -> str:
    """Return the name under which the parameters of a version are fitted: generations of one engine share little.

    vLLM's V1 scheduler (0.8 and later) is "vllm"; earlier generations carry theirs. "torch" is this project's engine, which
    says with which version it ran; what others wrote in PyTorch may be many times slower.
    """
    known = _engines().get(engine)
    release = re.match(r"0\.(\d+)", version)
    for generation in known.generations if known else ():
        if not version if not generation.before_minor else release and int(release[1]) < generation.before_minor:
            return generation.name
    return engine


@cache
def minor_release(version: str) -> int:
    """Return the minor release of a version 0.x, 1000 more for each major one; 0 where none is stated."""
    numbers = RELEASE.match(version)
    return 1000 * int(numbers[1]) + int(numbers[2]) if numbers else 0


def engine_name(deployment: Deployment) -> str:
    """Return the engine of a deployment and its version, as people write them."""
    return f"{deployment.engine} {deployment.engine_version or find_engine(deployment.engine).version}"


def releases_apart(one: str, other: str) -> int:
    """Count the releases 0.x between two versions, negative where the first is later; 0 where either is none of those."""
    matches = [re.match(r"0\.(\d+)", version) for version in (one, other)]
    minors = [int(match[1]) for match in matches if match]
    return minors[1] - minors[0] if len(minors) == len(matches) else 0


def release_distance(engine: str, version: str = "") -> int:
    """Count the minor releases from the one that fits are of, negative to earlier ones; 0 where that cannot be said.

    Without a ``version`` it is the distance of the one that the catalog describes.
    """
    known = _engines().get(engine)
    if known is None or (version and engine_family(engine, version) != engine):
        return 0
    return releases_apart(known.fitted_release or known.version, version or known.version)


@cache
def engine_timing(family: str) -> EngineTiming:
    """Return how an engine, as ``engine_family`` names it, spends its time; of one nobody knows, as most do."""
    for engine in all_engines():
        for name, timing in ((engine.name, engine.timing), *((g.name, g.timing) for g in engine.generations)):
            if name == family:
                return timing
    return EngineTiming()


@cache
def largest_graph(family: str, gpu: Gpu, minor: int = 0) -> int:
    """Return tokens of the largest pass, prefills among them, that an engine captures in a CUDA graph on a GPU; 0: none.

    Args:
        family: as ``engine_family`` names it.
        gpu: that it runs on.
        minor: x of its release 0.x; 0: the release that the catalog describes.

    """
    timing = engine_timing(family)
    if not timing.graphs_by_gpu:
        return timing.graph_tokens
    row = find_engine(family).batch_defaults(gpu, f"0.{minor}" if minor else "")
    return row.max_graph_size or timing.graph_tokens


def all_engines() -> tuple[Engine, ...]:
    """Return every engine there are facts for."""
    return tuple(_engines().values())


def find_engine(name: str) -> Engine:
    """Return the engine of that name or alias; ``InputError`` with close matches otherwise."""
    wanted = str(name).strip().lower().replace("_", "-")
    for engine in all_engines():
        if wanted in (engine.name, *engine.aliases):
            return engine
    names = [word for engine in all_engines() for word in (engine.name, *engine.aliases)]
    close = difflib.get_close_matches(wanted, names, n=2, cutoff=0.5)
    known = ", ".join(engine.name for engine in all_engines())
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise InputError(f"unknown engine {str(name)[:60]!r}; {hint}known: {known}")


def prometheus_metrics(name: str) -> EngineMetrics:
    """Return what the Prometheus metrics of an engine are called.

    Raises:
        InputError: no such engine, or none of its metrics are known.

    """
    engine = find_engine(name)
    if not engine.metrics.finished:
        others = ", ".join(other.name for other in all_engines() if other.metrics.finished)
        raise InputError(f"no Prometheus metrics of {engine.name} are known; engines with some: {others}")
    return engine.metrics
