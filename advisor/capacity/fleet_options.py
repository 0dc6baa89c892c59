"""Layouts of a capacity plan as options: what they cost, which are best, and what comes nearest where none is good enough."""

from __future__ import annotations

import bisect
import heapq
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from advisor.calibration.intervals import LEVEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.progress import Course
    from advisor.simulator.replica_sizing import ReplicaSizing
    from advisor.simulator.slo_check import ClassCheck
    from catalog.schema import Deployment, Price

HOURS_A_MONTH = 730.0
CHANGES = (
    ("rate", 0.5),
    ("rate", 0.8),
    ("rate", 1.25),
    ("rate", 2.0),
    ("input_len", 0.8),
    ("input_len", 1.25),
    ("output_len", 0.8),
    ("output_len", 1.25),
)
"""What the sensitivity is of."""
RATES = 2
"""Steps that each largest rate takes, where a layout and a change take one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOption:
    """One kind of GPU with one layout, and as many replicas as it takes."""

    gpu: str
    deployment: Deployment
    """Of all replicas, spares included; where prompts have a pool of their own, of those that decode."""
    prefill: Deployment | None = None
    """Of those for prompts,"""
    prefill_gpu: str | None = None
    """and their GPUs, where these are of another kind."""
    replicas: int
    """That keep the limits by themselves; the latencies are of these."""
    spares: int
    gpus: int
    """Spares included."""
    price: Price | None
    usd_per_hour: float | None
    usd_per_month: float | None
    usd_per_mtok: float | None
    """Dollars per million output tokens at the rate asked for."""
    energy_j_per_token: float | None
    """Of all GPUs, spares included, for an output token at the rate asked for; None where no run measured such energy."""
    latencies: Mapping[str, float]
    """``ttft_ms``, ``tpot_ms``, ``e2e_ms`` at the percentile of the limits, or their means, with the headroom used up."""
    intervals: Mapping[str, tuple[float, float]]
    """Where they are expected with 90%; empty without draws."""
    classes: tuple[ClassCheck, ...] = ()
    """What each class of requests meets; none where they are all alike."""
    saturation_s: float
    """Requests a second that one replica serves at most."""
    utilisation: float
    """The rate asked for as a share of what all replicas serve at most."""
    meets: bool
    provenance: Provenance

    @property
    def gpu_counts(self) -> dict[str, int]:
        """Return GPUs by the name of their kind, those for prompts first."""
        if self.prefill is None or self.prefill_gpu is None:
            return {self.gpu: self.gpus}
        return {self.prefill_gpu: self.prefill.num_gpus, self.gpu: self.deployment.num_gpus}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What the best layout would need if the question were another."""

    what: str
    """"rate", "input_len" or "output_len"."""
    factor: float
    replicas: int | None
    """Without spares; None where no number keeps the limits."""
    gpus: int | None
    usd_per_hour: float | None


