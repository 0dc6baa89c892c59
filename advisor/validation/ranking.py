"""Whether the best of several deployments is ranked first: ranks, and what a wrong choice costs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from advisor.validation.prediction_errors import Check
    from catalog.schema import Measurement

OBJECTIVES = {
    "throughput_per_gpu": ("output_tok_s", 1.0),
    "throughput": ("output_tok_s", 1.0),
    "latency": ("e2e_ms", -1.0),
    "ttft": ("ttft_ms", -1.0),
    "tpot": ("tpot_ms", -1.0),
}
"""What each objective compares, and whether more of it is better; cost is throughput per GPU where there is one kind of GPU."""

ANY = "any"
"""The batch of a choice among all batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedChoice:
    """What was best by prediction and by measurement, among the measured deployments of one model and workload."""

    split: str
    engine: str
    gpu: str
    model: str
    input_len: int
    output_len: int
    batch: str
    """The requests at once, or ``ANY``: the batch is part of the choice."""
    objective: str
    candidates: int
    chosen: str
    """Layout and batch that were predicted to be best."""
    best: str
    """Those that were."""
    regret: float
    """How much worse the chosen one is than the best, both as measured, as a share of the best."""
    kendall: float
    """Rank correlation of predicted and measured, -1 to 1; NaN where all are measured alike."""
    spearman: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; a correlation that there is none of is None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}  # noqa: PLR0124  NaN


def choices(checks: Iterable[Check]) -> tuple[RankedChoice, ...]:
    """Return every choice that static runs allow: by engine, GPU, model, lengths, one batch or any, and objective."""
    groups: dict[tuple[Any, ...], dict[str, Check]] = defaultdict(dict)
    for check in checks:
        run = check.run
        if check.regime != "static":
            continue
        for batch in (ANY, str(run.batch)):
            for objective, (metric, _) in OBJECTIVES.items():
                if metric == check.metric:
                    key = (
                        check.split,
                        check.engine,
                        run.gpu,
                        run.model,
                        run.input_len,
                        run.output_len,
                        batch,
                        objective,
                    )
                    groups[key][run.run_id] = check
    return tuple(_choice(key, list(members.values())) for key, members in groups.items() if len(members) > 1)


def _choice(key: tuple[Any, ...], checks: list[Check]) -> RankedChoice:
    from scipy.stats import kendalltau, spearmanr  # slow to import

    objective = key[-1]
    sign = OBJECTIVES[objective][1]
    gpus = np.array([check.run.deployment.num_gpus if objective == "throughput_per_gpu" else 1 for check in checks])
    measured = sign * np.array([check.measured for check in checks]) / gpus
    predicted = sign * np.array([check.predicted for check in checks]) / gpus
    chosen, best = int(np.argmax(predicted)), int(np.argmax(measured))
    ranked = len(set(measured.tolist())) > 1 and len(set(predicted.tolist())) > 1
    names = ("split", "engine", "gpu", "model", "input_len", "output_len", "batch", "objective")
    return RankedChoice(
        **dict(zip(names, key, strict=True)),
        candidates=len(checks),
        chosen=_told(checks[chosen].run),
        best=_told(checks[best].run),
        regret=float((measured[best] - measured[chosen]) / abs(measured[best])),
        kendall=float(kendalltau(predicted, measured).statistic) if ranked else float("nan"),
        spearman=float(spearmanr(predicted, measured).statistic) if ranked else float("nan"),
    )


def _told(run: Measurement) -> str:
    return f"TP{run.tp} PP{run.pp} batch {run.batch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Choices of one kind together."""

    split: str
    objective: str
    choices: int
    mean_regret: float
    worst_regret: float
    within: float
    """Share of the choices within 1% of the best."""
    kendall: float
    """Mean over the choices."""
    spearman: float
    worst: str
    """Model, lengths and batch of the worst choice."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def rankings(ranked: Iterable[RankedChoice]) -> tuple[Ranking, ...]:
    """Return the rankings by split and objective."""
    groups: dict[tuple[str, str], list[RankedChoice]] = defaultdict(list)
    for choice in ranked:
        groups[choice.split, choice.objective].append(choice)
    return tuple(_ranking(key, members) for key, members in sorted(groups.items()))


def _ranking(key: tuple[str, str], members: list[RankedChoice]) -> Ranking:
    regrets = np.array([choice.regret for choice in members])
    worst = members[int(np.argmax(regrets))]
    kendall, spearman = (
        np.array([value for choice in members if (value := getattr(choice, name)) == value])
        for name in ("kendall", "spearman")
    )
    return Ranking(
        split=key[0],
        objective=key[1],
        choices=len(members),
        mean_regret=float(np.mean(regrets)),
        worst_regret=float(regrets.max()),
        within=float(np.mean(regrets <= 0.01)),
        kendall=float(np.mean(kendall)) if kendall.size else 1.0,
        spearman=float(np.mean(spearman)) if spearman.size else 1.0,
        worst=(
            f"{worst.engine} {worst.model.rsplit('/', maxsplit=1)[-1]} {worst.input_len}/{worst.output_len} "
            f"batch {worst.batch}: {worst.chosen}, not {worst.best}"
        ),
    )
