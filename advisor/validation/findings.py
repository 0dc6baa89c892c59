"""Findings of the four works behind the project, restated: ``python -m advisor.validation.findings docs/works.md``.

Each is set beside what our model or our runs say, with whether they agree, and why not where they do not.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from advisor.calibration.surrogate import shipped_surrogate
from advisor.prediction.batch_curve import curve
from advisor.prediction.estimation import estimate
from advisor.technology.exploration import explore
from advisor.training.fitting import left_out, pretraining
from advisor.validation.cpu import LARGE_GPUS, LARGE_MODEL, LARGE_MS
from advisor.validation.published_claims import WIDEST, layer_split_claims, small_gpu_claims
from advisor.validation.training import comparisons, memory_errors
from catalog.errors import InputError
from catalog.training import training_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VERDICTS = {True: "agrees", False: "differs", None: "not answered"}
LEAST_ERROR = 1e-3
"""An error below this counts as this in a geometric mean, which a single hit would make 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a work found, beside ours."""

    work: str
    theirs: str
    ours: str
    agrees: bool | None
    """None: what we say of it is too uncertain to tell."""
    why: str = ""
    """Why it differs, or what it stands on."""


WORKS = {
    "Shin et al. 2024": "Inference time, accuracy, communication and memory by batch (KICS 49(10))",
    "Arizona State University": "Model parallel against tensor parallel in plain PyTorch on up to four A100",
    "Kundu et al. 2024": "Performance modelling of distributed training and inference (arXiv 2407.14645), and works beside it",
    "run.ai 2024": "Throughput and latency of multi-GPU serving on four V100",
}


def by_batch() -> Iterator[Finding]:
    """Restate what batches do to communication, efficiency and memory."""
    batches = [2**power for power in range(12)]
    swept = curve("llama-2-7b", "2xA100", tp=2, batches=batches, input_len=512, output_len=128)
    sent = swept.causes["communication"]
    yield Finding(
        work="Shin et al. 2024",
        theirs="larger batches raise communication",
        ours=f"Llama-2-7B, TP2 on A100: {sent[0]:.0f} ms a request at batch 1, {sent[7]:.0f} at batch 128",
        agrees=bool(sent[7] > sent[0]),
    )
    speed = swept.metrics["output_tok_s"]
    gains = speed[1:] / speed[:-1]
    held = [gain for gain, batch in zip(gains, batches[1:], strict=True) if batch <= swept.full_batch]
    yield Finding(
        work="Shin et al. 2024",
        theirs="and can become inefficient",
        ours=f"doubling the batch brings {held[0]:.2f} x the throughput at first and {held[-1]:.2f} x at batch {2 ** len(held)}",
        agrees=held[-1] < held[0],
    )
    yield Finding(
        work="Shin et al. 2024",
        theirs="memory grows until a threshold where out-of-memory begins",
        ours=f"the cache is full above batch {swept.full_batch} a replica",
        agrees=0 < swept.full_batch < math.inf,
        why="today's engines let requests wait there; plain PyTorch ends with out-of-memory",
    )


def claims() -> Iterator[Finding]:
    """Restate the tables of layer split and of small GPUs, as ``published_claims`` checks them."""
    surrogate = shipped_surrogate()
    for work, checked in (
        ("Arizona State University", layer_split_claims(surrogate)),
        ("run.ai 2024", small_gpu_claims(surrogate)),
    ):
        for claim in checked:
            unknown = claim.holds is None
            why = (
                f"no run of this engine on this GPU, and intervals wider than a factor of {WIDEST:g}" if unknown else ""
            )
            yield Finding(work=work, theirs=claim.text, ours=claim.detail, agrees=claim.holds, why=why)


def training() -> Iterator[Finding]:
    """Restate memory and time of training."""
    work = "Kundu et al. 2024"
    off = [
        abs(comparison.difference)
        for comparison in memory_errors()
        if comparison.figure.quantity == "activations_percent"
    ]
    yield Finding(
        work=work,
        theirs="training memory under no, selective and full recomputation, validated on published figures",
        ours=f"{len(off)} figures of Korthikanti et al. within {max(off):.2f} percentage points",
        agrees=max(off) < 0.5,
    )
    judged = left_out(pretraining(training_runs()))
    errors = [abs(judged_run.error) for judged_run in judged]
    geometric = math.exp(float(np.mean(np.log(np.maximum(errors, LEAST_ERROR)))))
    yield Finding(
        work=work,
        theirs="multi-GPU training predicted to 3.00% (Transformer) and 5.21% (DLRM), geometric mean (Lin et al.)",
        ours=f"{len(errors)} step times of four publications, each left out: {geometric:.2%}",
        agrees=geometric <= 0.03,
        why="theirs are kernels measured on the machine itself; ours are published totals on machines never seen",
    )
    right = comparisons(judged)
    yield Finding(
        work=work,
        theirs="the faster sharding chosen in 85% of cases (Lin et al.)",
        ours=f"the better of two configurations of one model in {np.mean(right):.0%} of {len(right)}",
        agrees=float(np.mean(right)) >= 0.85,
    )


def technology() -> Iterator[Finding]:
    """Restate boundness, memory generations, the newer GPU and the CPU."""
    work = "Kundu et al. 2024"
    products = estimate("llama-2-13b", "1xA100", batch=1, input_len=1024, output_len=128).products
    decode = {product["bound"] for product in products if product["phase"] == "decode"}
    prompt = {product["bound"] for product in products if product["phase"] == "prefill"}
    yield Finding(
        work=work,
        theirs="matrix products of inference are memory-bound in decode and compute-bound in prompts",
        ours=f"Llama-2-13B on A100: decode {', '.join(sorted(decode))}; a prompt of 1,024 {', '.join(sorted(prompt))}",
        agrees=decode == {"memory"} and "compute" in prompt,
        why="the head of a prompt works on its last token alone" if len(prompt) > 1 else "",
    )
    swept = explore("llama-2-13b", "1xA100", sweep="bandwidth", factors=[1, 2, 4, 8, 16, 32])
    turn = "" if swept.turn is None else f", and turns at {swept.turn:,.0f} GB/s"
    times = [point.ms for point in swept.points if point.ms is not None]
    yield Finding(
        work=work,
        theirs="latency falls with DRAM bandwidth until something else bounds it",
        ours=f"{times[0]:.1f} ms a token at 2 TB/s, {times[-1]:.1f} at 65{turn}; then bound by {swept.points[-1].bottleneck}",
        agrees=times[-1] < times[0] and swept.points[-1].bottleneck != "memory",
    )
    apart = explore("gpt-3-175b", "1024xA100", task="training", batch=1024, to="B200")
    factors = ", ".join(f"{name} {value:.2f}" for name, value in apart.factors.items())
    assert apart.speedup is not None
    yield Finding(
        work=work,
        theirs="A100 to B200: about 35 x",
        ours=f"{apart.speedup:.1f} x a GPU on 1,024 GPUs ({factors})",
        agrees=abs(apart.speedup / 35.0 - 1.0) < 0.25,
        why="the peaks alone are 28.8 x apart (dense FP4 against 16 bits); theirs compares clusters, whose sizes the abstract does not state",
    )
    large = estimate(LARGE_MODEL, LARGE_GPUS, tp=4, batch=1, input_len=1024, output_len=128)
    low, high = large.interval("tpot_ms")
    yield Finding(
        work=work,
        theirs=f"a 72B model at {LARGE_MS:g} ms a token on fifth-generation Xeon (He et al.)",
        ours=f"{large.tpot_ms:.0f} ({low:.0f}-{high:.0f}) ms on {LARGE_GPUS}",
        agrees=low <= LARGE_MS <= high,
        why="the number of sockets is not stated; on fewer than four the weights alone take longer",
    )


def findings() -> list[Finding]:
    """Return every finding, work by work."""
    everything = [*by_batch(), *claims(), *training(), *technology()]
    return sorted(everything, key=lambda each: list(WORKS).index(each.work))


def page(everything: Sequence[Finding]) -> str:
    """Write them as a Markdown page."""
    lines = [
        "# The four works behind the project",
        "",
        "Each finding beside what our model or runs say. This page is written by `python -m advisor.validation.findings docs/works.md`.",
    ]
    for work, title in WORKS.items():
        lines += ["", f"## {work}: {title}", "", "| theirs | ours | | why |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {each.theirs} | {each.ours} | {VERDICTS[each.agrees]} | {each.why} |".replace("|  |", "| |")
            for each in everything
            if each.work == work
        ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page into a file, or print it."""
    parser = argparse.ArgumentParser(
        prog="python -m advisor.validation.findings", description="The four works, restated."
    )
    parser.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="where to write the page; else it is printed"
    )
    args = parser.parse_args(argv)
    try:
        text = page(findings())
        if args.file is None:
            print(text, end="")
        else:
            args.file.write_text(text, encoding="utf-8")
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
