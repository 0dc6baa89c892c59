"""What a wheel of vLLM says of the facts in ``data/engines.toml``."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

from catalog.engines.expert_kernels import tuned_experts
from catalog.engines.launch.vllm import FILE_TIER, OFFLOADING_BACKEND, TIERING_SPEC
from catalog.engines.registry import FLASHINFER_HEAD_DIMS, minor_release
from catalog.engines.wheel_facts.evaluation import Case
from catalog.engines.wheel_facts.facts import Fact, is_later, metrics, online_quantisation, options
from catalog.engines.wheel_facts.options import frontend
from catalog.engines.wheel_facts.tuned_experts import FOLDER, tables_of
from catalog.engines.wheel_facts.vllm_defaults import (
    batch_defaults,
    captured_sizes,
    mxfp4_padding,
    stated_batch_defaults,
    stated_mxfp4_padding,
    stated_sizes,
)
from catalog.engines.wheel_facts.wheel import MissingFactError, assigned, class_body, function, literal
from catalog.models.architectures import READERS
from catalog.models.families import ALIASES, FAMILIES
from catalog.speculation import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from catalog.engines.registry import Engine
    from catalog.engines.wheel_facts.wheel import Wheel

QUANTIZATION = "model_executor/layers/quantization"
SCHEMES = f"{QUANTIZATION}/compressed_tensors/schemes/compressed_tensors"
WEIGHTS = {
    "fp8": (f"{QUANTIZATION}/fp8.py", "Fp8Config"),
    "int8": (f"{SCHEMES}_w8a8_int8.py", "CompressedTensorsW8A8Int8"),
    "int4": (f"{QUANTIZATION}/auto_awq.py", "AutoAWQConfig"),
    "mxfp4": (f"{QUANTIZATION}/mxfp4.py", "Mxfp4Config"),
    "nvfp4": (f"{SCHEMES}_w4a4_nvfp4.py", "CompressedTensorsW4A4Fp4"),
}
"""Class whose ``get_min_capability`` says from which GPUs on a format of weights is read."""
KERNELS = "_C_stable_libtorch.abi3.so"


def _field(path: str, owner: str, name: str) -> Any:
    """Return a reader of the default of a class's field."""
    return lambda wheel, _: literal(assigned(class_body(wheel.tree(path), owner), name))


def _constant(path: str, name: str) -> Any:
    """Return a reader of a constant of a module."""
    return lambda wheel, _: literal(assigned(wheel.tree(path).body, name))


def _named(path: str, name: str) -> Any:
    """Return a reader of the names in a literal of a module, or of its keys."""
    return lambda wheel, _: frozenset(literal(assigned(wheel.tree(path).body, name)))


def _runner(wheel: Wheel, _: Engine) -> frozenset[str]:
    """Return model types of the second model runner, written without underscores; "all" from the release on that made it the default."""
    tree = wheel.tree("config/vllm.py")
    try:
        names = literal(assigned(tree.body, "DEFAULT_V2_MODEL_RUNNER_ARCHITECTURES"))
    except MissingFactError:
        function(tree, "use_v2_model_runner")
        return frozenset({"all"})
    return frozenset(map(_plain, names))


def _plain(architecture: str) -> str:
    """Return the model type of an architecture, in lower case and without underscores ("LlamaForCausalLM" -> "llama")."""
    return re.sub(r"(For[A-Z]\w*|LMHeadModel|Model)$", "", architecture).lower().replace("_", "")


def _dropped(wheel: Wheel, engine: Engine) -> dict[str, str]:
    """Return the last release by model type that the catalog reads or says was dropped, without underscores."""
    last = literal(assigned(wheel.tree("model_executor/models/registry.py").body, "_PREVIOUSLY_SUPPORTED_MODELS"))
    known = {_plain(name) for name in (*READERS, *FAMILIES, *ALIASES, *engine.dropped)}
    return {_plain(name): version for name, version in last.items() if _plain(name) in known}


def _stated_dropped(engine: Engine, wheel: Wheel) -> dict[str, str]:
    release = minor_release(wheel.version)
    return {_plain(name): version for name, version in engine.dropped.items() if minor_release(version) < release}


def _capability(path: str, owner: str) -> Any:
    """Return a reader of what ``get_min_capability`` of a class returns, such as "7.5"."""

    def read(wheel: Wheel, _: Engine) -> str:
        number = Case(values={}).run(function(_class(wheel, path, owner), "get_min_capability").body)
        return "0" if not number else f"{number // 10}.{number % 10}"

    return read


def _least(name: str) -> Callable[[Engine, Wheel], str]:
    """Return a reader of the catalog's least capability of a format of weights."""
    return lambda engine, _: engine.weights[name]


def _class(wheel: Wheel, path: str, owner: str) -> ast.Module:
    return ast.Module(body=class_body(wheel.tree(path), owner), type_ignores=[])


