"""Closed loops beside their predictions: what choosing by prediction reaches within a limit on TPOT, and which of two is faster.

The first is the main job: among the measured deployments of one model on one GPU and engine (layouts and requests in flight, lengths
fixed), the one with most predicted tokens per second and GPU within a predicted TPOT, beside the best measured one within it. The
second compares cells that differ in the engine alone, or in the GPU alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from advisor.validation.prediction_errors import Check
    from catalog.schema import Measurement

LIMITS_MS = (15.0, 25.0, 40.0, 70.0)
"""Of TPOT, from a chat that is read aloud to a batch job."""
NEAR = 0.05
"""A choice as good as the best measured one but for this share counts as right, and two cells nearer than it as too close to tell."""
MISSED = 1.1
"""Times the limit from which it counts as missed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedChoices:
    """Choices within limits on TPOT, of one engine on one GPU together."""

    split: str
    engine: str
    gpu: str
    choices: int
    within: int
    """Whose throughput is within ``NEAR`` of the best measured one's, the limit held within ``MISSED``."""
    missed: int
    """Whose measured TPOT is above ``MISSED`` times the limit."""
    empty: int
    """Where nothing was predicted to hold the limit, though something does; never within."""
    regret: float
    """Mean share of the best throughput that those lose that miss no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """Which of two is faster, in cells that differ in nothing else."""

    split: str
    differ: Literal["engine", "GPU"]
    one: str
    other: str
    cells: int
    close: int
    """Of those, predicted within ``NEAR`` of each other: reported as too close,"""
    right: int
    """predicted farther apart, the faster one right (or measured within ``NEAR``),"""
    wrong: int
    """or not."""
    measured_ratio: float
    """Median throughput per GPU of ``one`` over ``other``'s,"""
    predicted_ratio: float
    """and as predicted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopJudgement:
    """What closed loops say of choosing by prediction."""

    choices: tuple[LimitedChoices, ...]
    matched: tuple[Matched, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"choices": [asdict(row) for row in self.choices], "matched": [asdict(row) for row in self.matched]}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    """One run with a predicted and a measured TPOT and throughput per GPU."""

    split: str
    engine: str
    run: Measurement
    tpot_ms: tuple[float, float]
    """Predicted and measured."""
    tok_s: tuple[float, float]

    @property
    def cell(self) -> tuple[Any, ...]:
        """Return what else than engine and GPU makes two runs comparable."""
        run = self.run
        lengths = (run.input_len, run.output_len)
        return self.split, run.model, run.dtype, run.tp, run.pp, run.dp, run.ep, run.batch, *lengths


def judge(checks: Iterable[Check]) -> LoopJudgement:
    """Return the judgement of the closed loops among the checks."""
    loops = _loops(checks)
    return LoopJudgement(choices=tuple(_choices(loops)), matched=tuple(_matched(loops)))


def _loops(checks: Iterable[Check]) -> list[_Loop]:
    together: dict[tuple[str, str], dict[str, Check]] = defaultdict(dict)
    for check in checks:
        if check.regime == "steady":
            together[check.split, check.run.run_id][check.metric] = check
    return [
        _Loop(
            split=tpot.split,
            engine=tpot.engine,
            run=tpot.run,
            tpot_ms=(tpot.predicted, tpot.measured),
            tok_s=(rate.predicted / tpot.run.gpus, rate.measured / tpot.run.gpus),
        )
        for parts in together.values()
        for tpot, rate in [(parts.get("tpot_ms"), parts.get("output_tok_s"))]
        if tpot is not None and rate is not None
    ]


def _choices(loops: Sequence[_Loop]) -> list[LimitedChoices]:
    groups: dict[tuple[Any, ...], list[_Loop]] = defaultdict(list)
    for loop in loops:
        run = loop.run
        groups[loop.split, loop.engine, run.gpu, run.model, run.dtype, run.input_len, run.output_len].append(loop)
    outcomes: dict[tuple[str, str, str], list[tuple[str, float]]] = defaultdict(list)
    for key, members in groups.items():
        for limit in LIMITS_MS:
            if len(members) > 1 and any(loop.tpot_ms[1] <= limit for loop in members):
                outcomes[key[:3]].append(_outcome(members, limit))
    rows = []
    for (split, engine, gpu), kinds_and_regrets in sorted(outcomes.items()):
        kinds = [kind for kind, _ in kinds_and_regrets]
        lost = [regret for kind, regret in kinds_and_regrets if kind in ("within", "worse")]
        rows.append(
            LimitedChoices(
                split=split,
                engine=engine,
                gpu=gpu,
                choices=len(kinds_and_regrets),
                within=kinds.count("within"),
                missed=kinds.count("missed"),
                empty=kinds.count("empty"),
                regret=math.fsum(lost) / len(lost) if lost else 0.0,
            )
        )
    return rows


def _outcome(members: Sequence[_Loop], limit: float) -> tuple[str, float]:
    """Return what the choice within a limit comes to, and the share of the best throughput that it loses."""
    best = max(loop.tok_s[1] for loop in members if loop.tpot_ms[1] <= limit)
    allowed = [loop for loop in members if loop.tpot_ms[0] <= limit]
    if not allowed:
        return "empty", 1.0
    chosen = max(allowed, key=lambda loop: loop.tok_s[0])
    regret = 1.0 - chosen.tok_s[1] / best
    if chosen.tpot_ms[1] > MISSED * limit:
        return "missed", regret
    return ("within" if regret <= NEAR else "worse"), max(regret, 0.0)


def _matched(loops: Sequence[_Loop]) -> list[Matched]:
    rows = []
    for differ in ("engine", "GPU"):
        cells: dict[tuple[Any, ...], dict[str, list[_Loop]]] = defaultdict(lambda: defaultdict(list))
        for loop in loops:
            own, other = (loop.engine, loop.run.gpu) if differ == "engine" else (loop.run.gpu, loop.engine)
            cells[*loop.cell, other][own].append(loop)
        pairs: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
        for key, by_name in cells.items():
            names = sorted(by_name)
            for i, one in enumerate(names):
                for other in names[i + 1 :]:
                    pairs[str(key[0]), one, other].append(_ratios(by_name, one, other))
        rows += [_compared(differ, key, ratios) for key, ratios in sorted(pairs.items())]
    return rows


def _ratios(by_name: Mapping[str, Sequence[_Loop]], one: str, other: str) -> tuple[float, float]:
    """Return the logarithm of predicted and of measured throughput of one over the other's, means over repeats."""
    means = [
        [math.fsum(math.log(loop.tok_s[i]) for loop in by_name[name]) / len(by_name[name]) for name in (one, other)]
        for i in (0, 1)
    ]
    return means[0][0] - means[0][1], means[1][0] - means[1][1]


def _compared(differ: Any, key: tuple[str, str, str], ratios: Sequence[tuple[float, float]]) -> Matched:
    near = math.log1p(NEAR)
    close = [abs(predicted) < near for predicted, _ in ratios]
    right = [
        not too_close and (predicted * measured > 0 or abs(measured) < near)
        for too_close, (predicted, measured) in zip(close, ratios, strict=True)
    ]
    middle = len(ratios) // 2
    predicted, measured = (sorted(pair[i] for pair in ratios)[middle] for i in (0, 1))
    return Matched(
        split=key[0],
        differ=differ,
        one=key[1],
        other=key[2],
        cells=len(ratios),
        close=sum(close),
        right=sum(right),
        wrong=len(ratios) - sum(close) - sum(right),
        measured_ratio=math.exp(measured),
        predicted_ratio=math.exp(predicted),
    )
