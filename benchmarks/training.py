"""How long the search for a training layout takes: ``python -m benchmarks.training``.

CPU seconds of one core for every layout of a model on many GPUs, over those of one layout's answer.
"""

from __future__ import annotations

import time

import advisor

QUESTIONS = (
    ("gpt-3-175b", "1024xA100", 1536),
    ("mixtral-8x7b", "1024xH100", 1024),
    ("llama-3.1-405b", "16384xH100", 2048),
)
"""Models, GPUs and batches."""


def main() -> None:
    """Search each once warm, and print what it takes."""
    advisor.estimate_training("llama-3-8b", "8xH100", batch=8)  # what is read once
    for model, gpus, batch in QUESTIONS:
        began = time.process_time()
        answer = advisor.recommend_training(model, gpus, batch=batch)
        searched = time.process_time() - began
        best = answer.candidates[0].layout
        began = time.process_time()
        advisor.estimate_training(
            model, gpus, batch=batch, tp=best.tp, pp=best.pp, cp=best.cp, ep=best.ep, micro_batch=best.micro_batch
        )
        one = time.process_time() - began
        print(
            f"{model} on {gpus}: {answer.evaluated} layouts in {searched:.2f} s of CPU time, {searched / one:.1f} x that of one"
        )


if __name__ == "__main__":
    main()
