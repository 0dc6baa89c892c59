"""``advisor probe --endpoint``: measure a server that runs already."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advisor.cli.output import answer
from advisor.cli.program import refuse

if TYPE_CHECKING:
    from rich.console import RenderableType

    from advisor.benchmarking.endpoint_session import EndpointSession, Outcome
    from advisor.render.tables import Column


def answer_endpoint(ready: EndpointSession, chosen: str, *, wide: bool, dry_run: bool, report: bool) -> None:
    """Measure, or only list, and show it."""
    from advisor.benchmarking.endpoint_session import Outcome  # brings numpy

    if dry_run:
        _tell_plan(ready, chosen, wide=wide)
        return
    outcome = Outcome()
    try:
        ready.run(outcome=outcome, say=_say)
    except KeyboardInterrupt:
        if outcome.runs:
            _tell(ready, outcome, chosen, wide=wide, report=False)
        raise
    if not outcome.runs:
        raise refuse(f"nothing was measured: {'; '.join(outcome.left_out)}")
    _tell(ready, outcome, chosen, wide=wide, report=report)


def _say(text: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def _head(ready: EndpointSession, width: int) -> RenderableType:
    from advisor.render.lines import hardware, header  # brings Rich

    facts, target = ready.facts, ready.target
    layout = f"{facts['dp']} x {facts['tp']} x {facts['pp']} (replicas x TP x PP)"
    lengths = f"{target.input_len} in / {target.output_len} out"
    engine = " ".join(filter(None, (facts["engine"], facts.get("engine_version"))))
    return header([ready.model.name, hardware(ready.cluster), engine, layout, lengths, ready.endpoint.url], width)


def _tell_plan(ready: EndpointSession, chosen: str, *, wide: bool) -> None:
    from advisor.render.lines import labelled, notes  # brings Rich
    from advisor.render.tables import Column, drawn

    rows = ready.rows()

    def columns() -> list[Column]:
        return [
            Column(name="load", cells=[row["load"] for row in rows], right=False),
            Column(name="requests", cells=[row["arrivals"] for row in rows], right=False),
            Column(name="in flight", cells=[str(row["in_flight"] or "") for row in rows]),
            Column(name="measured", cells=["before" if row["done"] else "" for row in rows], right=False),
        ]

    def view(width: int) -> list[RenderableType]:
        until = "all of them" if ready.fixed else "closed loops until the throughput rises no more"
        budget = "" if ready.budget_s is None else f", within {ready.budget_s:g} s"
        lines = [*notes(ready.notes), ("takes", [f"{until}, then Poisson arrivals{budget}"])]
        return [_head(ready, width), "", drawn(columns(), None if wide else width), "", labelled(lines)]

    answer(chosen, view=view, body=ready.to_dict, rows=lambda: rows, columns=columns)


def _tell(ready: EndpointSession, outcome: Outcome, chosen: str, *, wide: bool, report: bool) -> None:
    from advisor.render.lines import labelled, notes  # brings Rich
    from advisor.render.measured import measured_columns, measured_rows, measured_view
    from advisor.render.measured import report as written

    runs = outcome.runs
    pages = [str(page) for page in written(runs, ready.folder / "report")] if report else []
    before = len(runs) - outcome.new
    told = f"{outcome.new} measured now" + (f", {before} before" if before else "")
    lines = [*notes(ready.notes), ("runs", [f"{told}, kept in {ready.store}"])]
    lines += [("skipped", outcome.left_out)] if outcome.left_out else []
    lines += [("report", pages)] if pages else []
    answer(
        chosen,
        view=lambda width: [_head(ready, width), "", *measured_view(runs, width, wide=wide), "", labelled(lines)],
        body=lambda: {
            "runs": measured_rows(runs), "measured_now": outcome.new, "store": str(ready.store),
            "left_out": outcome.left_out, "report": pages,
        },
        rows=lambda: measured_rows(runs),
        columns=lambda: measured_columns(runs),
    )  # fmt: skip
