"""Which evidence an answer stands on: the shipped fit, the user's own runs or fit, or a list of runs and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from advisor.calibration.fingerprint import disagreements, platforms_of, release
from advisor.calibration.intervals import LEVEL
from advisor.calibration.residual_gp import Residuals, fit_residuals, of_model
from advisor.calibration.surrogate import ANY, IntervalScale, Surrogate, analytic_marginal, shipped_surrogate
from catalog.engines import engine_family, find_engine, release_distance, releases_apart
from catalog.errors import InputError, Note
from catalog.runs import read_user_runs, shipped_runs
from catalog.schema import Measurement
from catalog.wording import counted, short_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from advisor.calibration.fingerprint import Platform
    from advisor.calibration.parameter_posterior import ParameterPosterior
    from catalog.schema import Gpu, Model

Runs: TypeAlias = Sequence[Measurement] | Surrogate | None
"""What a question may stand on: see ``Evidence.of``."""


NAMED = 3
"""Runs that a note names; of more it tells how many."""


class ExtraRuns(tuple["Measurement", ...]):
    """Runs that count beside those that ship and the user's own: what a session has imported and not stored."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A surrogate, the runs that may be looked up, and parameters refined by the user's own runs."""

    surrogate: Surrogate
    runs: tuple[Measurement, ...]
    refined: Mapping[tuple[str, str], ParameterPosterior] = field(default_factory=dict)
    analytic: bool = False
    """Nothing but the priors and ``refined``."""
    notes: tuple[Note, ...] = ()
    own: tuple[Residuals, ...] = ()
    """What ``refined`` parameters miss at the user's own runs."""

    widening: Mapping[str, float] = field(default_factory=dict)
    """Factors on the widths of the calibrated intervals, by quantity, that a fit's left-out errors asked for."""
    version: tuple[str, str] = ("", "")
    """An engine and the release of it that is asked about."""

    @classmethod
    def of(cls, runs: Runs, *, engine: str, gpu: Gpu, version: str = "") -> Evidence:
        """``None``: shipped and own runs; ``ExtraRuns``: those too; a list: exactly those; empty: the analytic model alone;
        a fit: that.

        Only runs of this engine on this GPU refine the parameters; no run does if a what-if changed the GPU. Parameters are those of
        the measured release nearest to ``version``, empty for the one that the catalog describes, and only its own runs are looked up.

        Raises:
            InputError: no such version.

        """
        kind = find_engine(engine)
        asked = version or kind.version
        evidence = cls._of_release(runs, engine, gpu, asked)
        notes = (version_note(evidence.surrogate, engine, version),) if version else ()
        same = evidence.runs
        if version or kind.fitted_release:  # else every release counts as one
            same = tuple(run for run in same if run.engine != engine or release(run.engine_version) == release(asked))
        return replace(evidence, version=(engine, asked), runs=same, notes=(*evidence.notes, *notes))

    @classmethod
    def _of_release(cls, runs: Runs, engine: str, gpu: Gpu, version: str) -> Evidence:
        """Return the evidence on one release, before it is said which runs are looked up."""
        if isinstance(runs, Surrogate):
            return cls._of_fit(runs, engine, gpu, version)
        surrogate = shipped_surrogate()
        base, family = gpu.name, engine_family(engine, version)
        distance = release_distance(family, version)
        alone = False
        notes: tuple[Note, ...] = ()
        if runs is None or isinstance(runs, ExtraRuns):
            own, notes = _own_runs(runs or ())
            start = surrogate.marginal(family, base, distance)
            known = (*shipped_runs(), *own)
            if gpu.vendor == "cpu":
                from advisor.calibration.cpu_posterior import cpu_marginal  # brings the fit

                start = cpu_marginal(base)
        else:
            alone = True
            own = [run for run in runs if run.role == "fit"]
            start = analytic_marginal()
            known = tuple(runs)
            if gpu.vendor == "cpu":
                from advisor.calibration.cpu_posterior import cpu_start  # brings the fit

                start = cpu_start()
        fresh = [run for run in own if run.engine == engine and run.gpu == base and not run.oom]
        refined: dict[tuple[str, str], ParameterPosterior] = {}
        nearby: tuple[Residuals, ...] = ()
        if fresh:
            from advisor.calibration.observations import group_runs  # most answers need no fit
            from advisor.calibration.posterior import own_start, update

            current = [run for run in fresh if engine_family(run.engine, run.engine_version) == family]
            if current:
                beside = "" if alone else " beside what ships"
                notes += (_fitted_to(len(current), engine, base, beside),)
                groups = group_runs(current)
                after = update(own_start(start, groups), groups)
                marginal, warnings = _expired(after, platforms_of(current), engine, version)
                refined[engine, base] = marginal
                agreeing = [group.without(after.contradicting) for group in groups]
                if not any(group.used.any() for group in agreeing):  # nothing moved
                    nearby = () if alone else tuple(item for item in surrogate.residuals if item.release == distance)
                elif not warnings:
                    nearby = fit_residuals(agreeing, lambda *_: marginal.parameters, surrogate.noise)
                contradicting = [run for run in current if run.run_id in after.contradicting]
                notes += (*warnings, *_contradictions(contradicting, engine, base))
        return cls(surrogate=surrogate, runs=known, refined=refined, analytic=alone, notes=notes, own=nearby)

    @classmethod
    def _of_fit(cls, fit: Surrogate, engine: str, gpu: Gpu, version: str) -> Evidence:
        """Read what ``advisor.fit`` made; measured configurations are still looked up, unless it stands alone."""
        own, left_out = ([], ()) if fit.alone else _own_runs()
        known = () if fit.alone else (*shipped_runs(), *own)
        refined = {(report.engine, report.gpu): fit.marginals[report.engine, report.gpu] for report in fit.lessons}
        report = fit.report(engine, gpu.name)
        if report is None:
            return cls(surrogate=fit, runs=known, refined=refined, notes=left_out)
        marginal, warnings = _expired(refined[engine, gpu.name], report.platforms, engine, version)
        beside = "" if fit.alone else " beside what ships"
        notes = (*left_out, _fitted_to(report.runs, engine, gpu.name, beside), *warnings)
        return cls(
            surrogate=fit,
            runs=known,
            refined=refined | {(engine, gpu.name): marginal},
            notes=notes,
            own=() if warnings else fit.residuals,
            widening={row.metric: row.widening for row in report.accuracy},
        )

    def marginal(self, engine: str, gpu: Gpu) -> ParameterPosterior:
        """Return parameters of ``engine`` on ``gpu``; a what-if GPU ("H100-SXM (...)") takes those of the GPU it changes.

        On another vendor's GPUs an engine has other kernels than on NVIDIA's, so it counts as one nobody measured where it has no runs
        on that very GPU; CPUs have parameters of their own.
        """
        base = gpu.name.split(" (", maxsplit=1)[0]
        family, distance = self._release(engine)
        if (engine, base) in self.refined:
            posterior = self.refined[engine, base]
        elif gpu.vendor == "cpu":
            from advisor.calibration.cpu_posterior import cpu_marginal, cpu_start  # brings the fit

            posterior = cpu_start() if self.analytic else cpu_marginal(base)
        else:
            known = family if gpu.vendor == "nvidia" or (family, base) in self.surrogate.marginals else ANY
            posterior = analytic_marginal() if self.analytic else self.surrogate.marginal(known, base, distance)
        if base != gpu.name and posterior.provenance == "calibrated":
            return replace(posterior, provenance="transferred")
        return posterior

    def residuals(self, engine: str, gpu: Gpu, model: Model) -> Residuals | None:
        """Return what the parameters miss at runs of this very model; None where there are none, or a what-if changed the GPU.

        Where own runs have moved the parameters, only own runs say what these miss.
        """
        if (engine, gpu.name) in self.refined:
            return of_model(self.own, engine, gpu.name, model)
        if self.analytic:
            return None
        _, distance = self._release(engine)
        return of_model(self.surrogate.residuals, engine, gpu.name, model, distance)

    def _release(self, engine: str) -> tuple[str, int]:
        """Return the family of an engine at the release that is asked about, and how far that is from the one that fits are of."""
        asked = self.version[1] if engine == self.version[0] else ""
        family = engine_family(engine, asked) if asked else engine
        return family, release_distance(family, asked)

    def family(self, engine: str) -> str:
        """Return the name under which an engine at the release that is asked about is fitted (``engine_family``)."""
        return self._release(engine)[0]

    @property
    def unmeasured(self) -> ParameterPosterior:
        """Return parameters of an engine that nobody measured, on a GPU likewise."""
        return analytic_marginal() if self.analytic else self.surrogate.marginal(ANY, ANY)

    def scale(self, provenance: str, engine: str, metric: str) -> IntervalScale:
        """Return how wide the errors of ``metric`` are, for this engine where enough is known of it."""
        family = self.family(engine)
        scale = self.surrogate.scale(provenance, family, metric)
        if provenance == "analytic":  # knows less than what is transferred, whatever the few runs that judge it say
            transferred = self.surrogate.scale("transferred", family, metric)
            wider = max(scale.quantile(LEVEL) / transferred.quantile(LEVEL), 1.0)
            scale = replace(transferred, quantiles=tuple(wider * quantile for quantile in transferred.quantiles))
        factor = self.widening.get(metric, 1.0) if provenance == "calibrated" else 1.0
        return (
            scale
            if factor == 1.0
            else replace(scale, quantiles=tuple(factor * quantile for quantile in scale.quantiles))
        )


