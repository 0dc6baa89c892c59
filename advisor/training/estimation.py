"""Answer what training takes: with a stated layout, or with the fastest that fits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from advisor.perf_model.deployment_arrays import matrix_flops
from advisor.perf_model.sensitivity import log_slopes, shifted
from advisor.prediction.inputs import chosen_price, read_cluster, read_model
from advisor.training.budget import budget
from advisor.training.efficiencies import Efficiencies, shipped_fit
from advisor.training.layout_space import layouts_of
from advisor.training.layouts import FORMATS, TrainingTask
from advisor.training.step_cost import model_flops
from advisor.training.step_time import PARTS as TIME_PARTS
from advisor.training.step_time import step_causes, step_time
from advisor.training.training_estimate import TrainingEstimate, TrainingRecommendation
from advisor.training.training_memory import PARTS as MEMORY_PARTS
from advisor.training.training_memory import memory_by_part
from catalog.errors import InputError, Note
from catalog.schema import require_positive
from catalog.training import PRECISIONS, RECOMPUTATIONS, SCHEDULES, find_framework

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.training.layouts import TrainingLayouts
    from catalog.schema import Cluster, Model

AUTO = "auto"
COMPARED_FRAMEWORKS = ("megatron-core", "fsdp")
"""Frameworks of a search that names none."""
USUAL_LENGTH = 4096
"""Tokens of a sequence where nobody says, at most: what most models of today are first trained at."""
RELAXED_RANK = 16
"""Rank of the adapters that are offered where full fine-tuning does not fit (arXiv 2106.09685, table 6: 8 to 64 do alike)."""
MOST_NODES = 4096
SHORTEST, MOST_HALVINGS = 512, 16
"""Tokens of the shortest sequences that are offered instead, and how often a sequence is halved for it."""


def estimate_training(
    model: str | Model,
    gpus: str | Cluster,
    *,
    batch: int,
    tp: int = 1,
    pp: int = 1,
    dp: int | None = None,
    cp: int = 1,
    ep: int = 1,
    sequence_length: int | None = None,
    micro_batch: int | None = None,
    interleave: int | None = None,
    schedule: str = "1f1b",
    recompute: str = AUTO,
    sequence_parallel: bool | None = None,
    zero: int | None = None,
    precision: str = "bf16",
    framework: str = AUTO,
    lora_rank: int = 0,
    offload: bool = False,
    tokens: float | None = None,
    price: float | None = None,
    set_gpu: Mapping[str, float | str] | None = None,
) -> TrainingEstimate:
    """Time, throughput and memory of training with one layout; knobs left None are the fastest that fit.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: ``"64xA100"``, ``"8x8xH100"`` (nodes x GPUs), or a ``Cluster``.
        batch: sequences of one step, over all replicas.
        tp: GPUs that share each layer (tensor parallel).
        pp: stages that the layers are split into (pipeline parallel).
        dp: replicas; None for all GPUs that are left.
        cp: GPUs that share each sequence (context parallel).
        ep: GPUs that the routed experts are spread over.
        sequence_length: tokens of a sequence; None for the model's positions, at most 4096.
        micro_batch: sequences of a micro-batch.
        interleave: chunks of layers a stage (interleaved schedule).
        schedule: "1f1b" or "gpipe".
        recompute: activations computed again: "none", "selective" (the core of attention), "full", or "auto".
        sequence_parallel: whether norms and dropout are sliced along the sequence; None: with tp > 1.
        zero: what is divided among replicas: 1 optimizer states, 2 gradients too, 3 weights too (FSDP); None: the framework's.
        precision: "bf16", "fp8" or "fp4" products.
        framework: megatron-core, nemo, fsdp, deepspeed, megatron-lm, or "auto".
        lora_rank: rank of low-rank adapters that alone are trained; 0: full training.
        offload: whether optimizer states are in CPU memory.
        tokens: a number of tokens to train on, for days, cost and energy.
        price: dollars per GPU-hour; None for the cheapest offer in the catalog.
        set_gpu: what-if values for fields of the GPU, ``network_gbps`` too.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    answer = recommend_training(**locals(), top=1)
    one = answer.candidates[0]
    what_fits = Note("; ".join(answer.relaxations))
    return replace(one, notes=(*one.notes, what_fits)) if answer.relaxations else one


