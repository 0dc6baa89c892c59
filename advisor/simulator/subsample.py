"""Part of a fleet in place of all of it: some replicas, and the requests that the router gives them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from advisor.simulator.arrivals import Arrivals
    from advisor.simulator.routers import Router


def sample(traffic: Arrivals, replicas: int, router: Router, *, least: tuple[int, int]) -> tuple[Arrivals, int]:
    """Return part of an open loop's traffic, and how many replicas serve it as all of them serve all of it.

    At ``least`` so many replicas and so many requests are kept, where there are so many.

    Behind a round-robin router replicas know nothing of each other, and each n-th request is one's own: those simulated
    meet exactly what they meet in the whole fleet. Behind one that looks at loads all of them matter, and the part is a
    smaller fleet under the same process of arrivals, slowed down; it has a little less to balance with, so its times are
    rather too long. Where requests have something in common whole sessions are kept, every n-th of them.
    """
    simulated = max(least[0], math.ceil(least[1] * replicas / len(traffic)))
    if simulated >= replicas:
        return traffic, replicas
    number = np.arange(len(traffic))
    if traffic.sharing is not None:
        return traffic.only(traffic.sharing.session % replicas < simulated), simulated
    if router == "round_robin":
        chosen, slowed = number % replicas < simulated, 1.0
    else:
        chosen, slowed = number < len(traffic) * simulated // replicas, replicas / simulated
    part = traffic.only(chosen)
    return replace(part, arrival_s=part.arrival_s * slowed), simulated
