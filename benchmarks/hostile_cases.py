"""Hostile cases, made from a seed: files and options that are right, damaged a little; ``benchmarks.fuzz`` runs them."""

from __future__ import annotations

import copy
import json
import math
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "tests" / "catalog" / "benchmarks"
TEXTS = (
    "", " ", "nan", "-inf", "1e999", "-1", "0", "1.5", "9" * 400, "null", "[]", "{}", "a" * 5000, "\u202eabc", "a\x00b",
    "\x1b[31m", "\r\nX", "../../etc/passwd", "/dev/null", "%s%n", "{0.__class__}", "$(id)", "' OR 1=1", "<b>", "![x](http://h/)",
    "\U0001f600" * 9, "\u0661\u0662", "=", ",,", "1,,2", "auto", "fp8", "llama-13b", "4xA100", "0xA100", "2x2x2xA100", "A100:0",
    "sqlite:///", "!!python/object/apply:os.system [id]", "*", "[",
)  # fmt: skip
NUMBERS = (
    0, -1, 1, 2, 7, 0.5, -0.0, 1e-320, 1e308, -1e308, 10**9, 2**63, 10**30, 10**400, math.nan, math.inf, -math.inf,
)  # fmt: skip
MODELS = ("llama-13b", "llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-20b")
GPUS = ("4xA100", "H100", "8xH200", "2x8xH100", "T4", "MI300X", "8xB200")
CONFIG = {
    "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024, "max_position_embeddings": 4096, "vocab_size": 32000,
    "num_attention_heads": 8, "num_hidden_layers": 4, "num_key_value_heads": 8, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128},
}  # fmt: skip
OPTIONS = {
    "--input-len": ("1", "128", "4000"), "--output-len": ("1", "128"), "--dtype": ("auto", "fp8", "int4"),
    "--kv-cache-dtype": ("auto", "fp8"), "--max-num-seqs": ("1", "64"), "--max-model-len": ("1", "2048"),
    "--gpu-memory-utilization": ("0.9", "0.1"), "--price": ("2.5",), "--set-gpu": ("memory_gib=10", "topology=pcie"),
    "--engine": ("vllm", "sglang", "tensorrt-llm", "torch"), "--format": ("json", "csv", "markdown"),
}  # fmt: skip
DEGREES = ("1", "2", "8")
TRAINING = {
    "--batch": ("8", "128"), "--seq-len": ("512", "8192"), "--tokens": ("300B", "1e9"), "--dtype": ("bf16", "fp8", "fp4"),
    "--framework": ("auto", "megatron-core", "nemo", "fsdp", "deepspeed", "megatron-lm"), "--schedule": ("1f1b", "gpipe"),
    "--lora-rank": ("0", "16"), "--price": ("2.5",), "--tp": DEGREES, "--pp": DEGREES, "--dp": DEGREES, "--cp": DEGREES,
    "--ep": DEGREES, "--micro-batch": DEGREES, "--interleave": ("1", "2"), "--recompute": ("none", "selective", "full", "auto"),
    "--zero": ("1", "2", "3"), "--set-gpu": ("memory_gib=100", "memory_bandwidth_gbps=300"),
}  # fmt: skip
EXPLORATION = {
    "--sweep": ("node", "dram", "link", "network", "bandwidth", "flops", "capacity"), "--to": ("B200", "H100", "A100"),
    "--factors": ("0.25,1,4", "1"), "--node": ("N7", "N3", "A10"), "--dram": ("HBM2E", "HBM4", "GDDR6"), "--area": ("800",),
    "--power": ("700",), "--tp": DEGREES, "--pp": DEGREES, "--input-len": ("1", "4000"), "--output-len": ("1", "128"),
    "--seq-len": ("2048",), "--dtype": ("bf16", "fp8"), "--to-dtype": ("bf16", "fp4"),
}  # fmt: skip
COMPARISON = {
    "--use": ("chat", "rag", "agent", "summarise", "batch", "code"), "--users": ("1", "50", "2k"), "--think-time": ("0.5", "1m"),
    "--budget": ("10/h", "$5000/month"), "--objective": ("cost", "size", "throughput", "tpot"), "--weights": ("any", "fp8,int4"),
    "--tpot": ("50", "0.05s"), "--ttft": ("500",), "--confidence": ("0.5", "0.9"), "--price": ("2", "H100=2.5"),
    "--engine": ("vllm", "vllm,sglang"), "--top": ("1", "5"), "--input-len": ("128k", "512"), "--concurrency": ("1", "64"),
}  # fmt: skip
USES = {
    "--use": ("chat", "rag", "agent", "summarise", "batch", "code"), "--users": ("1", "20", "1e2"), "--think-time": ("0.5", "1m"),
    "--tpot": ("50", "0.05s"), "--ttft": ("500",), "--e2e": ("10s",), "--input-len": ("512",), "--output-len": ("128",),
    "--rate": ("1", "60/min"), "--concurrency": ("1", "16"),
}  # fmt: skip
SESSIONS = [
    {
        "session": "root", "start_s": 0, "prefix": "tools", "prefix_len": 3000,
        "turns": [{"input_len": 400, "output_len": 150}, {"input_len": 1200, "output_len": 90, "wait_s": 4.5}],
    },
    {"parent": "root", "parent_turns": 1, "turns": [{"input_len": 300, "output_len": 200, "wait_s": 0.5}]},
]  # fmt: skip
TURNS = {
    "--turns": ("1", "5"), "--think-time": ("2", "0.1"), "--shared-prefix": ("1500", "0"), "--num-prefixes": ("8",),
    "--router": ("round_robin", "least_loaded", "prefix_aware", "session_sticky", "power_of_two"), "--dp": ("1", "2"),
    "--prefix-hit-rate": ("0.5",), "--spread": ("0.5",), "--burstiness": ("4",), "--curve": ("1,2,3",),
    "--client": ("vllm", "sglang", "inferencex", "guidellm"), "--prompts": ("20",), "--concurrency": ("4",), "--rate": ("1",),
}  # fmt: skip
FLEET = {
    "models": [
        {"model": "llama-3.1-8b", "rate": 2, "use": "chat", "curve": [0.5, 1.5]},
    ],
    "pools": [{"gpu": "H100", "price": 2.4}, {"name": "own", "gpu": "A100-SXM-80GB", "count": 4, "kind": "owned"}],
    "headroom": 0.1, "spares": 0, "confidence": 0.9,
}  # fmt: skip
POST = "POST"
"""In place of a command: a file is sent to an address of the service."""
BODIES = {
    "recommend": {"model": "llama-3.1-8b", "gpus": "2xH100", "tpot": "30ms", "use": "chat", "users": 20},
    "which": {"models": "llama-3.1-8b,qwen3-32b", "gpus": "H100,1xL40S", "budget": "$5/h", "top": 3},
    "estimate": {"model": "llama-13b", "gpus": "2xH100", "batch": 8, "tp": 2, "input_len": 512, "dtype": "auto"},
    "simulate": {"model": "llama-3.1-8b", "gpus": "1xH100", "rate": "60/min", "duration_s": 5, "draws": 0},
    "plan": {"model": "llama-3.1-8b", "gpus": "H100", "rate": 2, "tpot": 40, "draws": 0},
}
YAML = {
    "model": "llama-13b",
    "gpus": "2xH100",
    "input-len": 512,
    "set-gpu": {"memory_gib": 60},
    "dtype": ["fp8", "auto"],
}
TRACES = (
    "time,input,output\n0,100,10\n0.5,200,20\n1,50,5\n",
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n2023-11-16 18:15:50.99,396,109\n",
    "timestamp_ms,prompt_tokens,completion_tokens\n0,512,128\n500,512,128\n",
)


