"""What a plain transformer needs to know beyond its shape, and which models and deployments ours can run. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.schema import Model, require_positive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.schema import Deployment

MODEL_TYPES = ("llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe")
DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """Rotary position embedding (arXiv 2104.09864) and how it is stretched to longer contexts."""

    theta: float = 10_000.0
    kind: str = "default"
    """"default", "linear" (arXiv 2306.15595) or "llama3" (Llama 3.1's, by wavelength)."""
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192
    """Context of the pre-training; the last three count for "llama3" only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Fields of a ``config.json`` that ``Model`` does not have: none of them changes what moves or is computed."""

    norm_eps: float = 1e-6
    norm_topk: bool = True
    """The weights of a token's experts are scaled to a sum of 1."""
    rotary: Rotary = field(default_factory=Rotary)


def read_settings(model: Model) -> Settings:
    """Return the settings of a model that was read from a ``config.json``; of any other one, typical ones (theta
    10,000).

    What a file omits takes the default of that model type in Hugging Face ``transformers``.

    Raises:
        InputError: the file is gone, or has a rotary embedding, activation or mix of windows that is not run here.

    """
    path = Path(model.source)
    if path.suffix != ".json":
        return Settings()
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} again: {error}") from error
    if config.get("hidden_act", "silu") != "silu":
        raise InputError(f"{path}: hidden_act is {config['hidden_act']!r:.40}; only 'silu' is run")
    mixtral = model.model_type == "mixtral"
    return Settings(
        norm_eps=_number(config, "rms_norm_eps", 1e-5 if mixtral else 1e-6, path),
        norm_topk=mixtral or config.get("norm_topk_prob", False) is True,
        rotary=_rotary(config, path, theta=1e6 if mixtral else 1e4),
    )


def _rotary(config: Mapping[str, Any], path: Path, *, theta: float) -> Rotary:
    """Read the rotary embedding from ``rope_parameters`` (transformers 5) or ``rope_theta`` and ``rope_scaling``."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise InputError(f"{path}: rope_scaling is {scaling!r:.40}; it must be an object")
    theta = _number({"rope_theta": theta, **config, **scaling}, "rope_theta", theta, path)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return Rotary(theta=theta)
    if kind not in ("linear", "llama3"):
        raise InputError(f"{path}: rope type {kind!r:.40} is not run; default, linear and llama3 are")
    factor = _number(scaling, "factor", None, path)
    if kind == "linear":
        return Rotary(theta=theta, kind=kind, factor=factor)
    return Rotary(
        theta=theta,
        kind=kind,
        factor=factor,
        low_freq_factor=_number(scaling, "low_freq_factor", None, path),
        high_freq_factor=_number(scaling, "high_freq_factor", None, path),
        original_positions=int(_number(scaling, "original_max_position_embeddings", None, path)),
    )


def _number(config: Mapping[str, Any], name: str, default: float | None, path: Path) -> float:
    value = config.get(name)
    value = default if value is None else value
    require_positive(f"{path}: {name}", value, whole=False)  # type: ignore[arg-type]  # it refuses what is no number
    assert value is not None
    return float(value)


def memory_share(deployment: Deployment) -> float:
    """Return the share of each GPU's memory that the engine may use, its own where the deployment states none."""
    stated = deployment.gpu_memory_utilization
    return find_engine("torch").memory_share() if stated is None else stated


def check_runs(model: Model, deployment: Deployment, *, device: str) -> None:
    """Raise ``InputError``, one line, if the plain transformer cannot run a model in this deployment on "cuda" or "cpu"."""
    wanted = deployment
    dtype = model.dtype if wanted.dtype == "auto" else wanted.dtype
    if model.model_type not in MODEL_TYPES:
        raise InputError(f"{model.name}: model type {model.model_type!r} is not run; {', '.join(MODEL_TYPES)} are")
    if model.quantization or dtype not in DTYPES:
        raise InputError(f"{model.name}: {model.quantization or dtype} weights are not run; {', '.join(DTYPES)} are")
    if wanted.kv_dtype not in ("auto", dtype):
        raise InputError(f"kv_dtype is {wanted.kv_dtype!r}; it must be 'auto' or the weights' {dtype!r}")
    if 0 < model.num_windowed_layers < model.num_hidden_layers:
        raise InputError(f"{model.name}: models with windows in some layers only are not run")
    for name, only, why in (
        ("dp", 1, "replicas do not change a static batch"),
        ("ep", 1, "experts are sliced like every other matrix"),
        ("sequence_parallel", False, "norms are computed on every GPU"),
    ):
        if getattr(wanted, name) != only:
            raise InputError(f"{name} is {getattr(wanted, name)}; this engine runs {only} only: {why}")
    for name in ("tp", "pp", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
        if (value := getattr(wanted, name)) is not None:
            require_positive(name, value)
    if wanted.gpu_memory_utilization is not None:
        require_positive("gpu_memory_utilization", wanted.gpu_memory_utilization, most=1, whole=False)
    if not 0 <= wanted.offload <= 1:
        raise InputError(f"offload is {wanted.offload!r}; it must be a share of the layers' weights, from 0 to 1")
    _check_split(model, wanted)
    _check_graphs(wanted, dtype, device)


def _check_graphs(deployment: Deployment, dtype: str, device: str) -> None:
    if not deployment.has_graphs:
        return
    name = "compiled" if deployment.graphs is None else "graphs"
    remedy = "set it to false" if deployment.graphs else "set it, or graphs alone, to false"
    if device == "cpu":
        raise InputError(f"{name} is true, but there are no CUDA graphs on a CPU; {remedy}")
    if dtype == "float32":
        raise InputError(f"{name} is true, but attention in CUDA graphs needs bfloat16 or float16; {remedy}")


def _check_split(model: Model, deployment: Deployment) -> None:
    tp, pp = deployment.tp, deployment.pp
    kv_heads = model.num_key_value_heads
    if pp > model.num_hidden_layers:
        raise InputError(f"pp is {pp}; {model.name} has only {model.num_hidden_layers} layers")
    if kv_heads % tp and tp % kv_heads:
        raise InputError(f"tp is {tp}; it must divide, or be a multiple of, the {kv_heads} KV heads of {model.name}")
    sizes = {"attention heads": model.num_attention_heads, "feed-forward columns": model.intermediate_size}
    if model.num_experts:
        sizes["columns of each expert"] = model.moe_intermediate_size
    for what, size in sizes.items():
        if size % tp:
            raise InputError(f"tp is {tp}; it must divide the {size} {what} of {model.name}")
    if model.num_experts and (model.hidden_size % 8 or model.moe_intermediate_size // tp % 8):
        raise InputError(
            f"{model.name}: grouped products need experts whose width is a multiple of 8 on each GPU; "
            f"it is {model.moe_intermediate_size} over tp {tp}, in a model {model.hidden_size} wide"
        )