def recommend_training(
    model: str | Model,
    gpus: str | Cluster,
    *,
    batch: int,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    cp: int | None = None,
    ep: int | None = None,
    sequence_length: int | None = None,
    micro_batch: int | None = None,
    interleave: int | None = None,
    schedule: str = "1f1b",
    recompute: str = AUTO,
    sequence_parallel: bool | None = None,
    zero: int | None = None,
    precision: str = "bf16",
    framework: str = AUTO,
    lora_rank: int = 0,
    offload: bool = False,
    tokens: float | None = None,
    price: float | None = None,
    set_gpu: Mapping[str, float | str] | None = None,
    top: int = 5,
) -> TrainingRecommendation:
    """Find the fastest layouts that fit: every one that the stated knobs leave open is evaluated.

    The arguments are those of ``estimate_training``; degrees left None are searched. ``top``: layouts to return.

    Raises:
        InputError: a name, number or combination that cannot be; the message says what would be right.

    """
    require_positive("top", top, most=10_000)
    knobs = {"tp": tp, "pp": pp, "dp": dp, "cp": cp, "ep": ep, "micro_batch": micro_batch, "interleave": interleave}
    knobs |= {"sequence_parallel": sequence_parallel, "zero": zero}
    stated: dict[str, Any] = {name: value for name, value in knobs.items() if value is not None}
    stated |= {} if recompute == AUTO else {"recompute": recompute}
    _check(stated, batch=batch, schedule=schedule, precision=precision, lora_rank=lora_rank)
    frameworks = [find_framework(name) for name in _frameworks(framework, stated)]
    resolved, cluster = read_model(model), read_cluster(gpus, set_gpu)
    length = _length(resolved.value, sequence_length)
    notes = [*resolved.notes, *cluster.notes, *_left_out(resolved.value)]
    if sequence_length is None:
        notes.append(Note(f"sequences of {length} tokens; --seq-len says otherwise"))
    gpu = cluster.value.gpu
    if (precision == "fp8" and not gpu.fp8_tflops) or (precision == "fp4" and not gpu.fp4_tflops):
        raise InputError(f"{gpu.name} has no {precision} units; train in bf16")
    task = TrainingTask(
        model=resolved.value,
        cluster=cluster.value,
        framework=frameworks[0],
        batch=batch,
        sequence_length=length,
        precision=precision,
        schedule=schedule,  # type: ignore[arg-type]  # checked above
        lora_rank=lora_rank,
        offload=offload,
    )
    tasks = [replace(task, framework=chosen) for chosen in frameworks]
    return _fastest(tasks, stated, tuple(notes), tokens=tokens, price=price, top=top)