class Fuzzer:
    """Makes cases from a seed, in a folder of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.home, self.random = folder, folder / "home", random.Random(seed)
        self.suites: dict[str, Callable[[], list[str]]] = {
            "options": self.options, "config": self.config, "benchmark": self.benchmark, "trace": self.trace,
            "runs": self.runs, "fit": self.fit, "plan": self.plan, "toml": self.toml, "yaml": self.yaml,
            "train": self.train, "explore": self.explore, "which": self.which, "uses": self.uses, "sessions": self.sessions,
            "fleet": self.fleet, "serve": self.serve,
        }  # fmt: skip
        self._bases: dict[str, Any] = {}

    def case(self, suite: str) -> list[str]:
        """Make the arguments of one case, and its files."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        return self.suites[suite]()

    def options(self) -> list[str]:
        command = self.random.choice(("recommend", "estimate", "export", "tune", "simulate"))
        argv = [command, *self._question()]
        argv += {
            "estimate": ["--batch", "8"],
            "tune": ["--dry-run"],
            "simulate": ["--rate", "1", "--duration", "5"],
        }.get(command, [])
        argv += self._some_of(OPTIONS, 3)
        return argv if "--format" in argv or "estimate" not in argv else self._as_json(*argv)

    def config(self) -> list[str]:
        path = self._written("config.json", json.dumps(self.damaged(CONFIG)))
        return self._estimate("--model", path, "--gpus", self.random.choice(GPUS))

    def benchmark(self) -> list[str]:
        source = self.random.choice([path for path in sorted(BENCHMARKS.iterdir()) if path.suffix != ".md"])
        text = source.read_text()
        if source.suffix in (".json", ".jsonl"):
            values = self.damaged([json.loads(line) for line in _documents(text)])
            text = "\n".join(map(json.dumps, values))
        elif source.suffix == ".csv":
            text = self._damaged_table(text)
        path = self._written(source.name, self._cut(text))
        return ["import", path, "--gpu", "H100-SXM", "--tp", "2", "--engine", "vllm", "--model", "llama-3.1-8b"]

    def trace(self) -> list[str]:
        text = self._damaged_table(self.random.choice(TRACES))
        path = self._written("trace.csv", self._cut(text))
        return [
            "simulate",
            *self._question("--gpus", "H200", "--model", "llama-3.1-8b"),
            "--trace",
            path,
            "--draws",
            "0",
            "--format",
            "json",
        ]

    def runs(self) -> list[str]:
        from catalog.runs import shipped_runs

        rows = [
            {k: v for k, v in asdict(run).items() if v not in (None, "")}
            for run in self.random.sample(shipped_runs(), 3)
        ]
        text = (
            "\n".join(json.dumps(row) for row in self.damaged(rows))
            if self.random.random() < 0.8
            else self._cut(json.dumps(rows[0]))
        )
        path = self._written("runs.jsonl", text)
        kept = self.home / "runs" / "own.jsonl"
        kept.parent.mkdir()
        shutil.copy(path, kept)
        return self.random.choice((self._estimate(), self._estimate("--runs", path), ["import", path, "--dry-run"]))

    def fit(self) -> list[str]:
        if "fit" not in self._bases:
            from advisor.calibration.surrogate import SHIPPED

            self._bases["fit"] = json.loads(SHIPPED.read_text())
        body = dict(self._bases["fit"])
        part = self.random.choice(list(body))
        body[part] = self.damaged(body[part])
        return self._estimate("--fit", self._written("fit.json", json.dumps(body)))

    def plan(self) -> list[str]:
        if "plan" not in self._bases:
            from typer.testing import CliRunner

            from advisor.cli import app

            asked = ["--model", "llama-13b", "--gpus", "4xH200", "--budget", "3m", "--dry-run", "--format", "json"]
            self._bases["plan"] = json.loads(CliRunner().invoke(app, ["probe", *asked]).stdout)
        path = self._written("plan.json", self._cut(json.dumps(self.damaged(self._bases["plan"]))))
        return ["probe", "--plan", path, "--gpus", "4xH200", "--dry-run"]

    def toml(self) -> list[str]:
        body = self.damaged(
            {"base": "H100-SXM", "aliases": ["mine"], "memory_gib": 60.0, "topology": "pcie", "gpus_per_node": 4}
        )
        lines = (
            [f"{json.dumps(str(name))} = {_toml(value)}" for name, value in body.items()]
            if isinstance(body, dict)
            else ["x"]
        )
        (self.home / "gpus.toml").write_text(
            self._cut("\n".join(["[own]", *lines])), encoding="utf-8", errors="replace"
        )
        return self._estimate("--model", "llama-13b", "--gpus", self.random.choice(("own", "2xmine", "H100")))

    def yaml(self) -> list[str]:
        import yaml

        text = yaml.safe_dump(self.damaged(YAML))
        return [self.random.choice(("recommend", "export")), "--config", self._written("c.yaml", self._cut(text))]

    def train(self) -> list[str]:
        stated = ["--batch", "64", *self._some_of(TRAINING, 4)]
        return self._as_json("train", *self._question(), *stated)

    def explore(self) -> list[str]:
        training = ["--task", "training", "--batch", "64"] if self.random.random() < 0.3 else ["--batch", "4"]
        return self._as_json("explore", *self._question(), *training, *self._some_of(EXPLORATION, 3))

    def which(self) -> list[str]:
        models = ",".join(self.random.sample(MODELS, 2))
        return self._as_json(
            "which", "--model", models, "--gpus", self.random.choice(("H100,L40S", "2xRTX4090", "8xH200,4xB200")),
            *self._some_of(COMPARISON, 4),
        )  # fmt: skip

    def uses(self) -> list[str]:
        command = self.random.choice(("recommend", "simulate", "plan"))
        short = ["--duration", "5"] if command != "recommend" else ["--top", "2"]
        short += ["--draws", self.random.choice(("0", "2"))] if command != "recommend" else []
        hardware = "H100,L40S" if command == "plan" else self.random.choice(GPUS)
        question = self._question("--model", "llama-3.1-8b", "--gpus", hardware)
        short += ["--rate", "1"] if command != "recommend" and self.random.random() < 0.5 else []
        return self._as_json(command, *question, *short, *self._some_of(USES, 3))

    def sessions(self) -> list[str]:
        argv = ["simulate", *self._question("--gpus", "2xH200", "--model", "llama-3.1-8b"), "--draws", "0"]
        if self.random.random() < 0.5:
            return self._as_json(*argv, "--rate", "1", "--duration", "20", *self._some_of(TURNS, 3))
        text = "\n".join(map(json.dumps, _lines(self.damaged(SESSIONS))))
        return self._as_json(*argv, "--sessions", self._written("sessions.jsonl", self._cut(text)))

    def fleet(self) -> list[str]:
        import yaml

        text = yaml.safe_dump(self.damaged(FLEET))
        return self._as_json("fleet", self._written("fleet.yaml", self._cut(text)))

    def serve(self) -> list[str]:
        name = self.random.choice(list(BODIES))
        return [POST, f"/v1/{name}", self._written("body.json", self._cut(json.dumps(self.damaged(BODIES[name]))))]

    def damaged(self, value: Any) -> Any:
        """Return a copy in which one to three places hold something else."""
        value = copy.deepcopy(value)
        for _ in range(self.random.choice((1, 1, 2, 3))):
            places = list(_places(value))
            if not places:
                break
            holder, key = self.random.choice(places)
            match self.random.randrange(6):
                case 0:
                    del holder[key]
                case 1:
                    holder[key] = [holder[key]]
                case 2:
                    other, name = self.random.choice(places)
                    holder[key] = copy.deepcopy(other[name]) if name in _keys(other) else None
                case 3 if isinstance(holder, dict):
                    holder[f"{key}x"] = holder.pop(key)
                case _:
                    holder[key] = copy.deepcopy(self.random.choice((*NUMBERS, *TEXTS, None, True, [], {}, [None])))
        return value

    def _damaged_table(self, text: str) -> str:
        rows = [line.split(",") for line in text.splitlines()]
        row = self.random.choice(rows)
        row[self.random.randrange(len(row))] = self.random.choice((*TEXTS, *map(str, NUMBERS)))
        return "\n".join(",".join(cells) for cells in rows)

    def _cut(self, text: str) -> str:
        return text[: self.random.randrange(len(text) + 1)] if self.random.random() < 0.1 else text

    def _some_of(self, options: Mapping[str, tuple[str, ...]], number: int) -> list[str]:
        """State a few options, each of them right in half of the cases or more."""
        words = []
        for name in self.random.sample(list(options), number):
            wrong = (self.random.choice(TEXTS), str(self.random.choice(NUMBERS)))
            words += [name, self.random.choice(wrong if self.random.random() < 0.25 else options[name])]
        return words

    def _as_json(self, *argv: str) -> list[str]:
        return [*argv, "--format", "json"]

    def _question(self, *fixed: str) -> list[str]:
        return [*fixed] if fixed else ["--model", self.random.choice(MODELS), "--gpus", self.random.choice(GPUS)]

    def _estimate(self, *more: str) -> list[str]:
        asked = more if "--model" in more else ("--model", "llama-13b", "--gpus", "H200", *more)
        return ["estimate", *asked, "--batch", "8", "--format", "json"]

    def _written(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_bytes(text.encode("utf-8", "replace"))
        return str(path)


class Undamaged(Fuzzer):
    """Makes what the cases are before they are damaged."""

    def damaged(self, value: Any) -> Any:
        return value

    def _damaged_table(self, text: str) -> str:
        return text

    def _cut(self, text: str) -> str:
        return text

    def _some_of(self, options: Mapping[str, tuple[str, ...]], number: int) -> list[str]:  # noqa: ARG002  of the other's
        return []


def _documents(text: str) -> list[str]:
    """Return a JSON file whole, or the lines of one that has a value a line."""
    lines = text.splitlines()
    return lines if all(line.endswith("}") for line in lines) else [text]


def _lines(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(_keys(value))[:60] if isinstance(value, (dict, list)) else ():
        yield value, key
        yield from _places(value[key])


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(name))} = {_toml(part)}" for name, part in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return '""' if value is None else json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")