def version_note(surrogate: Surrogate, engine: str, version: str) -> Note:
    """Say what the times of a release of an engine stand on.

    Raises:
        InputError: it is no version such as 0.33 or 0.33.0.

    """
    if not re.fullmatch(r"\d+\.\d+([.a-z+-][\w.+-]*)?", version):
        raise InputError(
            f"engine_version is {version!r:.40}; it must be a release such as {find_engine(engine).version}"
        )
    kind = find_engine(engine)
    if (family := engine_family(engine, version)) != engine:
        return Note(
            f"times are fitted to runs of {family} and releases near it; memory and options are those of {engine} {kind.version}",
            "warning",
        )
    distance = release_distance(engine, version)
    if not releases_apart(kind.version, version) and release(version) != release(kind.version):
        return Note(
            f"how {engine} {version} differs from {kind.version} is not known: times, memory and defaults are those of {kind.version}",
            "warning",
        )
    nearest = surrogate.nearest_release(engine, distance)
    times = f"times are those of {engine} {version}, of which runs were fitted"
    if nearest != distance:
        times = f"no run of {engine} {version} was fitted: times are those of a release {abs(nearest - distance)} away, and less certain"
    return Note(f"{times}; options are those of {kind.version}")


def _own_runs(extra: Sequence[Measurement] = ()) -> tuple[list[Measurement], tuple[Note, ...]]:
    """Return the user's own runs to fit, each once and none of those that ship, and what of their files cannot be used."""
    kept = read_user_runs()
    shipped = {run.run_id for run in shipped_runs()}
    own = {run.run_id: run for run in (*kept.runs, *extra) if run.role == "fit" and run.run_id not in shipped}
    more = f"; and {len(kept.left_out) - NAMED} more" if len(kept.left_out) > NAMED else ""
    named = "; ".join(kept.left_out[:NAMED])
    return list(own.values()), (Note(f"left out of your runs: {named}{more}", "warning"),) if named else ()


