"""Calibrate on the CPU at hand and predict a model that was not measured: ``python -m benchmarks.own_cpu``.

What the CPU can do at best is timed first (a sum over memory, and a large product), as its line of the catalog. Then the plain
PyTorch engine runs two small models with random weights over some batches, ``advisor`` fits them, and a third model is predicted and
run: another size, other batches and lengths. One thread computes and its CPU time counts, so that what else runs counts little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import advisor
from catalog.models.find import find_model
from catalog.runs import append_runs, read_runs
from catalog.schema import Deployment, Measurement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from catalog.schema import Model

CPU = "This-CPU"
SIZES: dict[str, dict[str, int]] = {
    "calibration-106m": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 8,
        "num_attention_heads": 12,
    },
    "calibration-320m": {
        "hidden_size": 1280,
        "intermediate_size": 3456,
        "num_hidden_layers": 12,
        "num_attention_heads": 20,
    },
    "judged-168m": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8, "num_attention_heads": 16},
}
"""Llamas of these sizes, a vocabulary of 32,000 each; the last one is judged."""
SHAPES = {"calibration": [(1, 64), (1, 192), (4, 64)], "judged": [(1, 128), (2, 96), (3, 64)]}
"""Batches and prompts' lengths."""
ENGINE: dict[str, Any] = {"dtype": "bfloat16", "max_model_len": 512, "max_num_seqs": 16, "compiled": False}
METRICS = {"prefill_ms": "prefill", "tpot_ms": "TPOT", "e2e_ms": "E2E"}
OUTPUT_LEN = 10
REPEATS = 5


def best_of(work: Any, repeats: int = 7) -> float:
    """Return the shortest of some seconds."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def catalog_line() -> str:
    """Time this CPU, and write it as a table of ``gpus.toml``."""
    import torch

    torch.set_num_threads(1)
    numbers = torch.ones(2**26, dtype=torch.bfloat16)
    left, right = torch.ones(2048, 4096, dtype=torch.bfloat16), torch.ones(4096, 4096, dtype=torch.bfloat16)
    gbps = numbers.nbytes / best_of(lambda: torch.mv(numbers.view(2**13, 2**13), numbers[: 2**13])) / 1e9
    tflops = 2 * 2048 * 4096 * 4096 / best_of(lambda: torch.mm(left, right)) / 1e12
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(f"{CPU}: {gbps:.1f} GB/s, {tflops:.2f} TFLOP/s in bfloat16, {torch.get_num_threads()} threads")
    # a peak is what nothing exceeds: timed ones get some room
    return (
        f'["{CPU}"]\nvendor = "cpu"\nmemory_gib = {gib:.1f}\nmemory_bandwidth_gbps = {1.15 * gbps:.1f}\n'
        f'fp16_tflops = {1.15 * tflops:.3f}\ncompute_capability = "amx"\nsource = "timed here"\n'
    )


def model_of(name: str) -> Model:
    """Return a Llama of one of the sizes, whose ``config.json`` stays in ``$ADVISOR_HOME``."""
    heads = SIZES[name]["num_attention_heads"]
    config = {"model_type": "llama", "vocab_size": 32_000, "max_position_embeddings": 2048, "torch_dtype": "bfloat16"}
    config |= {"num_key_value_heads": heads, "tie_word_embeddings": False, **SIZES[name]}
    path = Path(os.environ["ADVISOR_HOME"]) / name / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config), encoding="utf-8")
    return find_model(str(path)).value


def measured(name: str) -> Iterator[Measurement]:
    """Run one model over its batches."""
    from probes.torch_engine.engine import TorchEngine

    model = model_of(name)
    engine = TorchEngine(model, Deployment(engine="torch", **ENGINE))
    for batch, input_len in SHAPES[name.partition("-")[0]]:
        prompts = np.random.default_rng(0).integers(0, 32_000, (batch, input_len)).tolist()
        engine.prepare(batch, input_len)
        engine.generate(prompts, 2)
        turns = []
        for _ in range(REPEATS):
            began = time.process_time()
            engine.generate(prompts, 1)
            middle = time.process_time()
            engine.generate(prompts, OUTPUT_LEN)
            turns.append((middle - began, time.process_time() - middle))
        prefill, whole = (1e3 * min(turn[part] for turn in turns) for part in (0, 1))  # others only add to it
        yield Measurement(
            run_id=f"{name}-b{batch}-i{input_len}",
            role="fit",
            source="timed here",
            gpu=CPU,
            gpus=1,
            engine="torch",
            engine_version=engine.version,
            model=model.name,
            batch=batch,
            input_len=input_len,
            output_len=OUTPUT_LEN,
            prefill_ms=prefill,
            tpot_ms=(whole - prefill) / (OUTPUT_LEN - 1),
            e2e_ms=whole,
            **ENGINE,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Time, fit, predict and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_cpu", description="Predict a model on this CPU.")
    parser.add_argument("--home", metavar="DIR", help="keep the runs there, and use those that are there")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["ADVISOR_HOME"] = home = args.home or temporary
        Path(home).mkdir(exist_ok=True)
        kept = Path(home) / "own.jsonl"
        if not kept.exists():
            (Path(home) / "gpus.toml").write_text(catalog_line(), encoding="utf-8")
            append_runs(kept, [run for name in SIZES for run in measured(name)])
        judge(read_runs(kept))
    return 0


def judge(runs: Sequence[Measurement]) -> None:
    """Fit the runs of calibration, and set all of them beside their predictions."""
    known = [run for run in runs if run.run_id.startswith("calibration")]
    errors: dict[str, list[float]] = {field: [] for field in METRICS}
    for run in runs:
        question = {"batch": run.batch, "input_len": run.input_len, "output_len": run.output_len, **ENGINE}
        predicted = advisor.estimate(run.model, f"1x{CPU}", engine="torch", runs=known, **question)
        said = f"{run.run_id}:"
        for field, name in METRICS.items():
            ours, theirs = getattr(predicted, field), getattr(run, field)
            said += f" {name} {ours:.1f} ms for {theirs:.1f} ({ours / theirs - 1.0:+.1%})"
            if run not in known:
                errors[field].append(abs(ours / theirs - 1.0))
        print(said)
    means = ", ".join(f"{METRICS[field]} {np.mean(off):.1%}" for field, off in errors.items())
    print(f"not calibrated on, in the mean: {means}")


if __name__ == "__main__":
    sys.exit(main())
