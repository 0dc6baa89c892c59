"""Speculation as a decision about traffic: how many tokens to draft for it, what that brings, and up to which rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advisor.prediction.speculation import ENDS
from advisor.simulator.arrivals import Arrivals
from advisor.simulator.disaggregated_server import DisaggregatedServer
from catalog.errors import InputError
from catalog.speculation import tokens_of_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from advisor.prediction.speculation import SpeculationQuestion
    from advisor.simulator.arrivals import ArrivalStream
    from advisor.simulator.server import AggregatedServer
    from catalog.features import Drafting

    Server = AggregatedServer | DisaggregatedServer

PILOT_REQUESTS = 2000
"""Requests that are served to compare lengths and rates."""
HALVINGS = 6
"""Of the range in which the largest rate at which it gains lies."""
COMPARED = ("ttft_ms", "tpot_ms", "e2e_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSpeculation:
    """What speculation does to traffic, beside the same deployment without."""

    drafting: Drafting
    chosen: bool
    """Whether the number of drafted tokens was chosen for this traffic."""
    acceptance: float
    """Mean probability that a drafted token is accepted."""
    acceptance_ends: tuple[float, float]
    """Of its 90% interval."""
    acceptance_source: str
    tokens_per_step: float
    """Of a sequence, at the mean rate."""
    plain: Mapping[str, float]
    """Means without, in ms by metric, and ``saturation_s``."""
    speculated: Mapping[str, float]
    """The same with, of the same requests."""
    pays_to_s: float | None
    """Requests a second up to which the mean time per output token is shorter than without; 0: at none; None: of a closed loop, or of
    requests that wait for others."""
    pays_to_saturation: bool
    """Whether that is where one of the two saturates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculatedServer:
    """A server that drafts, and what that does."""

    engine: Server
    speculation: TrafficSpeculation

    @classmethod
    def of(
        cls,
        server_of: Callable[[Drafting | None], Server],
        asked: SpeculationQuestion,
        traffic: Arrivals | ArrivalStream,
    ) -> SpeculatedServer:
        """Choose the number of drafted tokens where none is stated, and compare with the same deployment without.

        ``server_of`` sets up the deployment with drafts, or without.

        Raises:
            InputError: what drafts, or its cache, does not fit, or there are too many requests to compare them.

        """
        if not isinstance(traffic, Arrivals):
            raise InputError(
                f"{len(traffic)} requests are too many to be served with and without drafts; simulate a part of the time (duration)"
            )
        plain = server_of(None)
        lengths = asked.lengths
        servers = [server_of(asked.drafting(length)) for length in lengths]
        few = traffic.fitting(min(server.longest for server in servers))
        few = few.beginning(min(PILOT_REQUESTS, len(few))) if few.sharing is None and few.concurrency is None else few
        means = [_means(server, few) for server in servers]
        best = min(range(len(lengths)), key=lambda i: means[i]["e2e_ms"])
        engine = servers[best]
        speculator = _decoding(engine).speculator
        assert speculator is not None
        pays_to_s, bound = _pays_to(plain, engine, few)
        return cls(
            engine=engine,
            speculation=TrafficSpeculation(
                drafting=speculator.drafting,
                chosen=asked.draft_len is None,
                acceptance=speculator.acceptance.mean,
                acceptance_ends=(speculator.acceptance.quantile(ENDS[0]), speculator.acceptance.quantile(ENDS[1])),
                acceptance_source=speculator.acceptance.source,
                tokens_per_step=tokens_of_rates(speculator.rates()),
                plain=_means(plain, few) | {"saturation_s": _saturation(plain, few)},
                speculated=means[best] | {"saturation_s": _saturation(engine, few)},
                pays_to_s=pays_to_s,
                pays_to_saturation=bound,
            ),
        )


def _decoding(engine: Server) -> AggregatedServer:
    return engine.decode if isinstance(engine, DisaggregatedServer) else engine


def _believed(engine: Server) -> Any:
    return engine.believed_times()


def _means(engine: Server, traffic: Arrivals) -> dict[str, float]:
    served = engine.served(traffic, _believed(engine))
    return {name: float(served.mean(name)) for name in COMPARED}


def _saturation(engine: Server, traffic: Arrivals) -> float:
    return float(engine.saturation(traffic, _believed(engine)))


def _pays_to(plain: Server, drafted: Server, traffic: Arrivals) -> tuple[float | None, bool]:
    """Return the rate up to which the mean time per output token is shorter with drafts, and whether either saturates there."""
    if traffic.concurrency is not None or (traffic.sharing is not None and traffic.sharing.follows):
        return None, False
    tables = [(server, _believed(server)) for server in (plain, drafted)]
    most = min(float(server.saturation(traffic, times)) for server, times in tables)

    def pays(rate: float) -> bool:
        at_rate = traffic.at_rate(rate)
        without, with_ = (float(server.served(at_rate, times).mean("tpot_ms")) for server, times in tables)
        return with_ < without

    if pays(most):
        return most, True
    low, high = 0.0, most
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if pays(middle) else (low, middle)
    return low, False
