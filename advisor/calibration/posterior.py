"""What the runs say about the parameters: a Gaussian for every engine and GPU, with what is shared between them.

A parameter of engine e on GPU g is, on the unbounded scale of ``parameters``, the sum of four effects: the population,
the engine, the GPU, and the pair. Each has a Gaussian prior, so an engine or a GPU nobody has measured is predicted from
the others with the spread that they show among each other (a crossed hierarchical model; Gelman and Hill, 2007, ch. 13).
An engine with kin has the effects of its kin, too, and another release than the catalog's one for each measured release on the way to it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.blas_threads import one_blas_thread
from advisor.calibration.contamination import Disagreement, disagreement, dispersion
from advisor.calibration.kinship import kin_of, stack_of
from advisor.calibration.linearisation import LinearisedObservations, linearised
from advisor.calibration.observations import METRICS, RunGroup
from advisor.calibration.parameter_posterior import (
    FORMAT_PARAMETERS,
    HOST_PARAMETERS,
    ParameterPosterior,
    Provenance,
    TrainingSupport,
    release_shares,
)
from advisor.calibration.shared_offsets import SharedOffsets, robust
from advisor.calibration.support import training_support, widened
from advisor.perf_model.parameters import NAMES, PRIORS, SPREADS, Parameters
from advisor.perf_model.sensitivity import logarithm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from advisor.calibration.observations import Observations
    from catalog.units import Array

SHARES = {"population": 0.7, "engine": 0.8, "gpu": 0.25, "pair": 0.35}
"""Standard deviation of each effect, in units of ``WIDTHS`` times the prior's spread. That of engines is larger than the
pair's, for one step of expectation maximisation from 0.55 makes six times of the variance of their effect, three times of the others'."""

AMONG = {"efficiency": 1.6, "odds": 1.3, "positive": 1.6}
"""By kind of parameter, the standard deviation that engines and GPUs show among each other, in units of the prior's spread: the root of
what one step of expectation maximisation makes of all effects' variances (2.6, 2.5 and 2.5 of efficiencies, odds and other positive
numbers; Dempster, Laird and Rubin, 1977), odds less since few pairs say anything of theirs."""
AMONG_HOSTS, AMONG_LAUNCHES = 1.4, 1.0
"""The same of what the host does (1.9 to 3.2), and of the fixed times of kernels (0.8 to 1.8)."""

KIN_SHARE, KIN_OWN_SHARE = 0.15, 0.5
"""The same of the engine's effect where it is an offset from the parameters of a kin engine (``catalog.engines.Engine.kin``), whose
kernels are of the same libraries: of most efficiencies; and of what engines have of their own, fixed times, links, the host's work, and
kernels for narrow formats and experts. So it is for an engine on a GPU, too."""

Label = tuple[str, ...]


OWN_PARAMETERS = FORMAT_PARAMETERS | {
    "link",
    "ring_link",
    *(name for name, prior in PRIORS.items() if prior.kind == "positive" and name.endswith(("_us", "_ms"))),
}
"""Those in which kin engines differ."""


def _width(name: str) -> float:
    """Return what ``AMONG`` says of a parameter."""
    if name in HOST_PARAMETERS:
        return AMONG_HOSTS
    return AMONG_LAUNCHES if name.endswith("_us") else AMONG[PRIORS[name].kind]


WIDTHS = np.array([_width(name) for name in NAMES])


class Effects:
    """Where each effect of a set of groups stands in the long vector of all effects."""

    def __init__(self, groups: Sequence[Observations]) -> None:
        self.pairs = sorted({(group.engine, group.cluster.gpu.name) for group in groups})
        self.seen = {
            pair: training_support(_runs_of(groups, pair))
            for pair in sorted(
                {(group.engine, group.cluster.gpu.name) for group in groups if isinstance(group, RunGroup)}
            )
        }
        """By engine and GPU with runs; kernels alone say nothing of what an engine does with them."""
        self.engines = sorted({engine for engine, _ in self.pairs})
        self.gpus = sorted({gpu for _, gpu in self.pairs})
        self.releases = {
            engine: sorted({group.release for group in groups if group.engine == engine}) for engine in self.engines
        }
        labels: list[Label] = [("population",)]
        labels += sorted({("engine", stack_of(engine, gpu)) for engine, gpu in self.pairs})
        labels += [("gpu", gpu) for gpu in self.gpus]
        labels += [("pair", *pair) for pair in self.pairs]
        labels += [
            ("release", engine, str(release)) for engine in self.engines for release in self.releases[engine] if release
        ]
        self.at = {label: i for i, label in enumerate(labels)}
        self.spread = np.concatenate([self.shares(label) * SPREADS for label in labels])
        self.centre = np.concatenate([Parameters.typical().unbounded(), np.zeros((len(labels) - 1) * len(NAMES))])

    def labels(self, engine: str, gpu: str, release: int = 0) -> list[Label]:
        """Name the effects that the parameters of this engine, at this release, and GPU are the sum of."""
        wanted: list[Label] = [("population",), ("gpu", gpu)]
        for family in (kin, engine) if (kin := kin_of(engine)) else (engine,):
            wanted += [("engine", stack_of(family, gpu)), ("pair", family, gpu)]
        return wanted + [("release", engine, str(step)) for step in self._steps(engine, release)]

    def _steps(self, engine: str, release: int) -> list[int]:
        """Return the measured releases on the way from that of the catalog to this one."""
        known = self.releases.get(engine, [])
        return [step for step in known if 0 < step <= release or release <= step < 0]

    def shares(self, label: Label) -> Array:
        """Return the standard deviation of an effect in units of the priors' spread, shape (len(NAMES),)."""
        kind = label[0]
        if kind == "release":
            release = int(label[2])
            nearer = [step for step in self._steps(label[1], release) if step != release]
            return release_shares(release - (max(nearer, key=abs) if nearer else 0))
        if kind in ("engine", "pair") and kin_of(label[1]):
            return WIDTHS * [KIN_OWN_SHARE if name in OWN_PARAMETERS else KIN_SHARE for name in NAMES]
        return WIDTHS * SHARES[kind]

    def blocks(self, engine: str, gpu: str, release: int = 0) -> list[int]:
        """Return positions of the effects that the parameters of this engine and GPU are the sum of."""
        return [self.at[label] for label in self.labels(engine, gpu, release) if label in self.at]

    def unknown(self, engine: str, gpu: str, release: int = 0) -> Array:
        """Return the variance of the parameters by the effects that no group is of, shape (len(NAMES),)."""
        missing = [self.shares(label) for label in self.labels(engine, gpu, release) if label not in self.at]
        steps = [0, *self._steps(engine, release)]
        apart = release_shares(release - max(steps, key=abs))
        return np.asarray(sum(((share * SPREADS) ** 2 for share in (*missing, apart)), np.zeros(len(NAMES))))

    def seen_nearby(self, engine: str, gpu: str) -> TrainingSupport:
        """Return what the runs had that say most of this engine on this GPU: its own, else the engine's, the GPU's, or all."""
        for near in (
            [(engine, gpu)] if (engine, gpu) in self.seen else [],
            [pair for pair in self.seen if pair[0] == engine],
            [pair for pair in self.seen if pair[1] == gpu],
        ):
            if near:
                return reduce(or_, (self.seen[pair] for pair in near))
        return reduce(or_, self.seen.values(), TrainingSupport())

    def total(self, effects: Array, engine: str, gpu: str, release: int = 0) -> Array:
        return np.asarray(effects.reshape(-1, len(NAMES))[self.blocks(engine, gpu, release)].sum(axis=0))


