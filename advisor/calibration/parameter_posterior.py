"""What is believed of one engine's parameters on one GPU: a Gaussian, where it comes from, and what its runs had."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from advisor.perf_model.parameters import NAMES, SPREADS, Parameters
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


RELEASE_SHARE, FORMAT_RELEASE_SHARE, HOST_RELEASE_SHARE = 0.05, 0.35, 0.2
"""Standard deviation of the step from one measured release of an engine to the next, in units of the priors' spread and by the
square root of the minor releases between them: of most parameters; of kernels for narrow formats and experts, which are replaced
most often; and of what the host does, which is another from one machine to the next. Dense models of vLLM 0.33 on H200 are predicted by
a fit to 0.24 within 2 to 3% of TPOT and 2 to 5% of prefill, prefills that the host launches within a factor of 2.5; experts in 8 bits
took 13 to 19% longer with vLLM 0.17 than with 0.19."""

HOST_PARAMETERS = frozenset(
    {
        "layer_host_us",
        "expert_host_us",
        "latent_host_us",
        "admission_ms",
        "step_ms",
        "sequence_us",
        "stage_ms",
        "turn_ms",
    }
)
FORMAT_PARAMETERS = frozenset(
    name for name in NAMES if name.startswith(("narrow", "block8", "native", "expert")) and name != "expert_host_us"
)


def release_shares(distance: int) -> Array:
    """Return the standard deviation of the effect of a release so far away, in units of the priors' spread, shape (len(NAMES),)."""
    kinds = ((HOST_PARAMETERS, HOST_RELEASE_SHARE), (FORMAT_PARAMETERS, FORMAT_RELEASE_SHARE))
    shares = [next((share for kind, share in kinds if name in kind), RELEASE_SHARE) for name in NAMES]
    return np.asarray(np.sqrt(abs(distance)) * np.array(shares))


def apart(marginal: ParameterPosterior, distance: int) -> ParameterPosterior:
    """Return the parameters as little known as those of a release so far away of which nothing was measured."""
    if not distance:
        return marginal
    return replace(marginal, covariance=marginal.covariance + np.diag((release_shares(distance) * SPREADS) ** 2))
