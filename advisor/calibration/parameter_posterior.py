"""What is believed of one engine's parameters on one GPU: a Gaussian, where it comes from, and what its runs had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from advisor.perf_model.parameters import Parameters
from catalog.schema import Degree  # noqa: TC001  read by ``catalog.borders.checked``

if TYPE_CHECKING:
    from catalog.units import Array


Provenance = Literal["calibrated", "transferred", "analytic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterPosterior:
    """Gaussian of the parameters of one engine on one GPU, on the unbounded scale."""

    mean: Array
    """Shape (len(NAMES),)."""
    covariance: Array
    """Shape (len(NAMES), len(NAMES))."""
    provenance: Provenance
    seen: TrainingSupport | None = None
    """What the runs behind it had; None where it stands on none."""
    dispersion: float = 1.0
    """Factor on the standard deviation of residuals, for how far own runs lie from what the others foretell; the covariance
    has it already."""
    contradicting: frozenset[str] = frozenset()
    """``run_id`` of own runs that the others, or what was believed before, contradict: they moved nothing."""

    @property
    def parameters(self) -> Parameters:
        return Parameters.from_unbounded(self.mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSupport:
    """What the fitted runs of one engine on one GPU had."""

    kinds: frozenset[str] = frozenset()
    """Of ``KINDS``."""
    often: frozenset[str] = frozenset()
    """Those that runs of more than one model had."""
    tp: Degree = 1
    pp: Degree = 1

    def __or__(self, other: TrainingSupport) -> TrainingSupport:
        return TrainingSupport(
            kinds=self.kinds | other.kinds,
            often=self.often | other.often,
            tp=max(self.tp, other.tp),
            pp=max(self.pp, other.pp),
        )

    def to_dict(self) -> dict[str, Any]:
        return {"kinds": sorted(self.kinds), "often": sorted(self.often), "tp": self.tp, "pp": self.pp}
