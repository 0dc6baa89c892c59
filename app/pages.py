"""The pages of the app: what each is called, what it answers in one sentence, and the words that it takes to read it."""

from __future__ import annotations

from dataclasses import dataclass

from advisor.render.vocabulary import E2E, ITL, PROVENANCE, TPOT, TRAINING_PROVENANCE, TTFT

SERVING = (TTFT, TPOT, E2E, "tok/s", "TP", "PP", "replica", "batch", "KV cache", "weights", "context", "90% interval")
ANSWERS = ("$ per GPU-hour", "GiB", *PROVENANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class AppPage:
    """One page."""

    module: str
    """Of ``app``; its ``show`` draws the page."""
    title: str
    path: str
    """In the address; empty for the page that is shown where the address names none."""
    does: str
    terms: tuple[str, ...]
    trains: bool = False
    """Its answers stand on the evidence of training."""


PAGES = (
    AppPage(
        module="recommendation",
        title="Recommend",
        path="",
        does="How to run one model on the GPUs you have or may rent: layout, batch, speed, cost, and the command.",
        terms=(*SERVING, *ANSWERS),
    ),
    AppPage(
        module="comparison",
        title="Compare",
        path="which",
        does="Models, GPUs and weight formats side by side, one row each: what fits, how fast it is and what it costs.",
        terms=(*SERVING, *ANSWERS),
    ),
    AppPage(
        module="exploration",
        title="Explore",
        path="explore",
        does="How one deployment, or two beside each other, change with batch, lengths, parallelism and hardware.",
        terms=(*SERVING, *ANSWERS),
    ),
    AppPage(
        module="capacity",
        title="Capacity",
        path="plan",
        does="How many GPUs of which kind carry your traffic within your limits, for the least money.",
        terms=(*SERVING[:3], ITL, "p95", "load", "spare", "headroom", *SERVING[3:], *ANSWERS),
    ),
    AppPage(
        module="fleet",
        title="Fleet",
        path="fleet",
        does="Several models on several kinds of GPUs: which runs where, hour by hour, for the least money.",
        terms=("pool", *SERVING[:3], "p95", "spare", "headroom", "TP", "PP", "replica", *ANSWERS),
    ),
    AppPage(
        module="training_layouts",
        title="Training",
        path="train",
        does="Memory, step time, days and cost of training or fine-tuning a model, and the fastest layout that fits.",
        terms=(
            "step",
            "tok/s",
            "MFU",
            "LoRA",
            "TP",
            "PP",
            "batch",
            "90% interval",
            "GiB",
            "$ per GPU-hour",
            *TRAINING_PROVENANCE,
        ),
        trains=True,
    ),
    AppPage(
        module="technology",
        title="Technology",
        path="technology",
        does="What GPUs made of other logic, memory and links would do for a model, and where the bottleneck moves.",
        terms=(TPOT, "step", "TFLOP/s", "GiB", "TP", "PP", "batch", "90% interval"),
    ),
    AppPage(
        module="gpu_prices",
        title="GPUs and prices",
        path="catalog",
        does="What is known of every GPU, what it costs to rent and where, and what one of your own costs.",
        terms=("GiB", "TFLOP/s", "$ per GPU-hour"),
    ),
    AppPage(
        module="evidence",
        title="Evidence",
        path="runs",
        does="The measured runs behind the answers, how well predictions meet them, your own benchmarks, and what to measure next.",
        terms=("run", *SERVING[:3], ITL, "TP", "PP", "batch", "90% interval", *PROVENANCE),
    ),
)
"""In the order of the menu."""
