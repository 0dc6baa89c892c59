"""Policies that change how many replicas run, and the lives of the replicas that come of one on a day's traffic.

What Kubernetes' HorizontalPodAutoscaler does (kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, and
pkg/controller/podautoscaler/horizontal.go): every 15 s the wanted replicas are usage / target, rounded up; within a tolerance of 10%
nothing changes; up by at most 4 or as many again each time; down to the most that was wanted within five minutes. KEDA
(keda.sh/docs, ScaledObject) hands its triggers to one of those; its cron trigger wants a number for hours of the day.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from catalog.units import DAY_S, HOUR_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from catalog.units import Array

SYNC_S = 15.0
"""Between two looks of the autoscaler: ``--horizontal-pod-autoscaler-sync-period``."""
TOLERANCE = 0.1
"""``--horizontal-pod-autoscaler-tolerance``."""
STABLE_S = 300.0
"""``behavior.scaleDown.stabilizationWindowSeconds``, which is also KEDA's ``cooldownPeriod``."""
MORE_PODS = 4
"""That the default ``behavior.scaleUp`` adds at once, or as many as there are."""
DAY_TICKS = round(DAY_S / SYNC_S)
"""Looks in a day."""
RATE_S = 60.0
"""Seconds over which a rate is measured: ``rate(...[1m])``."""
NOTICE_S = 120.0
"""Between the warning and the end of a spot instance (AWS EC2 User Guide, "Spot Instance interruption notices")."""