def row(option: FleetOption) -> dict[str, Any]:
    """Return one option as a flat row."""
    deployment = option.deployment
    cells: dict[str, Any] = {
        "gpu": option.gpu,
        "gpus": option.gpus,
        "replicas": option.replicas,
        "spares": option.spares,
        "engine": deployment.engine,
        "tp": deployment.tp,
        "pp": deployment.pp,
        "ep": deployment.ep,
        **({"dcp": deployment.dcp} if deployment.dcp > 1 else {}),
        "prefill_replicas": option.prefill.dp if option.prefill else 0,
        "prefill_tp": option.prefill.tp if option.prefill else None,
        "prefill_gpu": option.prefill_gpu,
        "dtype": deployment.dtype,
        "kv_dtype": deployment.kv_dtype,
        "usd_per_hour": option.usd_per_hour,
        "usd_per_month": option.usd_per_month,
        "usd_per_mtok": option.usd_per_mtok,
        "energy_j_per_token": option.energy_j_per_token,
    }
    for name, value in option.latencies.items():
        cells[name] = value
        if option.intervals:
            cells[f"{name}_low"], cells[f"{name}_high"] = option.intervals[name]
    return cells | {
        "saturation_s": option.saturation_s,
        "utilisation": option.utilisation,
        "meets": option.meets,
        "provenance": option.provenance,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityQuestion:
    """What options are made and compared by."""

    rate: float
    spares: int
    objective: str
    draws: int

    def hourly(self, fleet: ReplicaSizing, replicas: int, prices: Mapping[str, Price | None]) -> float | None:
        """Return dollars an hour; None where a kind of GPU has no price."""
        total = 0.0
        for name, gpus in fleet.engine.gpu_counts.items():
            price = prices[name]
            if price is None:
                return None
            total += price.usd_per_gpu_hour * gpus * (replicas + self.spares)
        return total

    def loss(
        self, fleet: ReplicaSizing, replicas: int, prices: Mapping[str, Price | None], *, least: bool = False
    ) -> tuple[float, ...]:
        """Return what is to be small; among equals what has the most room to its saturation wins. ``least``: a bound
        that takes no simulation.
        """
        hourly, gpus = self.hourly(fleet, replicas, prices), fleet.gpus * (replicas + self.spares)
        money = math.inf if hourly is None else hourly
        if self.objective == "energy":
            joules = fleet.joules_per_token(self.rate, replicas, self.spares, least=least)
            first = (math.inf if joules is None else joules, money)
        else:
            first = (money, float(gpus)) if self.objective == "cost" else (float(gpus), money)
        return (*first, self.rate / fleet.saturation_s / (replicas + self.spares))

    def summary_line(self, fleet: ReplicaSizing, replicas: int, prices: Mapping[str, Price | None]) -> str:
        """Say a fleet and its cost in words."""
        hourly, replicas_in_all = self.hourly(fleet, replicas, prices), replicas + self.spares
        money = "" if hourly is None else f", ${hourly * HOURS_A_MONTH:,.0f} a month"
        return f"{replicas_in_all} x {layout_text(fleet)}{money}"

    def at_most(self, fleet: ReplicaSizing, worst: tuple[float, ...], prices: Mapping[str, Price | None]) -> int:
        """Return the replicas with which a fleet is no worse than that, or one less than its fewest."""
        losses = range(fleet.surely, fleet.most + 1)
        return (
            fleet.surely
            + bisect.bisect_right(
                losses, worst, key=lambda replicas_tried: self.loss(fleet, replicas_tried, prices, least=True)
            )
            - 1
        )

    def option(
        self, fleet: ReplicaSizing, replicas: int, prices: Mapping[str, Price | None], *, alone: bool = False
    ) -> FleetOption:
        check = fleet.alone if alone else fleet.slo_check(replicas)
        hourly, replicas_in_all = self.hourly(fleet, replicas, prices), replicas + self.spares
        tokens = self.rate * float(fleet.traffic.output_len.mean()) * 3600.0
        decode, prefill = fleet.engine.multiple(replicas_in_all)
        return FleetOption(
            gpu=fleet.cluster.gpu.name,
            deployment=decode,
            prefill=prefill,
            prefill_gpu=fleet.prefill_gpu,
            replicas=replicas,
            spares=self.spares,
            gpus=replicas_in_all * fleet.gpus,
            price=prices[fleet.cluster.gpu.name],
            usd_per_hour=hourly,
            usd_per_month=None if hourly is None else hourly * HOURS_A_MONTH,
            usd_per_mtok=None if hourly is None else hourly / tokens * 1e6,
            latencies=check.latencies,
            energy_j_per_token=fleet.joules_per_token(self.rate, replicas, self.spares),
            intervals=fleet.intervals(replicas, check.latencies, LEVEL) if self.draws else {},
            classes=check.classes,
            saturation_s=fleet.saturation_s,
            utilisation=self.rate / (fleet.saturation_s * replicas_in_all),
            meets=check.meets,
            provenance=fleet.engine.provenance,
        )

    def change(
        self,
        fleet: ReplicaSizing,
        prices: Mapping[str, Price | None],
        what: str,
        factor: float,
        bounds: tuple[int, int | None],
    ) -> Change:
        """Size the same layout under a changed demand, within ``bounds`` on its replicas (see ``between``)."""
        changed = fleet.demand.times(**{what: factor})
        too_long = changed.workload.input_len + changed.workload.output_len > min(changed.longest, fleet.engine.longest)
        fewest, most = bounds
        if too_long:
            replicas = None
        elif fewest == most:  # no simulation could say anything else
            replicas = fewest
        else:
            replicas = within(fleet.for_demand(changed).needed(), bounds)
        return Change(
            what=what,
            factor=factor,
            replicas=replicas,
            gpus=None if replicas is None else (replicas + self.spares) * fleet.gpus,
            usd_per_hour=None if replicas is None else self.hourly(fleet, replicas, prices),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How much traffic the best fleet takes, and what other traffic would take; see the fields of ``CapacityPlan``."""

    carries_s: float | None = None
    next_carries_s: float | None = None
    next_latencies: Mapping[str, float] = field(default_factory=dict)
    bare_carries_s: float | None = None
    sensitivity: tuple[Change, ...] = ()

    @classmethod
    def of(
        cls,
        fleet: ReplicaSizing,
        replicas: int,
        question: CapacityQuestion,
        prices: Mapping[str, Price | None],
        headroom: float,
        course: Course,
    ) -> Reach:
        """Simulate the fleet at other rates and with other lengths; each change is a step of ``course``."""
        begin = course.over
        course.tell("how much the best fleet carries", begin)
        most, more = fleet.most_rate(replicas), None
        bare = max(fleet.by_the_estimate.most_rate(replicas), most)
        later: Mapping[str, float] = {}
        if replicas < fleet.most:
            course.tell("how much it carries with one replica more", begin + RATES)
            more = max(fleet.most_rate(replicas + 1), most)
            later = fleet.slo_check(replicas + 1).latencies
        known: dict[tuple[str, float], int | None] = {(what, 1.0): replicas for what, _ in CHANGES}
        changes: dict[tuple[str, float], Change] = {}
        # From the least change on, so that each is between those that are known.
        for i, (what, factor) in enumerate(sorted(CHANGES, key=lambda change: abs(math.log(change[1])))):
            course.tell(f"what other traffic would take, {i + 1} of {len(CHANGES)}", begin + 2 * RATES + i)
            bounds = between(known, what, factor)
            if what == "rate":
                bounds = carried(bounds, fleet.demand.workload.rate or 0.0, factor, replicas, most, more)
            changes[what, factor] = question.change(fleet, prices, what, factor, bounds)
            known[what, factor] = changes[what, factor].replicas
        return cls(
            carries_s=most / (1.0 + headroom),
            next_carries_s=None if more is None else more / (1.0 + headroom),
            bare_carries_s=bare / (1.0 + headroom),
            next_latencies=later,
            sensitivity=tuple(changes[change] for change in CHANGES),
        )


def between(known: Mapping[tuple[str, float], int | None], what: str, factor: float) -> tuple[int, int | None]:
    """Return the fewest and the most replicas (None: any number) that a change needs by what smaller and larger ones need.

    Less traffic needs no more replicas; where a simulation says so, chance in which requests meet does.
    """
    here = {other: replicas for (name, other), replicas in known.items() if name == what}
    fewest = max((replicas for other, replicas in here.items() if other < factor and replicas is not None), default=1)
    able = [replicas for other, replicas in here.items() if other > factor and replicas is not None]
    return fewest, min(able, default=None)


def carried(
    bounds: tuple[int, int | None], rate: float, factor: float, replicas: int, most: float, more: float | None
) -> tuple[int, int | None]:
    """Return bounds that agree with the largest rates of ``replicas`` and of one more."""
    fewest, largest = bounds
    for number, carries in ((replicas, most), (replicas + 1, more)):
        if carries is not None and rate * factor <= carries:
            return fewest, number if largest is None else min(number, largest)
        if carries is not None:
            fewest = max(fewest, number + 1)
    return fewest, largest


def within(replicas: int | None, bounds: tuple[int, int | None]) -> int | None:
    """Hold a number of replicas, None for more than there can be, within bounds."""
    fewest, most = bounds
    if most is not None:
        return max(fewest, min(replicas or most, most))
    return None if replicas is None else max(replicas, fewest)


def best_of(
    fleets: Sequence[ReplicaSizing],
    question: CapacityQuestion,
    prices: Mapping[str, Price | None],
    top: int,
    course: Course,
) -> list[tuple[tuple[float, ...], ReplicaSizing, int]]:
    """Rank the best layouts with their losses and replicas, best first.

    A layout waits in the queue with the loss of its fewest thinkable replicas until it comes to the front: first of those
    that the estimate's saturation takes, then of those that it takes with the wanted confidence. Then it is simulated,
    as far as it could still be one of the best, and waits with its true loss. What comes to the front with that is beaten
    by none. Each layout is a step of ``course``, one half of it its saturation.
    """
    bound, sure, true = range(3)
    before = course.over
    queue = []
    for i, fleet in enumerate(fleets):
        course.tell(f"saturation of {layout_text(fleet)}", before + i / 2)
        if fleet.least <= fleet.most:
            queue.append((question.loss(fleet, fleet.least, prices, least=True), i, bound, fleet.least))
    heapq.heapify(queue)
    simulated = 0
    known: list[tuple[float, ...]] = []
    ranked: list[tuple[tuple[float, ...], ReplicaSizing, int]] = []
    while queue and len(ranked) < top:
        loss, i, stage, replicas = heapq.heappop(queue)
        fleet = fleets[i]
        if stage == true:
            ranked.append((loss, fleet, replicas))
        elif stage == bound:
            if fleet.surely <= fleet.most:
                heapq.heappush(queue, (question.loss(fleet, fleet.surely, prices, least=True), i, sure, fleet.surely))
        else:
            course.tell(
                f"simulating {layout_text(fleet)}, {simulated + 1} of at most {len(fleets)}",
                before + (len(fleets) + simulated) / 2,
            )
            simulated += 1
            worst = sorted(known)[top - 1] if len(known) >= top else None
            needed = fleet.needed(at_most=None if worst is None else question.at_most(fleet, worst, prices))
            if needed:
                known.append(question.loss(fleet, needed, prices))
                shown = replace(question, draws=0).option(fleet, needed, prices)  # intervals take long
                course.offer(known[-1], question.summary_line(fleet, needed, prices), shown)
                heapq.heappush(queue, (known[-1], i, true, needed))
    course.over = before + len(fleets)
    return ranked


def layout_text(fleet: ReplicaSizing) -> str:
    """Write the layout of one replica, or of one of each kind: "TP2 PP1 on H200-SXM"."""
    decode, prefill = fleet.engine.multiple(1)
    if prefill is None:
        return f"{decode.layout} on {fleet.cluster.gpu.name}"
    where = f" on {fleet.prefill_gpu}" if fleet.prefill_gpu else ""
    return f"{prefill.layout}{where} for prompts, {decode.layout} on {fleet.cluster.gpu.name}"
