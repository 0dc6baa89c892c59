"""Names of the routers between replicas; importing them takes no time."""

from typing import Literal, get_args

Router = Literal["round_robin", "least_loaded", "prefix_aware", "session_sticky", "power_of_two"]

ROUTERS: tuple[Router, ...] = get_args(Router)
"""In the order of the numbers in ``advisor.simulator.routing``."""