Kind = Literal["fixed", "schedule", "rate", "running"]
BY_THE_CLOCK = frozenset({"fixed", "schedule"})
"""Kinds that do not look at the traffic."""
Event = Literal["replica lost", "node lost", "spot reclaimed", "rolling upgrade"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingPolicy:
    """What a policy looks at, and how much it gives a replica."""

    kind: Kind
    """"fixed": always as many as the busiest time takes; "schedule": by the hour of the day (KEDA's cron); "rate": requests a second
    for each replica (KEDA's prometheus trigger); "running": requests in flight for each replica (an HPA on a metric of its pods).
    """
    target: float
    """Share of what a replica carries within its limits that it is given."""
    spares: int = 0
    """Replicas beyond that."""


@dataclass(slots=True, kw_only=True)
class ReplicaLife:
    """One replica from its order to its end; seconds of the day."""

    ordered_s: float
    ready_s: float
    """When its weights are loaded and it is given requests;"""
    gone_s: float = math.inf
    """when it is given no more."""
    dies: bool = False
    """Whether what it was serving then is lost and sent again, or finished."""

    def paid_s(self, end_s: float) -> float:
        """Return the seconds that are paid for until ``end_s``."""
        return max(min(self.gone_s, end_s) - self.ordered_s, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledTraffic:
    """A day as an autoscaler sees it."""

    offered_s: Array
    """Requests a second in each ``SYNC_S``."""
    expected_s: Array
    """The same as the curve has it, which a schedule is made for."""
    capacity_s: float
    """Requests a second that one replica carries within its limits,"""
    saturation_s: float
    """and that it completes at all."""
    in_flight: Callable[[float], float]
    """Requests in flight on a replica that is given so many a second."""
    start_s: tuple[float, float]
    """A replica takes between so many seconds to start."""
    node: int
    """Replicas that stand on one node."""

    def lives(
        self, policy: ScalingPolicy, seed: int, events: tuple[tuple[float, Event], ...] = ()
    ) -> list[ReplicaLife]:
        """Return the replicas of the day under a policy; start-ups are drawn."""
        return _Scaler(self, policy, np.random.default_rng(seed)).run(list(events))

    def scheduled(self, policy: ScalingPolicy) -> Array:
        """Return the replicas that a schedule has in each ``SYNC_S``: enough for all that is expected until another could start, and the
        same throughout an hour, as a cron trigger has it.
        """
        lead = math.ceil(self.start_s[1] / SYNC_S) + 1
        ahead = np.stack([np.roll(self.expected_s, -step) for step in range(lead)]).max(axis=0)
        wanted = np.ceil(ahead / (policy.target * self.capacity_s) - 1e-9).astype(int)
        hourly = wanted.reshape(-1, round(HOUR_S / SYNC_S)).max(axis=1)
        return np.repeat(np.maximum(hourly, 1), round(HOUR_S / SYNC_S)) + policy.spares


class _Scaler:
    """One day under one policy."""

    def __init__(self, traffic: ScaledTraffic, policy: ScalingPolicy, random: np.random.Generator) -> None:
        self.traffic, self.policy, self.random = traffic, policy, random
        self.schedule = traffic.scheduled(policy)
        self.active: list[ReplicaLife] = []
        self.all: list[ReplicaLife] = []
        self.backlog = 0.0

    def run(self, events: list[tuple[float, Event]]) -> list[ReplicaLife]:
        offered = self.traffic.offered_s
        span = round(RATE_S / SYNC_S)
        measured = np.convolve(offered, np.ones(span) / span)[: len(offered)]
        measured[: span - 1] = offered[:span].mean()
        wanted: deque[int] = deque(maxlen=round(STABLE_S / SYNC_S))
        for tick, rate in enumerate(measured):
            now = tick * SYNC_S
            if not tick:
                first = max(self._unscaled(0, float(rate)), 1)
                self.all = self.active = [ReplicaLife(ordered_s=0.0, ready_s=0.0) for _ in range(first)]
                self.active = list(self.active)
            while events and events[0][0] <= now:
                self._happens(events.pop(0)[1], now)
            ready = sum(life.ready_s <= now for life in self.active)
            self.backlog = max(self.backlog + (offered[tick] - ready * self.traffic.saturation_s) * SYNC_S, 0.0)
            wanted.append(self._wanted(tick, float(rate), ready))
            self._scale(wanted[-1], max(wanted), now)
        return self.all

    def _unscaled(self, tick: int, rate: float) -> int:
        if self.policy.kind in BY_THE_CLOCK:
            return int(self.schedule.max() if self.policy.kind == "fixed" else self.schedule[tick])
        return math.ceil(rate / (self.policy.target * self.traffic.capacity_s) - 1e-9) + self.policy.spares

    def _wanted(self, tick: int, rate: float, ready: int) -> int:
        if self.policy.kind in BY_THE_CLOCK:
            return self._unscaled(tick, rate)
        usage, target = rate, self.policy.target * self.traffic.capacity_s
        if self.policy.kind == "running":
            target = self.traffic.in_flight(target)
            usage = self.backlog
            if ready:
                usage += ready * self.traffic.in_flight(min(rate / ready, self.traffic.saturation_s))
        count = max(len(self.active) - self.policy.spares, 1)
        if abs(usage / (count * target) - 1.0) <= TOLERANCE:
            return count + self.policy.spares
        return max(math.ceil(usage / target - 1e-9), 1) + self.policy.spares

    def _scale(self, wanted: int, most_wanted: int, now: float) -> None:
        count = len(self.active)
        scheduled = self.policy.kind in BY_THE_CLOCK
        if wanted > count:
            most = wanted if scheduled else max(2 * count, count + MORE_PODS)
            self._order(min(wanted, most) - count, now)
        elif wanted < count:
            for _ in range(count - (wanted if scheduled else min(most_wanted, count))):
                self.active.sort(key=lambda life: life.ready_s)
                self.active.pop().gone_s = now

    def _order(self, count: int, now: float) -> list[ReplicaLife]:
        new = [ReplicaLife(ordered_s=now, ready_s=now + self._start()) for _ in range(count)]
        self.active += new
        self.all += new
        return new

    def _start(self) -> float:
        return float(self.random.uniform(*self.traffic.start_s))

    def _happens(self, event: Event, now: float) -> None:
        """Take replicas away; the Deployment orders others at once."""
        standing = sorted((life for life in self.active if life.ready_s <= now), key=lambda life: life.ordered_s)
        if event == "rolling upgrade":
            at = now
            for life in standing:  # maxSurge 1, maxUnavailable 0
                (new,) = self._order(1, at)
                life.gone_s = at = new.ready_s
        else:
            for life in standing[: 1 if event == "replica lost" else self.traffic.node]:
                life.gone_s, life.dies = now + (NOTICE_S if event == "spot reclaimed" else 0.0), True
                self._order(1, now)
        self.active = [life for life in self.active if life.gone_s == math.inf]
