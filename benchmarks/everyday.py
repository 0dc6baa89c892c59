"""Thirty everyday questions and the three choices that ``recommend`` names for each, as a Markdown table.

    python -m benchmarks.everyday > everyday.md
    python -m benchmarks.everyday --only 70b

Under the table stands what nobody would deploy, where a choice is of such a kind; with one of those the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advisor.recommendation.preference import BALANCED, FASTEST, MOST_THROUGHPUT, named_choices
from advisor.recommendation.recommendation import recommend
from catalog.errors import InputError
from catalog.schema import Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advisor.prediction.deployment_estimate import Estimate

CHAT, RAG, BATCH = "chat", "RAG", "batch"
WORKLOADS = {
    CHAT: (Workload(input_len=512, output_len=256), Slo(ttft_ms=1000.0, tpot_ms=60.0)),
    RAG: (Workload(input_len=4096, output_len=256), Slo(ttft_ms=3000.0, tpot_ms=80.0)),
    BATCH: (Workload(input_len=1024, output_len=256), Slo()),
}
"""Lengths and limits by the kind of traffic."""
QUESTIONS = (
    ("llama-3.1-8b", "1xL4", CHAT, "auto"),
    ("llama-3.1-8b", "1xA10G", CHAT, "auto"),
    ("llama-3.1-8b", "1xRTX4090", CHAT, "auto"),
    ("llama-3.1-8b", "1xL40S", RAG, "auto"),
    ("llama-3.1-8b", "1xA100", BATCH, "auto"),
    ("llama-3.1-8b", "1xH100", CHAT, "auto"),
    ("llama-3.1-8b", "2xH100", RAG, "auto"),
    ("llama-3.1-8b", "4xA100", BATCH, "auto"),
    ("llama-3.1-8b", "8xH100", CHAT, "auto"),
    ("llama-13b", "1xA100", CHAT, "auto"),
    ("llama-13b", "2xL40S", CHAT, "auto"),
    ("llama-13b", "4xA100", BATCH, "auto"),
    ("llama-13b", "4xH100", CHAT, "auto"),
    ("qwen2.5-14b", "1xH100", RAG, "auto"),
    ("llama-3.3-70b", "2xH100", CHAT, "fp8"),
    ("llama-3.3-70b", "2xH200", CHAT, "auto"),
    ("llama-3.3-70b", "4xH100", RAG, "auto"),
    ("llama-3.3-70b", "4xA100", BATCH, "auto"),
    ("llama-3.3-70b", "8xH100", CHAT, "auto"),
    ("llama-3.3-70b", "8xH100", BATCH, "auto"),
    ("llama-3.3-70b", "8xL40S", CHAT, "fp8"),
    ("llama-3.3-70b", "2x8xH100", CHAT, "auto"),
    ("llama-3.3-70b", "2xB200", CHAT, "fp8"),
    ("qwen3-30b-a3b", "1xH100", CHAT, "auto"),
    ("qwen3-30b-a3b", "2xL40S", CHAT, "auto"),
    ("mixtral-8x7b", "4xA100", CHAT, "auto"),
    ("gpt-oss-120b", "2xH100", CHAT, "auto"),
    ("qwen3-235b-a22b", "8xH100", CHAT, "fp8"),
    ("deepseek-v3", "8xH200", CHAT, "auto"),
    ("deepseek-v3", "2x8xH100", BATCH, "auto"),
)
"""Model, GPUs, kind of traffic, weight format."""
SMALL_GIB, WIDE_TP = 20.0, 4
"""Weights below which so much tensor parallelism is more than a model needs, where throughput is what counts."""
FEW = 4
"""Requests in flight below which no one serves many people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The choices of one question, by name; none where nothing is feasible."""

    question: tuple[str, str, str, str]
    choices: dict[str, Estimate]
    refused: str = ""

    def oddities(self) -> Iterator[str]:
        """Name choices that nobody would deploy."""
        for name, estimate in self.choices.items():
            deployment, cluster = estimate.deployment, estimate.cluster
            choice = f"{' '.join(self.question)}: {name} is {deployment.layout}, batch {estimate.batch}"
            if name == FASTEST:  # what one user alone would have
                continue
            if deployment.pp >= WIDE_TP and cluster.nodes == 1 and cluster.gpu.nvlink_gbps:
                yield f"{choice}: so many stages within NVLink"
            if (
                name == MOST_THROUGHPUT
                and deployment.tp >= WIDE_TP
                and estimate.memory["weights"] * deployment.tp < SMALL_GIB
            ):
                yield f"{choice}: so wide for a small model"
            if deployment.num_gpus < cluster.num_gpus:
                yield f"{choice}: {cluster.num_gpus - deployment.num_gpus} GPUs idle"
            if estimate.batch * deployment.dp < FEW:
                yield f"{choice}: hardly a batch"


def answered(question: tuple[str, str, str, str]) -> Row:
    """Ask one question."""
    model, gpus, kind, dtype = question
    workload, slo = WORKLOADS[kind]
    try:
        answer = recommend(model, gpus, workload=workload, slo=slo, dtypes=[dtype])
    except InputError as error:
        return Row(question=question, choices={}, refused=str(error))
    if answer.best is None:
        return Row(question=question, choices={}, refused="; ".join(answer.relaxations))
    return Row(question=question, choices=dict(named_choices(answer.best, answer.pareto)))


def cell(estimate: Estimate | None) -> str:
    """Write one choice: layout, batch, tok/s per GPU, TPOT."""
    if estimate is None:
        return "same"
    rate, tpot = estimate.output_tok_s_per_gpu or 0.0, estimate.tpot_ms or 0.0
    return f"{estimate.deployment.layout}, batch {estimate.batch}: {rate:.0f} tok/s/GPU, {tpot:.1f} ms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="questions with this in them")
    wanted = parser.parse_args().only
    names = (MOST_THROUGHPUT, BALANCED, FASTEST)
    print(f"| question | {' | '.join(names)} |\n| --- | --- | --- | --- |")
    odd: list[str] = []
    for question in QUESTIONS:
        if wanted not in " ".join(question):
            continue
        row = answered(question)
        cells = [cell(row.choices.get(name)) for name in names] if row.choices else [f"none: {row.refused}", "", ""]
        print(f"| {' '.join(question)} | {' | '.join(cells)} |", flush=True)
        odd += row.oddities()
    print("\n".join(["", *(f"- {oddity}" for oddity in odd)] if odd else ["", "Nothing that nobody would deploy."]))
    return 1 if odd else 0


if __name__ == "__main__":
    sys.exit(main())
