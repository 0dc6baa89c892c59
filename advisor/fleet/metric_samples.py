"""Samples of an engine's Prometheus metrics: from its own page, from a Prometheus server, or from a file of either page."""

from __future__ import annotations

import http.client
import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.errors import InputError
from probes.endpoint import plain_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from catalog.engines import EngineMetrics

LARGEST = 64 * 2**20
"""Bytes of a page."""
ANSWER_S = 15.0
"""Seconds that a server has to answer."""
PAGE = "/metrics"
"""What addresses of engines' own pages end with, TensorRT-LLM's ``/prometheus/metrics`` among them."""
STARTED = "process_start_time_seconds"
"""Gauge of prometheus_client: when an engine's process began, and its counters with it."""

Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]
"""Values by name and labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """What was counted up to a moment."""

    at_s: float
    """Since 1970."""
    samples: Samples

    def named(self, name: str) -> Mapping[tuple[tuple[str, str], ...], float]:
        return self.samples.get(name, {})


def read_page(text: str, at_s: float) -> Scrape:
    """Read what an engine shows under ``/metrics``.

    Raises:
        InputError: it is no such page, or prometheus_client is not installed.

    """
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise InputError("metrics are read with prometheus_client; install advisor with the extra [observe]") from None
    samples: Samples = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = float(sample.value)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"these are no Prometheus metrics: {' '.join(str(error).split()):.120}") from None
    return Scrape(at_s=at_s, samples=samples)


def read_scrape(source: str, metrics: EngineMetrics, at_s: float | None = None) -> Scrape:
    """Read a file, an engine's page (an address that ends with its path), or what a Prometheus server held at a time (None: now).

    Raises:
        InputError: nobody answers there, or with something else.

    """
    if not is_address(source):
        path = Path(source)
        try:
            if path.stat().st_size > LARGEST:
                raise InputError(
                    f"{path} is larger than {LARGEST // 2**20} MiB; metrics of an engine are some hundred kB"
                )
            return read_page(path.read_text(encoding="utf-8"), path.stat().st_mtime)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    url = plain_url(source, "--prometheus")
    if url.endswith(PAGE):
        return read_page(_fetched(url).decode("utf-8", "replace"), time.time())
    return _queried(url, metrics, time.time() if at_s is None else at_s)


def is_address(source: str) -> bool:
    """Return whether a source is an address, not a file."""
    return bool(re.match(r"https?://", source.strip(), re.IGNORECASE))


def is_server(source: str) -> bool:
    """Return whether a source is a Prometheus server, which knows the past."""
    return is_address(source) and not source.strip().rstrip("/").endswith(PAGE)


def _queried(url: str, metrics: EngineMetrics, at_s: float) -> Scrape:
    pattern = "|".join(re.escape(name).replace("\\", "\\\\") for name in metrics.names)
    query = f'{{__name__=~"({pattern})(_bucket|_sum|_count)?"}}'
    parameters = urllib.parse.urlencode({"query": query, "time": f"{at_s:.3f}"})
    page = _fetched(f"{url}/api/v1/query?{parameters}")
    try:
        body: Any = json.loads(page)
        rows = body["data"]["result"]
        samples: Samples = {}
        for row in rows:
            labels = dict(row["metric"])
            samples.setdefault(labels.pop("__name__"), {})[tuple(sorted(labels.items()))] = float(row["value"][1])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise InputError(
            f"{url} does not answer like Prometheus; give its address, or an engine's with {metrics.path}"
        ) from None
    return Scrape(at_s=at_s, samples=samples)


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:  # noqa: S310  http(s) only, see plain_url
            body: bytes = answer.read(LARGEST)
    except urllib.error.HTTPError as error:
        with error:
            raise InputError(f"{url.partition('?')[0]} answers HTTP {error.code}; has it metrics?") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "reason", None) or error
        raise InputError(f"nobody answers at {url.partition('?')[0]} ({why}); is it up?") from None
    return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What was counted between two moments, over all replicas."""

    begin: Scrape | None
    """None: since the engines started."""
    end: Scrape
    label: str
    """With the model's name,"""
    model: str
    """which is counted alone; empty: all."""

    def increase(self, name: str) -> float:
        """Return by how much a counter grew; one that began anew counts from 0, as in PromQL."""
        return sum(value for _, value in self._grown(name))

    def mean(self, histogram: str) -> float:
        """Return the mean of a histogram; NaN where nothing was counted."""
        count = self.increase(f"{histogram}_count")
        return self.increase(f"{histogram}_sum") / count if count else math.nan

    def percentile(self, histogram: str, percentile: float) -> float:
        """Return a percentile as PromQL's ``histogram_quantile`` has it: straight lines within buckets; NaN where nothing was counted."""
        by_end: dict[float, float] = {}
        for labels, value in self._grown(f"{histogram}_bucket"):
            end = float(dict(labels)["le"])
            by_end[end] = by_end.get(end, 0.0) + value
        ends = sorted(by_end)
        if not ends or not by_end[ends[-1]]:
            return math.nan
        rank, low, under = percentile / 100.0 * by_end[ends[-1]], 0.0, 0.0
        for end in ends:
            if by_end[end] >= rank:
                if math.isinf(end):
                    return low
                within = by_end[end] - under
                return low + (end - low) * ((rank - under) / within if within else 1.0)
            low, under = end, by_end[end]
        return low

    def gauge(self, name: str) -> float:
        """Return the mean over the replicas; NaN where there is none."""
        values = [value for labels, value in self.end.named(name).items() if self._own(labels)]
        return sum(values) / len(values) if values else math.nan

    @property
    def seconds(self) -> float:
        """Return how long was counted; NaN where nothing says since when."""
        if self.begin is not None:
            return self.end.at_s - self.begin.at_s
        started = self.end.named(STARTED).values()
        return self.end.at_s - min(started) if started else math.nan

    def _grown(self, name: str) -> Iterator[tuple[tuple[tuple[str, str], ...], float]]:
        before = self.begin.named(name) if self.begin is not None else {}
        for labels, value in self.end.named(name).items():
            if self._own(labels):
                earlier = before.get(labels, 0.0)
                yield labels, value - earlier if value >= earlier else value

    def _own(self, labels: tuple[tuple[str, str], ...]) -> bool:
        return not self.model or dict(labels).get(self.label, self.model) == self.model
