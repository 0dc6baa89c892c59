"""What was predicted beside what an engine reports: alert rules for Prometheus, a dashboard for Grafana.

Times are means over a quarter of an hour, for so an estimate means them, and are judged while no more requests are in the batch than
the estimate is for. Above the upper end of the 90% interval one in twenty sound predictions would lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from catalog.engines import engine_name, prometheus_metrics
from catalog.engines.launch.containers import label
from catalog.engines.launch.process import model_argument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from advisor.prediction.deployment_estimate import Estimate
    from catalog.engines import EngineMetrics
    from catalog.schema import Slo

MONITORING = ("prometheus", "grafana")
"""Formats of ``export`` that tell what to expect, not how to start."""
WINDOW, PATIENCE = "15m", "15m"
"""What means are taken over, and how long something must be so before anybody is told."""
MOST_OF_CACHE = 0.98
"""A share of the KV cache above which the next request waits or evicts one, whatever was predicted."""
SURE = 0.9
"""Probability that the batch fits from which on preemptions contradict the estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """One metric: how it is asked for, and between what it is predicted."""

    record: str
    """Name of the recording rule."""
    title: str
    unit: str
    """Grafana's."""
    query: str
    value: float
    low: float
    high: float
    limit: float | None = None
    """What was asked to be kept, on the mean."""


def alert_rules(estimate: Estimate, slo: Slo) -> str:
    """Write a rule file: means recorded, and alerts where they are worse than predicted or miss a limit."""
    from catalog.engines.launch.formats import as_yaml

    metrics = prometheus_metrics(estimate.deployment.engine)
    rules: list[dict[str, Any]] = []
    expected = tuple(_expected(estimate, slo, metrics))
    names = {metrics.label: model_argument(estimate.model)}
    rules += [{"record": each.record, "expr": each.query, "labels": names} for each in expected]
    rules += [rule for each in expected for rule in _judged(each, estimate, metrics)]
    rules += _load(estimate, metrics)
    body = {"groups": [{"name": f"advisor-{label(estimate.model)}", "interval": "1m", "rules": rules}]}
    return as_yaml([body], [*_comments(estimate, metrics), "add this file to rule_files of prometheus.yml"])


