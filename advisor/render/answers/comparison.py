"""A comparison as a document: one row each, what was ruled out, what has no price, and the next command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.perf_model.deployment_arrays import checkpoint_dtype
from advisor.prediction.option_words import engine_words
from advisor.render.document import Document, Section, Table
from advisor.render.lines import notes, sources_line
from advisor.render.next_command import command
from advisor.render.numbers import count, share, short
from advisor.render.tables import UNIFORM, Column, FlatRows
from advisor.render.vocabulary import TPOT, TTFT, goal_and_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from advisor.prediction.deployment_estimate import Estimate
    from advisor.recommendation.comparison import ComparedDeployment, Comparison
    from advisor.render.document import Lines, ShellCommand

NAMED = 6
"""GPUs without a price that are named."""


def document(answer: Comparison) -> Document:
    """Return the whole answer."""
    table = Table(columns=columns(answer), emphasised=0 if answer.best else None) if answer.rows else None
    sections = [
        Section(title="Side by side", table=table, lines=_lines(answer)),
        Section(command=_next(answer)),
    ]
    return Document(
        title="Models, GPUs and formats side by side",
        question=_question(answer),
        answer=sentence(answer),
        alarm="" if answer.best else "nothing keeps the limits" if answer.rows else "nothing fits",
        notes=notes(answer.notes),
        sections=sections,
    )


def sentence(answer: Comparison) -> str:
    """Say which row is first and what it reaches; or that none keeps the limits."""
    if answer.best is None:
        if answer.rows and answer.evaluated < answer.fitting:
            return f"None of the {answer.evaluated} that were evaluated keeps the limits."
        return "Nothing fits." if not answer.rows else "Nothing keeps the limits."
    estimate = answer.best.estimate
    money = "" if answer.best.hourly_usd is None else f", ${short(answer.best.hourly_usd)} an hour"
    return (
        f"{estimate.model.name} in {estimate.deployment.dtype} on {_gpus(estimate)} as {estimate.deployment.layout}: "
        f"{short(estimate.output_tok_s)} tok/s{money}."
    )


def columns(answer: Comparison) -> list[Column]:
    """Return the columns of the table, in order."""
    rows = FlatRows([row.row() | {"quality_text": _quality(row), "gpus": _gpus(row.estimate)} for row in answer.rows])
    several = len({row.estimate.model.name for row in answer.rows}) > 1
    marks = ["" if row.keeps else "x" for row in answer.rows]
    if answer.best:
        marks[0] = ">"
    shown = [
        Column(name="", cells=marks),
        rows.text("model", "model", _short_name, rank=0 if several else UNIFORM),
        rows.column("parameters", "size", count, rank=3 if several else UNIFORM),
        rows.text("gpus", "GPUs"),
        rows.text("dtype", "weights"),
        rows.text("engine", "engine", rank=1 if rows.vary("engine") else UNIFORM),
        rows.text("layout", "layout", rank=6),
        rows.column("batch", "batch", rank=7),
        rows.column("context", "context", _context, unit="tokens", rank=4),
        rows.column("output_tok_s", "tok/s", short, unit="in all"),
        rows.interval("output_tok_s", rank=1),
        rows.time("tpot_ms", TPOT, rank=1),
        rows.time("ttft_ms", TTFT, rank=8),
        rows.column("usd_per_hour", "$/h", short, rank=2),
        rows.column("usd_per_mtok", "$/Mtok", short, rank=1),
        rows.text("quality_text", "score", rank=5),
        rows.text("provenance", "source", rank=3),
    ]
    return [column for column in shown if not column.cells or set(column.cells) != {"-"}]


def _gpus(estimate: Estimate) -> str:
    """Write the GPUs, and how many of them are used where some stay idle."""
    used = estimate.deployment.num_gpus
    return f"{f'{used} of ' if used < estimate.cluster.num_gpus else ''}{estimate.cluster}"


def _short_name(name: str) -> str:
    return name.rpartition("/")[2][:26]


def _context(tokens: int) -> str:
    return f"{tokens // 1000}k" if tokens >= 10_000 else str(tokens)


def _quality(row: ComparedDeployment) -> str:
    estimate = row.estimate
    if estimate.deployment.dtype == checkpoint_dtype(estimate.model, estimate.cluster.gpu):
        return "as is"
    return "not known" if row.quality is None else share(row.quality.recovery)


def _question(answer: Comparison) -> list[str]:
    goal = "largest models first" if answer.goal == "size" else answer.goal
    spend = [] if answer.budget is None else [f"at most ${answer.budget:g} an hour"]
    return [
        f"{answer.combinations:,} combination{'s' * (answer.combinations != 1)} of model, GPUs and format",
        f"{answer.workload.input_len} in / {answer.workload.output_len} out",
        ", ".join([goal_and_limits(goal, answer.slo), *spend]),
    ]


def _lines(answer: Comparison) -> Lines:
    out = {
        "too large": answer.too_large,
        "too slow": answer.too_slow,
        "too dear": answer.too_dear,
        "without kernels": answer.unsupported,
        "without a price": answer.without_price,
    }
    lost = [f"{number:,} {why}" for why, number in out.items() if number]
    some = (
        f"; the {answer.evaluated} that a roofline puts first were evaluated"
        if answer.evaluated < answer.fitting
        else ""
    )
    why = f" ({', '.join(lost)})" if lost else ""
    verb = "is" if answer.fitting == 1 else "are"
    fits = f"{answer.fitting:,} of {answer.combinations:,} {verb} possible{why}{some}"
    missed = [] if all(row.keeps for row in answer.rows) else ["x: a limit is not kept"]
    lines: list[tuple[str, Sequence[str]]] = [
        ("fits", [fits]),
        ("limits", missed),
        ("price", [*_round_figures(answer), *_unpriced(answer)]),
    ]
    scored = any(row.quality for row in answer.rows)
    if scored:
        best = next(row.quality for row in answer.rows if row.quality)
        meaning = "the quantised model's share of the original's published benchmark score"
        lines.append(("score", [f"{meaning}, such as {best.checkpoint}: {best.benchmark} ({best.source})"]))
    lines.append(("relax", [] if answer.rows else _relaxations(answer)))
    return [*lines, ("source", sources_line(row.estimate.provenance for row in answer.rows))]


def _relaxations(answer: Comparison) -> list[str]:
    """Return what could give rows where there are none, by what ruled the combinations out."""
    ways = {
        "fewer bits a weight (--weights any), or more GPUs": answer.too_large,
        "more time per token (--tpot), or fewer bits a weight (--weights any)": answer.too_slow,
        "a larger budget": answer.too_dear,
        "prices (--price GPU=USD)": answer.without_price,
    }
    return [way for way, number in ways.items() if number]


def _round_figures(answer: Comparison) -> list[str]:
    prices = [row.estimate.price for row in answer.rows]
    named = dict.fromkeys(price.gpu for price in prices if price is not None and price.illustrative)
    return [f"Round figures, no offers: {', '.join(named)}"] if named else []


def _unpriced(answer: Comparison) -> list[str]:
    if not answer.unpriced:
        return []
    named = ", ".join(answer.unpriced[:NAMED])
    more = f" and {len(answer.unpriced) - NAMED} more" if len(answer.unpriced) > NAMED else ""
    place = "; they are listed after GPUs with a price" if answer.goal == "cost" else ""
    if answer.budget is not None:
        place = "; with a budget they are left out"
    first = answer.unpriced[0].replace(" ", "-")
    figures = "" if answer.illustrative_prices else ", or --illustrative-prices for round figures"
    return [f"No price for {named}{more}: add --price {first}=0.80{figures}{place}"]


def _next(answer: Comparison) -> ShellCommand | None:
    if not answer.rows:
        return None
    estimate = answer.rows[0].estimate
    return command(
        "recommend",
        estimate.model,
        estimate.cluster,
        *engine_words(estimate.deployment, estimate.model, estimate.cluster, knobs=("max_model_len",)),
        workload=answer.workload,
        slo=answer.slo,
        options={"--concurrency": answer.workload.concurrency},
    )
