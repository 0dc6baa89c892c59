"""``advisor simulate``: traffic on a deployment, or on several, request by request."""

from __future__ import annotations

import contextlib
import csv
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advisor.cli import grounds, traffic
from advisor.cli import options as opt
from advisor.cli.output import answer, check_outputs, progress, written
from catalog.schema import Deployment, InputError, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from advisor.simulator.request_results import RequestResults

Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency", metavar="N", rich_help_panel=opt.WORKLOAD, help="Requests kept in flight over all replicas."
    ),
]
Curve = Annotated[
    str | None,
    typer.Option(
        "--curve",
        metavar="R,R,...",
        rich_help_panel=opt.WORKLOAD,
        help="Relative rates of equal parts of the duration, such as the hours of a day.",
    ),
]
PrefillReplicas = Annotated[
    int,
    typer.Option(
        "--prefill-replicas",
        metavar="N",
        show_default=True,
        rich_help_panel=opt.LAYOUT,
        help="Replicas that only compute prompts and hand the KV cache to the others, which then only decode.",
    ),
]
PrefillTp = Annotated[
    int | None,
    typer.Option(
        "--prefill-tp", metavar="N", rich_help_panel=opt.LAYOUT, help="Tensor parallel size of those.  [default: --tp]"
    ),
]
Compare = Annotated[
    list[str] | None,
    typer.Option(
        "--compare",
        metavar="KNOBS",
        rich_help_panel=opt.LAYOUT,
        help="Another deployment under the same requests, where it differs: tp=1,dp=2 or prefill_replicas=0. Can be "
        "repeated.",
    ),
]
Requests = Annotated[
    str | None,
    typer.Option(
        "--requests", metavar="FILE", rich_help_panel=opt.OUTPUT, help="Write every request to this CSV file."
    ),
]
Plot = Annotated[
    str | None,
    typer.Option(
        "--plot", metavar="FILE", rich_help_panel=opt.OUTPUT, help="Draw the distributions of the latencies (PNG)."
    ),
]

POOLS = ("prefill_replicas", "prefill_tp")
WHOLE = (*POOLS, "tp", "pp", "dp", "ep", "max_num_seqs", "max_num_batched_tokens", "max_model_len")
NUMBERS = ("gpu_memory_utilization", "offload")
TEXTS = ("engine", "dtype", "kv_dtype")


