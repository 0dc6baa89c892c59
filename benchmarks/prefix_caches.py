"""Prefix caches beside vLLM's: ``python -m benchmarks.prefix_caches``.

The conversations of ``benchmarks/measured`` (vLLM 0.33 on an H200) are simulated: the same sessions at the same times, thinking
as long after their answers, on as many KV blocks. Beside vLLM's counters stand the tokens that the simulated cache hits, beside
its times the simulated ones. Exits with 1 where hits are further off than the target.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.prediction.evidence import Evidence
from advisor.simulator.arrivals import Arrivals
from advisor.simulator.prompt_sharing import NONE, PromptSharing
from advisor.simulator.server import AggregatedServer
from benchmarks.sessions import SessionProfile
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.schema import Cluster, Deployment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from advisor.simulator.request_results import RequestResults

MEASURED = Path(__file__).with_name("measured")
PREFIX = "vllm_0.33_h200_serving"
MOST_OFF = 0.02
"""Of vLLM's own count of hit tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRun:
    """Conversations as they were measured; rows in the order of their arrival."""

    name: str
    load: Mapping[str, object]
    profile: SessionProfile
    rows: Sequence[Mapping[str, float]]
    kv_blocks: int
    hits: int
    """Tokens, by vLLM's counter."""

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])


def measured() -> Iterator[SessionRun]:
    """Iterate over the runs that were measured."""
    loads = {load["name"]: load for load in json.loads((MEASURED / f"{PREFIX}_loads.json").read_text(encoding="utf-8"))}
    hits = {row["run_id"]: int(row["prefix_cache_hits"]) for row in _table("counters")}
    blocks = {row["load"]: int(row["num_blocks"]) for row in _table("memory")}
    rows = defaultdict(list)
    for row in _table("sessions"):
        rows[row.pop("run_id")].append({name: float(value) for name, value in row.items()})
    for run, own in rows.items():
        load, _, name = run.rpartition("-")
        (profile,) = (entry for entry in loads[load]["sessions"] if entry["name"] == name)
        yield SessionRun(
            name=run,
            load=loads[load],
            profile=SessionProfile(**profile),
            rows=sorted(own, key=lambda row: row["arrival_s"]),
            kv_blocks=blocks[load] - 1,  # one is vLLM's null block
            hits=hits[run],
        )


def _table(name: str) -> Iterator[dict[str, str]]:
    with (MEASURED / f"{PREFIX}_{name}.csv").open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def traffic(run: SessionRun) -> Arrivals:
    """Return the sessions as they came."""
    session, group, turn = (run.column(name).astype(np.int64) for name in ("session", "group", "turn"))
    arrival, last = run.column("arrival_s"), run.column("last_s")
    number = {
        (one, other): place for place, (one, other) in enumerate(zip(session.tolist(), turn.tolist(), strict=True))
    }
    after = np.array(
        [number.get((one, other - 1), NONE) for one, other in zip(session.tolist(), turn.tolist(), strict=True)]
    )
    groups, sessions = run.profile.groups, int(session.max()) + 1
    parent = np.full(groups + sessions, NONE)
    parent[groups + session] = group
    branch = np.zeros(groups + sessions, np.int64)
    branch[groups:] = run.profile.system_len
    return Arrivals(
        arrival_s=arrival,
        input_len=run.column("input_len").astype(np.int64),
        output_len=run.column("output_len").astype(np.int64),
        duration_s=float(last.max()),
        sharing=PromptSharing(
            stream=groups + session,
            parent=parent,
            branch=branch,
            session=session,
            after=after,
            wait_s=np.where(after >= 0, arrival - last[after], 0.0),
        ),
    )


def served(run: SessionRun) -> RequestResults:
    """Simulate a run on the engine it was measured on."""
    gpu, load = find_gpu("H200-SXM").value, run.load
    deployment = Deployment(
        engine_version="0.33.0",
        max_model_len=int(str(load["max_model_len"])),
        max_num_batched_tokens=int(str(load["max_num_batched_tokens"])),
        max_num_seqs=256,
    )
    model = replace(find_model(str(load["model"])).value, max_position_embeddings=int(str(load["max_model_len"])))
    knowledge = Evidence.of(None, engine="vllm", gpu=gpu, version=deployment.engine_version)
    server = AggregatedServer.of(model, Cluster(gpu=gpu, gpus_per_node=1), deployment, knowledge, {})
    server = replace(server, scheduler=replace(server.scheduler, kv_blocks=run.kv_blocks))
    return server.served(traffic(run), server.times(server.beliefs(0)[0]))


def main() -> int:
    print(f"{'run':26} requests  hit tokens: vLLM  simulated    error  TTFT p50    p95  TPOT p50    p95")
    worst = 0.0
    for run in measured():
        ours = served(run)
        first, last, outputs = run.column("first_s"), run.column("last_s"), run.column("output_len")
        ttft = 1e3 * (first - run.column("arrival_s"))
        tpot = 1e3 * (last - first) / (outputs - 1)
        hits = int(ours.cached.sum())
        error = hits / run.hits - 1
        worst = max(worst, abs(error))
        times = [
            ours.percentile(metric, percentile) / np.percentile(real, percentile) - 1
            for metric, real in (("ttft_ms", ttft), ("tpot_ms", tpot))
            for percentile in (50.0, 95.0)
        ]
        name = run.name.removeprefix("h200-vllm0.33-serving-")
        print(
            f"{name:26} {len(run.rows):8} {run.hits:17} {hits:10} {error:+8.2%}  "
            + " ".join(f"{off:+{width}.1%}" for off, width in zip(times, (8, 6, 9, 6), strict=True))
        )
    print(f"worst error of the hit tokens {worst:.2%} (at most {MOST_OFF:.0%})")
    return int(worst > MOST_OFF)


if __name__ == "__main__":
    sys.exit(main())
