"""Words that messages and tables share: counts of things, short names of models, and what limits are on."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Write a count and its noun, in the plural where it is one: "1 run", "3 runs"."""
    return f"{number} {thing}" + "s" * (number != 1)


def latency_label(metric: str) -> str:
    """Return how a message writes a latency: "TTFT" of "ttft_ms"."""
    return metric.removesuffix("_ms").upper()


def short_name(model: str) -> str:
    """Return a model's name without the organisation, or without the folders of a path to its ``config.json``."""
    return model.removesuffix("/config.json").rsplit("/", maxsplit=1)[-1] or model


def parallelism(tp: int, pp: int, ep: int = 1, dcp: int = 1) -> str:
    """Write tensor, pipeline and, where there are any, expert and decode context parallel degrees: "TP4 PP2", "TP8 PP1 DCP8"."""
    return f"TP{tp} PP{pp}{f' EP{ep}' if ep > 1 else ''}{f' DCP{dcp}' if dcp > 1 else ''}"


def statistic_name(percentile: float | None) -> str:
    """Write what a limit is on: "p95", or "mean" where ``percentile`` is None."""
    return "mean" if percentile is None else f"p{percentile:g}"
