"""Figures of a recommendation, with Matplotlib: speed against throughput, and memory by layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.prediction.explanation import layout
from advisor.render.plots import GREY, MORE, SMALL, STYLES, USUAL
from advisor.render.traffic_figures import framed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from advisor.prediction.estimation import Estimate
    from advisor.recommendation.recommendation import Recommendation

PARTS = {
    "weights": ("weights", "#0072B2"),
    "activations": ("activations", "#009E73"),
    "engine": ("engine", "#CC79A7"),
    "kv_cache": ("KV cache in use", "#E69F00"),
    "kv_free": ("KV cache free", "#F7E3B2"),
    "reserved": ("left to others", "#DDDDDD"),
}
"""What fills a GPU: its name and colour."""
RING = "#D55E00"


def memory_parts(estimate: Estimate) -> Mapping[str, float]:
    """The fullest GPU's GiB by part, the cache split into what this batch fills and what it leaves."""
    filled = min(estimate.running / estimate.max_concurrency, 1.0) if estimate.max_concurrency else 1.0
    cache = estimate.memory["kv_cache"]
    return {**estimate.memory, "kv_cache": cache * filled, "kv_free": cache * (1.0 - filled)}


def trade_figure(found: Recommendation) -> Figure:
    """Tokens a second for one user against output tokens a second per GPU: the candidates and the front."""
    figure, (axes,) = framed(1, width=1.6, height=1.3)
    front = [each for each in found.pareto if each.tpot_ms]
    shown = [each for each in (*found.candidates, *front) if each.tpot_ms]
    axes.plot([_speed(e) for e in front], [_throughput(e) for e in front], color=GREY, linestyle=STYLES["dotted"])
    for i, name in enumerate(dict.fromkeys(layout(each) for each in shown)):
        members = [each for each in shown if layout(each) == name]
        colour, marker = MORE[i % len(MORE)]
        axes.plot(
            [_speed(e) for e in members], [_throughput(e) for e in members], color=colour, marker=marker, markersize=4.5,
            linestyle="", label=name,
        )  # fmt: skip
    best = found.best
    if best is not None and best.tpot_ms:
        low, high = best.interval("output_tok_s_per_gpu")
        value = _throughput(best)
        axes.errorbar(
            [_speed(best)], [value], yerr=[[value - low], [high - value]], color=RING, marker="o", markersize=11,
            markerfacecolor="none", capsize=3, linewidth=1,
        )  # fmt: skip
    if found.slo.tpot_ms:
        axes.axvline(1e3 / found.slo.tpot_ms, color=GREY, linewidth=1, linestyle=STYLES["dashed"])
    axes.set_xlim(0, None)
    axes.set_ylim(0, None)
    axes.set_xlabel("tokens/s for one user (1000 / TPOT)", size=USUAL)
    axes.set_ylabel("output tokens/s per GPU", size=USUAL)
    axes.legend(fontsize=SMALL, frameon=False)
    return figure


def _speed(estimate: Estimate) -> float:
    return 1e3 / (estimate.tpot_ms or 1.0)


def _throughput(estimate: Estimate) -> float:
    return estimate.output_tok_s_per_gpu or 0.0


def memory_figure(shown: Sequence[Estimate]) -> Figure:
    """GiB on the fullest GPU of each layout, by part."""
    figure, (axes,) = framed(1, width=1.6, height=0.4 + 0.1 * len(shown))
    names = [f"{each.deployment.dp} x {layout(each)}, batch {each.batch}" for each in shown]
    rows = range(len(shown))
    left = [0.0] * len(shown)
    for part, (name, colour) in PARTS.items():
        values = [memory_parts(each)[part] for each in shown]
        axes.barh(rows, values, left=left, color=colour, label=name, height=0.7)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.axvline(shown[0].memory["device"], color=RING, linewidth=1.5)
    axes.set_yticks(rows, names, size=SMALL)
    axes.invert_yaxis()
    axes.set_xlabel("GiB on the fullest GPU", size=USUAL)
    axes.legend(fontsize=SMALL, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    return figure
