"""A validation as a document: claims, errors by group, choices, other methods, and what lies outside its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.document import Document, Figure, Section, Table
from advisor.render.figures.validation import METRICS, coverage, errors_by_model, parities, residuals
from advisor.render.figures.vega import printed
from advisor.render.numbers import share, short, span
from advisor.render.tables import Column
from advisor.render.vocabulary import TPOT, TTFT
from advisor.validation.prediction_errors import USUAL, summarised
from advisor.validation.published_claims import layer_split_runs
from advisor.validation.validation import CLIENT_KEYS
from catalog.wording import short_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.validation.closed_loops import LimitedChoices, Matched
    from advisor.validation.prediction_errors import Check, ErrorSummary
    from advisor.validation.ranking import Ranking
    from advisor.validation.validation import Rival, Validation

MOST_OUTSIDE = 20
LOOP_KEYS = ("split", "engine", "gpu", "experts", "format", "metric")
LOOP_METRICS = ("tpot_ms", "output_tok_s")
VERDICTS = {True: "holds", False: "FAILS", None: "unknown"}
"""How a claim comes out; None: what we say of it is too uncertain to tell."""


def document(answer: Validation, *, wide: bool = False, by: Sequence[str] = USUAL) -> Document:
    """Return the whole judgement; ``wide`` lists every check outside its interval, ``by`` groups the errors."""
    sections = [Section(lines=[(VERDICTS[claim.holds], [claim.text, claim.detail]) for claim in answer.claims])]
    summary, rankings, outside = answer.summary(by), answer.rankings(), answer.outside()
    if summary:
        sections.append(Section(title="Errors", table=Table(columns=summary_columns(summary))))
    loops = [check for check in answer.checks if check.regime == "steady" and check.metric in LOOP_METRICS]
    judged = answer.loops()
    clients = summarised(answer.client, CLIENT_KEYS)
    tables = {
        f"{TTFT} that benchmark clients report of closed loops, their first burst included": summary_columns(clients)
        if clients
        else [],
        "Closed loops by engine, GPU and format": summary_columns(summarised(loops, LOOP_KEYS)) if loops else [],
        f"Most throughput per GPU within a {TPOT} of 15, 25, 40 and 70 ms, among the measured layouts and requests in flight": (
            limited_columns(judged.choices) if judged.choices else []
        ),
        "The faster of two engines or GPUs, all else alike": matched_columns(judged.matched) if judged.matched else [],
        "Choices among the measured deployments of a model and a workload": ranking_columns(rankings)
        if rankings
        else [],
        "Mean errors on runs that were not fitted, beside other methods on the same runs": (
            rival_columns(answer.rivals, answer.rival_rankings) if answer.rivals else []
        ),
        "The same with one part of the fit taken out": rival_columns(answer.ablation) if answer.ablation else [],
    }
    sections += [
        Section(title=title, heading=True, table=Table(columns=columns)) for title, columns in tables.items() if columns
    ]
    title = f"{len(outside)} of {len(answer.checks)} checks outside their 90% interval"
    farthest = outside if wide else sorted(outside, key=_distance, reverse=True)[:MOST_OUTSIDE]
    if len(farthest) < len(outside):
        title += f"; the {len(farthest)} farthest (--wide lists all, --format csv every check)"
    table = Table(columns=check_columns(farthest)) if farthest else None
    sections.append(Section(title=title, heading=True, table=table))
    if answer.left_out:
        reasons = sorted(answer.left_out.items(), key=lambda item: -item[1])
        sections.append(Section(lines=[("left out", [f"{count} rows: {reason}" for reason, count in reasons])]))
    return Document(title="Predictions beside measured runs", sections=[*sections, *_figures(answer)])


def _figures(answer: Validation) -> list[Section]:
    tables = set(layer_split_runs())  # judged by the claims, and far from everything else
    checks = [
        check
        for check in answer.checks
        if check.metric in METRICS and check.regime == "static" and check.run not in tables
    ]
    if not checks:
        return []
    models = len({check.run.model for check in checks})
    figures = {
        "parity": ("Predicted against measured", lambda: printed(parities(checks), columns=2, width=380, height=340)),
        "residuals": (
            "Errors by batch and by length",
            lambda: printed(residuals(checks), columns=2, width=380, height=200),
        ),
        "models": (
            "Errors by model, of predictions that had not seen it",
            lambda: printed(errors_by_model(checks), columns=2, width=300, height=60 + 18 * models),
        ),
        "coverage": (
            "How often 90% intervals held, and how wide they were",
            lambda: printed(coverage(checks), columns=2, width=380, height=240),
        ),
    }
    return [
        Section(title=caption, figures=[Figure(name=name, caption=caption, make=make)])
        for name, (caption, make) in figures.items()
    ]


def _distance(check: Check) -> float:
    """Return how far outside, as a factor."""
    return max(check.low / check.measured, check.measured / check.high)


NAMES = {"split": "predicted", "gpu": "GPU"}
"""Of groups' columns, where they differ from the keys."""
RANKS = {"regime": 1}


