"""Names of the routers between replicas, and of the policies of a replica's queue; importing them takes no time."""

from typing import Literal, get_args

from catalog.errors import InputError

Router = Literal["round_robin", "least_loaded", "prefix_aware", "session_sticky", "power_of_two"]

ROUTERS: tuple[Router, ...] = get_args(Router)
"""In the order of the numbers in ``advisor.simulator.routing``."""

SchedulingPolicy = Literal["fcfs", "priority"]
POLICIES: tuple[SchedulingPolicy, ...] = get_args(SchedulingPolicy)
FCFS, PRIORITY = POLICIES


def check_router(name: str) -> None:
    """Raise ``InputError`` for a router that is not known."""
    if name not in ROUTERS:
        raise InputError(f"router is {name!r:.40}; it must be one of {', '.join(ROUTERS)}")


def check_policy(name: str) -> None:
    """Raise ``InputError`` for a scheduling policy that is not known."""
    if name not in POLICIES:
        raise InputError(f"scheduling_policy is {name!r:.40}; it must be one of {', '.join(POLICIES)}")
