"""What type checkers make of the public API; checked, not run: ``mypy tests/typing/public_api.py``.

Each ``type: ignore`` is an error that must be found: strict mypy refuses one that is not needed.
"""

from collections.abc import Mapping
from typing import Any, assert_type

import advisor

estimate = advisor.estimate("llama-13b", "4xA100", tp=2, batch=8, input_len=1024, output_len=256)
assert_type(estimate, advisor.Estimate)
assert_type(estimate.model, advisor.Model)
assert_type(estimate.cluster, advisor.Cluster)
assert_type(estimate.cluster.gpu, advisor.Gpu)
assert_type(estimate.deployment, advisor.Deployment)
assert_type(estimate.tpot_ms, float | None)
assert_type(estimate.fits, bool)
assert_type(estimate.memory, Mapping[str, float])
assert_type(estimate.to_dict(), dict[str, Any])

recommendation = advisor.recommend(
    "llama-13b",
    "4xA100",
    workload=advisor.Workload(input_len=512, output_len=128),
    slo=advisor.Slo(tpot_ms=30.0),
    objective="throughput_per_gpu",
)
assert_type(recommendation, advisor.Recommendation)
assert_type(recommendation.best, advisor.Estimate | None)
assert_type(recommendation.candidates, tuple[advisor.Estimate, ...])
assert_type(recommendation.to_dict(), dict[str, Any])

simulation = advisor.simulate("llama-13b", "H200", workload=advisor.Workload(rate=2.0), slo=advisor.Slo(ttft_ms=500.0))
assert_type(simulation, advisor.Simulation)
assert_type(simulation.metrics, Mapping[str, Mapping[str, float]])
assert_type(simulation.meets, bool | None)
assert_type(simulation.interval("ttft_ms", "p95"), tuple[float, float])

tuning = advisor.tune("llama-13b", "4xH200", slo=advisor.Slo(tpot_ms=40.0), budget_s=300.0, dry_run=True)
assert_type(tuning, advisor.Tuning)
assert_type(tuning.regret, float)
assert_type(tuning.to_dict(), dict[str, Any])

capacity = advisor.plan("llama-13b", ["H100", "8xH200"], rate=2.0, slo=advisor.Slo(tpot_ms=40.0, percentile=95.0))
assert_type(capacity, advisor.CapacityPlan)
assert_type(capacity.carries_s, float | None)
assert_type(capacity.relaxations, tuple[str, ...])


def watch(now: advisor.Progress) -> None:
    assert_type(now.share, float)


advisor.plan("llama-13b", "H100", rate=2.0, slo=advisor.Slo(tpot_ms=40.0), progress=watch)

assert_type(advisor.probe("llama-13b", "0,1", tp=[1, 2], budget_s=60), list[advisor.Measurement])
assert_type(advisor.probe(plan="plan.json", gpus="local", budget_s=None), list[advisor.Measurement])
assert_type(advisor.probe("llama-13b", "4xH100", endpoint="http://localhost:8000", tp=[4]), list[advisor.Measurement])
assert_type(advisor.import_runs("results.json", gpu="H100-SXM", tp=2), list[advisor.Measurement])
assert_type(advisor.import_runs(["a.json", "b.csv"], format="aiperf", store="runs.jsonl"), list[advisor.Measurement])

learned = advisor.fit(["runs.jsonl"], alone=True)
assert_type(learned, advisor.Surrogate)
assert_type(advisor.Surrogate.read("fit.json"), advisor.Surrogate)
advisor.recommend("llama-13b", "4xA100", runs=learned)

advisor.estimate("llama-13b", "4xA100")  # type: ignore[call-arg]
advisor.estimate("llama-13b", "4xA100", tp="two", batch=8, input_len=1024, output_len=256)  # type: ignore[arg-type]
advisor.recommend("llama-13b", slo=30.0)  # type: ignore[call-arg, arg-type]
advisor.Slo(ttft=30.0)  # type: ignore[call-arg]
estimate.fits = False  # type: ignore[misc]
print(recommendation.best.fits)  # type: ignore[union-attr]
advisor.answer()  # type: ignore[attr-defined]

curve = advisor.curve("llama-13b", "4xA100", tp=2, batches=[1, 8])
assert_type(curve, advisor.Curve)
assert_type(curve.full_batch, int)
assert_type(curve.to_dict(), dict[str, Any])
assert_type(advisor.all_models(), tuple[advisor.Model, ...])
assert_type(advisor.all_gpus(), tuple[advisor.Gpu, ...])
assert_type(advisor.parse_config(b"{}", name="mine"), advisor.Model)