def _fitted_to(runs: int, engine: str, gpu: str, beside: str) -> Note:
    return Note(f"fitted to {counted(runs, 'run')} of {engine} on {gpu}{beside}")


def _contradictions(runs: Sequence[Measurement], engine: str, gpu: str) -> tuple[Note, ...]:
    """Name the runs that contradict what else is known, and say what they measured."""
    if not runs:
        return ()
    named = sorted(runs, key=lambda run: run.run_id)
    more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
    which = ", ".join(f"{run.run_id} ({_measured(run)})" for run in named[:NAMED]) + more
    which = f"run {which} contradicts" if len(named) == 1 else f"runs {which} contradict"
    return (Note(f"{which} what else is known of {engine} on {gpu}: intervals are wider for it", "warning"),)


def _measured(run: Measurement) -> str:
    speed = "" if run.tpot_ms is None else f", TPOT {run.tpot_ms:.3g} ms"
    layout = run.deployment.parallelism
    return f"{short_name(run.model)} as {layout}, batch {run.batch}, {run.input_len} in / {run.output_len} out{speed}"


def _expired(
    marginal: ParameterPosterior, platforms: Sequence[Platform], engine: str, version: str
) -> tuple[ParameterPosterior, tuple[Note, ...]]:
    """Return the parameters, less certain where the runs behind them are not all of what is asked about, and why.

    Another version of an engine, or other clocks, are as an engine on a GPU that was not measured together: the pair's
    own effect is open again.
    """
    reasons = disagreements(platforms, engine=engine, version=version)
    if not reasons:
        return marginal, ()
    from advisor.calibration.posterior import widened_for_new_machine  # most answers need no fit

    return widened_for_new_machine(marginal), tuple(
        Note(f"{reason}: intervals are wider for it", "warning") for reason in reasons
    )