def _runs_of(groups: Sequence[Observations], pair: tuple[str, str]) -> list[RunGroup]:
    """Return those that are runs, not kernels, of an engine on a GPU."""
    return [group for group in groups if isinstance(group, RunGroup) and (group.engine, group.cluster.gpu.name) == pair]


class PooledEffects(Effects):
    """One set of parameters for every engine and GPU, to see what it costs not to tell them apart."""

    def __init__(self, groups: Sequence[Observations]) -> None:
        super().__init__(groups)
        self.at = {("population",): 0}
        self.spread = SPREADS
        self.centre = Parameters.typical().unbounded()

    def unknown(self, *_: object) -> Array:
        """Return nothing: what is not told apart is known."""
        return np.zeros(len(NAMES))


def log_residuals(group: Observations, x: Array) -> Array:
    """Return log(predicted / measured), shape (k, m) for k quantities of m runs; NaN where not measured."""
    return np.asarray(logarithm(group.predict(Parameters.from_unbounded(x))) - np.log(group.measured))


def sensitivities(group: Observations, x: Array) -> Array:
    """Return derivatives of the log predictions by the parameters, shape (k, len(NAMES), m)."""
    return linearised(group, x, group.dependencies)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """All effects together; ``marginal`` gives the parameters of one engine on one GPU."""

    index: Effects
    effects: Array
    covariance: Array

    def marginal(self, engine: str, gpu: str, release: int = 0) -> ParameterPosterior:
        """Return parameters of ``engine`` on ``gpu``; what has not been measured adds its prior spread."""
        index, size = self.index, len(NAMES)
        blocks = index.blocks(engine, gpu, release)
        rows = np.concatenate([np.arange(b * size, (b + 1) * size) for b in blocks])
        gather = np.tile(np.eye(size), len(blocks))
        covariance = gather @ self.covariance[np.ix_(rows, rows)] @ gather.T
        covariance = covariance + np.diag(index.unknown(engine, gpu, release))
        provenance: Provenance = "analytic"
        pooled = isinstance(index, PooledEffects) and engine in index.engines
        if pooled or ("engine", stack_of(engine, gpu)) in index.at:
            provenance = "calibrated" if (engine, gpu) in index.seen else "transferred"
        return ParameterPosterior(
            mean=index.total(self.effects, engine, gpu, release),
            covariance=covariance,
            provenance=provenance,
            seen=index.seen_nearby(engine, gpu),
        )


