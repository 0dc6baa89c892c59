"""Mixed fleets against single kinds of GPUs, as Melange has them: ``python -m benchmarks.melange``.

Griggs et al., "Melange: Cost Efficient Large Language Model Serving by Exploiting GPU Heterogeneity" (arXiv 2404.14527): Llama-2-7b on L4,
A10G, A100-80G and H100, three mixes of request sizes, limits of 40 and 120 ms on the time per output token. Reported are savings of up to
77% (short requests), 33% (long) and 51% (both) over a single kind. Rates, sizes and most prices here are not taken from the paper
(``PRICES``, ``RATES``, ``SIZES``, ``MIXES`` say what they are), and the limit is on the median of requests, so what is compared is the effect and
not each figure. What one GPU carries of each size is ours, by simulation; the programme is theirs: replicas of every kind are whole, each
size is divided over the kinds, and sizes share a replica by the part of it that they take.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from joblib import Parallel, delayed
from scipy.optimize import Bounds, LinearConstraint, milp

from advisor.fleet.question import pairs_of, read_fleet
from advisor.fleet.replica_type import replica_types

PRICES = {"L4": 0.70, "A10G": 1.01, "A100-SXM-80GB": 3.67, "H100": 7.516}
"""Dollars per GPU-hour: of the A100 that of the authors' example (github.com/tyler-griggs/melange-release, melange/config/example.json
@c9622d5); of the others as they are remembered of on-demand offers of 2024, not checked against the paper."""
RATES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Requests a second, chosen here."""
TPOT_MS = (120.0, 40.0)
"""Limits, as the authors' blog states them (tyler-griggs.github.io/blogs/melange)."""
SIZES = {
    "short": (100, 60),
    "chat": (250, 240),
    "long chat": (900, 350),
    "document": (2500, 200),
    "long document": (3800, 260),
}
"""Prompt and output tokens, chosen here for chats and documents within Llama-2's context of 4,096; the authors took the requests of
Chatbot Arena and PubMed."""
MIXES = {
    "short context": {"short": 0.45, "chat": 0.4, "long chat": 0.15},
    "long context": {"document": 0.5, "long document": 0.5},
    "mixed": {"short": 0.36, "chat": 0.32, "long chat": 0.12, "document": 0.1, "long document": 0.1},
}
"""Shares of the sizes, chosen here; four in five requests of the mixed ones are short."""
REPORTED = {"short context": 0.77, "long context": 0.33, "mixed": 0.51}
"""The largest savings over a single kind of GPU, abstract of the paper's third version."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """One mix at one rate and limit."""

    mix: str
    rate: float
    tpot_ms: float
    counts: dict[str, int]
    """GPUs of the cheapest mixed fleet,"""
    usd_hour: float
    single: dict[str, float]
    """and dollars an hour of each kind alone that serves all sizes."""

    @property
    def over(self) -> dict[str, float]:
        """Return what the mixed fleet saves over each single kind, as a share."""
        return {gpu: max(1.0 - self.usd_hour / usd, 0.0) for gpu, usd in self.single.items()}


def carried(tpot_ms: float) -> dict[tuple[str, str], float]:
    """Return the requests a second of each size that one GPU of each kind carries; ``tpot_ms``: limit on the median, ms."""
    models = [
        {"model": "llama-2-7b", "name": name, "rate": 1, "input_len": given, "output_len": made, "spread": 0.3}
        | {"tpot": tpot_ms, "percentile": 50}
        for name, (given, made) in SIZES.items()
    ]
    pools = [{"gpu": gpu, "price": price, "count": 1} for gpu, price in PRICES.items()]
    question = read_fleet({"models": models, "pools": pools, "confidence": 0.5})
    rates = {}
    for number, gpu, node in pairs_of(question):
        types, _ = replica_types(question, number, gpu, None, node)
        rates[question.models[number].label, gpu] = max((kind.capacity_s for kind in types), default=0.0)
    return rates


def cheapest(mix: str, rate: float, tpot_ms: float, carries: dict[tuple[str, str], float]) -> Saving:
    """Minimise sum p_g x_g with sum over g of y_sg = r_s for every size, sum over s of y_sg / c_sg <= x_g for every kind."""
    sizes, gpus = list(MIXES[mix]), sorted({gpu for _, gpu in carries})
    price = {gpu: next(usd for name, usd in PRICES.items() if gpu.startswith(name)) for gpu in gpus}
    g, n = len(gpus), len(gpus) * len(sizes)
    wanted = np.array([rate * MIXES[mix][size] for size in sizes])
    able = np.array([[carries[size, gpu] for gpu in gpus] for size in sizes])
    all_of_it = np.hstack([np.zeros((len(sizes), g)), np.kron(np.eye(len(sizes)), np.ones(g))])
    taken = np.hstack([-np.eye(g), np.hstack([np.diag(1.0 / np.maximum(row, 1e-9)) for row in able])])
    result = milp(
        np.concatenate([[price[gpu] for gpu in gpus], np.zeros(n)]),
        integrality=np.concatenate([np.ones(g, dtype=int), np.zeros(n, dtype=int)]),
        bounds=Bounds(0, np.inf),
        constraints=[LinearConstraint(all_of_it, wanted, wanted), LinearConstraint(taken, -np.inf, 0.0)],
    )
    alone = {
        gpu: float(np.ceil((wanted / able[:, i]).sum() - 1e-9) * price[gpu])
        for i, gpu in enumerate(gpus)
        if (able[:, i] > 0).all()
    }
    counts = {gpu: round(count) for gpu, count in zip(gpus, result.x[:g], strict=True) if round(count)}
    return Saving(mix=mix, rate=rate, tpot_ms=tpot_ms, counts=counts, usd_hour=float(result.fun), single=alone)


def main() -> None:
    parser = argparse.ArgumentParser(description="Mixed fleets against single kinds of GPUs.")
    parser.add_argument("--rates", type=float, nargs="*", default=RATES)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    able = dict(zip(TPOT_MS, Parallel(n_jobs=given.jobs)(delayed(carried)(tpot) for tpot in TPOT_MS), strict=True))
    savings = [cheapest(mix, rate, tpot, able[tpot]) for mix in MIXES for tpot in TPOT_MS for rate in given.rates]
    print(f"{'sizes':14}{'TPOT ms':>8}{'req/s':>7}{'$/h':>8}  {'mixed fleet':32}saved over")
    for saving in savings:
        over = ", ".join(f"{gpu.partition('-')[0]} {share:.0%}" for gpu, share in saving.over.items())
        kinds = " + ".join(f"{count} {gpu.partition('-')[0]}" for gpu, count in saving.counts.items())
        print(f"{saving.mix:14}{saving.tpot_ms:8.0f}{saving.rate:7g}{saving.usd_hour:8.2f}  {kinds:32}{over}")
    print()
    print(
        f"{'sizes':14}{'saved at most over a single kind':>34}{'Melange reports':>18}{'over the best single kind':>28}"
    )
    for mix in MIXES:
        own = [saving.over.values() for saving in savings if saving.mix == mix]
        most, best = max(map(max, own)), max(map(min, own))
        print(f"{mix:14}{most:34.0%}{REPORTED[mix]:18.0%}{best:28.0%}")


if __name__ == "__main__":
    main()
