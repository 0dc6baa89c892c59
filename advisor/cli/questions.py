"""``advisor recommend``, ``estimate`` and ``export``: questions about one model on some GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advisor.cli import grounds, traffic
from advisor.cli import options as opt
from advisor.cli.output import answer, check_outputs, progress, write, written
from advisor.cli.program import refuse
from catalog.schema import InputError, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.estimation import Estimate
    from advisor.recommendation.recommendation import Recommendation

Products = Annotated[
    bool,
    typer.Option("--products", rich_help_panel=opt.OUTPUT, help="Also report each matrix product and what bounds it."),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        rich_help_panel=opt.OUTPUT,
        help="vllm, sglang, tensorrt-llm, compose or kubernetes.  [default: the engine's command line]",
    ),
]


def recommend(
    *,
    model: opt.Model,
    gpus: opt.Gpus,
    set_gpu: opt.SetGpu = None,
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 256,
    concurrency: opt.Concurrency = None,
    rate: opt.Rate = None,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    e2e: opt.E2e = None,
    percentile: opt.Percentile = None,
    objective: opt.Objective = "throughput_per_gpu",
    engine: opt.Engine = "vllm",
    dtype: opt.Dtypes = None,
    kv_cache_dtype: opt.KvDtypes = None,
    max_num_seqs: opt.MaxBatch = None,
    max_num_batched_tokens: opt.TokenBudgets = None,
    max_model_len: opt.MaxModelLen = None,
    gpu_memory_utilization: opt.GpuMemoryUtilization = 0.9,
    offload: opt.Offload = 0.0,
    trials: opt.Trials = None,
    storage: opt.Storage = None,
    study_name: opt.StudyName = None,
    top: opt.Top = 10,
    runs: opt.Runs = None,
    fit: grounds.Fit = None,
    price: opt.PriceOption = None,
    illustrative_prices: opt.IllustrativePrices = False,
    report: traffic.Report = None,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Find the deployment that serves a workload best.

    Up to all the GPUs are used. Every valid layout and batch is evaluated in the steady state: each replica keeps its batch in flight. Exits with 1
    where nothing is feasible, and says what comes nearest and what to relax.

    \b
    advisor recommend --model llama-13b --gpus 4xA100
    advisor recommend --model llama-70b --gpus 8xH100 --tpot 30 --dtype fp8
    advisor recommend --model qwen3-32b --gpus 4xL40S --objective cost --wide
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.recommendation.recommendation import recommend  # brings numpy and Optuna

    check_outputs(report)
    with progress("searching every valid deployment"):
        found = recommend(
            model, gpus, workload=Workload(input_len=input_len, output_len=output_len, rate=rate, concurrency=concurrency),
            slo=Slo(ttft_ms=ttft, tpot_ms=tpot, e2e_ms=e2e, percentile=percentile), objective=objective, engine=engine,
            dtypes=dtype, kv_dtypes=kv_cache_dtype, max_batch=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens, max_model_len=max_model_len,
            gpu_memory_utilization=gpu_memory_utilization, offload=offload, trials=trials, storage=storage,
            study_name=study_name, top=top, runs=grounds.evidence(runs, fit), price=price, illustrative_prices=illustrative_prices,
            set_gpu=opt.overrides(set_gpu),
        )  # fmt: skip
    pages: list[Path] = []
    if report is not None:
        from advisor.render.reviews import review_recommendation  # brings Matplotlib

        pages = review_recommendation(found, Path(report))[:2]
    _tell_recommendation(found, format_, wide=wide, pages=pages)
    if found.best is None:
        raise _nothing_feasible(found, told=format_ not in {"csv", "markdown"})


def _tell_recommendation(found: Recommendation, chosen: str, *, wide: bool, pages: Sequence[Path]) -> None:
    from advisor.recommendation.recommendation import row
    from advisor.render.recommendations import candidate_columns, recommendation_view  # brings Rich

    answer(
        chosen,
        view=lambda width: [*recommendation_view(found, width, wide=wide), *written(pages)],
        body=found.to_dict,
        rows=lambda: [row(candidate) for candidate in found.candidates],
        columns=lambda: candidate_columns(found, found.candidates),
    )


def _nothing_feasible(found: Recommendation, *, told: bool) -> typer.Exit:
    if told:
        return typer.Exit(1)
    return refuse(f"nothing feasible; relax: {'; or '.join(found.relaxations)}")


def estimate(
    *,
    model: opt.Model,
    gpus: opt.Gpus,
    batch: opt.Batch,
    set_gpu: opt.SetGpu = None,
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 256,
    tensor_parallel_size: opt.Tp = 1,
    pipeline_parallel_size: opt.Pp = 1,
    data_parallel_size: opt.Dp = 1,
    expert_parallel_size: opt.Ep = 1,
    engine: opt.Engine = "vllm",
    dtype: opt.Dtype = "auto",
    kv_cache_dtype: opt.KvDtype = "auto",
    max_num_seqs: opt.MaxNumSeqs = None,
    max_num_batched_tokens: opt.MaxNumBatchedTokens = None,
    max_model_len: opt.MaxModelLen = None,
    gpu_memory_utilization: opt.GpuMemoryUtilization = 0.9,
    offload: opt.Offload = 0.0,
    runs: opt.Runs = None,
    fit: grounds.Fit = None,
    price: opt.PriceOption = None,
    products: Products = False,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Estimate time, throughput and memory of one deployment.

    All requests of a batch arrive at once (static). Exits with 1 where the weights do not fit.

    \b
    advisor estimate --model llama-13b --gpus 4xA100 --tp 4 --batch 32
    advisor estimate --model llama-70b --gpus 4xH100 --tp 4 --batch 16 --products
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.prediction.estimation import estimate  # brings numpy
    from advisor.render.estimates import estimate_row, estimate_view, metric_columns, product_columns

    found = estimate(
        model, gpus, tp=tensor_parallel_size, pp=pipeline_parallel_size, dp=data_parallel_size, ep=expert_parallel_size,
        batch=batch, input_len=input_len, output_len=output_len, engine=engine, dtype=dtype, kv_dtype=kv_cache_dtype,
        max_num_batched_tokens=max_num_batched_tokens, max_num_seqs=max_num_seqs, max_model_len=max_model_len,
        gpu_memory_utilization=gpu_memory_utilization, runs=grounds.evidence(runs, fit), set_gpu=opt.overrides(set_gpu), price=price,
        offload=offload,
    )  # fmt: skip
    relax = [] if found.fits or format_ != "table" else _what_fits(found)
    answer(
        format_,
        view=lambda width: estimate_view(found, width, products=products, wide=wide, relax=relax),
        body=found.to_dict,
        rows=lambda: [dict(product) for product in found.products] if products else [estimate_row(found)],
        columns=lambda: product_columns(found) if products else metric_columns(found),
    )
    if not found.fits:
        needed = [note.text for note in found.notes if note.kind == "warning"]
        raise typer.Exit(1) if format_ in {"table", "json", "yaml"} else refuse("; ".join(needed))


def _what_fits(found: Estimate) -> Sequence[str]:
    """The smallest layout of the same GPUs that holds the model; where there is none, what would."""
    from advisor.recommendation.recommendation import recommend  # brings Optuna

    wanted = found.deployment
    other = recommend(
        found.model, found.cluster, workload=Workload(input_len=found.input_len, output_len=found.output_len),
        engine=wanted.engine, dtypes=[wanted.dtype], kv_dtypes=[wanted.kv_dtype], top=10_000,
        gpu_memory_utilization=wanted.gpu_memory_utilization, offload=wanted.offload,
    )  # fmt: skip
    if other.best is None:
        return other.relaxations
    least = min(other.candidates, key=lambda each: (each.deployment.tp * each.deployment.pp, each.deployment.pp))
    layout = f"--tp {least.deployment.tp} --pp {least.deployment.pp}"
    return [f"{layout}: the smallest layout that fits, with room for {least.max_concurrency} requests of this length"]


def export(
    *,
    model: opt.Model,
    gpus: opt.Gpus,
    set_gpu: opt.SetGpu = None,
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 256,
    concurrency: opt.Concurrency = None,
    rate: opt.Rate = None,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    e2e: opt.E2e = None,
    percentile: opt.Percentile = None,
    objective: opt.Objective = "throughput_per_gpu",
    engine: opt.Engine = "vllm",
    tensor_parallel_size: opt.ChosenTp = None,
    pipeline_parallel_size: opt.ChosenPp = None,
    data_parallel_size: opt.ChosenDp = None,
    expert_parallel_size: opt.ChosenEp = None,
    dtype: opt.Dtype = "auto",
    kv_cache_dtype: opt.KvDtype = "auto",
    max_num_seqs: opt.MaxNumSeqs = None,
    max_num_batched_tokens: opt.MaxNumBatchedTokens = None,
    max_model_len: opt.MaxModelLen = None,
    gpu_memory_utilization: opt.GpuMemoryUtilization = 0.9,
    offload: opt.Offload = 0.0,
    runs: opt.Runs = None,
    fit: grounds.Fit = None,
    target: Target = None,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Write the command line or manifest that starts a deployment.

    Formats are engines' command lines, a Compose file and a Kubernetes manifest.
    With a layout (--tp, --pp, --dp or --ep) that deployment, after a check that it fits; without one, the deployment
    that is recommended for the workload. Exits with 1 where nothing fits.

    \b
    advisor export --model llama-13b --gpus 4xA100 --format compose > compose.yaml
    advisor export --model llama-70b --gpus 8xH100 --tp 4 --dp 2 --engine sglang
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.prediction.estimation import estimate  # brings numpy
    from advisor.recommendation.launch_command import export
    from advisor.recommendation.recommendation import recommend

    layout = {
        "tp": tensor_parallel_size, "pp": pipeline_parallel_size, "dp": data_parallel_size, "ep": expert_parallel_size,
    }  # fmt: skip
    chosen: dict[str, Any] = {name: degree for name, degree in layout.items() if degree is not None}
    common: dict[str, Any] = {
        "engine": engine, "max_num_batched_tokens": max_num_batched_tokens, "max_model_len": max_model_len,
        "gpu_memory_utilization": gpu_memory_utilization, "offload": offload, "runs": grounds.evidence(runs, fit),
        "set_gpu": opt.overrides(set_gpu),
    }  # fmt: skip
    found: Estimate | Recommendation
    if chosen:
        given = {
            "--concurrency": concurrency, "--rate": rate, "--ttft": ttft, "--tpot": tpot, "--e2e": e2e,
            "--percentile": percentile,
        }  # fmt: skip
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise InputError(
                f"{idle[0]} chooses a layout, but --{next(iter(chosen))} states one; leave out one of the two"
            )
        found = estimate(
            model, gpus, batch=1, input_len=input_len, output_len=output_len, dtype=dtype, kv_dtype=kv_cache_dtype,
            max_num_seqs=max_num_seqs, **chosen, **common,
        )  # fmt: skip
        if not found.fits:
            raise refuse("; ".join(note.text for note in found.notes if note.kind == "warning"))
    else:
        with progress("searching every valid deployment"):
            found = recommend(
                model, gpus, workload=Workload(input_len=input_len, output_len=output_len, rate=rate, concurrency=concurrency),
                slo=Slo(ttft_ms=ttft, tpot_ms=tpot, e2e_ms=e2e, percentile=percentile), objective=objective,
                dtypes=[dtype], kv_dtypes=[kv_cache_dtype], max_batch=max_num_seqs, **common,
            )  # fmt: skip
        if found.best is None:
            raise _nothing_feasible(found, told=False)
    text = export(found, target or engine)
    write(text if text.endswith("\n") else f"{text}\n")