@one_blas_thread
def fit_posterior(groups: Sequence[Observations], *, index: Effects | None = None) -> Posterior:
    """Return the most probable effects and their Laplace covariance; ``index``: which effects there are, if not ``Effects`` of the groups.

    It starts from the priors, also where something is left out: from a fit that had seen it, a refit would stop near what that had learnt.
    """
    index = index or Effects(groups)
    x = index.centre.copy()
    weighed = [_Weighed.of(group) for group in groups]
    cost, damping, settled = _cost(index, weighed, x), FIRST_DAMPING, 0
    for _ in range(MOST_STEPS):
        gradient, information = _normal_equations(index, weighed, x)
        for _ in range(MOST_TRIALS):
            step = np.linalg.solve(information + damping * np.diag(np.diag(information)), -gradient)
            trial = _cost(index, weighed, x + step)
            if trial <= cost:
                break
            damping *= 4.0
        else:
            break
        damping /= 3.0
        x, gained, cost = x + step, cost - trial, trial
        settled = settled + 1 if gained < CONVERGED * cost else 0
        if settled == SETTLED_STEPS:
            break
    _, information = _normal_equations(index, weighed, x)
    return Posterior(index=index, effects=x, covariance=np.asarray(np.linalg.inv(information), np.float64))


MOST_STEPS, MOST_TRIALS = 40, 10
FIRST_DAMPING = 1e-2
"""Of the curvature, by which it is raised until a step lowers the cost (Levenberg and Marquardt; Nocedal and Wright, 2006, ch. 10)."""
CONVERGED = 1e-4
"""Share of the cost below which a step gains nothing that intervals would show."""
SETTLED_STEPS = 2
"""Such steps in a row after which a fit ends: a first step may land far away at nearly the same cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weighed:
    """Observations with what does not depend on the parameters worked out once."""

    group: Observations
    used: NDArray[np.bool_]
    shared: SharedOffsets

    @classmethod
    def of(cls, group: Observations) -> _Weighed:
        used = group.used
        server = np.broadcast_to(group.server, used.shape)[used]
        return cls(group=group, used=used, shared=SharedOffsets(noise=group.noise[used], server=server))

    def own(self, index: Effects, effects: Array) -> Array:
        """Return the parameters of its engine on its GPU."""
        return index.total(effects, self.group.engine, self.group.cluster.gpu.name, self.group.release)

    def residuals(self, x: Array) -> Array:
        """Return log residuals of what counts, flat."""
        return np.asarray(log_residuals(self.group, x)[self.used])


def _cost(index: Effects, weighed: Sequence[_Weighed], effects: Array) -> float:
    """Return the negative logarithm of the posterior density, up to a constant."""
    cost = 0.5 * float(np.sum(((effects - index.centre) / index.spread) ** 2))
    return cost + sum(
        weighed_group.shared.cost(weighed_group.residuals(weighed_group.own(index, effects)))
        for weighed_group in weighed
    )


def _normal_equations(index: Effects, weighed: Sequence[_Weighed], effects: Array) -> tuple[Array, Array]:
    """Return the gradient and Gauss-Newton Hessian of the cost, each residual weighted by its loss's derivative (iteratively reweighted
    least squares; Holland and Welsch, 1977); shapes (size,) and (size, size).
    """
    size = len(NAMES)
    gradient = (effects - index.centre) / index.spread**2
    information = np.diag(1.0 / index.spread**2)
    for weighed_group in weighed:
        own, group = weighed_group.own(index, effects), weighed_group.group
        slopes = sensitivities(group, own).transpose(0, 2, 1)[weighed_group.used]
        pull, curvature = weighed_group.shared.equations(weighed_group.residuals(own), slopes)
        blocks = index.blocks(group.engine, group.cluster.gpu.name, group.release)
        places = [slice(block * size, (block + 1) * size) for block in blocks]
        for one in places:
            gradient[one] += pull
            for two in places:
                information[one, two] += curvature
    return gradient, information


def widened_for_new_machine(marginal: ParameterPosterior) -> ParameterPosterior:
    """Return the parameters as little known as those of an engine on a GPU that were never measured together."""
    return replace(marginal, covariance=marginal.covariance + np.diag((SHARES["pair"] * WIDTHS * SPREADS) ** 2))


@one_blas_thread
def own_start(marginal: ParameterPosterior, groups: Sequence[Observations]) -> ParameterPosterior:
    """Return where a fit to a user's own runs begins: from what is known of their engine on their GPU, or from that reopened.

    Another machine has other clocks, another host and other settings. The runs themselves say whether it is one: the
    start under which they are more probable is taken (Bayes factor by Laplace's approximation; MacKay, 2003, ch. 28).
    """
    work = [(group.model, group.layout) for group in groups if isinstance(group, RunGroup)]
    marginal = replace(widened(marginal, *work), seen=marginal.seen)
    if marginal.provenance != "calibrated":  # the pair's effect is open anyway
        return marginal
    return max((marginal, widened_for_new_machine(marginal)), key=lambda start: _judged(start, groups)[0].evidence)


CONSISTENT = 3
"""Configurations whose runs agree with each other from which an engine on a GPU counts as calibrated by them."""
CONTRADICTING = 0.5
"""Probability of being what it says below which a run contradicts the others."""
ROUNDS = 4
"""Fits, each with the runs weighted as the one before judged them: they settle in two or three."""
WILD_COST = 6.0
"""What a run that is not what it says costs beside one that is, in units of the logarithm of its probability: that of a factor
of its own, log(19) + log(1 / 0.08) rounded up."""


@one_blas_thread
def update(marginal: ParameterPosterior, groups: Sequence[Observations]) -> ParameterPosterior:
    """Return the parameters of one engine on one GPU after more runs of it, by Bayes' rule from where they stood.

    Seconds instead of a refit of everything: what the runs say of other engines and GPUs is not passed on. A run that the
    others, or what was believed before, contradict moves nothing, and makes everything less certain.
    """
    fitted, judged = _judged(marginal, groups)
    mine = [(group, judgement) for group, judgement in zip(groups, judged, strict=True) if isinstance(group, RunGroup)]
    factor = dispersion(np.concatenate([judgement.score for _, judgement in mine])) if mine else 1.0
    wild = frozenset(
        run.run_id
        for group, judgement in mine
        for run, clean in zip(group.runs, judgement.clean, strict=True)
        if clean < CONTRADICTING
    )
    agreeing = [group.without(wild) for group, _ in mine]
    enough = sum(group.configurations for group in agreeing) >= CONSISTENT
    provenance: Provenance = "calibrated" if enough else marginal.provenance
    own = training_support(group for group in agreeing if group.used.any())
    return ParameterPosterior(
        mean=fitted.mean,
        covariance=factor**2 * fitted.covariance,
        provenance=provenance,
        seen=own | (marginal.seen or TrainingSupport()),
        dispersion=factor * marginal.dispersion,
        contradicting=wild,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """The most probable parameters after some runs, what is still unknown of them, and how probable the runs were before."""

    mean: Array
    covariance: Array
    weights: tuple[Array, ...]
    """How much each cell of each group counted, beside how probable its run is what it says: shape (k, m) each."""
    evidence: float
    """A logarithm, up to a constant."""


def _judged(marginal: ParameterPosterior, groups: Sequence[Observations]) -> tuple[_Fitted, list[Disagreement]]:
    """Return the parameters after the runs that are what they say, and how far each lies from the others."""
    clean = [np.ones(group.measured.shape[1]) for group in groups]
    near = [LinearisedObservations(group) for group in groups]
    for _ in range(ROUNDS):
        fitted = _updated(marginal, near, clean)
        judged = [_disagreement(fitted, each, c, w) for each, c, w in zip(near, clean, fitted.weights, strict=True)]
        moved = max((float(np.max(np.abs(j.clean - c))) for j, c in zip(judged, clean, strict=True)), default=0.0)
        clean = [judgement.clean for judgement in judged]
        if moved < SETTLED:
            break
    return fitted, judged


SETTLED = 0.01
"""Change of the probabilities below which another round says nothing new."""
SIGNS = np.array([-1.0 if metric == "output_tok_s" else 1.0 for metric in METRICS])


def _disagreement(fitted: _Fitted, near: LinearisedObservations, clean: Array, weight: Array) -> Disagreement:
    """Judge how far runs disagree with the others; kernels timed alone are taken as they are."""
    if not isinstance(near.group, RunGroup):
        size = near.group.measured.shape[1]
        return Disagreement(clean=np.ones(size), score=np.full(size, np.nan))
    return disagreement(*near.at(fitted.mean), fitted.covariance, near.noise, clean * weight, near.used, SIGNS)


def _updated(marginal: ParameterPosterior, groups: Sequence[LinearisedObservations], clean: Sequence[Array]) -> _Fitted:
    """Return the parameters after the runs, each counted by the probability that it is what it says."""
    root = np.linalg.cholesky(marginal.covariance + 1e-12 * np.eye(len(NAMES)))
    used = [group.used for group in groups]
    counted = np.concatenate([np.broadcast_to(c, u.shape)[u] for c, u in zip(clean, used, strict=True)])
    data = len(counted)

    def residuals(u: Array) -> Array:
        x = marginal.mean + root @ u
        parts = [(group.at(x)[0] / group.noise)[group.used] for group in groups]
        return np.concatenate([*parts, u])

    def jacobian(u: Array) -> Array:
        x = marginal.mean + root @ u
        rows = [(group.at(x)[1] / group.noise[:, None, :]).transpose(0, 2, 1)[group.used] @ root for group in groups]
        return np.vstack([*rows, np.eye(len(NAMES))])

    from scipy.optimize import least_squares  # slow to import

    optimum = least_squares(
        residuals,
        np.zeros(len(NAMES)),
        jac=jacobian,
        xtol=1e-4,
        ftol=1e-4,
        max_nfev=30,
        loss=lambda z: robust(z, counted),  # type: ignore[arg-type]  # as above
    )
    matrix = jacobian(optimum.x)
    weight = np.ones(data + len(NAMES))
    weight[:data] = robust(residuals(optimum.x) ** 2, counted)[1, :data]
    inner = np.linalg.inv(matrix.T @ (matrix * weight[:, None]))
    wild = sum(float(np.sum(1.0 - c)) for c in clean)
    evidence = -float(optimum.cost) - WILD_COST * wild + 0.5 * float(np.linalg.slogdet(inner)[1])
    plain = robust(residuals(optimum.x) ** 2, np.ones(data))[1, :data]
    weights, row = [], 0
    for mask in used:
        table = np.zeros(mask.shape)
        table[mask] = plain[row : row + int(mask.sum())]
        row += int(mask.sum())
        weights.append(table)
    return _Fitted(
        mean=marginal.mean + root @ optimum.x,
        covariance=root @ inner @ root.T,
        weights=tuple(weights),
        evidence=evidence,
    )