def summary_columns(rows: Sequence[ErrorSummary]) -> list[Column]:
    """Return errors by group."""
    keys = list(rows[0].group) if rows else []
    return [
        *(
            Column(
                key=key,
                name=NAMES.get(key, key),
                narrow="" if key == "parallel" else NAMES.get(key, key),
                cells=[short_name(r.group[key]) if key == "model" else r.group[key] for r in rows],
                right=False,
                rank=RANKS.get(key, 0),
            )
            for key in keys
        ),
        Column(key="checks", name="checks", cells=[str(r.checks) for r in rows]),
        Column(key="models", name="models", cells=[str(r.models) if r.models else "-" for r in rows], rank=2),
        Column(key="median_error", name="error", unit="median", cells=[f"{r.median_error:.1%}" for r in rows]),
        Column(key="mean_error", name="error", unit="mean", cells=[f"{r.mean_error:.1%}" for r in rows], rank=3),
        Column(
            key="error_interval",
            name="error",
            unit="mean, 95% CI",
            cells=[
                "-" if None in (r.error_low, r.error_high) else f"({r.error_low:.1%}-{r.error_high:.1%})" for r in rows
            ],
            rank=3,
        ),
        Column(name="bias", cells=[f"{r.bias:+.0%}" for r in rows], rank=2),
        Column(key="coverage", name="coverage", unit="of 90%", cells=[share(r.coverage) for r in rows]),
        Column(
            key="coverage_interval",
            name="coverage",
            unit="95% CI",
            cells=[f"({r.coverage_low:.0%}-{r.coverage_high:.0%})" for r in rows],
            rank=4,
        ),
        Column(key="half_width", name="interval", unit="median +-", cells=[share(r.half_width) for r in rows], rank=5),
        Column(
            key="mean_half_width",
            name="interval",
            unit="mean +-",
            cells=[share(r.mean_half_width) for r in rows],
            rank=6,
        ),
    ]


def ranking_columns(rows: Sequence[Ranking]) -> list[Column]:
    """Return what choosing by prediction costs, by objective."""
    return [
        Column(name="predicted", cells=[r.split for r in rows], right=False),
        Column(name="objective", cells=[r.objective for r in rows], right=False),
        Column(name="choices", cells=[str(r.choices) for r in rows]),
        Column(name="within 1%", unit="of best", cells=[share(r.within) for r in rows]),
        Column(name="regret", unit="mean", cells=[f"{r.mean_regret:.2%}" for r in rows]),
        Column(name="regret", unit="worst", cells=[f"{r.worst_regret:.1%}" for r in rows]),
        Column(name="Kendall", unit="mean", cells=[f"{r.kendall:.2f}" for r in rows], rank=1),
        Column(name="Spearman", unit="mean", cells=[f"{r.spearman:.2f}" for r in rows], rank=2),
        Column(name="worst", cells=[r.worst if r.worst_regret > 0 else "" for r in rows], right=False, rank=3),
    ]