def dashboard(estimate: Estimate, slo: Slo) -> str:
    """Write a dashboard: a panel for each metric, with what was predicted and what was asked for as lines."""
    import json  # only for this format

    metrics = prometheus_metrics(estimate.deployment.engine)
    panels = [_panel(i, each) for i, each in enumerate(_expected(estimate, slo, metrics))]
    if metrics.running and metrics.waiting:
        panels.append(_requests(len(panels), estimate, metrics))
    body = {
        "title": f"{model_argument(estimate.model)}: predicted and measured",
        "uid": f"advisor-{label(estimate.model)}"[:40],
        "description": ". ".join(_comments(estimate, metrics)),
        "tags": ["advisor", "llm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }
    return json.dumps(body, indent=2) + "\n"


def _comments(estimate: Estimate, metrics: EngineMetrics) -> list[str]:
    deployment = estimate.deployment
    lines = [
        (
            f"{model_argument(estimate.model)} on {estimate.cluster}: {deployment.layout}, {engine_name(deployment)}, "
            f"up to {estimate.running} requests in the batch of each replica, "
            f"{estimate.input_len} tokens in and {estimate.output_len} out; {estimate.provenance}, 90% intervals"
        )
    ]
    if metrics.enabled_by:
        lines.append(f"the engine has these metrics with {metrics.enabled_by}")
    if metrics.path != "/metrics":
        lines.append(f"scrape them from {metrics.path}")
    return lines


def _expected(estimate: Estimate, slo: Slo, metrics: EngineMetrics) -> Iterator[Expected]:
    """Yield what can be held against the engine's own metrics."""
    of = _selector(estimate, metrics)
    on_mean = slo.percentile is None
    times = (
        ("ttft_ms", metrics.ttft, f"advisor:time_to_first_token_seconds:mean{WINDOW}", "Mean time to first token"),
        ("tpot_ms", metrics.tpot, f"advisor:time_per_output_token_seconds:mean{WINDOW}", "Mean time per output token"),
    )
    for name, metric, record, title in times:
        value, (low, high), limit = getattr(estimate, name), estimate.interval(name), slo.limits.get(name)
        query = f"sum(rate({metric}_sum{of}[{WINDOW}])) / sum(rate({metric}_count{of}[{WINDOW}]))"
        yield Expected(
            record=record,
            title=title,
            unit="s",
            query=query,
            value=value / 1e3,
            low=low / 1e3,
            high=high / 1e3,
            limit=limit / 1e3 if limit is not None and on_mean else None,
        )
    if metrics.kv_cache:
        fewest, most = estimate.kv_capacity_ends
        whole = estimate.running * (estimate.input_len + estimate.output_len)
        held = estimate.running * (estimate.input_len + estimate.output_len / 2)
        yield Expected(
            record=f"advisor:kv_cache_usage:mean{WINDOW}",
            title="Mean use of the KV cache",
            unit="percentunit",
            query=f"avg(avg_over_time({metrics.kv_cache}{of}[{WINDOW}]))",
            value=min(held / estimate.kv_capacity_tokens, 1.0),
            low=min(held / most, 1.0),
            high=min(whole / fewest, MOST_OF_CACHE),
        )
    if metrics.generated:
        low, high = estimate.interval("output_tok_s")
        yield Expected(
            record=f"advisor:output_tokens:rate{WINDOW}",
            title="Output tokens a second, at full load",
            unit="short",
            query=f"sum(rate({metrics.generated}{of}[{WINDOW}]))",
            value=estimate.output_tok_s or 0.0,
            low=low,
            high=high,
        )


def _selector(estimate: Estimate, metrics: EngineMetrics) -> str:
    name = model_argument(estimate.model).replace("\\", "\\\\").replace('"', '\\"')
    return f'{{{metrics.label}="{name}"}}'


def _within(estimate: Estimate, metrics: EngineMetrics) -> str:
    """Return the condition that no more requests are in a batch than the estimate is for; empty where that cannot be asked."""
    if not metrics.running:
        return ""
    running = f"avg(avg_over_time({metrics.running}{_selector(estimate, metrics)}[{WINDOW}]))"
    return f" and on() {running} <= {estimate.running}"


def _judged(each: Expected, estimate: Estimate, metrics: EngineMetrics) -> Iterator[dict[str, Any]]:
    """Yield the alerts of one metric; more tokens than predicted, or fewer below full load, are none."""
    name = "".join(word.capitalize() for word in each.record.split(":")[1].removesuffix("_seconds").split("_"))
    recorded = f"{each.record}{_selector(estimate, metrics)}"
    if each.unit == "short":
        return
    predicted = (
        f"{_written(each.value, each.unit)} ({_written(each.low, each.unit)} to {_written(each.high, each.unit)})"
    )
    yield {
        "alert": f"{name}AbovePrediction",
        "expr": f"{recorded} > {each.high:.3g}{_within(estimate, metrics)}",
        "for": PATIENCE,
        "labels": {"severity": "warning"},
        "annotations": {
            "summary": f"{each.title} is above the prediction of {predicted}",
            "description": "Measure it (advisor probe --endpoint URL) and ask again: answers then use the runs.",
        },
    }
    if each.limit is not None:
        yield {
            "alert": f"{name}LimitMissed",
            "expr": f"{recorded} > {each.limit:.3g}",
            "for": PATIENCE,
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": f"{each.title} is above its limit of {_written(each.limit, each.unit)}",
                "description": "advisor plan says how many GPUs would keep it at the rate that comes.",
            },
        }


def _load(estimate: Estimate, metrics: EngineMetrics) -> Iterator[dict[str, Any]]:
    """Yield alerts on what the estimate assumes: the load, and a cache that holds the batch."""
    of = _selector(estimate, metrics)
    if metrics.running and metrics.waiting:
        both = f"avg({metrics.running}{of}) + avg({metrics.waiting}{of})"
        yield {
            "alert": "MoreRequestsThanPredicted",
            "expr": f"{both} > {estimate.running}",
            "for": PATIENCE,
            "labels": {"severity": "warning"},
            "annotations": {
                "summary": f"More than {estimate.running} requests a replica, more than the prediction is for",
                "description": "advisor plan says how many replicas this load needs.",
            },
        }
    if metrics.preempted and estimate.batch_fits_probability >= SURE:
        yield {
            "alert": "PreemptionsNotPredicted",
            "expr": f"sum(rate({metrics.preempted}{of}[{WINDOW}])) > 0{_within(estimate, metrics)}",
            "for": PATIENCE,
            "labels": {"severity": "warning"},
            "annotations": {
                "summary": f"Requests are preempted, though the KV cache was to hold {estimate.running} of them",
                "description": "Requests are longer than those asked about, or the cache is smaller than predicted.",
            },
        }


def _written(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    return f"{value * 1e3:.3g} ms" if value < 1.0 else f"{value:.3g} s"


DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def _panel(index: int, each: Expected) -> dict[str, Any]:
    lines = [("measured", each.query), ("predicted", f"vector({each.value:.3g})")]
    lines += [("lower end", f"vector({each.low:.3g})"), ("upper end", f"vector({each.high:.3g})")]
    lines += [("limit", f"vector({each.limit:.3g})")] if each.limit is not None else []
    return _time_series(index, each.title, each.unit, lines)


def _requests(index: int, estimate: Estimate, metrics: EngineMetrics) -> dict[str, Any]:
    of = _selector(estimate, metrics)
    lines = [
        ("in the batch", f"avg({metrics.running}{of})"),
        ("waiting", f"avg({metrics.waiting}{of})"),
        ("predicted for", f"vector({estimate.running})"),
    ]
    return _time_series(index, "Requests of a replica", "short", lines)


def _time_series(index: int, title: str, unit: str, lines: list[tuple[str, str]]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
        for i, (legend, query) in enumerate(lines)
    ]
    dashed = [
        {
            "matcher": {"id": "byName", "options": legend},
            "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 8]}}],
        }
        for legend, query in lines
        if query.startswith("vector(")
    ]
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": DATASOURCE,
        "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": dashed},
    }
