"""What the model of time misses at the measured configurations of a model, carried to those nearby.

The residual of each phase of a static batch, log(measured / predicted), is a Gaussian process over layout, batch and length
(Rasmussen and Williams, 2006, ch. 2; kriging of a simulator's error: Kennedy and Hagan, 2001), of one model with one engine on
one kind of GPU: measured on other models it foretells nothing. Before any run its standard deviation is the residual noise
that the intervals hold anyway (``surrogate.IntervalScale``), so far from every run the mean is 0 and an interval as
wide as without; near some, what they have explained of that variance is taken from it, and nothing is counted twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.calibration.blas_threads import one_blas_thread
from advisor.calibration.fit_file import MOST_LOG, MOST_RUNS
from advisor.perf_model.correction import PHASES, Correction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from advisor.calibration.fit_file import ResidualsRow
    from advisor.calibration.observations import RunGroup
    from advisor.perf_model.deployment_arrays import DeploymentArrays
    from advisor.perf_model.parameters import Parameters
    from catalog.schema import Model
    from catalog.units import Array

REPEAT_NOISE = (0.025, 0.006)
"""Standard deviation of log ``PHASES`` over repeats of one batch on one machine (``catalog/data/runs/*.md``)."""

AXES = ("batch", "input_len", "chunk", "context", "tp", "pp")
"""Coordinates of a configuration, all logarithms; ``chunk``: tokens of the largest prefill pass, ``context``: those a decode
step attends to, halfway."""

NEVER = math.inf
"""Length of an axis that says nothing."""

LENGTHS = ((1.5, 1.5, 1.5, NEVER, 0.5, 0.5), (2.5, NEVER, NEVER, 2.5, 1.0, 1.0))
"""How far neighbours are on ``AXES``, for each of ``PHASES``."""
EVERYWHERE, HERE = 0.05, (0.05, 0.2)
"""Shares of the variance of a residual: common to a model, and a batch's own for each of ``PHASES``. The rest is common to
neighbours, by a Matern kernel of smoothness 3/2. Lengths and shares are those by which the shipped ``role=fit`` runs on H200
foretell each other best: ``python -m benchmarks.residuals``."""

KINDS = ("weight_bytes", "kv_bytes", "ep", "offload", "compiled", "graphs", "sequence_parallel")
"""What runs have to share to say anything of each other."""

FARTHEST = 4.0
"""Prior standard deviations beyond which a residual counts as one at that distance: it is of its own kind."""
NEAR = 0.3
"""Correlation from which a run counts as near."""
AT_A_TIME = 4_000_000
"""Kernel values held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configurations:
    """Where n configurations are; ``at`` has shape (n, len(AXES)), ``kind`` (n, len(KINDS))."""

    at: Array
    kind: Array

    @classmethod
    def of(cls, layout: DeploymentArrays, batch: Array, input_len: Array, output_len: Array) -> Configurations:
        chunk = np.minimum(batch * input_len, layout.max_num_batched_tokens)
        axes = (batch, input_len, chunk, input_len + output_len / 2.0, layout.tp, layout.pp)
        size = len(layout)
        kind = np.stack([np.broadcast_to(getattr(layout, name), (size,)) for name in KINDS], axis=1)
        kind[(layout.dcp > 1) | (layout.exchange > 0)] = np.nan  # equal to none, for no run was so
        return cls(
            at=np.stack([np.broadcast_to(np.log(axis), (size,)) for axis in axes], axis=1),
            kind=kind,
        )

    def __len__(self) -> int:
        return len(self.at)

    def take(self, rows: Any) -> Configurations:
        return Configurations(at=self.at[rows], kind=self.kind[rows])

    @classmethod
    def joined(cls, parts: Sequence[Configurations]) -> Configurations:
        return cls(at=np.concatenate([part.at for part in parts]), kind=np.concatenate([part.kind for part in parts]))

    def same(self, other: Configurations) -> NDArray[np.bool_]:
        """Return which are one configuration, whatever its output: shape (n, len(other))."""
        only = [i for i, axis in enumerate(AXES) if axis != "context"]
        one, two = (np.hstack([side.at[:, only], side.kind]) for side in (self, other))
        return np.asarray((one[:, None] == two[None]).all(axis=2))

    @property
    def staged(self) -> NDArray[np.intp]:
        """Return 1 with pipeline stages, else 0; shape (n,)."""
        return np.asarray(self.at[:, AXES.index("pp")] > 0).astype(np.intp)

    def scaled(self, lengths: Sequence[float]) -> Array:
        """Return the places in units of the lengths, of the axes that matter; shape (n, axes)."""
        units = np.array(lengths)
        return np.asarray((self.at / units)[:, units < NEVER])

    def correlation(self, other: Configurations, lengths: Sequence[float], own: float) -> Array:
        """Return the correlation of residuals, but for the share that is a batch's own; shape (n, len(other))."""
        one, two = self.scaled(lengths), other.scaled(lengths)
        squared = np.sum(one**2, axis=1)[:, None] + np.sum(two**2, axis=1)[None] - 2.0 * one @ two.T
        far = np.sqrt(3.0 * np.maximum(squared, 0.0))
        values = EVERYWHERE + (1.0 - EVERYWHERE - own) * (1.0 + far) * np.exp(-far)
        if len(self) and len(other) and (self.kind == other.kind[0]).all() and (other.kind == other.kind[0]).all():
            return np.asarray(values)
        return np.asarray(values * (self.kind[:, None] == other.kind[None]).all(axis=2))


UNTIMED = frozenset({"max_position_embeddings", "published_parameters", "gated"})


def sizes_of(model: Model) -> dict[str, float]:
    """Return what the time of a model depends on: its architecture in numbers, not its name."""
    values = {field.name: getattr(model, field.name) for field in fields(model) if field.name not in UNTIMED}
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residuals:
    """Of n measured static batches of one model."""

    engine: str
    """As ``advisor.calibration.observations.engine_family`` names it."""
    gpu: str
    model: str
    release: int
    """As ``release_distance`` counts it."""
    sizes: Mapping[str, float]
    """As ``sizes_of`` has them."""
    places: Configurations
    residual: Array
    """log(measured / predicted) of ``PHASES``, shape (2, n); NaN where there is none."""
    noise: Array
    """Standard deviation before any run, of ``PHASES`` without and with pipeline stages: shape (2, 2)."""
    solved: tuple[tuple[NDArray[np.bool_], Array, Array], ...]
    """Of each phase: which runs have it, the Cholesky factor of their covariance, and what it makes of their residuals."""

    @classmethod
    def of(
        cls,
        *,
        engine: str,
        gpu: str,
        model: str,
        release: int,
        sizes: Mapping[str, float],
        places: Configurations,
        residual: Array,
        noise: Array,
    ) -> Residuals:
        solved = []
        for phase, spread in enumerate(REPEAT_NOISE):
            known = ~np.isnan(residual[phase])
            own = places.take(known)
            prior = noise[phase][own.staged]
            covariance = np.outer(prior, prior) * own.correlation(own, LENGTHS[phase], HERE[phase])
            covariance += np.diag(HERE[phase] * prior**2 + spread**2)
            root = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
            clipped = np.clip(residual[phase][known], -FARTHEST * prior, FARTHEST * prior)
            pull = np.asarray(np.linalg.solve(root.T, np.linalg.solve(root, clipped)), dtype=np.float64)
            solved.append((known, root, pull))
        return cls(
            engine=engine,
            gpu=gpu,
            model=model,
            release=release,
            sizes=sizes,
            places=places,
            residual=residual,
            noise=noise,
            solved=tuple(solved),
        )

    def correction(
        self, layout: DeploymentArrays, batch: Array, input_len: Array, output_len: Array, *, spread: bool = True
    ) -> Correction:
        """Correct configurations of this model; arrays have shape (n,). Without ``spread`` nothing is said of the variance."""
        every = Configurations.of(layout, batch, input_len, output_len)
        factors, left = np.ones((2, len(every))), np.ones((2, len(every)))
        near = np.zeros(len(every))
        for phase in range(len(PHASES)):
            first, which = _distinct(np.hstack([every.scaled(LENGTHS[phase]), every.kind]))
            moments = self._of_phase(phase, every.take(first), spread=spread)
            mean, left[phase], count = (values[which] for values in moments)
            factors[phase], near = np.exp(mean), np.maximum(near, count)
        return Correction(factors=factors, left=left, near=near)

    def _of_phase(self, phase: int, wanted: Configurations, *, spread: bool) -> tuple[Array, Array, Array]:
        """Return the mean, share of the variance left, and runs near, of different places."""
        known, root, pull = self.solved[phase]
        mean, left, near = np.zeros(len(wanted)), np.ones(len(wanted)), np.zeros(len(wanted))
        runs = self.places.take(known)
        step = max(AT_A_TIME // max(len(runs), 1), 1)
        for begin in range(0, len(wanted) if len(runs) else 0, step):
            part = slice(begin, begin + step)
            own = wanted.take(part)
            correlation = own.correlation(runs, LENGTHS[phase], HERE[phase])
            between = correlation * self.noise[phase][runs.staged]  # in units of the asked one's own deviation
            mean[part] = self.noise[phase][own.staged] * (between @ pull)
            near[part] = np.sum(correlation > NEAR, axis=1)
            if spread:
                explained = np.linalg.solve(root, between.T)
                left[part] = np.clip(1.0 - np.einsum("nm,nm->m", explained, explained), 0.0, 1.0)
        return mean, left, near

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; ``from_dict`` solves again."""
        rows = np.hstack([self.places.at, self.places.kind]).tolist()
        return {
            "engine": self.engine,
            "gpu": self.gpu,
            "model": self.model,
            "release": self.release,
            "sizes": dict(self.sizes),
            "places": [[float(f"{value:.6g}") for value in row] for row in rows],
            "residual": [[None if np.isnan(v) else float(f"{v:.4g}") for v in row] for row in self.residual],
            "noise": self.noise.tolist(),
        }

    @classmethod
    def read(cls, row: ResidualsRow) -> Residuals:
        """Solve those that ``to_dict`` wrote.

        Raises:
            ValueError, LinAlgError: they are not of one length, or of places that no run can have.

        """
        rows = np.array(row.places, dtype=float)
        residual = np.array(row.residual, dtype=float)
        if rows.shape[1:] != (len(AXES) + len(KINDS),) or residual.shape != (len(PHASES), len(rows)):
            raise ValueError("places and residuals of one length expected")
        if (np.abs(rows[:, : len(AXES)]) > MOST_LOG).any():
            raise ValueError("logarithms of sizes that can be expected")
        return cls.of(
            engine=row.engine,
            gpu=row.gpu,
            model=row.model,
            release=row.release,
            sizes=row.sizes,
            places=Configurations(at=rows[:, : len(AXES)], kind=rows[:, len(AXES) :]),
            residual=residual,
            noise=np.array(row.noise),
        )


def _distinct(rows: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where each different row stands first, and which of them every row is; quicker than ``np.unique`` of rows."""
    code = np.zeros(len(rows), dtype=np.intp)
    for column in rows.T:
        if (column != column[:1]).any():
            _, which = np.unique(column, return_inverse=True)
            _, code = np.unique(code * (int(which.max()) + 1) + which, return_inverse=True)
    _, first, which = np.unique(code, return_index=True, return_inverse=True)
    return first, which


@one_blas_thread
def fit_residuals(
    groups: Iterable[RunGroup],
    parameters_of: Callable[[str, str, int], Parameters],
    noise_of: Callable[[str, str, bool], float],
) -> tuple[Residuals, ...]:
    """Return the residuals of the static runs of some groups, by model, at the parameters of their engine, at its release, and GPU.

    ``noise_of`` an engine, one of ``PHASES``, and whether there are pipeline stages: the residual's standard deviation.
    """
    from advisor.calibration.observations import METRICS  # most answers learn nothing

    fitted = []
    for group in groups:
        gpu = group.cluster.gpu.name
        predicted = group.predict(parameters_of(group.engine, gpu, group.release))
        rows = [METRICS.index(phase) for phase in PHASES]
        chosen = np.flatnonzero(~group.steady & ~np.isnan(group.measured[rows]).all(axis=0))[-MOST_RUNS:]
        if not chosen.size:
            continue
        places = Configurations.of(group.layout, group.batch, group.input_len, group.output_len).take(chosen)
        measured, foreseen = (np.maximum(times[rows][:, chosen], 1e-12) for times in (group.measured, predicted))
        noise = np.array([[noise_of(group.engine, phase, staged) for staged in (False, True)] for phase in PHASES])
        fitted.append(
            Residuals.of(
                engine=group.engine,
                gpu=gpu,
                model=group.model.name,
                release=group.release,
                sizes=sizes_of(group.model),
                places=places,
                residual=np.log(measured / foreseen),
                noise=noise,
            )
        )
    return tuple(fitted)


def of_model(
    known: Iterable[Residuals], engine: str, gpu: str, model: Model, release: int | None = None
) -> Residuals | None:
    """Return those of a model's own runs, of one ``release`` or of any, or of a model alike in every size; None where there are none."""
    sizes = sizes_of(model)
    here = (
        candidate
        for candidate in known
        if (candidate.engine, candidate.gpu) == (engine, gpu) and release in (None, candidate.release)
    )
    return next((candidate for candidate in here if candidate.sizes.items() <= sizes.items()), None)
