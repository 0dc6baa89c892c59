"""Questions whose answers are recorded: command lines, and calls of the public API that no command makes.

``NUMBERS`` are answered as JSON and compared number by number; ``TEXTS`` are answered as a person sees them. Inner modules
are never named here, so that the code may be rebuilt without a change to the questions.
"""

from __future__ import annotations

import itertools
from pathlib import Path

FILES = Path(__file__).parents[1] / "catalog" / "benchmarks"
MODELS = (
    "llama-2-7b",
    "llama-13b",
    "llama-3.1-8b",
    "llama-3.1-70b",
    "qwen2.5-0.5b",
    "qwen3-32b",
    "mixtral-8x7b",
    "qwen3-30b-a3b",
    "deepseek-v2-lite",
    "deepseek-v3",
    "gemma-3-27b-it",
    "gemma-2-9b",
    "gpt-oss-20b",
    "gpt-oss-120b",
    "opt-13b",
    "falcon-40b",
    "bloom",
    "phi-4",
    "llama-4-scout-17b-16e-instruct",
    "mistral-7b-v0.1",
    "gpt-neox-20b",
    "minimax-m2.5",
    "glm-5",
    "kimi-k2-instruct",
)
GPUS = (
    "1xH200",
    "2xH100",
    "4xA100",
    "8xH200",
    "2xL40S",
    "4xV100-SXM2-32GB",
    "1xRTX4090",
    "8xB200",
    "4xMI300X",
    "2x8xH100",
)
ENGINES = ("vllm", "sglang", "tensorrt-llm", "lmdeploy", "torch")


def _estimates() -> list[str]:
    rows = []
    lengths = itertools.cycle(((128, 128), (1024, 256), (2048, 64), (512, 1)))
    batches = itertools.cycle((1, 8, 32, 200, 3))
    for model, gpus in itertools.product(MODELS, ("2xH100", "4xH200", "8xH200")):
        tp = {"2": 2, "4": 1, "8": 8}[gpus[0]]
        rows.append((model, gpus, f"--tp {tp}"))
    rows += [("llama-3.1-8b", gpus, "") for gpus in GPUS]
    for engine in ENGINES:
        rows += [
            ("llama-2-7b", "4xH200", f"--tp 2 --engine {engine}"),
            ("llama-13b", "4xA100", f"--pp 4 --engine {engine}"),
        ]
        rows += [
            ("mixtral-8x7b", "4xH200", f"--tp 4 --engine {engine}"),
            ("llama-3.1-8b", "2xH200", f"--dp 2 --engine {engine}"),
        ]
    rows += [("qwen3-30b-a3b", "4xH200", f"--tp 4 --ep {ep}") for ep in (1, 2, 4)]
    rows += [
        ("llama-3.1-8b", "1xH200", f"--dtype {dtype}") for dtype in ("float16", "fp8", "int8", "int4", "nvfp4", "mxfp4")
    ]
    rows += [("llama-3.1-70b", "4xH200", f"--tp 4 --kv-dtype {dtype}") for dtype in ("fp8", "auto", "bfloat16")]
    rows += [
        ("llama-3.1-8b", "4xH200", f"--tp {tp} --pp {pp}")
        for tp, pp in ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (2, 2))
    ]
    rows += [
        ("llama-13b", "1xH200", "--max-num-batched-tokens 2048 --max-num-seqs 16"),
        ("llama-13b", "1xH200", "--max-model-len 4096 --gpu-memory-utilization 0.5"),
        ("llama-13b", "1xRTX3090", "--offload 0.5 --engine torch"),
        ("llama-13b", "2xA100-PCIE-80GB", "--tp 2"),
        ("llama-3.1-405b", "8xH200", "--tp 8 --dtype fp8"),
        ("llama-3.1-405b", "1xH100", ""),
        ("llama-2-7b", "1xH200", "--wide --products"),
        ("llama-2-7b", "1xH200", "--set-gpu memory_bandwidth_gbps=6000"),
        ("llama-2-7b", "1xH200", "--price 2.5"),
    ]
    made = [
        f"estimate --model {model} --gpus 2xH200 --tp 2 --batch {batch} --input-len 900 --output-len 100"
        for model, batch in itertools.product(
            ("llama-2-7b", "qwen3-14b", "mixtral-8x7b", "deepseek-v2-lite"), (1, 4, 16, 64, 256)
        )
    ]
    for model, gpus, rest in rows:
        (length, out), batch = next(lengths), next(batches)
        made.append(
            f"estimate --model {model} --gpus {gpus} {rest} --batch {batch} --input-len {length} --output-len {out}"
        )
    return made