def limited_columns(rows: Sequence[LimitedChoices]) -> list[Column]:
    """Return what is chosen within a limit on TPOT, by engine and GPU."""
    return [
        Column(name="predicted", cells=[r.split for r in rows], right=False),
        Column(name="engine", cells=[r.engine for r in rows], right=False),
        Column(name="GPU", cells=[r.gpu for r in rows], right=False),
        Column(name="choices", cells=[str(r.choices) for r in rows]),
        Column(name="within 5%", unit="of best", cells=[share(r.within / r.choices) for r in rows]),
        Column(name="limit", unit="missed by 10%", cells=[share(r.missed / r.choices) for r in rows]),
        Column(name="nothing", unit="chosen", cells=[str(r.empty) for r in rows], rank=1),
        Column(name="regret", unit="mean", cells=[share(r.regret) for r in rows], rank=1),
    ]


def matched_columns(rows: Sequence[Matched]) -> list[Column]:
    """Return how often the one of two that is predicted to be faster is."""
    return [
        Column(name="predicted", cells=[r.split for r in rows], right=False),
        Column(name="of two", cells=[f"{r.one}, {r.other}" for r in rows], right=False),
        Column(name="cells", cells=[str(r.cells) for r in rows]),
        Column(name="right", cells=[str(r.right) for r in rows]),
        Column(name="too close", cells=[str(r.close) for r in rows]),
        Column(name="wrong", cells=[str(r.wrong) for r in rows]),
        Column(name="ratio", unit="measured", cells=[f"{r.measured_ratio:.2f}" for r in rows]),
        Column(name="ratio", unit="predicted", cells=[f"{r.predicted_ratio:.2f}" for r in rows]),
    ]


QUANTITIES = {"prefill_ms": "prefill", "tpot_ms": TPOT, "e2e_ms": "batch"}


def rival_columns(rows: Sequence[Rival], ranked: Mapping[str, Sequence[Ranking]] | None = None) -> list[Column]:
    """Return the mean errors of each method by engine, tensor (TP) and pipeline (PP) parallel; its choices over all engines."""
    errors = {(r.name, r.engine, r.parallel, r.metric): r.mean_error for r in rows}
    named = list(dict.fromkeys((r.engine, r.name) for r in sorted(rows, key=lambda r: r.engine)))
    columns = [
        Column(name="method", cells=[name for _, name in named], right=False),
        Column(name="engine", cells=[engine for engine, _ in named], right=False),
    ]
    for parallel in dict.fromkeys(sorted((r.parallel for r in rows), reverse=True)):
        for metric, label in QUANTITIES.items():
            values = [errors.get((name, engine, parallel, metric)) for engine, name in named]
            cells = ["-" if value is None else f"{value:.1%}" for value in values]
            columns.append(Column(name=label, unit=parallel, cells=cells))
    if ranked:
        mean, within = {}, {}
        for name, checks in ranked.items():
            count = sum(r.choices for r in checks) or 1
            mean[name] = sum(r.mean_regret * r.choices for r in checks) / count
            within[name] = sum(r.within * r.choices for r in checks) / count
        columns += [
            Column(name="regret", unit="all engines", cells=[f"{mean[name]:.1%}" for _, name in named], rank=1),
            Column(name="within 1%", unit="of best", cells=[share(within[name]) for _, name in named], rank=2),
        ]
    return columns


def check_columns(checks: Sequence[Check]) -> list[Column]:
    """Return measured beside predicted."""
    return [
        Column(name="model", cells=[short_name(c.run.model) for c in checks], right=False),
        Column(name="GPU", cells=[c.run.gpu for c in checks], right=False, rank=2),
        Column(name="engine", cells=[c.engine for c in checks], right=False, rank=4),
        Column(name="TP x PP", cells=[f"{c.run.tp} x {c.run.pp}" for c in checks]),
        Column(name="batch", cells=[str(c.run.batch) if c.run.batch else "full" for c in checks]),
        Column(name="in/out", cells=[f"{c.run.input_len}/{c.run.output_len}" for c in checks], rank=3),
        Column(name="metric", cells=[c.metric for c in checks], right=False),
        Column(name="measured", cells=[short(c.measured) for c in checks]),
        Column(name="predicted", cells=[short(c.predicted) for c in checks]),
        Column(name="90% interval", cells=[span(c.low, c.high) for c in checks], rank=1),
        Column(name="case", cells=[c.split for c in checks], right=False, rank=5),
    ]
