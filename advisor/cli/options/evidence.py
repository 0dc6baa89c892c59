"""Options that say what an answer stands on, and the prices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from advisor.cli.groups import flag, group
from catalog.errors import InputError
from catalog.quantities import USD_PER_HOUR

if TYPE_CHECKING:
    from advisor.calibration.surrogate import Surrogate

PANEL = "Evidence and prices"
RUNS = flag("--runs", metavar="FILE")
PRICE = flag("--price", metavar="USD", quantity=USD_PER_HOUR)


def read_fit(path: str | None) -> Surrogate | None:
    """Read the fit in a file; None where none is named.

    Raises:
        InputError: it is no fit.

    """
    if path is None:
        return None
    from advisor.calibration.surrogate import Surrogate  # brings numpy

    return Surrogate.read(path)


@group(PANEL)
class EvidenceOptions:
    """What an answer stands on."""

    runs: Annotated[list[str] | None, RUNS] = None
    """Use only these measured runs (CSV or JSON Lines), not the shipped ones. Can be repeated."""
    fit: Annotated[str | None, flag("--fit", metavar="FILE")] = None
    """Use this fit (from advisor fit -o FILE), not the shipped one."""

    def read(self) -> Any:
        """Read all the files' runs, or the fit; None, for what ships, where neither is given.

        Raises:
            InputError: both are given, or a file cannot be read.

        """
        if self.fit is not None and self.runs:
            raise InputError("--runs and --fit exclude each other; leave out one, or fit those runs with advisor fit")
        if not self.runs:
            return read_fit(self.fit)
        from catalog.runs import read_runs  # only with --runs

        return list(read_runs(*self.runs))


@group(PANEL)
class Priced:
    """The price of a GPU."""

    price: Annotated[float | None, PRICE] = None
    """Dollars per GPU-hour.  [default: the cheapest offer]"""


@group(PANEL)
class PricedEvidence(Priced, EvidenceOptions):
    """What an answer stands on, and the price of a GPU."""


@group(PANEL)
class RoundFigures:
    """Whether round figures will do as prices."""

    illustrative_prices: Annotated[bool, flag("--illustrative-prices")] = False
    """Use round illustrative prices for GPUs that nobody offers."""


@group(PANEL)
class Offers(RoundFigures, PricedEvidence):
    """What an answer stands on, the price of a GPU, and whether round figures will do."""


@group(PANEL)
class PricesByKind:
    """The prices of several kinds of GPUs."""

    price: Annotated[list[str] | None, flag("--price", metavar="USD")] = None
    """Dollars per GPU-hour, or of one kind: H100=2.5. Can be repeated.  [default: the cheapest offer]"""


@group(PANEL)
class SimulatedEvidence(EvidenceOptions):
    """What a simulation stands on, and how often it is drawn."""

    draws: Annotated[int, flag("--draws", metavar="N")] = 8
    """Repetitions with other plausible parameters, for intervals; 0: no intervals."""


@group(PANEL)
class ComparedEvidence(RoundFigures, PricesByKind, EvidenceOptions):
    """What a comparison stands on, and the prices of its GPUs."""


@group(PANEL)
class PlannedEvidence(RoundFigures, PricesByKind, SimulatedEvidence):
    """What a plan stands on, and the prices of its GPUs."""


@group(PANEL)
class FitEvidence:
    """What is fitted beside the runs."""

    kernels: Annotated[list[str] | None, flag("--kernels", metavar="FILE")] = None
    """Kernels and collectives timed alone (from probes.microbench.kernel_times). Can be repeated."""
    alone: Annotated[bool, flag("--alone")] = False
    """Start from the priors, not from the shipped fit."""


@group(PANEL)
class ValidationEvidence:
    """The runs that judge, and the fit that is judged."""

    runs: Annotated[list[str] | None, RUNS] = None
    """Judge on these measured runs (CSV or JSON Lines) instead of the shipped ones. Can be repeated."""
    published: Annotated[str | None, flag("--published", metavar="DIR")] = None
    """Also judge on the published benchmarks in this folder (*_static.csv and *_saturated.csv, long form)."""
    fit: Annotated[str | None, flag("--fit", metavar="FILE")] = None
    """Use this fit (from advisor fit -o FILE), not the shipped one."""