def _recommendations() -> list[str]:
    rows = [f"--model {model} --gpus 4xH100" for model in MODELS]
    rows += [f"--model llama-3.1-8b --gpus {gpus}" for gpus in GPUS]
    rows += [f"--model llama-13b --gpus 2xA100 --engine {engine}" for engine in ENGINES]
    rows += [
        f"--model llama-13b --gpus 4xH200 --objective {objective}"
        for objective in ("throughput", "throughput_per_gpu", "latency", "ttft", "tpot")
    ]
    rows += [
        "--model llama-3.1-70b --gpus 8xH100 --tpot 30",
        "--model llama-3.1-70b --gpus 8xH100 --ttft 500 --tpot 50",
        "--model llama-3.1-70b --gpus 8xH100 --e2e 5000 --objective cost --price 2",
        "--model llama-3.1-70b --gpus 1xH100",
        "--model llama-13b --gpus 2xA100 --tpot 2 --concurrency 1",
        "--model llama-13b --gpus 2xA100 --concurrency 64",
        "--model llama-3.3-70b --gpus 4xL40S --dtype fp8",
        "--model llama-3.1-8b --gpus 2xH200 --dtype fp8 --kv-dtype fp8",
        "--model mixtral-8x7b --gpus 4xH200 --max-num-seqs 64",
        "--model llama-13b --gpus 2xH200 --max-num-batched-tokens 2048",
        "--model llama-13b --gpus 2xH200 --input-len 4000 --output-len 90",
        "--model llama-2-7b --gpus 1xT4 --max-model-len 1500",
        "--model qwen3-30b-a3b --gpus 8xB200 --top 3",
        "--model deepseek-v3 --gpus 8xH200 --max-num-seqs 128",
        "--model llama-13b --gpus 4xA100 --trials 40",
    ]
    return [f"recommend {row}" for row in rows]


def _simulations() -> list[str]:
    rows = [
        f"--model {model} --gpus {gpus} --rate {rate} --duration 20 --draws {draws}"
        for model, gpus, rate, draws in (
            ("llama-2-7b", "1xH200", 5, 2),
            ("llama-3.1-8b", "1xH100", 12, 2),
            ("llama-13b", "1xA100", 2, 4),
            ("llama-3.1-70b", "4xH100 --tp 4", 3, 2),
            ("mixtral-8x7b", "2xH200 --tp 2", 8, 2),
            ("qwen3-30b-a3b", "1xH200", 10, 2),
            ("llama-3.1-8b", "2xH200 --dp 2 --router least_loaded", 20, 2),
            ("llama-3.1-8b", "2xH200 --pp 2", 6, 2),
            ("llama-3.1-8b", "1xH100 --engine tensorrt-llm", 8, 2),
            ("llama-3.1-8b", "1xH100 --engine sglang", 8, 2),
            ("llama-3.1-8b", "1xH100 --kv-dtype fp8", 8, 2),
            ("llama-3.1-8b", "1xH100 --spread 0.5 --burstiness 0.5", 8, 2),
            ("llama-3.1-8b", "1xH100 --prefix-hit-rate 0.5", 8, 2),
            ("llama-3.1-8b", "1xL4", 3, 2),
            ("llama-3.1-8b", "1xH100 --ttft 500 --tpot 30", 8, 2),
            ("llama-3.1-8b", "1xH100 --seed 7", 8, 2),
            ("llama-3.1-8b", "1xH100 --ttft 300 --percentile 99", 8, 2),
            ("llama-3.1-8b", "1xH100 --input-len 3000 --output-len 30", 5, 2),
        )
    ]
    rows += [
        f"--model llama-13b --gpus 2xH200 --tp 2 --concurrency {count} --draws 2 --duration 20" for count in (1, 16, 64)
    ]
    return [f"simulate {row}" for row in rows]


def _plans() -> list[str]:
    return [
        f"plan {row} --duration 15 --draws 2"
        for row in (
            "--model llama-2-7b --gpus H100 --rate 10 --tpot 50 --price 2",
            "--model llama-3.1-8b --gpus H200 --rate 20 --ttft 1000 --tpot 40 --price 3 --confidence 0.9",
            "--model llama-3.1-8b --gpus H100,L40S --rate 5 --e2e 20000 --illustrative-prices",
            "--model llama-2-7b --gpus H200 --rate 5 --tpot 50 --spares 1 --headroom 0.2 --objective gpus",
            "--model llama-2-7b --gpus H200 --rate 5 --tpot 1 --price 3",
        )
    ]


def _others() -> list[str]:
    exports = [
        f"export --model {model} --gpus {gpus} {layout}{form and f' --format {form}'}"
        for (model, gpus, layout), form in itertools.product(
            (
                ("llama-13b", "2xA100", "--tp 2"),
                ("llama-3.1-70b", "8xH100", "--tp 4 --dp 2"),
                ("llama-3.1-8b", "1xRTX4090", "--engine sglang"),
            ),
            ("", "compose", "kubernetes"),
        )
    ]
    dry = [
        f"probe --model {model} --gpus {gpus} --budget {budget} --dry-run {rest}"
        for model, gpus, budget, rest in (
            ("llama-2-7b", "2xH200", "10m", ""),
            ("llama-13b", "4xA100", "30m", ""),
            ("llama-3.1-8b", "2xH200", "20m", "--engine torch"),
            ("llama-3.1-8b", "1xH200", "30m", "--serving"),
        )
    ]
    dry += [
        f"tune --model {model} --gpus {gpus} --dry-run"
        for model, gpus in (("llama-2-7b", "2xH200"), ("llama-13b", "4xA100"), ("mixtral-8x7b", "4xH200"))
    ]
    lists = [f"catalog {name}" for name in ("models", "gpus", "engines", "prices")]
    lists += ["catalog models llama-3.1-8b", "catalog models deepseek-v3", "catalog gpus H100", "catalog engines vllm"]
    return [*exports, *dry, *lists]


