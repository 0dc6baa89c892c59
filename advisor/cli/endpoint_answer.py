"""``advisor probe --endpoint``: measure a server that runs already."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from advisor.cli.output import answer
from advisor.cli.probe_answer import answer_runs, written_report
from advisor.cli.program import refuse
from catalog.schema import Deployment

if TYPE_CHECKING:
    from advisor.benchmarking.endpoint_session import EndpointSession, Outcome
    from advisor.cli.options.output import Output
    from advisor.render.document import Document


def answer_endpoint(ready: EndpointSession, output: Output, *, dry_run: bool, report: bool) -> None:
    """Measure, or only list, and show it."""
    from advisor.benchmarking.endpoint_session import Outcome  # brings numpy

    if dry_run:
        _show_plan(ready, output)
        return
    outcome = Outcome()
    try:
        ready.run(outcome=outcome, say=_say)
    except KeyboardInterrupt:
        if outcome.runs:
            _show(ready, outcome, output, report=False)
        raise
    if not outcome.runs:
        raise refuse(f"nothing was measured: {'; '.join(outcome.left_out)}")
    _show(ready, outcome, output, report=report)


def _say(text: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def _question(ready: EndpointSession) -> list[str]:
    from advisor.render.lines import hardware

    facts, target = ready.facts, ready.target
    layout = Deployment(**{degree: facts[degree] for degree in ("dp", "tp", "pp")}).layout
    lengths = f"{target.input_len} in / {target.output_len} out"
    engine = " ".join(filter(None, (facts["engine"], facts.get("engine_version"))))
    return [ready.model.name, hardware(ready.cluster), engine, layout, lengths, ready.endpoint.url]


def _show_plan(ready: EndpointSession, output: Output) -> None:
    from advisor.render.document import Document, Section, Table
    from advisor.render.lines import notes
    from advisor.render.tables import FlatRows

    rows = FlatRows(ready.rows())
    columns = [
        rows.text("load", "load"),
        rows.text("arrivals", "requests"),
        rows.column("in_flight", "in flight", lambda number: str(number or "")),
        rows.text("done", "measured", lambda done: "before" if done else ""),
    ]
    until = "all of them" if ready.fixed else "closed loops until the throughput rises no more"
    budget = "" if ready.budget_s is None else f", within {ready.budget_s:g} s"
    lines = [*notes(ready.notes), ("takes", [f"{until}, then Poisson arrivals{budget}"])]
    plan = Document(
        title="What is going to be measured",
        question=_question(ready),
        sections=[Section(table=Table(columns=columns), lines=lines)],
    )
    answer(output, lambda: plan, body=ready.to_dict, rows=ready.rows)


def _show(ready: EndpointSession, outcome: Outcome, output: Output, *, report: bool) -> None:
    from advisor.render.answers.measured import document
    from advisor.render.lines import notes

    runs = outcome.runs
    pages = written_report(runs, ready.folder) if report else []
    before = len(runs) - outcome.new
    counted = f"{outcome.new} measured now" + (f", {before} before" if before else "")
    lines = [*notes(ready.notes), ("runs", [f"{counted}, kept in {ready.store}"]), ("skipped", outcome.left_out)]
    lines.append(("report", pages))

    def shown() -> Document:
        made = document(runs)
        return replace(made, question=[*_question(ready), *made.question]).and_lines(lines)

    answer_runs(
        output,
        runs,
        shown,
        measured_now=outcome.new,
        store=str(ready.store),
        left_out=outcome.left_out,
        report=pages,
    )
