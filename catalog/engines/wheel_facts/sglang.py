"""What a wheel of SGLang says of the facts in ``data/engines.toml``."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from catalog.engines.kv_cache import prefill_graphs, static_reserve_gib
from catalog.engines.wheel_facts.evaluation import Case
from catalog.engines.wheel_facts.facts import (
    DEGREES,
    Fact,
    gpus_of,
    metrics,
    online_quantisation,
    options,
    stated_graphs,
)
from catalog.engines.wheel_facts.wheel import MissingFactError, assigned, class_body, function, literal

if TYPE_CHECKING:
    from catalog.engines.registry import Engine
    from catalog.engines.wheel_facts.wheel import Wheel
    from catalog.schema import Gpu

MEMORY = "arg_groups/memory_hook.py"
GRAPHS = "arg_groups/cuda_graph_hook.py"
CHUNKS = (2048, 4096, 8192, 16384)
"""Tokens of a prefill chunk that the sizes of its graphs are compared at."""
DECODE = "decode_cuda_graph_config.max_bs"
MIB_A_GIB = 1024


def _branch(wheel: Wheel, test: str) -> list[ast.stmt]:
    """Return the branch of ``handle_gpu_memory_settings`` that is taken if something holds."""
    for node in function(wheel.tree(MEMORY), "handle_gpu_memory_settings").body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == test:
            return node.body
    raise MissingFactError(f"handle_gpu_memory_settings has no branch for {test}")


def _limits(wheel: Wheel, gpu: Gpu, tp: int) -> tuple[int, int]:
    """Return tokens of a prefill chunk and the largest decode batch in a graph."""
    values = {
        "gpu_mem": gpu.memory_gib * MIB_A_GIB,
        "cfg.tp_size": tp,
        "cfg.chunked_prefill_size": None,
        DECODE: None,
    }
    case = Case(values=values, declaring=frozenset({"declare_resolution"}))
    case.run(_branch(wheel, "gpu_mem is not None"))
    return case.values["cfg.chunked_prefill_size"], case.values[DECODE]


def _batch_defaults(wheel: Wheel, engine: Engine) -> dict[str, str]:
    cases = {(gpu, tp): _limits(wheel, gpu, tp) for gpu in gpus_of(engine) for tp in DEGREES}
    return {_case(gpu, tp): f"{tokens} tokens, graphs up to {most}" for (gpu, tp), (tokens, most) in cases.items()}


def _stated_batch_defaults(engine: Engine, wheel: Wheel) -> dict[str, str]:
    cases = {}
    for gpu in gpus_of(engine):
        row = engine.batch_defaults(gpu, wheel.version)
        for tp in DEGREES:
            most = row.max_graph_size_tp4 if tp >= 4 else row.max_graph_size
            cases[_case(gpu, tp)] = f"{row.max_num_batched_tokens} tokens, graphs up to {most}"
    return cases


def _case(gpu: Gpu, tp: int) -> str:
    return f"{gpu.name} tp={tp}"


def _graphs(wheel: Wheel, engine: Engine) -> dict[str, tuple[int, ...]]:
    body = function(wheel.tree(GRAPHS), "generate_decode_cuda_graph_batch_sizes").body
    cases = {}
    for gpu in gpus_of(engine):
        for tp in DEGREES:
            values = {
                "resolving_view(server_args)": None,
                "cfg.disable_cuda_graph_padding": False,
                "cfg.speculative_algorithm": None,
                "max_bs": _limits(wheel, gpu, tp)[1],
            }
            cases[_case(gpu, tp)] = tuple(sorted(Case(values=values).run(body)))
    return cases


def _stated_graphs(engine: Engine, wheel: Wheel) -> dict[str, tuple[int, ...]]:
    return {
        _case(gpu, tp): stated_graphs(engine, gpu, wheel.version, seqs=2048, tokens=16384, tp=tp)
        for gpu in gpus_of(engine)
        for tp in DEGREES
    }


def _prefill_graphs(wheel: Wheel, _: Engine) -> dict[str, tuple[int, ...]]:
    body = function(wheel.tree(GRAPHS), "generate_prefill_cuda_graph_batch_sizes").body
    return {f"chunks of {most}": tuple(Case(values={"max_bs": most}).run(body)) for most in CHUNKS}


def _reserves(wheel: Wheel, engine: Engine) -> dict[str, float]:
    """Follow what is kept free of weights and KV cache, GiB, of a model without latent attention."""
    graphs = function(wheel.tree(MEMORY), "reserve_for_graph_mb").body
    branch = _branch(wheel, "cfg.mem_fraction_static is None")
    cases = {}
    for gpu in gpus_of(engine):
        for tp in DEGREES:
            tokens, most = _limits(wheel, gpu, tp)
            sizes = Case(values={"max_bs": tokens}).run(
                function(wheel.tree(GRAPHS), "generate_prefill_cuda_graph_batch_sizes").body
            )
            values = _settings(gpu, tp, tokens, most, sizes)
            values["reserve_for_graph_mb(server_args)"] = Case(values=dict(values)).run(graphs)
            case = Case(values=values, declaring=frozenset({"declare_resolution"}))
            case.run(branch)
            cases[_case(gpu, tp)] = round(case.values["reserved_mem"] / MIB_A_GIB, 6)
    return cases


def _settings(gpu: Gpu, tp: int, tokens: int, most: int, sizes: list[int]) -> dict[str, Any]:
    """Return what a server without options of the user has."""
    return {
        "gpu_mem": gpu.memory_gib * MIB_A_GIB,
        "cfg.tp_size": tp,
        "cfg.pp_size": 1,
        "cfg.chunked_prefill_size": tokens,
        "cfg.disaggregation_mode": "null",
        "model_config_of(server_args)": None,
        "model_config.is_multimodal": False,
        "post_capture_kv_sizing_planned(server_args)": False,
        "resolving_view(server_args)": None,
        "cfg.cuda_graph_config.decode": None,
        "cfg.cuda_graph_config.prefill": None,
        DECODE: most,
        "decode_cuda_graph_config.backend": "full",
        "prefill_cuda_graph_config.backend": "full",
        "prefill_cuda_graph_config.bs": sizes,
        "Backend.DISABLED": "disabled",
        "Backend.BREAKABLE": "breakable",
        "attn_dp_enabled_of(resolved_view(server_args))": False,
        "use_mla_backend(server_args)": False,
        "reserve_for_deepep_a2a_mb(server_args)": 0.0,
        "get_platform().is_xpu": False,
        "round((gpu_mem - reserved_mem) / gpu_mem, 3)": None,
    }


def _stated_reserves(engine: Engine, wheel: Wheel) -> dict[str, float]:
    import numpy as np

    from catalog.models.find import find_model

    model = find_model("llama-3.1-8b").value
    cases = {}
    for gpu in gpus_of(engine):
        row = engine.batch_defaults(gpu, wheel.version)
        for tp in DEGREES:
            gib = static_reserve_gib(
                engine,
                model,
                gpu,
                tp=np.array([float(tp)]),
                pp=np.ones(1),
                tokens=np.array([float(row.max_num_batched_tokens)]),
                seqs=np.array([float(row.max_num_seqs)]),
                graphs=np.ones(1),
            )
            cases[_case(gpu, tp)] = round(float(gib[0]), 6)
    return cases


def _post_capture(wheel: Wheel, _: Engine) -> bool:
    """Return whether the KV cache is sized after graphs were captured unless the user says otherwise."""
    value = assigned(class_body(wheel.tree("environ.py"), "Envs"), "SGLANG_ENABLE_POST_CAPTURE_KV_SIZING")
    return bool(literal(value))


def _mixes(wheel: Wheel, _: Engine) -> bool:
    return bool(_field(wheel, "enable_mixed_chunk"))


def _field(wheel: Wheel, name: str) -> Any:
    """Return the default of an option, whichever group it is in."""
    for path in wheel.paths("arg_groups/fields"):
        for node in wheel.tree(path).body:
            if isinstance(node, ast.ClassDef):
                try:
                    return literal(assigned(node.body, name))
                except MissingFactError:
                    continue
    raise MissingFactError(f"no option {name}")


def _requests(wheel: Wheel, _: Engine) -> int:
    """Return the least that ``resolve_max_num_reqs`` estimates of a small cache."""
    body = function(wheel.tree("mem_cache/kv_cache_configurator.py"), "resolve_max_num_reqs").body
    case = Case(values={"token_capacity": 1, "self.model_config.context_len": 1})
    first_two = [node for node in body if isinstance(node, ast.Assign)][:2]
    case.run([*first_two])
    return int(case.values["estimated"])


def _online(wheel: Wheel, engine: Engine) -> frozenset[str]:
    names = literal(assigned(wheel.tree("arg_groups/choices.py").body, "QUANTIZATION_CHOICES"))
    return frozenset(names) & frozenset(engine.online)


FACTS = (
    Fact(
        name="release",
        path="METADATA",
        read=lambda wheel, _: wheel.version,
        stated=lambda engine, _: engine.version,
    ),
    Fact(
        name="max_num_batched_tokens and graphs",
        path=f"{MEMORY} handle_gpu_memory_settings",
        read=_batch_defaults,
        stated=_stated_batch_defaults,
    ),
    Fact(
        name="max_num_seqs at the least",
        path="mem_cache/kv_cache_configurator.py resolve_max_num_reqs",
        read=_requests,
        stated=lambda engine, _: min(row.max_num_seqs for row in engine.batch),
    ),
    Fact(
        name="sizes of CUDA graphs",
        path=f"{GRAPHS} generate_decode_cuda_graph_batch_sizes",
        read=_graphs,
        stated=_stated_graphs,
    ),
    Fact(
        name="sizes of prefill graphs",
        path=f"{GRAPHS} generate_prefill_cuda_graph_batch_sizes",
        read=_prefill_graphs,
        stated=lambda *_: {f"chunks of {most}": tuple(prefill_graphs(most)) for most in CHUNKS},
    ),
    Fact(
        name="GiB kept free",
        path=f"{MEMORY} handle_gpu_memory_settings, reserve_for_graph_mb",
        read=_reserves,
        stated=_stated_reserves,
    ),
    Fact(
        name="KV cache sized after graphs",
        path="environ.py SGLANG_ENABLE_POST_CAPTURE_KV_SIZING",
        read=_post_capture,
        stated=lambda *_: False,
    ),
    Fact(
        name="prompts and decodes share steps",
        path="arg_groups/fields enable_mixed_chunk",
        read=_mixes,
        stated=lambda engine, _: engine.timing.mixes_prompts,
    ),
    online_quantisation("arg_groups/choices.py QUANTIZATION_CHOICES", _online),
    Fact(
        name="port",
        path="arg_groups/fields port",
        read=lambda wheel, _: _field(wheel, "port"),
        stated=lambda engine, _: engine.port,
    ),
    metrics(lambda wheel: wheel.paths("observability"), "observability"),
    options("arg_groups/fields, server_args.py"),
)
"""Every fact of SGLang that the catalog states and its source can confirm."""
