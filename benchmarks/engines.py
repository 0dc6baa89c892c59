"""Plain PyTorch beside vLLM, from the shipped H200 runs alone: ``python benchmarks/engines.py`` (``--all``: every batch).

For every batch that both engines were measured with (same model, parallelism, batch and prompts): PyTorch's time per
output token over vLLM's, below 1 where it is faster; likewise prefill. Outputs of other lengths are compared where there
are none of the same, the nearest first: shorter ones have less context to read. Then, for Llama-3.1-8B on one GPU at 1024
tokens in, the share of the memory bandwidth that a decode step reaches. Exits with 1 where it is slower than it should
be: than vLLM on one GPU at those batches, by more than 10% with tensor parallelism.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.models.sizes import embedding_parameters, parameters
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from catalog.schema import Measurement

GPU = "H200-SXM"
SMALL = "meta-llama/Meta-Llama-3.1-8B"
BATCHES = (1, 16, 64)
LIMIT, SLICED_LIMIT = 1.01, 1.1
"""Of the ratio on one GPU, where another session differs by as much, and with tensor parallelism."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The same batch on both engines."""

    torch: Measurement
    vllm: Measurement

    @property
    def tpot(self) -> float:
        assert self.torch.tpot_ms is not None
        assert self.vllm.tpot_ms is not None
        return self.torch.tpot_ms / self.vllm.tpot_ms

    @property
    def prefill(self) -> float:
        assert self.torch.prefill_ms is not None
        assert self.vllm.prefill_ms is not None
        return self.torch.prefill_ms / self.vllm.prefill_ms

    @property
    def name(self) -> str:
        run = self.torch
        short = run.model.rsplit("/", 1)[-1].removeprefix("Meta-").removesuffix("-hf")
        early = ", earlier engine" if "-early-" in run.run_id else ""
        other = "" if self.is_same_length else f", vLLM /{self.vllm.output_len}"
        return f"{short} TP{run.tp} PP{run.pp} {run.batch} x {run.input_len}/{run.output_len}{other}{early}"

    @property
    def is_same_length(self) -> bool:
        return self.torch.output_len == self.vllm.output_len


def key_of(run: Measurement) -> tuple[object, ...]:
    return (run.model, run.dtype, run.tp, run.pp, run.dp, run.ep, run.batch, run.input_len)


def is_plain(run: Measurement) -> bool:
    """Return whether a static batch is as each engine is run unless something is switched off."""
    timed = run.tpot_ms is not None and run.prefill_ms is not None
    return (
        timed
        and run.gpu == GPU
        and run.regime == "static"
        and run.compiled
        and run.graphs is not False
        and not run.offload
    )


def pairs(runs: Iterable[Measurement]) -> list[Pair]:
    """Pair each batch of PyTorch with vLLM's of the nearest output length; measured again by a later engine, the later
    one.
    """
    of: dict[str, dict[tuple[object, ...], list[Measurement]]] = {
        engine: defaultdict(list) for engine in ("torch", "vllm")
    }
    for run in runs:
        if run.engine in of and is_plain(run):
            of[run.engine][key_of(run)].append(run)
    batches = []
    for key, own in of["torch"].items():
        run = min(own, key=lambda other: "-early-" in other.run_id)
        output_len = run.output_len
        others = sorted(of["vllm"].get(key, ()), key=lambda other: (abs(other.output_len - output_len), other.tpot_ms))
        if others:
            batches.append(Pair(torch=run, vllm=others[0]))
    return batches


def share_of_bandwidth(run: Measurement) -> float:
    """Return the least time that a decode step may take, over the time it took: every weight but the embedding table is
    read once, and the keys and values of the mean context.
    """
    model = find_model(run.model).value
    weights = 2 * (parameters(model) - embedding_parameters(model))
    context = run.input_len + run.output_len / 2
    cache_bytes = run.batch * context * 4 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim
    assert run.tpot_ms is not None
    return (weights + cache_bytes) / (find_gpu(run.gpu).value.memory_bandwidth_gbps * 1e9) / (run.tpot_ms / 1e3)


def summary(name: str, ratios: Iterable[float]) -> str:
    values = sorted(ratios)
    return f"{name:<36} {len(values):>4} {statistics.median(values):>8.3f} {values[0]:>8.3f} {values[-1]:>8.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Plain PyTorch over vLLM, from the shipped runs.")
    parser.add_argument("--all", action="store_true", help="every batch, not the summary alone")
    args = parser.parse_args()
    batches = pairs(shipped_runs())
    if args.all:
        print(f"{'PyTorch / vLLM':<60} {'tpot':>7} {'prefill':>7}")
        for other in sorted(batches, key=lambda pair: pair.name):
            print(f"{other.name:<60} {other.tpot:>7.3f} {other.prefill:>7.3f}")
        print()
    print(f"{'PyTorch / vLLM':<36} {'runs':>4} {'median':>8} {'best':>8} {'worst':>8}")
    groups: dict[str, Callable[[Pair], bool]] = {
        "all": lambda _: True,
        "same outputs": lambda pair: pair.is_same_length,
        "one GPU": lambda pair: pair.torch.gpus == 1,
        "tensor parallel": lambda pair: pair.torch.tp > 1 and pair.torch.pp == 1,
        "stages": lambda pair: pair.torch.pp > 1,
    }
    for name, belongs in groups.items():
        chosen = [other for other in batches if belongs(other)]
        print(summary(f"tpot, {name}", (other.tpot for other in chosen)))
        print(summary(f"prefill, {name}", (other.prefill for other in chosen)))
    worst = max(batches, key=lambda pair: pair.tpot)
    print(f"worst tpot: {worst.name}, {worst.torch.tpot_ms:g} against {worst.vllm.tpot_ms:g} ms\n")
    print(f"{'Llama-3.1-8B, one GPU':<36} {'tpot ms':>8} {'/ vLLM':>8} {'of the bandwidth':>17}")
    misses = []
    for batch in BATCHES:
        (one,) = (
            pair
            for pair in batches
            if (pair.torch.model, pair.torch.gpus, pair.torch.batch, pair.torch.input_len) == (SMALL, 1, batch, 1024)
        )
        share = f"{share_of_bandwidth(one.torch):>16.1%}"
        print(f"{one.name[13:]:<36} {one.torch.tpot_ms:>8.3f} {one.tpot:>8.3f} {share}")
        if one.tpot > LIMIT:
            misses.append(one.name)
    sliced = [pair for pair in batches if pair.torch.model == SMALL and pair.torch.tp > 1 and pair.torch.pp == 1]
    misses += [pair.name for pair in sliced if pair.tpot > SLICED_LIMIT]
    for name in misses:
        print(f"slower than its target: {name}")
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())
