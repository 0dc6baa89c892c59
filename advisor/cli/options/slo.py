"""Options of the limits that a deployment has to keep."""

from __future__ import annotations

from typing import Annotated, Any

from advisor.cli.groups import flag, group
from catalog.quantities import MILLISECONDS, SHARE
from catalog.schema import Slo


@group("Limits (mean of a request)")
class MeanLimits:
    """Limits on means, in the steady state."""

    ttft: Annotated[float | None, flag("--ttft", metavar="MS", quantity=MILLISECONDS)] = None
    """Most time to the first token."""
    tpot: Annotated[float | None, flag("--tpot", metavar="MS", quantity=MILLISECONDS)] = None
    """Most time per output token after the first."""
    e2e: Annotated[float | None, flag("--e2e", metavar="MS", quantity=MILLISECONDS)] = None
    """Most time of a whole request."""

    @property
    def stated(self) -> bool:
        """Return whether there is any limit."""
        return any(limit is not None for limit in (self.ttft, self.tpot, self.e2e))

    def slo(self) -> Slo:
        """Return them as the Python API takes them."""
        return Slo(ttft_ms=self.ttft, tpot_ms=self.tpot, e2e_ms=self.e2e)

    def keywords(self) -> dict[str, Any]:
        """Return them as keywords of the Python API."""
        return {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e}


@group("Limits (mean of a request)")
class SureLimits(MeanLimits):
    """Limits on means, and how sure they are to hold."""

    confidence: Annotated[float, flag("--confidence", metavar="P", quantity=SHARE)] = 0.9
    """Probability with which limits must hold, 0.75 to 0.99; the KV cache then holds the batch with 95%. 0.5: the bare estimate decides."""


@group("Limits (95th percentile of the requests, unless --percentile says otherwise)")
class TrafficLimits(MeanLimits):
    """Limits on a percentile of the requests."""

    percentile: Annotated[float | None, flag("--percentile", metavar="P")] = None
    """Percentile of the requests that limits are on; 0: their mean.  [default: 95]"""

    def keywords(self) -> dict[str, Any]:
        """Return them as keywords of the Python API."""
        return {**MeanLimits.keywords(self), "percentile": self.percentile}


@group("Limits (95th percentile of the requests, unless --percentile says otherwise)")
class PlannedLimits(TrafficLimits):
    """Limits, how sure they are to hold, and what may go wrong."""

    confidence: Annotated[float | None, flag("--confidence", metavar="P", quantity=SHARE)] = None
    """Probability with which limits must hold, 0.75 to 0.99; 0.5: the bare estimate decides.  [default: 0.9]"""
    headroom: Annotated[float, flag("--headroom", metavar="SHARE", quantity=SHARE)] = 0.0
    """Keep the limits at a rate that is higher by this share: 0.2 for 20%."""
    spares: Annotated[int, flag("--spares", metavar="N")] = 0
    """Replicas that may fail while the limits still hold."""
