"""A capacity plan in one sentence, as it is said in a meeting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.render.numbers import dollars, duration, limit, share, short
from advisor.render.vocabulary import layout_name

if TYPE_CHECKING:
    from advisor.capacity.capacity_plan import CapacityPlan
    from advisor.capacity.fleet_options import FleetOption
    from catalog.schema import Slo

NAMES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "E2E"}


def capacity_answer(found: CapacityPlan) -> str:
    """What to take, what it costs and what it keeps; or that nothing keeps the limits, and what comes nearest."""
    rate = found.workload.rate or 0.0
    often = f"{rate:.0f}" if rate.is_integer() else short(rate)
    asked = f"{often} requests/s of {found.workload.input_len} in / {found.workload.output_len} out"
    if found.best is None:
        assert found.nearest is not None
        return (
            f"Nothing keeps {_limits(found.slo)} at {asked}. Nearest: {_fleet(found.nearest)}, "
            f"{_latencies(found.nearest, found.slo)}. To relax: {'; or '.join(found.relaxations)}."
        )
    best = found.best
    money = ""
    if best.usd_per_month is not None:
        money = f" for ${best.usd_per_month:,.0f} a month ({dollars(best.usd_per_mtok)} per million output tokens)"
    verb = "serves" if best.gpus == 1 else "serve"
    return f"{_fleet(best)} {verb} {asked}{money}: {_latencies(best, found.slo)}, at {share(best.utilisation)} load."


def _fleet(option: FleetOption) -> str:
    spares = f" ({option.spares} of them spare)" if option.spares else ""
    return f"{option.gpus} x {option.gpu} as {layout_name(option.deployment)}{spares}"


def _limits(slo: Slo) -> str:
    each = [f"{NAMES[name]} {limit(most)}" for name, most in slo.limits.items()]
    return f"{_statistic(slo)} {' and '.join(each)}"


def _latencies(option: FleetOption, slo: Slo) -> str:
    told = [f"{NAMES[name]} {duration(option.latencies[name], option.intervals.get(name))}" for name in slo.limits]
    return f"{_statistic(slo)} {', '.join(told)}"


def _statistic(slo: Slo) -> str:
    return "mean" if slo.percentile is None else f"p{slo.percentile:g}"
