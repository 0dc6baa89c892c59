"""Prefix caches beside vLLM's: ``python -m benchmarks.prefix_caches``.

The conversations of ``benchmarks/measured`` (vLLM 0.33 on an H200) are simulated: the same sessions at the same times, thinking
as long after their answers, on as many KV blocks. Beside vLLM's counters stand the tokens that the simulated cache hits, beside
its times the simulated ones. Below stand the conversations of an engine that also kept blocks in CPU memory: what came from
there, and how much later the first token of such turns is than of turns whose blocks were on the GPU. Exits with 1 where hits are
further off than the target.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.prediction.evidence import Evidence
from advisor.simulator.arrivals import Arrivals
from advisor.simulator.block_cache import BLOCK
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
PREFIX, OFFLOADED = "vllm_0.33_h200_serving", "vllm_0.33_h200_layouts"
"""Files of the runs on the GPU alone, and of those with CPU memory below."""
MOST_OFF = 0.02
"""Of vLLM's own count of hit tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRun:
    """Conversations as they were measured; rows in the order of their arrival."""

    name: str
    load: Mapping[str, Any]
    profile: SessionProfile
    rows: Sequence[Mapping[str, float]]
    kv_blocks: int
    hits: int
    """Tokens on the GPU, by vLLM's counter."""

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])

    @property
    def kv_offload(self) -> str | None:
        """Return the tier below the GPU, as ``Deployment.kv_offload`` has it."""
        size = self.load.get("args", {}).get("kv_offloading_size")
        return None if size is None else f"cpu={size:g}GiB"

    @property
    def ttft_ms(self) -> np.ndarray:
        return 1e3 * (self.column("first_s") - self.column("arrival_s"))

    def loaded(self) -> np.ndarray:
        """Return which turns, (n,), had all the full blocks of the prompt before and none of the answer: those are below the GPU."""
        sessions, turns = self.column("session"), self.column("turn")
        given = dict(zip(zip(sessions, turns, strict=True), self.column("input_len"), strict=True))
        before = np.array([given.get((one, turn - 1), 0.0) for one, turn in zip(sessions, turns, strict=True)])
        return (turns > 0) & (self.column("cached_tokens") == before // BLOCK * BLOCK)


def measured(prefix: str = PREFIX) -> Iterator[SessionRun]:
    """Iterate over the runs of the files with that prefix."""
    path = MEASURED / f"{prefix}_loads.json"
    loads = {load["name"]: load for load in json.loads(path.read_text(encoding="utf-8"))}
    hits = {row["run_id"]: int(row["prefix_cache_hits"]) for row in _table(prefix, "counters")}
    blocks = {row["load"]: int(row["num_blocks"]) for row in _table(prefix, "memory")}
    rows = defaultdict(list)
    for row in _table(prefix, "sessions"):
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


def _table(prefix: str, name: str) -> Iterator[dict[str, str]]:
    with (MEASURED / f"{prefix}_{name}.csv").open(encoding="utf-8", newline="") as file:
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
        max_model_len=int(load["max_model_len"]),
        max_num_batched_tokens=int(load["max_num_batched_tokens"]),
        max_num_seqs=256,
        kv_offload=run.kv_offload,
    )
    model = replace(find_model(load["model"]).value, max_position_embeddings=int(load["max_model_len"]))
    knowledge = Evidence.of(None, engine="vllm", gpu=gpu, version=deployment.engine_version)
    server = AggregatedServer.of(model, Cluster(gpu=gpu, gpus_per_node=1), deployment, knowledge, {})
    server = replace(server, scheduler=replace(server.scheduler, kv_blocks=run.kv_blocks))
    return server.served(traffic(run), server.times(server.beliefs(0)[0]))


def main() -> int:
    print(f"{'run':26} requests  hit tokens: vLLM  simulated    error  TTFT p50    p95  TPOT p50    p95")
    worst = max(_compared(run) for run in measured())
    print(f"\n{'with CPU memory below':26} from there: vLLM  simulated  all hits  first token later: vLLM  simulated")
    for run in measured(OFFLOADED):
        worst = max(worst, _below(run))
    print(f"worst error of all hit tokens {worst:.2%} (at most {MOST_OFF:.0%})")
    return int(worst > MOST_OFF)


def _compared(run: SessionRun) -> float:
    """Print a run beside its simulation, and return the error of the hit tokens."""
    ours = served(run)
    first, last, outputs = run.column("first_s"), run.column("last_s"), run.column("output_len")
    tpot = 1e3 * (last - first) / (outputs - 1)
    hits = int(ours.cached.sum())
    error = hits / run.hits - 1
    times = [
        ours.percentile(metric, percentile) / np.percentile(real, percentile) - 1
        for metric, real in (("ttft_ms", run.ttft_ms), ("tpot_ms", tpot))
        for percentile in (50.0, 95.0)
    ]
    print(
        f"{_name(run):26} {len(run.rows):8} {run.hits:17} {hits:10} {error:+8.2%}  "
        + " ".join(f"{off:+{width}.1%}" for off, width in zip(times, (8, 6, 9, 6), strict=True))
    )
    return abs(error)


def _below(run: SessionRun) -> float:
    """Print what came from below the GPU and how much later its turns' first tokens are; return the error of all hits, here and there."""
    ours, cached = served(run), int(run.column("cached_tokens").sum())
    below, ours_below = cached - run.hits, int(ours.loaded.sum())
    turns = run.column("turn") > 0
    # Simulated turns come in another order where answers take another time; which were loaded is the simulation's own.
    prompts = np.isin(ours.input_len, run.column("input_len")[turns])
    later, ours_later = (
        np.median(ttft[loaded]) - np.median(ttft[others])
        for ttft, loaded, others in (
            (run.ttft_ms, run.loaded(), turns & ~run.loaded()),
            (ours.ttft_ms, ours.loaded[:, 0] > 0, prompts & (ours.loaded[:, 0] == 0)),
        )
    )
    print(
        f"{_name(run):26} {below:16} {ours_below:10} {int(ours.cached.sum()) / cached - 1:+9.2%} {later:21.1f} ms {ours_later:8.1f} ms"
    )
    return abs(int(ours.cached.sum()) / cached - 1)


def _name(run: SessionRun) -> str:
    return run.name.removeprefix("h200-vllm0.33-serving-")


if __name__ == "__main__":
    sys.exit(main())
