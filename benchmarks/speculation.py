"""Speculation under traffic beside vLLM's: ``python -m benchmarks.speculation``.

The loads of ``benchmarks/measured`` that draft (vLLM 0.33 on an H200, an EAGLE-3 head, drafts accepted by place with probabilities that
vLLM draws itself) are simulated: the same closed loops and probabilities, and what is believed of the times of steps as everywhere.
Nothing of them is fitted. On that host a step with a prompt waits for its launches, 45 to 53 ms whatever the GPU takes; so the same again
with those steps as long as they were measured (the 95th percentile of the gaps), which leaves decodes, drafts and the scheduler to judge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.prediction.evidence import Evidence
from advisor.simulator.server import AggregatedServer
from advisor.simulator.simulation import simulate
from advisor.validation.simulator_accuracy import same_loop
from catalog.features import Drafting
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.requests import read_requests
from catalog.runs import read_runs
from catalog.schema import Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from catalog.requests import Request
    from catalog.schema import Measurement

MEASURED = Path(__file__).with_name("measured")
PREFIX = "vllm_0.33_h200_layouts"
QUANTITIES = ("ttft_ms p50", "ttft_ms p95", "tpot_ms p50", "tpot_ms p95", "e2e_ms p50", "e2e_ms p95")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculatedRun:
    """A run of a load that drafts."""

    run: Measurement
    requests: Sequence[Request]
    asked: Mapping[str, Any]
    """What ``simulate`` is asked of speculation."""


def speculated_runs() -> Iterator[SpeculatedRun]:
    """Yield the runs of the loads that draft."""
    requests = list(read_requests(MEASURED / f"{PREFIX}_requests.csv"))
    runs = list(read_runs(MEASURED / f"{PREFIX}_runs.csv"))
    for load in json.loads((MEASURED / f"{PREFIX}_loads.json").read_text(encoding="utf-8")):
        speculative = load.get("args", {}).get("speculative_config")
        if not speculative:
            continue
        asked = {
            "speculate": "eagle" if speculative["method"].startswith("eagle") else speculative["method"],
            "draft_len": speculative["num_speculative_tokens"],
            "acceptance": speculative["synthetic_acceptance_rates"],
        }
        for run in runs:
            if run.run_id.startswith(f"{load['name']}-"):
                own = [request for request in requests if request.run_id == run.run_id]
                yield SpeculatedRun(run=run, requests=own, asked=asked)


def by_the_fit(speculated: SpeculatedRun) -> dict[str, float]:
    """Return quantities by the fit that ships."""
    run = speculated.run
    cluster = Cluster(gpu=find_gpu(run.gpu).value, gpus_per_node=run.gpus)
    deployment = replace(run.deployment, max_model_len=None)
    traffic = same_loop(run, json.loads(run.fingerprint))
    answer = simulate(run.model, cluster, deployment=deployment, trace=traffic, draws=0, **speculated.asked)
    return {name: answer.served.percentile(*_parts(name)) for name in QUANTITIES}


def with_prompts_as_measured(speculated: SpeculatedRun) -> dict[str, float]:
    """Return quantities where a step with a prompt takes as long as it was measured."""
    run = speculated.run
    cluster = Cluster(gpu=find_gpu(run.gpu).value, gpus_per_node=run.gpus)
    drafting = Drafting(method=speculated.asked["speculate"], draft_len=speculated.asked["draft_len"])
    deployment = replace(run.deployment, max_model_len=None, drafting=drafting)
    knowledge = Evidence.of(None, engine=run.engine, gpu=cluster.gpu, version=run.engine_version)
    serving = {"acceptance": speculated.asked["acceptance"]}
    server = AggregatedServer.of(find_model(run.model).value, cluster, deployment, knowledge, serving)
    times = server.believed_times()
    measured_ms = float(np.median([request.itl_p95_ms for request in speculated.requests]))
    constants = times.constants._replace(launch_ms=measured_ms, captured_tokens=1.0)
    traffic = same_loop(run, json.loads(run.fingerprint)).within(server.longest)
    served = server.served(traffic, replace(times, constants=constants))
    return {name: served.percentile(*_parts(name)) for name in QUANTITIES}


def _parts(name: str) -> tuple[str, float]:
    metric, _, percentile = name.partition(" p")
    return metric, float(percentile)


def measured_quantities(speculated: SpeculatedRun) -> dict[str, float]:
    """Return the percentiles that were measured."""
    requests = speculated.requests
    first, last, outputs = (
        np.array([getattr(request, name) for request in requests], dtype=float)
        for name in ("ttft_ms", "e2e_ms", "output_len")
    )
    values = {"ttft_ms": first, "tpot_ms": (last - first) / (outputs - 1.0), "e2e_ms": last}
    return {name: float(np.percentile(values[_parts(name)[0]], _parts(name)[1])) for name in QUANTITIES}


def main() -> None:
    """Print what was measured and what is simulated, by the fit that ships and with steps with prompts as they were measured."""
    print(f"{'in flight':>9}  {'ms':13}{'measured':>9}{'by the fit':>18}{'prompts as measured':>25}")
    errors = []
    for speculated in speculated_runs():
        real, fit, known = (
            answer(speculated) for answer in (measured_quantities, by_the_fit, with_prompts_as_measured)
        )
        for name in QUANTITIES:
            off = [answer[name] / real[name] - 1.0 for answer in (fit, known)]
            errors.append(np.abs(off))
            cells = f"{real[name]:9.4g}{fit[name]:10.4g}{off[0]:+8.1%}{known[name]:17.4g}{off[1]:+8.1%}"
            print(f"{speculated.run.batch:9}  {name:13}{cells}")
    means = np.mean(errors, axis=0)
    print(f"mean absolute error{'':24}{means[0]:8.1%}{'':17}{means[1]:8.1%}")


if __name__ == "__main__":
    main()
