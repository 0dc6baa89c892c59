"""``advisor simulate``: traffic on a deployment, or on several, request by request."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import typer

from advisor.cli.options.electricity import Electricity, co2_body, co2_lines
from advisor.cli.options.evidence import SimulatedEvidence
from advisor.cli.options.hardware import Hardware
from advisor.cli.options.layout import Adapted, SimulatedLayout, Speculative
from advisor.cli.options.output import SimulationOutput
from advisor.cli.options.slo import TrafficLimits
from advisor.cli.options.workload import SimulatedTraffic
from advisor.cli.output import answer, check_outputs, progress
from advisor.cli.pools import Serving, changed, requests_file
from catalog.errors import InputError


def simulate(
    *,
    hardware: Hardware,
    traffic: SimulatedTraffic,
    limits: TrafficLimits,
    layout: SimulatedLayout,
    speculation: Speculative,
    adapters: Adapted,
    evidence: SimulatedEvidence,
    electricity: Electricity,
    output: SimulationOutput,
) -> None:
    """Serve traffic on a deployment, simulated request by request.

    Follows the engine's scheduler step by step: queues, chunked prompts, KV blocks, preemption. Requests arrive at a rate or
    from a trace, or a fixed number is kept in flight. Exits with 1 if limits are stated and no deployment keeps them.

    \b
    advisor simulate --model llama-3.1-8b --gpus H200 --rate 15
    advisor simulate --model llama-3.1-8b --gpus H200 --trace azure.csv --rate 8
    advisor simulate --model llama-3.1-8b --gpus H200 --concurrency 64
      --client vllm
    advisor simulate --model llama-70b --gpus 8xH100 --rate 6 --tpot 40
      --percentile 95 --tp 4 --dp 2 --compare tp=8,dp=1
    advisor simulate --model llama-3.1-8b --gpus 4xH200 --dp 4 --rate 40
      --turns 5 --think-time 20 --compare router=session_sticky
    """  # noqa: D301  Click's mark for lines that stay as they are
    from advisor.prediction.presentation import header
    from advisor.render.answers.simulation import document, simulation_row
    from advisor.simulator.simulation import simulate  # brings numpy

    base, grid = adapters.adapted(layout.deployment()), electricity.grid()
    first = Serving(
        prefill_replicas=layout.prefill_replicas,
        prefill_tp=layout.prefill_tp,
        prefill_gpus=layout.prefill_gpus,
        router=layout.router,
        enable_prefix_caching=traffic.enable_prefix_caching,
        scheduling_policy=layout.scheduling_policy,
        **speculation.keywords(),
    )
    compared = [(base, first), *(changed(base, knobs, first) for knobs in layout.compare or [])]
    if limits.percentile is not None and not limits.stated:
        raise InputError("--percentile is of limits; state one: --ttft, --tpot or --e2e")
    check_outputs(output.report, output.plot)
    with requests_file(output.requests) as write, progress("serving every request"):
        results = [
            simulate(
                **hardware.keywords(),
                **{**traffic.keywords(), **serving.keywords()},
                **layout.scheduling(),
                deployment=deployment,
                prefill=serving.prefill(deployment),
                **limits.keywords(),
                curve=traffic.rates(),
                runs=evidence.read(),
                draws=evidence.draws,
                each=partial(write, number) if write else None,
            )
            for number, (deployment, serving) in enumerate(compared)
        ]

    def body() -> dict[str, Any]:
        answers = [result.to_dict() | co2_body(grid, result.energy_j_per_token) for result in results]
        return answers[0] if len(answers) == 1 else {**header("simulations/1"), "simulations": answers}

    co2 = []
    for result in results:
        joules = result.energy_j_per_token
        ends = None if joules is None or result.scale is None else result.interval("energy_j_per_token")
        co2 += co2_lines(grid, joules, ends)
    figures = []
    if output.plot is not None:
        from advisor.render.page import write_png  # brings what draws figures

        path = write_png(document(results).figure("latencies").make(), Path(output.plot))
        figures.append(("figure", [str(path)]))
    answer(
        output,
        lambda: document(results).and_lines([*co2, *figures]),
        body=body,
        rows=lambda: [simulation_row(result) for result in results],
    )
    if all(result.meets is False for result in results):
        raise typer.Exit(1)
