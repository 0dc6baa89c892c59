"""A running deployment beside its plan: what its own metrics count, what was predicted for that traffic, and what to change."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from advisor.fleet.metric_samples import Counted, Scrape, is_address, is_server, read_scrape
from advisor.prediction.inputs import plain_fields, read_cluster, read_model
from advisor.prediction.presentation import header
from advisor.simulator.simulation import simulate
from catalog.engines import prometheus_metrics
from catalog.errors import InputError, Note
from catalog.schema import Deployment, Measurement, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from advisor.calibration.parameter_posterior import Provenance
    from advisor.prediction.evidence import Runs
    from advisor.simulator.simulation_answer import Simulation
    from catalog.engines import EngineMetrics
    from catalog.schema import Cluster, Model

FEWEST = 30
"""Requests below which a mean says little."""
SHORTEST_S = 1.0
"""Seconds below which files were copied, not written, so far apart: the rate would be that of no server."""
FULL = 0.95
"""Share of the KV cache from which on requests wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    """One quantity, measured and predicted."""

    name: str
    """"ttft_ms" and the like, or "running"."""
    statistic: str
    """"mean" or "p95"."""
    measured: float
    predicted: float
    low: float
    high: float
    """90% interval of the prediction."""

    @property
    def factor(self) -> float:
        """Return measured over predicted."""
        return self.measured / self.predicted

    @property
    def drifted(self) -> bool:
        """Return whether it lies outside the interval."""
        return not self.low <= self.measured <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A deployment as its metrics have it, and as it was predicted for the traffic that came."""

    model: Model
    cluster: Cluster
    deployment: Deployment
    seconds: float
    requests: float
    rate: float
    """Requests a second over all replicas."""
    input_len: float
    output_len: float
    """Means."""
    waiting: float
    """Requests in the queue of a replica; NaN where the engine does not say."""
    kv_share: float
    """Of a replica's KV cache in use; NaN likewise."""
    preemptions: float
    comparisons: tuple[MetricComparison, ...]
    missed: Mapping[str, float]
    """Limits that are not kept, with what was measured, ms."""
    advice: tuple[str, ...]
    """What to change or do."""
    run: Measurement
    """The same as a run that answers can stand on."""
    provenance: Provenance
    """Of the prediction."""
    notes: tuple[Note, ...]

    @property
    def drifted(self) -> bool:
        """Return whether anything lies outside the 90% interval of its prediction."""
        return any(comparison.drifted for comparison in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types."""
        return {
            **header("observation/1"),
            **plain_fields(self, "model", "cluster", "run"),
            "model": self.model.name,
            "cluster": str(self.cluster),
            "drifted": self.drifted,
            "run_id": self.run.run_id,
        }


def observe(
    prometheus: str | Sequence[str],
    model: str | Model,
    gpus: str | Cluster,
    *,
    deployment: Deployment | None = None,
    before: str | Sequence[str] = (),
    seconds: float = 60.0,
    slo: Slo | None = None,
    served: str = "",
    input_len: int | None = None,
    output_len: int | None = None,
    set_gpu: Mapping[str, float | str] | None = None,
    runs: Runs = None,
    wait: Callable[[float], None] = time.sleep,
) -> Observation:
    """Compare what a running deployment measures of itself with what is predicted for the traffic it had.

    Args:
        prometheus: an engine's metrics (``http://host:8000/metrics``) of every replica, a Prometheus server's address, or files of
            such pages.
        model: what is served, as ``simulate`` takes it.
        gpus: of all replicas.
        deployment: layout and knobs; its engine says what metrics are called.
        before: files of the same pages, read earlier. Without them a server is asked for ``seconds`` ago, an engine is read twice, and of
            a file everything counts since its engine started.
        seconds: between two looks.
        slo: limits to judge.
        served: name that the model is served under, where an engine or a server has several.
        input_len: mean prompt tokens, where the engine does not count them.
        output_len: mean output tokens, likewise.
        set_gpu: what-if values for fields of the GPUs.
        runs: see ``simulate``.
        wait: what waits between two looks.

    Raises:
        InputError: metrics cannot be read, there are too few requests, or nothing says how long they were counted.

    """
    base = deployment or Deployment()
    metrics = prometheus_metrics(base.engine)
    sources, earlier = ([given] if isinstance(given, str) else list(given) for given in (prometheus, before))
    counted = Counted(**_scraped(sources, earlier, metrics, seconds, wait), label=metrics.label, model=served)
    requests, span = counted.increase(metrics.finished), counted.seconds
    if requests < FEWEST:
        raise InputError(
            f"{requests:.0f} requests were answered in that time, and {FEWEST} are the fewest that say something; look for longer, "
            f"or check that the metrics are those of {base.engine}{f' and of a model served as {served}' if served else ''}"
        )
    if not (math.isfinite(span) and span > 0):
        raise InputError(
            "nothing says how long requests were counted; give a file of an earlier moment, too (--before)"
        )
    if earlier and span < SHORTEST_S:
        raise InputError(
            f"the files were written {span:.2g} s apart, and {SHORTEST_S:g} s are the least; copies keep the times with cp -p"
        )
    lengths = _lengths(counted, metrics, requests, input_len, output_len)
    workload = Workload(input_len=max(round(lengths[0]), 1), output_len=max(round(lengths[1]), 1), rate=requests / span)
    resolved, cluster = read_model(model).value, read_cluster(gpus, set_gpu).value
    predicted = simulate(resolved, cluster, deployment=base, workload=workload, runs=runs, spread=1.0)
    comparisons = tuple(_compared(counted, metrics, predicted))
    limits = slo or Slo()
    missed = _missed(counted, metrics, limits)
    observation = Observation(
        model=resolved,
        cluster=cluster,
        deployment=predicted.deployment,
        seconds=span,
        requests=requests,
        rate=requests / span,
        input_len=lengths[0],
        output_len=lengths[1],
        waiting=counted.gauge(metrics.waiting),
        kv_share=counted.gauge(metrics.kv_cache),
        preemptions=counted.increase(metrics.preempted),
        comparisons=comparisons,
        missed=missed,
        advice=(),
        run=_run(counted, metrics, predicted, cluster, workload),
        provenance=predicted.provenance,
        notes=(
            *predicted.notes,
            Note("lengths are taken to vary with a coefficient of variation of 1: engines count their sums"),
        ),
    )
    return replace(observation, advice=tuple(_advice(observation, predicted)))


def _scraped(
    sources: Sequence[str], before: Sequence[str], metrics: EngineMetrics, seconds: float, wait: Callable[[float], None]
) -> dict[str, Any]:
    """Return the two moments between which is counted."""
    if not sources:
        raise InputError("name an address or a file of metrics")
    begin: list[Scrape] = []
    if before:
        begin = [read_scrape(source, metrics) for source in before]
    elif is_server(sources[0]):
        begin = [read_scrape(source, metrics, time.time() - seconds) for source in sources]
    elif is_address(sources[0]):
        begin = [read_scrape(source, metrics) for source in sources]
        wait(seconds)
    return {
        "begin": _together(begin) if begin else None,
        "end": _together([read_scrape(source, metrics) for source in sources]),
    }


def _together(scrapes: Sequence[Scrape]) -> Scrape:
    """Join the replicas' samples, each told apart by where it came from."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for number, scrape in enumerate(scrapes):
        for name, values in scrape.samples.items():
            own = samples.setdefault(name, {})
            own.update({(*labels, ("advisor_source", str(number))): value for labels, value in values.items()})
    return Scrape(at_s=max(scrape.at_s for scrape in scrapes), samples=samples)


def _lengths(
    counted: Counted, metrics: EngineMetrics, requests: float, input_len: int | None, output_len: int | None
) -> tuple[float, float]:
    stated = []
    for given, name, what in (
        (input_len, metrics.prompted, "--input-len"),
        (output_len, metrics.generated, "--output-len"),
    ):
        length = float(given) if given else (counted.increase(name) / requests if name else 0.0)
        if length <= 0:
            raise InputError(f"these metrics do not say how long requests are; state {what}")
        stated.append(length)
    return stated[0], stated[1]


def _compared(counted: Counted, metrics: EngineMetrics, predicted: Simulation) -> Iterator[MetricComparison]:
    for name, histogram in metrics.histograms.items():
        values = (("mean", counted.mean(histogram)), ("p95", counted.percentile(histogram, 95.0)))
        for statistic, seconds in values:
            if math.isnan(seconds):
                continue
            low, high = predicted.interval(name, statistic)
            yield MetricComparison(
                name=name,
                statistic=statistic,
                measured=1e3 * seconds,
                predicted=predicted.metrics[name][statistic],
                low=low,
                high=high,
            )


def _missed(counted: Counted, metrics: EngineMetrics, slo: Slo) -> dict[str, float]:
    histograms = metrics.histograms
    measured = {
        name: 1e3
        * (
            counted.mean(histograms[name])
            if slo.percentile is None
            else counted.percentile(histograms[name], slo.percentile)
        )
        for name in slo.limits
    }
    return {name: value for name, value in measured.items() if value > slo.limits[name]}


def _run(
    counted: Counted, metrics: EngineMetrics, predicted: Simulation, cluster: Cluster, workload: Workload
) -> Measurement:
    """Return what was measured as a run under traffic."""
    chosen = predicted.deployment
    times: dict[str, float | None] = {}
    for name, histogram in metrics.histograms.items():
        seconds = counted.mean(histogram)
        times[name] = None if math.isnan(seconds) else 1e3 * seconds
    in_flight = 1e-3 * (workload.rate or 0.0) * (times["e2e_ms"] or 0.0) / chosen.dp
    return Measurement(
        run_id=f"observed-{round(counted.end.at_s)}-{round(counted.increase(metrics.finished))}",
        role="fit",
        source=f"advisor observe: the engine's own metrics over {counted.seconds:.0f} s",
        gpu=cluster.gpu.name,
        gpus=chosen.num_gpus,
        engine=chosen.engine,
        engine_version=chosen.engine_version or "",
        model=predicted.model.name,
        dtype=chosen.dtype,
        kv_dtype=chosen.kv_dtype,
        tp=chosen.tp,
        pp=chosen.pp,
        dp=chosen.dp,
        ep=chosen.ep,
        max_num_batched_tokens=chosen.max_num_batched_tokens,
        max_num_seqs=chosen.max_num_seqs,
        max_model_len=chosen.max_model_len,
        regime="open",
        rate=workload.rate,
        batch=round(in_flight),
        input_len=workload.input_len,
        output_len=workload.output_len,
        ttft_ms=times["ttft_ms"],
        tpot_ms=times["tpot_ms"],
        e2e_ms=times["e2e_ms"],
    )


def _advice(observed: Observation, predicted: Simulation) -> Iterator[str]:
    """Yield what to change or do, the most pressing first."""
    lengths = f"--input-len {round(observed.input_len)} --output-len {round(observed.output_len)}"
    plan = f"advisor plan --model {observed.model.name} --gpus {observed.cluster.gpu.name} --rate {observed.rate:.3g} {lengths}"
    if predicted.saturation_s < observed.rate * 1.05:
        yield f"{observed.rate:.3g} requests/s are all that these GPUs are predicted to complete ({predicted.saturation_s:.3g}); size anew: {plan}"
    elif observed.missed:
        yield f"limits are missed; size for them: {plan} with the limits"
    if observed.kv_share >= FULL or observed.preemptions > 0:
        yield "the KV cache is full: fewer sequences at once (--max-num-seqs), an FP8 cache (--kv-dtype fp8), or more replicas"
    if observed.drifted:
        drifted = [c for c in observed.comparisons if c.drifted]
        worst = max(drifted, key=lambda c: abs(math.log(max(c.factor, 1e-9))))
        yield (
            f"measured times have drifted from their prediction, {worst.name.removesuffix('_ms').upper()} by a factor of {worst.factor:.2g}: "
            "take them over (--save), which corrects answers about this deployment, and fit again (advisor fit)"
        )