def _online(wheel: Wheel, _: Engine) -> frozenset[str]:
    """Return formats that dense and expert layers can be turned into while loading; those of a single kind are left out."""
    table = assigned(wheel.tree("config/quantization.py").body, "_ONLINE_SHORTHANDS")
    if not isinstance(table, ast.Dict):
        raise MissingFactError("_ONLINE_SHORTHANDS is no table")
    whole = {"linear", "moe"}
    names = [
        str(literal(key))
        for key, value in zip(table.keys, table.values, strict=True)
        if key is not None and isinstance(value, ast.Call) and {word.arg for word in value.keywords} >= whole
    ]
    return frozenset(name for name in WEIGHTS for shorthand in names if shorthand.split("_")[0] == name)


def _bfloat16(wheel: Wheel, _: Engine) -> str:
    """Return the compute capability from which on ``supported_dtypes`` has bfloat16."""
    body = function(wheel.tree("platforms/cuda.py"), "supported_dtypes").body
    for node in body:
        if isinstance(node, ast.If) and "bfloat16" in ast.unparse(node.body[-1]) and isinstance(node.test, ast.Call):
            number = int(literal(node.test.args[0]))
            return f"{number // 10}.{number % 10}"
    raise MissingFactError("supported_dtypes has no bfloat16")


def _head_dims(wheel: Wheel, _: Engine) -> tuple[int, ...]:
    backend = function(wheel.tree("v1/attention/backends/flashinfer.py"), "get_supported_head_sizes")
    return tuple(Case(values={}).run(backend.body))


def _sparse(wheel: Wheel, _: Engine) -> str:
    """Return the least compute capability of sparse MLA's kernels."""
    test = function(wheel.tree("v1/attention/backends/mla/flashmla_sparse.py"), "supports_compute_capability")
    majors = [major for major in range(7, 13) if Case(values={"capability.major": major}).run(test.body)]
    if not majors:
        raise MissingFactError("supports_compute_capability refuses all")
    return f"{majors[0]}.0"


def _gfx(wheel: Wheel, _: Engine) -> frozenset[str]:
    return frozenset(
        re.findall(r"gfx[0-9a-f]+", ast.unparse(assigned(wheel.tree("platforms/rocm.py").body, "_ON_GFX9")))
    )


def _budget(wheel: Wheel, _: Engine) -> str:
    text = ast.unparse(function(wheel.tree("v1/worker/utils.py"), "request_memory"))
    if "init_snapshot.total_memory * cache_config.gpu_memory_utilization" not in text:
        raise MissingFactError("request_memory multiplies no total memory")
    return "of_total"


def _tiers(wheel: Wheel, _: Engine) -> frozenset[str]:
    """Return which of the names that commands offload KV blocks by the release has."""
    text = wheel.source("v1/kv_offload/tiering/factory.py") + wheel.source("v1/kv_offload/tiering/spec.py")
    names = {FILE_TIER: rf"register_tier\(\s*\"{FILE_TIER}\"", TIERING_SPEC: f"class {TIERING_SPEC}"}
    backends = set(literal(assigned(wheel.tree("config/cache.py").body, "KVOffloadingBackend")))
    present = {name for name, pattern in names.items() if re.search(pattern, text)}
    return frozenset(present | ({OFFLOADING_BACKEND} & backends))


def _methods(wheel: Wheel, _: Engine) -> frozenset[str]:
    """Return which ways of speculating, by the catalog's names, the release has."""
    names = set(re.findall(r"\"([a-z0-9_]+)\"", _literals(wheel.tree("config/speculative.py"))))
    ours = {"draft": "draft_model"}
    return frozenset(method for method in METHODS if ours.get(method, method) in names)


def _literals(tree: ast.Module) -> str:
    return "\n".join(ast.unparse(node).replace("'", '"') for node in tree.body if isinstance(node, ast.Assign))


def _port(wheel: Wheel, _: Engine) -> int:
    tree = frontend(wheel)
    for owner in ("FrontendArgs", "BaseFrontendArgs"):
        try:
            return int(literal(assigned(class_body(tree, owner), "port")))
        except MissingFactError:
            continue
    raise MissingFactError("no class of the frontend's options has a port")


def _formats(wheel: Wheel, engine: Engine) -> frozenset[str]:
    return frozenset(literal(assigned(wheel.tree("config/cache.py").body, "CacheDType"))) & frozenset(engine.kv)


def _stated_runner(engine: Engine, wheel: Wheel) -> frozenset[str]:
    return frozenset({"all"}) if is_later(engine, wheel) else frozenset(map(_plain, engine.v2_runner))


