"""Exported commands on real GPUs: do they start vLLM, and is the KV cache then as large as it was foretold?

    python -m benchmarks.exports plan PLAN.json --gpus 4      # recommendations that take at most so many GPUs each
    python -m probes.vllm_engine.exported PLAN.json OUT --gpus 0,1,2,3 --minutes 15       # on the machine with the GPUs
    python -m benchmarks.exports table PLAN.json OUT          # what was foretold beside what was found

``table`` exits with 1 unless every load of the plan started, with a cache within 1% of what was foretold.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import advisor
from advisor import Deployment, Slo, Workload
from catalog.jsonl_store import json_rows
from probes.benchmark_plan import read_plan

GPU = "H200"
ALLOWED = 0.01
"""Of the engine's own figure."""
SLO = Slo(ttft_ms=300, tpot_ms=25)
LONG = Workload(input_len=30_000, output_len=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One recommendation to ask for."""

    model: str
    gpus: int
    label: str
    asked: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of ``advisor.recommend``."""


QUESTIONS = (
    Question(model="llama-3.1-8b", gpus=1, label="throughput"),
    Question(model="llama-2-7b", gpus=1, label="latency", asked={"objective": "latency"}),
    Question(
        model="llama-2-13b", gpus=1, label="cost-kv-fp8", asked={"objective": "cost", "kv_dtypes": ["fp8"], "slo": SLO}
    ),
    Question(model="qwen2.5-14b", gpus=1, label="fp8", asked={"objective": "throughput", "dtypes": ["fp8"]}),
    Question(model="qwen2.5-32b", gpus=2, label="latency", asked={"objective": "latency"}),
    Question(model="mixtral", gpus=1, label="throughput"),
    Question(model="qwen2.5-32b", gpus=1, label="long", asked={"workload": LONG}),
    Question(model="qwen3-30b-a3b", gpus=2, label="throughput"),
    Question(model="llama-3.1-70b", gpus=2, label="throughput", asked={"objective": "throughput"}),
    Question(model="llama-3.1-70b", gpus=2, label="latency", asked={"objective": "latency"}),
    Question(model="llama-3.1-70b", gpus=1, label="fp8", asked={"objective": "throughput", "dtypes": ["fp8"]}),
)
"""In an order in which several GPUs are seldom idle."""


def entry(question: Question) -> dict[str, Any]:
    """Write a question's answer as a load of a plan."""
    answer = advisor.recommend(question.model, f"{question.gpus}x{GPU}", **question.asked)
    best = answer.best
    assert best is not None, question
    knobs = {knob.name: getattr(best.deployment, knob.name) for knob in fields(Deployment)}
    return {
        "model": best.model.name,
        "label": question.label,
        "deployment": {name: value for name, value in knobs.items() if value is not None},
        "exported": advisor.export(answer, "vllm"),
        "foretold_kv_tokens": best.kv_capacity_tokens,
    }


def plan(most_gpus: int) -> dict[str, Any]:
    return {
        "prefix": "h200",
        "source": "exported by advisor",
        "gpu": "H200-SXM",
        "interconnect": "NVSwitch",
        "role": "validate",
        "shapes": [],
        "loads": [entry(question) for question in QUESTIONS if question.gpus <= most_gpus],
    }


def cache_tokens(row: dict[str, Any]) -> list[int]:
    """Read the KV capacity that each engine of a load told: in its log, where each speaks for itself, else under
    /metrics.
    """
    return row.get("logged_kv_tokens") or row.get("kv_tokens") or []


def table(path: Path, out: Path) -> bool:
    """Print a line a load; whether all is as it should be."""
    rows = {row["load"]: row for _, row in json_rows(out / "started.jsonl")}  # of several tries the last
    print(f"{'load':<44} {'outcome':<9} {'start s':>7} {'foretold':>9} {'found':>9} {'off':>7}")
    good = True
    for load in read_plan(path):
        row = rows.get(load.name, {"outcome": "not tried"})
        foretold, logged = load.foretold_kv_tokens, cache_tokens(row)
        assert foretold is not None, load.name
        off = max((foretold / tokens - 1 for tokens in logged), key=abs, default=None)
        good &= row["outcome"] == "started" and off is not None and abs(off) <= ALLOWED
        shown = "" if off is None else f"{off:+.2%}"
        tokens = ", ".join(map(str, sorted(set(logged))))
        print(f"{load.name:<44} {row['outcome']:<9} {row.get('startup_s', ''):>7} {foretold:>9} {tokens:>9} {shown:>7}")
        if "why" in row:
            print(f"    {row['why']}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description="Exported commands on real GPUs.")
    steps = parser.add_subparsers(dest="step", required=True)
    planner = steps.add_parser("plan", help="write the plan")
    planner.add_argument("plan", type=Path)
    planner.add_argument("--gpus", type=int, default=4, help="of the machine; what needs more is left out")
    compare = steps.add_parser("table", help="compare what was found with what was foretold")
    compare.add_argument("plan", type=Path)
    compare.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.step == "table":
        return 0 if table(args.plan, args.out) else 1
    args.plan.write_text(json.dumps(plan(args.gpus), indent=1) + "\n", encoding="utf-8")
    for load in read_plan(args.plan):
        print(f"{load.name:<44} {load.deployment.num_gpus} GPUs, KV for {load.foretold_kv_tokens} tokens a replica")
    return 0


if __name__ == "__main__":
    sys.exit(main())
