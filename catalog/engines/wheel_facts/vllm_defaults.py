"""Defaults of vLLM that depend on the GPU, followed through its source for each GPU that the catalog knows."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from catalog.engines.registry import minor_release
from catalog.engines.wheel_facts.evaluation import Case
from catalog.engines.wheel_facts.facts import gpus_of, stated_graphs
from catalog.engines.wheel_facts.wheel import MissingFactError, assigned, function
from catalog.units import GIB

if TYPE_CHECKING:
    from catalog.engines.registry import Engine
    from catalog.engines.wheel_facts.wheel import Wheel
    from catalog.schema import Gpu

BATCHES = ((7, 2048), (64, 2048), (100, 8192), (256, 200), (1024, 8192))
"""``max_num_seqs`` and ``max_num_batched_tokens`` that captured sizes are compared at."""
USAGE = "UsageContext.OPENAI_API_SERVER"
MXFP4_BACKENDS = {"8": "MARLIN", "9": "TRITON", "10": "FLASHINFER_TRTLLM_MXFP4_BF16", "12": "MARLIN"}
"""Kernels of experts in MXFP4 that vLLM chooses first, by major compute capability (``_get_priority_backends_for_gpt_oss``)."""


def _platform(gpu: Gpu) -> dict[str, Any]:
    """Return what ``current_platform`` says on a GPU, by the text of the call."""
    capability = gpu.compute_capability if gpu.vendor == "nvidia" else ""
    major, _, minor = capability.partition(".")
    answers: dict[str, Any] = {
        "current_platform.get_device_total_memory()": gpu.memory_gib * GIB,
        "current_platform.get_device_name().lower()": gpu.name.lower(),
        "current_platform.is_tpu()": False,
        "current_platform.is_xpu()": False,
        "current_platform.is_rocm()": gpu.vendor == "amd",
        "current_platform.is_cuda()": gpu.vendor == "nvidia",
        "current_platform.is_cpu()": gpu.vendor == "cpu",
        "GiB_bytes": GIB,
        "world_size": 1,
    }
    for family in (80, 90, 100, 110, 120):
        text = f"current_platform.is_device_capability_family({family})"
        answers[text] = bool(capability) and int(major) == family // 10
    for number in (80, 86, 89, 90, 100, 103, 120, 121):
        pair = divmod(number, 10)
        own = bool(capability) and (int(major), int(minor)) == pair
        answers |= {f"current_platform.is_device_capability({form})": own for form in (number, pair)}
    return answers


def batch_defaults(wheel: Wheel, engine: Engine) -> dict[str, str]:
    """Return the scheduler's limits by GPU, of ``vllm serve``."""
    body = function(wheel.tree("engine/arg_utils.py"), "get_batch_defaults").body
    cases = {}
    for gpu in gpus_of(engine):
        tokens, seqs = Case(values=_platform(gpu)).run(body)
        cases[gpu.name] = f"{tokens[USAGE]} tokens, {seqs[USAGE]} sequences"
    return cases


def stated_batch_defaults(engine: Engine, wheel: Wheel) -> dict[str, str]:
    """Return the limits that the catalog states for the wheel's release."""
    rows = {gpu.name: engine.batch_defaults(gpu, wheel.version) for gpu in gpus_of(engine)}
    return {name: f"{row.max_num_batched_tokens} tokens, {row.max_num_seqs} sequences" for name, row in rows.items()}


def _graph_cases(engine: Engine) -> list[tuple[str, Gpu, int, int]]:
    gpus = [gpu for gpu in gpus_of(engine) if gpu.vendor == "nvidia"]
    return [(f"{gpu.name} of {seqs} in {tokens}", gpu, seqs, tokens) for gpu in gpus for seqs, tokens in BATCHES]


def captured_sizes(wheel: Wheel, engine: Engine) -> dict[str, tuple[int, ...]]:
    """Follow ``_set_cudagraph_sizes`` without speculation and options of the user."""
    body = function(wheel.tree("config/vllm.py"), "_set_cudagraph_sizes").body
    compilation = "self.compilation_config"
    cases = {}
    for name, gpu, seqs, tokens in _graph_cases(engine):
        values = _platform(gpu) | {
            "self.model_config": "stated",
            "self.model_config.enforce_eager": False,
            f"{compilation}.cudagraph_mode": "FULL_AND_PIECEWISE",
            "CUDAGraphMode.NONE": "NONE",
            f"{compilation}.max_cudagraph_capture_size": None,
            f"{compilation}.cudagraph_capture_sizes": None,
            f"{compilation}.pass_config.enable_sp": False,
            "self.parallel_config.tensor_parallel_size": 1,
            "self.performance_mode": "balanced",
            "self.uniform_decode_query_len": 1,
            "self.num_speculative_tokens": 0,
            "self.scheduler_config.max_num_seqs": seqs,
            "self.scheduler_config.max_num_batched_tokens": tokens,
        }
        case = Case(values=values)
        case.run(body)
        cases[name] = tuple(case.values[f"{compilation}.cudagraph_capture_sizes"] or ())
    return cases


def stated_sizes(engine: Engine, wheel: Wheel) -> dict[str, tuple[int, ...]]:
    """Return the sizes that the catalog states for the wheel's release."""
    return {
        name: stated_graphs(engine, gpu, wheel.version, seqs=seqs, tokens=tokens)
        for name, gpu, seqs, tokens in _graph_cases(engine)
    }


def mxfp4_padding(wheel: Wheel, _: Engine) -> dict[str, tuple[int, int]]:
    """Return multiples that the width of an expert and the hidden state are padded to, by major compute capability."""
    path = "model_executor/layers/fused_moe/oracle/mxfp4.py"
    tree = wheel.tree(path)
    rounding = function(tree, "mxfp4_round_up_hidden_size_and_intermediate_size")
    values: dict[str, Any] = {"current_platform.is_rocm()": False, "current_platform.is_xpu()": False}
    values |= {"hidden_size": 1, "intermediate_size": 1, "OCP_MX_BLOCK_SIZE": 32}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Mxfp4MoeBackend":
            values[ast.unparse(node)] = node.attr
    for name in sorted({node.id for node in ast.walk(rounding) if isinstance(node, ast.Name)}):
        if name.endswith("_BACKENDS"):
            values[name] = _backends(tree, name, values)
    multiples = {}
    for major, backend in MXFP4_BACKENDS.items():
        hidden, width = Case(values=values | {"backend": backend}).run(rounding.body)
        multiples[major] = (width, hidden)
    return multiples


def stated_mxfp4_padding(engine: Engine, wheel: Wheel) -> dict[str, tuple[int, int]]:
    """Return the multiples that the catalog states for the wheel's release."""
    return {major: engine.mxfp4_multiples(major, minor_release(wheel.version)) for major in MXFP4_BACKENDS}


def _backends(tree: ast.Module, name: str, values: dict[str, Any]) -> tuple[str, ...]:
    try:
        return tuple(Case(values=dict(values)).value(assigned(tree.body, name)))
    except MissingFactError:
        return ()