def _frameworks(name: str, stated: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the frameworks to try: the one that is named, or those that have what is stated."""
    if name != AUTO:
        return (name,)
    degrees = {degree for degree in ("tp", "pp", "cp", "ep") if stated.get(degree, 1) > 1}
    able = [
        tried
        for tried in (*COMPARED_FRAMEWORKS, "deepspeed")
        if degrees <= set(find_framework(tried).parallel)
        and ("zero" not in stated or stated["zero"] in find_framework(tried).stages)
    ]
    return tuple(tried for tried in able if tried in COMPARED_FRAMEWORKS) or tuple(able) or (COMPARED_FRAMEWORKS[0],)


def _fastest(
    tasks: Sequence[TrainingTask],
    stated: Mapping[str, Any],
    notes: tuple[Note, ...],
    *,
    tokens: float | None,
    price: float | None,
    top: int,
) -> TrainingRecommendation:
    """Return the fastest layouts that fit over all tasks, which differ in the framework; where none fits, what lacks least memory.

    Those that fit with any fragmentation come before those that may not.

    Raises:
        InputError: what is stated contradicts itself in every framework.

    """
    ranked: list[tuple[bool, bool, float, TrainingTask, TrainingLayouts]] = []
    evaluated = fitting = 0
    problems: list[InputError] = []
    for task in tasks:
        try:
            layouts = layouts_of(task, stated)
        except InputError as error:
            problems.append(error)
            continue
        memory = memory_by_part(task, layouts)
        device = task.cluster.gpu.memory_gib
        tight, lacking = memory.interval[1] > device, memory.total > device
        evaluated, fitting = evaluated + len(layouts), fitting + int(np.sum(~lacking))
        times = memory.total if lacking.all() else step_time(task, layouts, shipped_fit().efficiencies).total
        for row in np.lexsort((times, tight, lacking))[:top]:
            one = layouts.take(np.array([row]))
            ranked.append((bool(lacking[row]), bool(tight[row]), float(times[row]), task, one))
    if not ranked:
        raise problems[0]
    ranked.sort(key=lambda ranking: ranking[:3])
    able = not ranked[0][0]
    chosen = [(task, layout) for lacks, _, _, task, layout in ranked if lacks != able][: top if able else 1]
    shown = tuple(_estimate(task, layout, notes, tokens=tokens, price=price) for task, layout in chosen)
    best = shown[0] if shown[0].fits else None
    return TrainingRecommendation(
        best=best,
        candidates=shown,
        evaluated=evaluated,
        fitting=fitting,
        relaxations=() if best else tuple(_relaxations(tasks, stated)),
        notes=notes,
    )


def _check(known: Mapping[str, Any], *, batch: int, schedule: str, precision: str, lora_rank: int) -> None:
    require_positive("batch", batch, most=10**7)
    for name in ("tp", "pp", "dp", "cp", "ep", "micro_batch", "interleave"):
        if name in known:
            require_positive(name, known[name], most=65_536)
    for name, value, choices in (
        ("schedule", schedule, SCHEDULES),
        ("precision", precision, PRECISIONS),
        ("recompute", known.get("recompute", RECOMPUTATIONS[0]), RECOMPUTATIONS),
    ):
        if value not in choices:
            raise InputError(f"{name} is {value!r:.40}; it must be one of {', '.join(choices)}")
    if known.get("zero", 0) not in (0, 1, 2, 3):
        raise InputError(f"zero is {known['zero']!r:.40}; stages of ZeRO are 0, 1, 2 and 3")
    if isinstance(lora_rank, bool) or not isinstance(lora_rank, int) or not 0 <= lora_rank <= 65_536:
        raise InputError(f"lora_rank is {lora_rank!r:.40}; it must be a whole number, 0 for full training")


def _length(model: Model, stated: int | None) -> int:
    if stated is None:
        return min(model.max_position_embeddings, USUAL_LENGTH)
    require_positive("sequence_length", stated, most=2**24)
    if model.learned_positions and stated > model.learned_positions:
        raise InputError(
            f"sequences of {stated} tokens are longer than the {model.learned_positions} learned positions of {model.name}"
        )
    return stated


def _estimate(
    task: TrainingTask, layout: TrainingLayouts, notes: tuple[Note, ...], *, tokens: float | None, price: float | None
) -> TrainingEstimate:
    """Return one layout's estimate with its uncertainty."""
    fit, gpu = shipped_fit(), task.cluster.gpu
    time = step_time(task, layout, fit.efficiencies)
    seconds = float(np.ravel(time.total)[0]) * 1e-3
    floor = float(np.ravel(step_time(task, layout, Efficiencies.ideal()).total)[0]) * 1e-3
    memory = memory_by_part(task, layout)
    used = float(memory.total[0])
    least, most = (float(end[0]) for end in memory.interval)
    row = layout.row(0)
    flops = model_flops(task) / seconds / row.num_gpus
    offer = chosen_price(gpu.name, price)
    tokens_s = task.tokens / seconds
    warnings = []
    if used > gpu.memory_gib:
        warnings = [Note(f"{used:.1f} GiB are needed on the fullest GPU, which has {gpu.memory_gib:.1f}", "warning")]
    elif most > gpu.memory_gib:
        warnings = [Note(f"memory is close: with a fragmented allocator up to {most:.1f} of {gpu.memory_gib:.1f} GiB")]
    return TrainingEstimate(
        model=task.model,
        cluster=task.cluster,
        framework=task.framework.name,
        precision=task.precision,
        schedule=task.schedule,
        lora_rank=task.lora_rank,
        offload=task.offload,
        layout=row,
        batch=task.batch,
        sequence_length=task.sequence_length,
        step_s=seconds,
        tokens_s=tokens_s,
        tokens_s_per_gpu=tokens_s / row.num_gpus,
        tflops_per_gpu=flops / 1e12,
        mfu=flops / matrix_flops(gpu, FORMATS[task.precision]),
        memory={
            **{part: float(np.ravel(getattr(memory, part))[0]) for part in MEMORY_PARTS},
            "used": used,
            "device": gpu.memory_gib,
        },
        memory_span=(least, most),
        fits=used <= gpu.memory_gib,
        breakdown={part: float(np.ravel(getattr(time, part))[0]) * 1e-3 for part in TIME_PARTS},
        causes={
            cause: float(np.ravel(time_ms)[0]) * 1e-3
            for cause, time_ms in step_causes(task, layout, fit.efficiencies).items()
        },
        floor_s=floor,
        budget=None
        if tokens is None
        else budget(tokens, tokens_s=tokens_s, step_s=seconds, cluster=task.cluster, model=task.model, price=offer),
        price=offer,
        provenance=_provenance(task),
        notes=(*notes, *warnings),
        sigma=step_sigma(task, layout),
        quantile=fit.quantile,
    )


def step_sigma(task: TrainingTask, layout: TrainingLayouts) -> float:
    """Return the standard deviation of the logarithm of the step time: the parameters' own uncertainty and what they leave open."""
    fit = shipped_fit()
    around = shifted(fit.mean)
    total = step_time(task, layout, Efficiencies.from_unbounded(around)).total
    slope = log_slopes(np.broadcast_to(total, (len(around), 1))[:, 0])
    beyond = {"calibrated": fit.sigma, "transferred": fit.unseen_sigma, "analytic": 2.0 * fit.unseen_sigma}[
        _provenance(task)
    ]
    return float(np.hypot(np.sqrt(slope @ fit.covariance @ slope), beyond))


def _left_out(model: Model) -> list[Note]:
    """Say what of a model with encoders is not trained."""
    if not model.encoder_parameters:
        return []
    size = f"{model.encoder_parameters / 1e6:.0f} M parameters"
    return [Note(f"the encoder of its images, {size}, is left out: the language model is trained, on text", "warning")]


def _provenance(task: TrainingTask) -> Literal["calibrated", "transferred", "analytic"]:
    gpu = task.cluster.gpu
    if task.model.moe_layers or gpu.vendor != "nvidia":
        return "analytic"
    fitted = (gpu.name, task.precision) in shipped_fit().measured and not task.lora_rank
    return "calibrated" if fitted else "transferred"


def _relaxations(tasks: Sequence[TrainingTask], known: Mapping[str, Any]) -> list[str]:
    """Say what would fit where nothing does: adapters, states in CPU memory, shorter sequences, more GPUs."""
    said = []
    changes = [("--offload", {"offload": True})] + (
        [] if tasks[0].lora_rank else [(f"--lora-rank {RELAXED_RANK}", {"lora_rank": RELAXED_RANK})]
    )
    for words, change in changes:
        if any(_fits(replace(task, **change), known) for task in tasks):
            said.append(f"{words}: fits on the same GPUs")
    shorter = (tasks[0].sequence_length >> halvings for halvings in range(1, MOST_HALVINGS))
    for length in (length for length in shorter if length >= SHORTEST):
        if any(_fits(replace(task, sequence_length=length), known) for task in tasks):
            said.append(f"--seq-len {length}: fits on the same GPUs")
            break
    free = {name: value for name, value in known.items() if name != "dp"}
    cluster = tasks[0].cluster
    for factor in (2, 4, 8, 16, 32, 64, 128):
        room = cluster.gpu.gpus_per_node // cluster.gpus_per_node
        wider = (
            replace(cluster, gpus_per_node=cluster.gpus_per_node * factor)
            if cluster.nodes == 1 and factor <= room
            else replace(cluster, nodes=cluster.nodes * factor)
        )
        if wider.nodes > MOST_NODES:
            break
        batch = tasks[0].batch if tasks[0].batch % wider.num_gpus == 0 else tasks[0].batch * wider.num_gpus
        if any(_fits(replace(task, cluster=wider, batch=batch), free) for task in tasks):
            said.append(f"{wider.num_gpus} x {cluster.gpu.name}: fits")
            break
    return said


def _fits(task: TrainingTask, known: Mapping[str, Any]) -> bool:
    try:
        layouts = layouts_of(task, known)
    except InputError:
        return False
    return bool(np.any(memory_by_part(task, layouts).total <= task.cluster.gpu.memory_gib))
