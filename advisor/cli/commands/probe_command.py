"""``advisor probe``: measure on this machine's GPUs, or a server that runs already."""

from __future__ import annotations

import time

from advisor.cli.measuring import ended_by_sigterm, watched
from advisor.cli.options.hardware import ProbedHardware
from advisor.cli.options.output import Output
from advisor.cli.options.probing import Measured, ProbeKept
from advisor.cli.options.values import seconds
from advisor.cli.probe_answer import show_outcome, show_plan, show_report
from advisor.cli.program import refuse
from catalog.errors import InputError

DEFAULT_BUDGET = "3m"


def probe(*, hardware: ProbedHardware, measured: Measured, kept: ProbeKept, output: Output) -> None:
    """Measure a model on your own GPUs.

    Runs the most informative layouts and batches first, as many as fit into the budget. Every run is saved at once, nothing is
    measured twice, and later answers use the runs.

    \b
    advisor probe --model llama-13b --gpus local --budget 3m
    advisor probe --model llama-13b --gpus 4xH200 --dry-run
    advisor probe --model llama-13b --engine vllm --serving --budget 10m
    advisor probe --endpoint http://host:8000 --model llama-13b --gpus 1xH100
    advisor probe --report
    """  # noqa: D301  Click's mark for lines that stay as they are
    began = time.monotonic()
    if kept.report and not measured.dry_run:
        from advisor.render.page import check_figures  # only with --report

        check_figures()  # before anything is measured
    if hardware.model is None and measured.plan is None:
        if not kept.report:
            raise InputError("missing --model; for example: --model llama-13b")
        show_report(kept.out, kept.runs, output)
        return
    if hardware.model is not None and measured.plan is not None:
        raise InputError("--model and --plan are both given; a plan says which models, leave out one of the two")
    budget = hardware.budget or (None if measured.plan else DEFAULT_BUDGET)
    limit_s = seconds(budget) if budget else None
    if hardware.endpoint is not None:
        _probe_endpoint(hardware, measured, kept, output, limit_s=limit_s, began=began)
    else:
        _probe_here(hardware, measured, kept, output, limit_s=limit_s, began=began)


def _probe_endpoint(
    hardware: ProbedHardware,
    measured: Measured,
    kept: ProbeKept,
    output: Output,
    *,
    limit_s: float | None,
    began: float,
) -> None:
    """Measure a running server under rising load."""
    if measured.serving or measured.trace is not None:
        raise InputError("--serving and --trace are for --engine vllm; a server is measured under traffic anyway")
    if measured.plan is not None:
        raise InputError("--endpoint and --plan are both given; a plan is for this machine's GPUs, leave out one")
    from advisor.benchmarking.benchmark_plan import ProbeQuestion  # these bring numpy
    from advisor.benchmarking.endpoint_session import prepare_endpoint
    from advisor.cli.endpoint_answer import answer_endpoint

    assert hardware.endpoint is not None
    with ended_by_sigterm():
        ready = prepare_endpoint(
            hardware.endpoint,
            hardware.model,
            hardware.gpus,
            question=ProbeQuestion(**measured.shapes(), dtype=measured.dtype, max_model_len=measured.max_model_len),
            engine=measured.engine,
            tokenizer=measured.tokenizer,
            role=measured.role,
            budget_s=limit_s,
            out=kept.out,
            store=kept.runs,
            began=began,
        )
        answer_endpoint(ready, output, dry_run=measured.dry_run, report=kept.report)


def _probe_here(
    hardware: ProbedHardware,
    measured: Measured,
    kept: ProbeKept,
    output: Output,
    *,
    limit_s: float | None,
    began: float,
) -> None:
    """Measure on GPUs of this machine."""
    from advisor.benchmarking.benchmark_plan import ProbeQuestion  # these bring numpy
    from advisor.benchmarking.probe_api import prepare_probe
    from advisor.benchmarking.traffic_plan import read_requests

    if measured.tokenizer is not None:
        raise InputError("--tokenizer is for --endpoint; the engines measured here are given tokens")
    question = ProbeQuestion(
        **measured.shapes(),
        engine=measured.engine or ("vllm" if measured.serving else "torch"),
        serving=measured.serving,
        dtype=measured.dtype,
        max_model_len=measured.max_model_len,
        trace=read_requests(measured.trace, serving=measured.serving),
    )
    ready = prepare_probe(
        hardware.model,
        hardware.gpus,
        budget_s=limit_s,
        question=question,
        device=hardware.device,
        role=measured.role,
        out=kept.out,
        store=kept.runs,
        plan=measured.plan,
        began=began,
    )
    if not ready.all_loads:
        raise refuse(f"nothing can be measured: {'; '.join(ready.left_out)}")
    if measured.dry_run:
        show_plan(ready, output)
        return
    before = len(ready.runs())
    try:
        with ended_by_sigterm(), watched(ready) as (watch, say):
            runs = ready.run(watch=watch, say=say)
    except KeyboardInterrupt:
        if done := list(ready.runs()):
            show_outcome(ready, done, before, output, report=False)
        raise
    show_outcome(ready, runs, before, output, report=kept.report)
