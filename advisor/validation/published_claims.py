"""Claims of the tables behind the project, which predictions must bear out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.left_out import errors_of
from advisor.calibration.observations import group_runs
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.memory.dispatch import memory
from advisor.perf_model.memory.kv_capacity import max_concurrency
from advisor.prediction.prediction import Prediction
from advisor.validation.prediction_errors import shipped_check
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.runs import read_runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advisor.calibration.surrogate import Surrogate
    from advisor.validation.prediction_errors import Check
    from catalog.schema import Measurement

LAYER_SPLIT_TABLE = Path(__file__).parents[2] / "catalog" / "data" / "reports" / "layer_split_a100.csv"


WIDEST = 30.0
"""A prediction whose interval reaches beyond this factor of it, up or down, says nothing: it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedClaim:
    """Something that must come out, and whether it does."""

    text: str
    holds: bool | None
    """None: it is not answered, for what it is about is not known."""
    detail: str


def layer_split_runs() -> tuple[Measurement, ...]:
    """Return the table of model against tensor parallel inference in plain PyTorch on up to four A100."""
    return read_runs(LAYER_SPLIT_TABLE)


def layer_split_checks(surrogate: Surrogate) -> list[Check]:
    """Return every cell of that table beside its prediction."""
    return [shipped_check(error, surrogate) for error in errors_of(group_runs(layer_split_runs()), surrogate.marginal)]


def is_known(check: Check) -> bool:
    """Return whether the interval of a prediction is narrow enough to say something."""
    return check.low * WIDEST >= check.predicted and check.high <= check.predicted * WIDEST


def layer_split_claims(surrogate: Surrogate) -> list[PublishedClaim]:
    """Judge whether tensor parallel is above layer split in every comparable cell, and rises with GPUs."""
    cells = {(check.run.model, check.run.tp, check.run.pp): check for check in layer_split_checks(surrogate)}
    predicted = {key: check.predicted for key, check in cells.items()}
    models = sorted({model for model, _, _ in cells})
    pairs = [(m, n) for m in models for n in (2, 4) if (m, n, 1) in cells]
    rising = [[predicted[m, n, 1] for n in (1, 2, 4) if (m, n, 1) in cells] for m in models]

    def shown(key: tuple[str, int, int]) -> str:
        check, (model, tp, pp) = cells[key], key
        kind = f"TP{tp}" if pp == 1 else f"layer split {pp}"
        interval = f"predicted {check.predicted:.0f} ({check.low:.0f}-{check.high:.0f})"
        return f"{model.split('/')[1]} {kind}: measured {check.measured:.0f}, {interval if is_known(check) else 'not known'}"

    def answered(keys: Iterable[tuple[str, int, int]], holds: bool) -> bool | None:
        return holds if all(is_known(cells[key]) for key in keys) else None

    grown = [(m, n, 1) for m in models for n in (1, 2, 4) if (m, n, 1) in cells]

    return [
        PublishedClaim(
            text="A100, plain PyTorch: tensor parallel above layer split in every comparable cell",
            holds=answered(cells, all(predicted[m, n, 1] > predicted[m, 1, n] for m, n in pairs)),
            detail=f"tok/s; {'; '.join(shown(key) for key in cells)}",
        ),
        PublishedClaim(
            text="A100, plain PyTorch: tensor parallel rises with GPUs",
            holds=answered(grown, all(a < b for values in rising for a, b in itertools.pairwise(values))),
            detail="; ".join(
                f"{m.split('/')[1]} {', '.join(_shown(cells[m, n, 1]) for n in (1, 2, 4) if (m, n, 1) in cells)} tok/s"
                for m in models
            ),
        ),
    ]


def _shown(check: Check) -> str:
    return f"{check.predicted:.0f}" if is_known(check) else "not known"


SMALL_GPU_LAYOUTS = ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2))


def small_gpu_claims(surrogate: Surrogate) -> list[PublishedClaim]:
    """Judge claims on Llama-2-7B float16 on V100-16GB, 128 tokens in and out, the largest batch that fits (run.ai, February 2024).

    There, splitting a model that fits one GPU raised throughput per GPU by 57% (vLLM) at TP2; total throughput still rose
    at TP4 and fell per GPU. Judged with the parameters of vLLM's generation of that time.
    """
    model, cluster = find_model("meta-llama/Llama-2-7b-hf").value, parse_cluster("4xV100-SXM2-16GB").value
    marginal = surrogate.marginal("vllm 0.2", cluster.gpu.name)
    columns = {
        "tp": [tp for tp, _ in SMALL_GPU_LAYOUTS],
        "pp": [pp for _, pp in SMALL_GPU_LAYOUTS],
        "dtype": "float16",
        "max_num_batched_tokens": 2560,
        "max_num_seqs": 256,
        "max_model_len": 256,
    }
    layout = DeploymentArrays.from_columns(columns, model, cluster.gpu)
    most = np.minimum(
        max_concurrency(model, memory(model, cluster, layout), layout, np.full(len(layout), 256.0)), 256.0
    )
    prediction = Prediction.of(
        model,
        cluster,
        replace(layout, max_num_seqs=most),
        batch=most,
        input_len=128,
        output_len=128,
        regime="steady",
        parameters=marginal.parameters,
    )
    total = dict(zip(SMALL_GPU_LAYOUTS, prediction.times.output_tok_s.tolist(), strict=True))
    per_gpu = {layout: value / (layout[0] * layout[1]) for layout, value in total.items()}
    gain = per_gpu[2, 1] / per_gpu[1, 1] - 1.0
    batches = dict(zip(SMALL_GPU_LAYOUTS, most.astype(int).tolist(), strict=True))
    rows = "; ".join(
        f"TP{t} PP{p}: batch {batches[t, p]}, {total[t, p]:.0f} tok/s, {per_gpu[t, p]:.0f} per GPU"
        for t, p in SMALL_GPU_LAYOUTS
    )
    return [
        PublishedClaim(
            text="V100-16GB, Llama-2-7B: TP2 per GPU at least 40% above one GPU (measured there: 57%)",
            holds=gain >= 0.4,
            detail=(
                f"predicted +{gain:.0%}; {rows}. Engines of that time ran their pipeline stages one after another, which "
                "the blog's PP rows (below TP2) show; these predictions keep every stage busy, as engines now do"
            ),
        ),
        PublishedClaim(
            text="V100-16GB, Llama-2-7B: TP4 above TP2 in total and below it per GPU",
            holds=total[4, 1] > total[2, 1] and per_gpu[4, 1] < per_gpu[2, 1],
            detail=f"predicted total {total[2, 1]:.0f} and {total[4, 1]:.0f}, per GPU {per_gpu[2, 1]:.0f} and {per_gpu[4, 1]:.0f}",
        ),
    ]
