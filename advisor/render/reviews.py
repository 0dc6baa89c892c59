"""Reports of recommendations, of traffic and of capacity plans, fit to be handed round: Markdown, and one HTML file with the figures in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render import capacities, recommendations, simulations
from advisor.render.choice_figures import memory_figure, trade_figure
from advisor.render.lines import notes, sources_line
from advisor.render.numbers import dollars, short
from advisor.render.pages import Picture, Section, page_files, png, write_files
from advisor.render.traffic_figures import (
    cost_figure,
    fleets_figure,
    latency_figure,
    sensitivity_figure,
    timeline_figure,
)
from catalog.borders import write_whole
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.recommendation.recommendation import Recommendation
    from advisor.simulator.simulation import Simulation

COMMAND_WIDTH = 100
"""Letters of a line of a command."""


def review_traffic(found: Sequence[Simulation], folder: Path) -> list[Path]:
    """Write what traffic meets on one deployment, or on several: ``report.html``, ``report.md`` and the figures.

    Raises:
        InputError: Matplotlib is missing, or a file cannot be written.

    """
    return write_files(folder, traffic_files(found))


def traffic_files(found: Sequence[Simulation]) -> dict[str, bytes]:
    """What traffic meets as ``report.html``, ``report.md`` and the figures: contents by name.

    Raises:
        InputError: Matplotlib is missing.

    """
    first = found[0]
    sections = [
        Section(
            title="Latencies", columns=simulations.columns_of(found), entries=simulations.told(first) if len(found) == 1 else (),
            emphasised=simulations.best(found) if len(found) > 1 else None,
            pictures=[Picture(
                name="latencies", figure=latency_figure(found),
                caption="Share of the requests that take at most so long; dashed: the limits.",
            )],
        ),
        Section(title="Over time", pictures=[Picture(
            name="timeline", figure=timeline_figure(found),
            caption="While requests come: what runs and waits on a replica, its KV cache, and the tokens of all.",
        )]),
        Section(title="What this stands on", entries=[
            *notes(note for each in found for note in each.notes),
            ("source", sources_line(each.provenance for each in found)),
        ]),
    ]  # fmt: skip
    return page_files(f"{first.model.name} under traffic", simulations.head(first), sections)


def draw_traffic(found: Sequence[Simulation], path: Path) -> Path:
    """Write the distributions of the latencies as a PNG.

    Raises:
        InputError: Matplotlib is missing, or the file cannot be written.

    """
    image = png(latency_figure(found))
    try:
        write_whole(path, image)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    return path


def recommendation_files(found: Recommendation) -> dict[str, bytes]:
    """A recommendation as ``report.html``, ``report.md`` and the figures: contents by name.

    Raises:
        InputError: Matplotlib is missing.

    """
    shown = recommendations.shown_of(found)
    best = found.best is not None
    sections = [
        Section(
            title="Answer",
            columns=recommendations.candidate_columns(found, shown) if shown else (),
            emphasised=0 if best else None,
            entries=[
                ("answer", [recommendations.recommendation_answer(found)]),
                *recommendations.told(found, wide=True),
            ],
        )
    ]
    if best:
        sections.append(
            Section(title="How to start it", code="\n".join(recommendations.run_lines(found, COMMAND_WIDTH)))
        )
        sections.append(Section(title="Speed for a user against throughput per GPU", pictures=[Picture(
            name="trade", figure=trade_figure(found),
            caption="Each point is a layout at a batch; dotted: not beaten in both; ringed: the one recommended, with its 90% "
            "interval.",
        )]))  # fmt: skip
    if shown:
        sections.append(Section(title="Memory", pictures=[Picture(
            name="memory", figure=memory_figure(shown), caption="The fullest GPU of each layout at its batch; the line: all it has.",
        )]))  # fmt: skip
    sections.append(Section(title="What this stands on", entries=recommendations.read_notes(found)))
    return page_files(f"How to serve {found.model.name}", recommendations.head(found), sections)


def review_recommendation(found: Recommendation, folder: Path) -> list[Path]:
    """Write a recommendation: ``report.html``, ``report.md`` and the figures.

    Raises:
        InputError: Matplotlib is missing, or a file cannot be written.

    """
    return write_files(folder, recommendation_files(found))


def review_plan(found: CapacityPlan, folder: Path) -> list[Path]:
    """Write a capacity plan: ``report.html``, ``report.md`` and the figures.

    Raises:
        InputError: Matplotlib is missing, or a file cannot be written.

    """
    return write_files(folder, plan_files(found))


def plan_files(found: CapacityPlan) -> dict[str, bytes]:
    """A capacity plan as ``report.html``, ``report.md`` and the figures: contents by name.

    Raises:
        InputError: Matplotlib is missing.

    """
    sections = [
        Section(
            title="Answer", columns=capacities.option_columns(found), emphasised=0 if found.best else None,
            entries=[("answer", [summary(found)]), *capacities.told(found)],
        )
    ]  # fmt: skip
    if found.best is not None:
        sections += [
            Section(title="Cost and latency", pictures=[Picture(
                name="fleets", figure=fleets_figure(found),
                caption="The best layouts of each kind of GPU, spares included; bars: 90% intervals; filled: the one chosen; "
                "dashed: the limits.",
            )]),
            Section(title="If the load is another", pictures=[
                Picture(
                    name="cost", figure=cost_figure(found),
                    caption="The chosen layout at other rates; dashed: the rate asked for.",
                ),
                Picture(
                    name="sensitivity", figure=sensitivity_figure(found),
                    caption="GPUs of the chosen layout when one thing is 0.8 or 1.25 times what was asked for.",
                ),
            ]),
        ]  # fmt: skip
    provenances = [option.provenance for option in capacities.shown(found)]
    sections.append(
        Section(title="What this stands on", entries=[*notes(found.notes), ("source", sources_line(provenances))])
    )
    return page_files(f"Capacity for {found.model.name}", capacities.head(found), sections)


def summary(found: CapacityPlan) -> str:
    """The answer as a sentence."""
    best = found.best
    if best is None:
        return f"No fleet keeps the limits. Relax: {'; or '.join(found.relaxations)}."
    money = "" if best.usd_per_hour is None else f" for {dollars(best.usd_per_hour)} an hour"
    spare = f", {best.spares} of its replicas in reserve" if best.spares else ""
    return (
        f"{best.gpus} x {best.gpu}{money} serve {short(found.workload.rate)} requests/s within the limits{spare}; they would up "
        f"to {short(found.carries_s)} requests/s."
    )