def simulate(
    *,
    model: opt.Model,
    gpus: opt.Gpus,
    set_gpu: opt.SetGpu = None,
    rate: traffic.Rate = None,
    concurrency: Concurrency = None,
    trace: traffic.Trace = None,
    input_len: opt.InputLen = 1024,
    output_len: opt.OutputLen = 256,
    spread: traffic.Spread = 0.0,
    burstiness: traffic.Burstiness = 1.0,
    curve: Curve = None,
    duration: traffic.Duration = None,
    seed: traffic.Seed = 0,
    prefix_hit_rate: traffic.PrefixHitRate = 0.0,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    e2e: opt.E2e = None,
    percentile: traffic.Percentile = None,
    tensor_parallel_size: opt.Tp = 1,
    pipeline_parallel_size: opt.Pp = 1,
    data_parallel_size: opt.Dp = 1,
    expert_parallel_size: opt.Ep = 1,
    prefill_replicas: PrefillReplicas = 0,
    prefill_tp: PrefillTp = None,
    compare: Compare = None,
    router: traffic.RouterName = "round_robin",
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
    draws: traffic.Draws = 8,
    requests: Requests = None,
    report: traffic.Report = None,
    plot: Plot = None,
    format_: opt.Format = "table",
    wide: opt.Wide = False,
    config: opt.Config = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Serve traffic on a deployment, simulated request by request.

    The engine's scheduler is followed step by step: queues, chunked prompts, KV blocks, preemption. Requests come at a
    rate, as a trace says, or so many are kept in flight.

    \b
    advisor simulate --model llama-3.1-8b --gpus H200 --rate 15
    advisor simulate --model llama-3.1-8b --gpus H200 --trace azure.csv --rate 8
    advisor simulate --model llama-70b --gpus 8xH100 --rate 6 --tpot 40
      --percentile 95 --tp 4 --dp 2 --compare tp=8,dp=1
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.render.simulations import columns_of, simulation_row, simulation_view  # brings Rich
    from advisor.simulator.simulation import simulate  # brings numpy

    base = Deployment(
        engine=engine, tp=tensor_parallel_size, pp=pipeline_parallel_size, dp=data_parallel_size, ep=expert_parallel_size,
        dtype=dtype, kv_dtype=kv_cache_dtype, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=max_model_len, gpu_memory_utilization=gpu_memory_utilization, offload=offload,
    )  # fmt: skip
    first = Pools(prefill_replicas, prefill_tp)
    asked = [(base, first), *(changed(base, knobs, first) for knobs in compare or [])]
    limited = any(limit is not None for limit in (ttft, tpot, e2e))
    if percentile is not None and not limited:
        raise InputError("--percentile is of limits; state one: --ttft, --tpot or --e2e")
    check_outputs(report, plot)
    with requests_file(requests) as write, progress("serving every request"):
        found = [
            simulate(
                model, gpus, deployment=deployment, prefill=pools.prefill(deployment), trace=trace,
                slo=traffic.limits(ttft, tpot, e2e, percentile) if limited else None,
                workload=Workload(input_len=input_len, output_len=output_len, rate=rate, concurrency=concurrency),
                runs=grounds.evidence(runs, fit), duration_s=duration, seed=seed, spread=spread, burstiness=burstiness,
                curve=_curve(curve), router=router,  # type: ignore[arg-type]  # the option has checked it
                prefix_hit_rate=prefix_hit_rate, draws=draws, set_gpu=opt.overrides(set_gpu),
                each=partial(write, number) if write else None,
            )
            for number, (deployment, pools) in enumerate(asked)
        ]  # fmt: skip
    pages: list[Path] = []
    if report is not None or plot is not None:
        from advisor.render.reviews import draw_traffic, review_traffic  # brings Matplotlib

        pages += [draw_traffic(found, Path(plot))] if plot is not None else []
        pages += review_traffic(found, Path(report))[:2] if report is not None else []
    answer(
        format_,
        view=lambda width: [*simulation_view(found, width, wide=wide), *written(pages)],
        body=lambda: found[0].to_dict() if len(found) == 1 else {"simulations": [each.to_dict() for each in found]},
        rows=lambda: [simulation_row(each) for each in found],
        columns=lambda: columns_of(found),
    )


@dataclass(frozen=True, slots=True)
class Pools:
    """The replicas that only compute prompts, as the options name them."""

    prefill_replicas: int = 0
    prefill_tp: int | None = None

    def prefill(self, deployment: Deployment) -> Deployment | None:
        """Their deployment; None without them."""
        if not self.prefill_replicas:
            if self.prefill_tp is not None:
                raise InputError("--prefill-tp is of replicas for prompts; say how many with --prefill-replicas")
            return None
        return replace(deployment, dp=self.prefill_replicas, tp=self.prefill_tp or deployment.tp)


def changed(base: Deployment, knobs: str, pools: Pools | None = None) -> tuple[Deployment, Pools]:
    """``base`` and ``pools`` with the knobs that ``--compare`` names: "tp=1,dp=2".

    Raises:
        InputError: there is no such knob, or that is no value for it.

    """
    values: dict[str, Any] = {}
    for part in knobs.split(","):
        name, equals, text = (each.strip() for each in part.partition("="))
        if not equals or not text:
            raise InputError(f"--compare {knobs!r:.60} must be KNOB=VALUE,..., such as tp=1,dp=2")
        name = opt.one_of("--compare", name, (*WHOLE, *NUMBERS, *TEXTS))
        if name in values:
            raise InputError(f"--compare {knobs!r:.60} gives {name} twice")
        try:
            values[name] = int(text) if name in WHOLE else float(text) if name in NUMBERS else text
        except ValueError:
            kind = "a whole number" if name in WHOLE else "a number"
            raise InputError(f"--compare {knobs!r:.60}: {name} must be {kind}") from None
    apart = {name: values.pop(name) for name in POOLS if name in values}
    assert values.keys() <= {f.name for f in fields(Deployment)}
    pools = replace(pools or Pools(), **apart)
    return replace(base, **values), pools if pools.prefill_replicas else Pools()


def _curve(text: str | None) -> list[float]:
    if text is None:
        return []
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--curve is {text!r:.60}; it must be numbers with commas between, such as 0.2,1,1.5"
        ) from None


@contextlib.contextmanager
def requests_file(path: str | None) -> Iterator[Callable[[int, RequestResults], None] | None]:
    """What writes requests and the number of their deployment into that file, which is there once all went well.

    Raises:
        InputError: it cannot be written.

    """
    if path is None:
        yield None
        return
    from advisor.simulator.request_results import COLUMNS  # brings numpy

    target = Path(path)
    special = target.exists() and not target.is_file()  # a pipe or a terminal
    written = target if special else target.with_name(f"{target.name}.part")
    try:
        with written.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("deployment", *COLUMNS))
            yield lambda number, part: writer.writerows((number, *row) for row in part.rows())
        if not special:
            written.replace(target)
    except OSError as error:
        raise InputError(f"cannot write the requests to {path}: {error.strerror}") from error
    finally:
        if not special:
            written.unlink(missing_ok=True)