FACTS = (
    Fact(
        name="release",
        path="METADATA",
        read=lambda wheel, _: wheel.version,
        stated=lambda engine, _: engine.version,
    ),
    Fact(
        name="gpu_memory_utilization",
        path="config/cache.py CacheConfig",
        read=_field("config/cache.py", "CacheConfig", "gpu_memory_utilization"),
        stated=lambda engine, wheel: engine.memory_share(wheel.version),
    ),
    Fact(
        name="memory_rule",
        path="v1/worker/utils.py request_memory",
        read=_budget,
        stated=lambda engine, _: engine.memory_rule,
    ),
    Fact(
        name="block_size",
        path="config/cache.py CacheConfig",
        read=_field("config/cache.py", "CacheConfig", "DEFAULT_BLOCK_SIZE"),
        stated=lambda engine, _: engine.block_size,
    ),
    Fact(
        name="vocab_padding",
        path="model_executor/layers/vocab_parallel_embedding.py",
        read=_constant("model_executor/layers/vocab_parallel_embedding.py", "DEFAULT_VOCAB_PADDING_SIZE"),
        stated=lambda engine, _: engine.vocab_padding,
    ),
    Fact(
        name="max_num_batched_tokens and max_num_seqs",
        path="engine/arg_utils.py get_batch_defaults",
        read=batch_defaults,
        stated=stated_batch_defaults,
    ),
    Fact(
        name="sizes of CUDA graphs",
        path="config/vllm.py _set_cudagraph_sizes",
        read=captured_sizes,
        stated=stated_sizes,
    ),
    Fact(name="second model runner", path="config/vllm.py use_v2_model_runner", read=_runner, stated=_stated_runner),
    Fact(
        name="float16_refused",
        path="config/model.py _FLOAT16_NOT_SUPPORTED_MODELS",
        read=_named("config/model.py", "_FLOAT16_NOT_SUPPORTED_MODELS"),
        stated=lambda engine, _: frozenset(engine.float16_refused),
    ),
    Fact(
        name="dropped models",
        path="model_executor/models/registry.py _PREVIOUSLY_SUPPORTED_MODELS",
        read=_dropped,
        stated=_stated_dropped,
    ),
    online_quantisation("config/quantization.py _ONLINE_SHORTHANDS", _online),
    *(
        Fact(
            name=f"{name} weights from",
            path=f"{path} get_min_capability",
            read=_capability(path, owner),
            stated=_least(name),
        )
        for name, (path, owner) in WEIGHTS.items()
    ),
    Fact(
        name="fp8 products from",
        path=f"{SCHEMES}_w8a8_fp8.py get_min_capability",
        read=_capability(f"{SCHEMES}_w8a8_fp8.py", "CompressedTensorsW8A8Fp8"),
        stated=lambda engine, _: engine.native["fp8"],
    ),
    Fact(
        name="bfloat16 from",
        path="platforms/cuda.py supported_dtypes",
        read=_bfloat16,
        stated=lambda engine, _: engine.weights["bfloat16"],
    ),
    Fact(
        name="min_capability",
        path=KERNELS,
        read=lambda wheel, _: wheel.capabilities(KERNELS)[0],
        stated=lambda engine, _: engine.min_capability,
    ),
    Fact(
        name="AMD GPUs",
        path="platforms/rocm.py _ON_GFX9",
        read=_gfx,
        stated=lambda engine, _: frozenset(name for name in engine.gfx if name.startswith("gfx")),
    ),
    Fact(
        name="KV formats",
        path="config/cache.py CacheDType",
        read=_formats,
        stated=lambda engine, _: frozenset(engine.kv) - {"float32"},
    ),
    Fact(
        name="head sizes of FlashInfer",
        path="v1/attention/backends/flashinfer.py",
        read=_head_dims,
        stated=lambda *_: FLASHINFER_HEAD_DIMS,
    ),
    Fact(
        name="sparse MLA from",
        path="v1/attention/backends/mla/flashmla_sparse.py",
        read=_sparse,
        stated=lambda engine, _: engine.model_capability["glm_moe_dsa"],
    ),
    Fact(
        name="mxfp4_padding",
        path="model_executor/layers/fused_moe/oracle/mxfp4.py",
        read=mxfp4_padding,
        stated=stated_mxfp4_padding,
    ),
    Fact(
        name="tuned experts",
        path=f"{FOLDER}/*.json",
        read=lambda wheel, _: tables_of(wheel),
        stated=lambda *_: tuned_experts(),
    ),
    Fact(
        name="KV offload",
        path="v1/kv_offload/tiering/factory.py, spec.py, config/cache.py",
        read=_tiers,
        stated=lambda *_: frozenset({FILE_TIER, TIERING_SPEC, OFFLOADING_BACKEND}),
    ),
    Fact(
        name="speculative methods",
        path="config/speculative.py",
        read=_methods,
        stated=lambda *_: frozenset(METHODS),
    ),
    Fact(
        name="scheduling policies",
        path="config/scheduler.py SchedulerPolicy",
        read=_named("config/scheduler.py", "SchedulerPolicy"),
        stated=lambda *_: frozenset({"fcfs", "priority"}),
    ),
    Fact(
        name="whole prompts are reserved",
        path="config/scheduler.py scheduler_reserve_full_isl",
        read=_field("config/scheduler.py", "SchedulerConfig", "scheduler_reserve_full_isl"),
        stated=lambda *_: True,
    ),
    Fact(
        name="port",
        path="entrypoints/*/cli_args.py",
        read=_port,
        stated=lambda engine, _: engine.port,
    ),
    metrics(lambda _: ["v1/metrics/loggers.py"], "v1/metrics/loggers.py"),
    options("engine/arg_utils.py, config, entrypoints/*/cli_args.py"),
)
"""Every fact of vLLM that the catalog states and its source can confirm."""
