"""Which evidence an answer stands on: the shipped fit, the user's own runs, or a list of runs and nothing else."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from advisor.layout import checkpoint_dtype
from advisor.surrogate import ANY, Marginal, Scale, Surrogate, analytic_marginal, shipped_surrogate
from catalog.engines.knobs import PLAIN
from catalog.runs import shipped_runs, user_runs
from catalog.schema import Note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor.estimation import Estimate
    from catalog.schema import Gpu, Measurement


class Beside(tuple["Measurement", ...]):
    """Runs that count beside those that ship and the user's own: what a session has imported and not stored."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """A surrogate, the runs that may be looked up, and parameters refined by the user's own runs."""

    surrogate: Surrogate
    runs: tuple[Measurement, ...]
    refined: Mapping[tuple[str, str], Marginal] = field(default_factory=dict)
    analytic: bool = False
    """Nothing but the priors and ``refined``."""
    notes: tuple[Note, ...] = ()

    @classmethod
    def of(cls, runs: Sequence[Measurement] | None, *, engine: str, gpu: Gpu) -> Knowledge:
        """``None``: shipped and own runs; ``Beside``: those too; a list: exactly those; empty: the analytic model alone.

        Only runs of this engine on this GPU refine the parameters; no run does if a what-if changed the GPU.
        """
        surrogate = shipped_surrogate()
        base = gpu.name
        alone = False
        if runs is None or isinstance(runs, Beside):
            own = [run for run in (*user_runs(), *(runs or ())) if run.role == "fit"]
            start = surrogate.marginal(engine, base)
            known = (*shipped_runs(), *own)
        else:
            alone = True
            own = [run for run in runs if run.role == "fit"]
            start = analytic_marginal()
            known = tuple(runs)
        fresh = [run for run in own if run.engine == engine and run.gpu == base and not run.oom]
        refined: dict[tuple[str, str], Marginal] = {}
        notes: tuple[Note, ...] = ()
        if fresh:
            from advisor.evidence import dialect, group_runs  # noqa: PLC0415  most answers need no fit
            from advisor.posterior import update  # noqa: PLC0415

            current = defaultdict(list)
            for run in fresh:
                current[dialect(run.engine, run.engine_version)].append(run)
            if current.get(engine):
                refined[engine, base] = update(start, group_runs(current[engine]))
                notes = (Note(f"fitted to {len(current[engine])} runs of {engine} on {base} beside what ships"),)
        return cls(surrogate=surrogate, runs=known, refined=refined, analytic=alone, notes=notes)

    def marginal(self, engine: str, gpu: Gpu) -> Marginal:
        """Parameters of ``engine`` on ``gpu``; a what-if GPU ("H100-SXM (...)") takes those of the GPU it changes.

        All runs so far are from NVIDIA's GPUs. Elsewhere an engine has other kernels, so it counts as one nobody measured.
        """
        base = gpu.name.split(" (", maxsplit=1)[0]
        if (engine, base) in self.refined:
            found = self.refined[engine, base]
        else:
            known = engine if gpu.vendor == "nvidia" else ANY
            found = analytic_marginal() if self.analytic else self.surrogate.marginal(known, base)
        if base != gpu.name and found.provenance == "calibrated":
            return replace(found, provenance="transferred")
        return found

    def scale(self, provenance: str, engine: str, metric: str) -> Scale:
        """How wide the errors of ``metric`` are, for this engine where enough is known of it."""
        return self.surrogate.scale(provenance, engine, metric)


def measured_run(runs: Sequence[Measurement], estimate: Estimate) -> Measurement | None:
    """A run of exactly this configuration, the latest one; None if there is none."""
    wanted = estimate.deployment
    key = (
        estimate.model.name,
        estimate.cluster.gpu.name,
        wanted.engine,
        estimate.batch,
        estimate.input_len,
        estimate.output_len,
        estimate.regime,
    )
    automatic = {
        "dtype": checkpoint_dtype(estimate.model, estimate.cluster.gpu),
        "kv_dtype": wanted.kv_dtype if wanted.kv_dtype in PLAIN else None,
    }
    for run in reversed(runs):
        if (run.model, run.gpu, run.engine, run.batch, run.input_len, run.output_len, run.regime) != key or run.oom:
            continue
        alike = not wanted.sequence_parallel and run.deployment.has_graphs == wanted.has_graphs
        same = alike and all(
            value is None or (automatic.get(name) if value == "auto" else value) == getattr(wanted, name)
            for name in ("tp", "pp", "dp", "ep", "dtype", "kv_dtype", "max_num_batched_tokens", "max_num_seqs",
                         "gpu_memory_utilization", "offload", "compiled")
            for value in [getattr(run, name)]
        )  # fmt: skip
        if same:
            return run
    return None
