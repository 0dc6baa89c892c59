"""Loads: what to start an engine with, what to measure on it, and how a plan of them is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, StringConstraints

from catalog.borders import checked
from catalog.engines import find_engine
from catalog.errors import InputError
from catalog.models.find import find_model
from catalog.schema import Deployment, Model
from catalog.wording import short_name
from probes.serving_benchmark import TrafficProfile, read_offer

if TYPE_CHECKING:
    from pathlib import Path

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

Count = Annotated[int, Field(gt=0, le=10**12)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
Shapes = Annotated[tuple[tuple[Count, Count, Count], ...], Field(description="[batch, input_len, output_len]")]
NamePart = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f]{0,100}$")]
"""A part of a file's name: no slash leads out of the folder."""

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkJob:
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
    repeats: int
    agreement: bool = True
    """Whether logits are compared with those of the plain reference, where the engine can show them."""
    thresholds: tuple[tuple[int, int, int], ...] = ()
    """(batch, input_len, output_len) each: find the largest batch that runs with prompts and outputs of these lengths,
    where the engine can try. The one named is where to begin: the nearer, the fewer tries."""
    offers: tuple[TrafficProfile, ...] = ()
    """Traffic, for what measures that."""
    exported: str = ""
    """Shell text that starts it, as ``advisor export`` wrote it, for what starts that."""
    foretold_kv_tokens: int | None = None
    """KV capacity of one replica, as it was foretold when the plan was made."""

    expected_s: float | None = None
    """How long it is expected to take, start-up included; None where nobody has foretold it."""

    def run_id(self, piece: tuple[int, int, int] | TrafficProfile) -> str:
        """Return the name of the run that measures one of its shapes or offers."""
        if isinstance(piece, TrafficProfile):
            return f"{self.name}-{piece.name}"
        batch, input_len, output_len = piece
        return f"{self.name}-b{batch}-i{input_len}-o{output_len}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanEntry:
    """One load as a plan writes it down, with what all loads share."""

    model: str
    role: Literal["fit", "validate"]
    gpu: str
    source: str
    interconnect: str = ""
    prefix: NamePart = ""
    label: NamePart = ""
    """Begin and end of the load's name, which is the name of files too."""
    deployment: dict[str, Any] = field(default_factory=dict)
    """Fields of ``Deployment``."""
    shapes: Shapes = SHAPES
    thresholds: Shapes = ()
    offers: tuple[Any, ...] = ()
    measure_s: Seconds = 45.0
    point_s: Seconds = 15.0
    start_s: Seconds = 240.0
    repeats: Count = 3
    agreement: bool = True
    expected_s: Seconds | None = None
    exported: str = ""
    foretold_kv_tokens: Count | None = None


def read_plan(path: Path) -> tuple[BenchmarkJob, ...]:
    """Read the loads of a plan: a JSON object with ``prefix``, ``source``, ``gpu``, ``interconnect``, the limits of
    ``BenchmarkJob``, a ``deployment`` that all share, ``shapes``, ``thresholds``, ``agreement``, ``offers``, and
    ``loads``, each with ``model``, ``role`` and what it has of its own (``deployment``, ``shapes``, ``label``,
    ``expected_s``, ``exported``, ``foretold_kv_tokens``).

    Raises:
        InputError: it cannot be read, or a field is missing, unknown or impossible.
    """
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    return jobs_of(plan, str(path))


def jobs_of(plan: Any, where: str) -> tuple[BenchmarkJob, ...]:
    """Return the loads of a plan that has been parsed, see ``read_plan``; ``where`` it stands is for messages.

    Raises:
        InputError: a field is missing, unknown or impossible.

    """
    if not isinstance(plan, dict) or not isinstance(entries := plan.get("loads"), list):
        raise InputError(f"{where} needs loads, a list")
    shared = {name: value for name, value in plan.items() if name not in {"loads", "schema", "version"}}
    loads = tuple(_load(entry, shared, f"{where} load {number}") for number, entry in enumerate(entries, 1))
    names = [load.name for load in loads]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where} has {twice[0]} twice; give one of them a label")
    return loads


def _load(own: Any, shared: dict[str, Any], where: str) -> BenchmarkJob:
    if not isinstance(own, dict):
        raise InputError(f"{where} is {own!r:.60}; it must be an object with model and role")
    entry = checked(PlanEntry, {**shared, **own}, where)
    knobs: dict[str, Any] = {}
    for part in (shared.get("deployment", {}), own.get("deployment", {})):
        if not isinstance(part, dict):
            raise InputError(f"{where}: deployment is {part!r:.60}; it must be an object such as {{'tp': 2}}")
        knobs |= part
    deployment = checked(Deployment, knobs, f"{where}: deployment")
    engine = find_engine(deployment.engine)
    if deployment.gpu_memory_utilization is None and engine.memory_rule != "static":
        share = engine.memory_share(deployment.engine_version)  # runs are kept with it
        deployment = replace(deployment, gpu_memory_utilization=share)
    model = find_model(entry.model).value
    layout = f"tp{deployment.tp}pp{deployment.pp}dp{deployment.dp}"
    short = short_name(model.name).casefold().removesuffix("-hf").removeprefix("meta-")
    return BenchmarkJob(
        name="-".join(part for part in (entry.prefix, short, layout, entry.label) if part),
        model=model,
        deployment=deployment,
        offers=tuple(read_offer(offer, f"{where} offer {number}") for number, offer in enumerate(entry.offers, 1)),
        **{
            name: getattr(entry, name)
            for name in (
                *("role", "shapes", "thresholds", "gpu", "interconnect", "source", "agreement", "expected_s"),
                *("exported", "foretold_kv_tokens", "measure_s", "point_s", "start_s", "repeats"),
            )
        },
    )


def config_json(model: Model, *, max_model_len: int | None = None) -> dict[str, Any]:
    """Write a Hugging Face configuration of the model's shape, enough for an engine to run it with random weights.

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
