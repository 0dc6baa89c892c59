"""The fitted model of time: parameters for every engine and GPU with their spread, and intervals that were tested.

An interval at level L is value * exp(+-q_L * sigma). sigma adds the parameters' posterior spread, carried to the
quantity by its derivatives, to the residual spread seen for that quantity. q_L is the quantile of |error| / sigma over
predictions of runs that the fit had not seen (split conformal prediction with a normalised score; Lei et al., 2018):
whole models left out for a GPU and engine that were measured, whole GPUs left out for one that was not, whole engines
left out for an engine that was not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.fit_file import LEVELS, SCHEMA, FitFile
from advisor.calibration.intervals import EXPERTS, STAGED
from advisor.calibration.parameter_posterior import ParameterPosterior, apart
from advisor.calibration.residual_gp import Residuals
from advisor.perf_model.parameters import NAMES, SPREADS, Parameters
from catalog.borders import checked, write_whole
from catalog.engines import release_distance
from catalog.errors import InputError
from catalog.shipped import built

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.calibration.fit_file import ScaleRow
    from advisor.calibration.fit_report import FitReport
    from catalog.units import Array


ANY = "*"
MOST_BYTES = 20_000_000
FARTHEST = 25.0
"""Prior standard deviations from the prior mean beyond which no fit puts a parameter; 5 is the farthest that runs have put one."""
SHIPPED = Path(__file__).parents[1] / "data" / "surrogate.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalScale:
    """How wide the errors of one quantity are."""

    noise: float
    """Residual standard deviation of the logarithm."""
    quantiles: tuple[float, ...]
    """|error| / sigma at ``LEVELS``."""
    runs: int
    """Left-out predictions behind it."""

    def quantile(self, level: float) -> float:
        """Return the quantile of |error| / sigma at ``level``, between those of ``LEVELS``.

        Raises:
            InputError: the level is outside ``LEVELS``.

        """
        if not LEVELS[0] <= level <= LEVELS[-1]:
            raise InputError(f"level is {level}; it must be from {LEVELS[0]} to {LEVELS[-1]}")
        return float(np.interp(level, LEVELS, self.quantiles))

    def level(self, score: float) -> float:
        """Return the level whose quantile of |error| / sigma is ``score``: 0 at the prediction itself, at most the highest of
        ``LEVELS``; where several levels have one quantile, the highest of them.
        """
        return float(np.interp(score, (0.0, *self.quantiles), (0.0, *LEVELS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Surrogate:
    """Parameters by engine and GPU, and scales by provenance and quantity.

    ``advisor.fit`` makes one of measured runs, and ``runs=`` of every question takes it.

    ``marginals[engine, gpu]`` and ``scales[provenance, engine, metric]``; ``ANY`` stands for one that was not measured.
    """

    marginals: Mapping[tuple[str, str], ParameterPosterior]
    scales: Mapping[tuple[str, str, str], IntervalScale]
    sources: tuple[str, ...] = ()
    data_hash: str = ""
    lessons: tuple[FitReport, ...] = ()
    """What the user's own runs have taught, by engine and GPU; none in what ships."""
    alone: bool = False
    """Nothing but the priors and the user's own runs."""
    residuals: tuple[Residuals, ...] = ()
    """What the model of time misses at the configurations that were measured, by engine, GPU and model."""
    releases: Mapping[tuple[str, str, int], ParameterPosterior] = field(default_factory=dict)
    """Parameters of engines at measured releases other than ``Engine.fitted_release``, by engine, GPU (or ``ANY``) and
    ``release_distance``."""

    def report(self, engine: str, gpu: str) -> FitReport | None:
        """Return what the user's own runs say of this engine on this GPU, if there are any."""
        return next((report for report in self.lessons if (report.engine, report.gpu) == (engine, gpu)), None)

    def with_marginal(self, engine: str, gpu: str, marginal: ParameterPosterior) -> Surrogate:
        """Return the same with other parameters of an engine, at the release that the catalog describes, on a GPU."""
        marginals, here = {**self.marginals, (engine, gpu): marginal}, release_distance(engine)
        releases = {**self.releases, (engine, gpu, here): marginal} if here else self.releases
        return replace(self, marginals=marginals, releases=releases)

    def marginal(self, engine: str, gpu: str, release: int | None = None) -> ParameterPosterior:
        """Return the nearest known parameters: of the pair, the engine on other GPUs, other engines on the GPU, or any.

        ``release``: minor releases of the engine from the one that fits are of, None for the one that the catalog describes; the
        parameters are those of the nearest measured one, the less certain the farther it is.
        """
        release = release_distance(engine) if release is None else release
        nearest = self.nearest_release(engine, release)
        return apart(self._at(engine, gpu, nearest), release - nearest)

    def nearest_release(self, engine: str, release: int) -> int:
        """Return the measured release of an engine that is nearest to another; of two the one nearer to what fits are of."""
        measured = sorted({distance for of, _, distance in self.releases if of == engine} | {0})
        return min(measured, key=lambda distance: (abs(distance - release), abs(distance)))

    def _at(self, engine: str, gpu: str, release: int) -> ParameterPosterior:
        """Return the nearest known parameters at a measured release."""
        for place in (gpu, ANY):
            if (engine, place, release) in self.releases and (place == gpu or (engine, gpu) not in self.marginals):
                return self.releases[engine, place, release]
        for key in ((engine, gpu), (engine, ANY), (ANY, gpu), (ANY, ANY)):
            if key in self.marginals:
                return self.marginals[key]
        raise AssertionError("a surrogate always has the marginal of an unknown engine on an unknown GPU")

    def scale(self, provenance: str, engine: str, metric: str) -> IntervalScale:
        """Return how wide the errors of ``metric`` are: the engine's own where enough is known of it, else all engines'.

        A fit without any pipelined run, or loop of a model with experts, judges these by the others.
        """
        for name in (metric, metric.removesuffix(STAGED).removesuffix(EXPERTS)):
            for whose in (engine, ANY):
                if (provenance, whose, name) in self.scales:
                    return self.scales[provenance, whose, name]
        raise InputError(f"this fit says nothing of the errors of {metric}; fit it to runs that measured it")

    def noise(self, engine: str, metric: str, staged: bool) -> float:
        """Return the standard deviation of the residual of a static metric, before any run of the same model is near."""
        return self.scale("calibrated", engine, metric + STAGED if staged else metric).noise

    def to_dict(self) -> dict[str, Any]:
        """Return what it stands on and what was learned, as plain JSON types; ``to_json`` has the numbers behind it, too."""
        return {
            "sources": list(self.sources),
            "data_hash": self.data_hash,
            "alone": self.alone,
            "lessons": [report.to_dict() for report in self.lessons],
        }

    def to_json(self) -> str:
        """Write it as text; numbers are rounded to 6 digits, far below what the data can tell."""

        def short(values: Array) -> Any:
            return [float(f"{value:.6g}") for value in values.ravel()]

        upper = np.triu_indices(len(NAMES))
        body = {
            "schema": SCHEMA,
            "parameters": list(NAMES),
            "sources": list(self.sources),
            "data_hash": self.data_hash,
            "marginals": [
                {
                    "engine": engine,
                    "gpu": gpu,
                    "provenance": marginal.provenance,
                    "mean": short(marginal.mean),
                    "covariance": short(marginal.covariance[upper]),
                    **({"seen": marginal.seen.to_dict()} if marginal.seen else {}),
                    **({"dispersion": marginal.dispersion} if marginal.dispersion != 1.0 else {}),
                    **({"release": release} if release else {}),
                }
                for (engine, gpu, release), marginal in (
                    *(((*pair, 0), marginal) for pair, marginal in self.marginals.items()),
                    *self.releases.items(),
                )
            ],
            "scales": [
                {
                    "provenance": provenance,
                    "engine": engine,
                    "metric": metric,
                    "noise": scale.noise,
                    "quantiles": list(scale.quantiles),
                    "runs": scale.runs,
                }
                for (provenance, engine, metric), scale in self.scales.items()
            ],
        }
        if self.residuals:
            body["residuals"] = [residuals.to_dict() for residuals in self.residuals]
        if self.lessons:
            body |= {"alone": self.alone, "lessons": [report.to_dict() for report in self.lessons]}
        return json.dumps(body, indent=None, separators=(",", ":"))

    def write(self, path: str | Path) -> None:
        """Write a file that ``read`` takes.

        Raises:
            InputError: it cannot be written.

        """
        try:
            write_whole(path, self.to_json() + "\n")
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error

    @classmethod
    def read(cls, path: str | Path) -> Surrogate:
        """Read a file that ``write`` (``advisor fit -o``) made; nothing in it is executed.

        Raises:
            InputError: it cannot be read, or is no fit of this version.

        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        if len(data) > MOST_BYTES:
            raise InputError(f"{path} is larger than {MOST_BYTES // 10**6} MB; a fit is far smaller")
        try:
            return cls.from_json(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no fit: not UTF-8 text") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> Surrogate:
        """Read what ``to_json`` wrote.

        Raises:
            InputError: not such a text, or of another schema version.

        """
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"this is no fit: not JSON ({str(error).splitlines()[0][:80]})") from error
        known = isinstance(body, dict) and body.get("schema") == SCHEMA and body.get("parameters") == list(NAMES)
        if not known:
            raise InputError(f"this fit is of another version; this advisor reads schema {SCHEMA}: fit again")
        try:
            return cls.of_file(checked(FitFile, body, "this fit is damaged"))
        except InputError as error:
            raise InputError(f"{error}; fit again") from error
        except (ValueError, np.linalg.LinAlgError) as error:
            raise InputError("this fit is damaged: a number in it is one that no fit has; fit again") from error

    @classmethod
    def of_file(cls, body: FitFile) -> Surrogate:
        """Read the parts of a file.

        Raises:
            ValueError, LinAlgError: its numbers are none that a fit has; an InputError says which part is missing.

        """
        upper = np.triu_indices(len(NAMES))
        marginals, releases = {}, {}
        for row in body.marginals:
            covariance = np.zeros((len(NAMES), len(NAMES)))
            covariance[upper] = row.covariance
            covariance = covariance + np.triu(covariance, 1).T
            marginal = ParameterPosterior(
                mean=_plausible(np.array(row.mean), covariance),
                covariance=covariance,
                provenance=row.provenance,
                seen=row.seen,
                dispersion=row.dispersion,
            )
            if row.release:
                releases[row.engine, row.gpu, row.release] = marginal
            else:
                marginals[row.engine, row.gpu] = marginal
        if {(lesson.engine, lesson.gpu) for lesson in body.lessons} - set(marginals) or (ANY, ANY) not in marginals:
            raise InputError("this fit is damaged: it has no parameters of an engine and GPU that it speaks of")
        return cls(
            marginals=marginals,
            scales={(row.provenance, row.engine, row.metric): _interval_scale(row) for row in body.scales},
            sources=body.sources,
            data_hash=body.data_hash,
            lessons=body.lessons,
            alone=body.alone,
            residuals=tuple(map(Residuals.read, body.residuals)),
            releases=releases,
        )


def _plausible(mean: Array, covariance: Array) -> Array:
    """Return the mean of parameters that can be: near what is believed without runs, with variances above 0.

    Raises:
        ValueError: it is farther than ``FARTHEST`` prior standard deviations, or the covariance is none.

    """
    prior = analytic_marginal()
    distance = np.abs(mean - prior.mean) / np.sqrt(np.diag(prior.covariance))
    variances = np.linalg.eigvalsh(covariance)
    if distance.max() > FARTHEST or variances[0] < -1e-6 * variances[-1] or variances[-1] <= 0:
        raise ValueError("plausible parameters expected")
    return mean


def _interval_scale(row: ScaleRow) -> IntervalScale:
    """Return how wide errors are.

    Raises:
        ValueError: quantiles fall as the level rises.

    """
    if (np.diff(row.quantiles) < 0).any():
        raise ValueError("ascending quantiles expected")
    return IntervalScale(noise=row.noise, quantiles=row.quantiles, runs=row.runs)


@cache
def shipped_surrogate() -> Surrogate:
    """Return the surrogate that comes with the package."""
    return Surrogate.of_file(built(FitFile, json.loads(SHIPPED.read_text(encoding="utf-8"))))


def analytic_marginal() -> ParameterPosterior:
    """Return what is believed before any run: the priors alone."""
    return ParameterPosterior(
        mean=Parameters.typical().unbounded(), covariance=np.diag(SPREADS**2), provenance="analytic"
    )