def _errors() -> list[str]:
    return [
        "estimate --model llama-13b --gpus 2xA100 --tp 3 --batch 1",
        "estimate --model lama-13b --gpus 2xA100 --batch 1",
        "estimate --model llama-13b --gpus 2xA1000 --batch 1",
        "estimate --model llama-13b --gpus 2xA100 --batch 0",
        "estimate --model llama-13b --gpus 2xA100 --batch 1 --input-len 100000",
        "recommend --model llama-13b",
        "recommend --model llama-13b --gpus 2xA100 --dtype fp9",
        "recommend --model llama-13b --gpus 2xA100 --objective speed",
        "recommend --model llama-13b --gpus 2xA100 --rate 3",
        "simulate --model llama-13b --gpus 2xA100",
        "simulate --model llama-13b --gpus 2xA100 --rate 3 --concurrency 4",
        "plan --model llama-13b --gpus A100 --rate 3",
        "export --model llama-13b --gpus 2xA100 --format helm",
        "catalog gpus H1000",
        "validate --published nowhere",
        "import nowhere.json",
        "fit nowhere.csv",
        "recomend --model llama-13b",
    ]


TEXTS: tuple[str, ...] = (
    "recommend --model llama-13b --gpus 4xA100",
    "recommend --model llama-13b --gpus 4xA100 --format markdown",
    "recommend --model llama-13b --gpus 4xA100 --format csv",
    "recommend --model llama-3.1-70b --gpus 1xH100",
    "recommend --model llama-3.1-70b --gpus 8xH100 --tpot 50 --ttft 2000",
    "estimate --model llama-13b --gpus 4xA100 --tp 4 --batch 32",
    "estimate --model llama-13b --gpus 4xA100 --tp 4 --batch 32 --format yaml",
    "estimate --model mixtral-8x7b --gpus 4xH200 --tp 4 --ep 4 --batch 32",
    "simulate --model llama-3.1-8b --gpus 1xH100 --rate 8 --duration 20 --draws 2 --ttft 500 --tpot 30",
    "simulate --model llama-3.1-8b --gpus 1xH100 --rate 8 --duration 20 --draws 2 --format csv",
    "plan --model llama-2-7b --gpus H100 --rate 10 --tpot 50 --price 2 --duration 15 --draws 2",
    "plan --model llama-2-7b --gpus H100 --rate 10 --tpot 50 --price 2 --duration 15 --draws 2 --format markdown",
    "catalog engines",
    "catalog gpus H100",
    "catalog models mixtral-8x7b",
    "tune --model llama-2-7b --gpus 2xH200 --dry-run",
    "probe --model llama-2-7b --gpus 2xH200 --budget 10m --dry-run",
    *_errors(),
)
"""Answers as a person sees them, 100 columns wide."""

NUMBERS: tuple[str, ...] = tuple(
    f"{line} --format json" if not line.startswith(("export", "probe", "tune")) else line
    for line in (*_estimates(), *_recommendations(), *_simulations(), *_plans(), *_others())
)
"""Answers as programs read them."""

IMPORTS: tuple[tuple[str, str], ...] = (
    ("guidellm-sweep.json", "--gpu H100 --tp 1 --engine vllm --model llama-3.1-8b"),
    ("vllm-serve-closed.json", "--gpu H100 --tp 1 --engine vllm"),
    ("sglang.jsonl", "--gpu H100 --tp 2 --model llama-3.1-8b"),
    ("trtllm-bench-closed.json", "--gpu H100 --model llama-3.1-8b"),
    ("aiperf-closed_aiperf.json", "--gpu H100 --tp 1 --engine vllm --model llama-3.1-8b"),
    ("vllm-throughput.json", "--gpu H100 --tp 1 --model llama-3.1-8b --output-len 16"),
)
"""Benchmarks of other programs: what is taken over of them, and what an estimate says after it."""

CURVES: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("llama-2-7b", "1xH200", {}),
    ("llama-13b", "4xA100", {"tp": 4, "regime": "static"}),
    ("mixtral-8x7b", "4xH200", {"tp": 4, "ep": 4}),
    ("llama-3.1-8b", "2xH100", {"pp": 2, "kv_dtype": "fp8"}),
)
"""``advisor.curve``, which no command calls."""
