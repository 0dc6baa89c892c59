"""Hostile input, seeded: every command must answer, or refuse in one line, whatever it is given.

    python -m benchmarks.fuzz --cases 10000 --seed 1
    python -m benchmarks.fuzz --suite trace --cases 100 --seed 7

Files and options that are right are damaged a little: values replaced, moved, nested, cut off. Reported are tracebacks, exit
codes outside 0, 1 and 2, refusals of more than one line, more than ``LIMIT_S`` seconds of CPU, and answers whose interval does
not hold its estimate, or that hold a number that is none.
"""

from __future__ import annotations

import argparse
import copy
import io
import itertools
import json
import math
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "tests" / "catalog" / "benchmarks"
LIMIT_S = 5.0
"""Seconds of CPU that no question of this size takes."""
PATIENCE_S = 30
"""Seconds of CPU after which a case is ended."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case."""

    argv: tuple[str, ...]
    code: object
    out: str
    err: str
    seconds: float

    def faults(self) -> list[str]:
        """Name what is wrong with it."""
        found = []
        if self.code not in (0, 1, 2):
            found.append(f"exit {self.code}: {self.err.strip()[-300:]}")
        if "Traceback" in self.err + self.out:
            found.append("a traceback is shown")
        if self.code == 2 and len(self.err.strip("\n").split("\n")) != 1:
            found.append("a refusal of more than one line")
        if self.seconds > LIMIT_S:
            found.append(f"{self.seconds:.1f} s of CPU")
        if self.code == 0 and "json" in self.argv:
            found += [f"{place}: {what}" for place, what in unsound(json.loads(self.out))]
        return found


def unsound(answer: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Name numbers that are none and intervals that do not hold their estimate."""
    if isinstance(answer, dict):
        value, low, high = (answer.get(name) for name in ("value", "low", "high"))
        if all(isinstance(each, (int, float)) for each in (value, low, high)):
            slack = 1e-9 * max(map(abs, (value, low, high)))
            if not low - slack <= value <= high + slack:
                yield place, f"{value} is outside {low} to {high}"
        for name, part in answer.items():
            yield from unsound(part, f"{place}.{name}")
    elif isinstance(answer, list):
        for part in answer:
            yield from unsound(part, f"{place}[]")
    elif isinstance(answer, float) and not math.isfinite(answer):
        yield place, f"{answer} is no number"


class Fuzzer:
    """Makes cases from a seed, in a folder of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.home, self.random = folder, folder / "home", random.Random(seed)
        self.suites: dict[str, Callable[[], list[str]]] = {
            "options": self.options, "config": self.config, "benchmark": self.benchmark, "trace": self.trace,
            "runs": self.runs, "fit": self.fit, "plan": self.plan, "toml": self.toml, "yaml": self.yaml,
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
        for name in self.random.sample(list(OPTIONS), 3):
            argv += [
                name,
                self.random.choice((*OPTIONS[name], self.random.choice(TEXTS), str(self.random.choice(NUMBERS)))),
            ]
        return argv

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
            made = run(
                ["probe", "--model", "llama-13b", "--gpus", "4xH200", "--budget", "3m", "--dry-run", "--format", "json"]
            )
            self._bases["plan"] = json.loads(made.out)
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

    def _question(self, *fixed: str) -> list[str]:
        return [*fixed] if fixed else ["--model", self.random.choice(MODELS), "--gpus", self.random.choice(GPUS)]

    def _estimate(self, *more: str) -> list[str]:
        asked = more if "--model" in more else ("--model", "llama-13b", "--gpus", "H200", *more)
        return ["estimate", *asked, "--batch", "8", "--format", "json"]

    def _written(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_bytes(text.encode("utf-8", "replace"))
        return str(path)


def _documents(text: str) -> list[str]:
    """Return a JSON file whole, or the lines of one that has a value a line."""
    lines = text.splitlines()
    return lines if all(line.endswith("}") for line in lines) else [text]


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


class Hang(BaseException):
    """A case took more than ``PATIENCE_S``."""


def run(argv: list[str]) -> Outcome:
    """Run the command line in this process, without a network."""
    import typer.main

    from advisor.cli import app

    command = typer.main.get_command(app)
    out, err = io.StringIO(), io.StringIO()
    code: object = None

    def hang(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, hang)
    began = time.process_time()
    refused = mock.Mock(side_effect=OSError("no network"))
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(socket, "getaddrinfo", refused):
        signal.setitimer(signal.ITIMER_PROF, PATIENCE_S)
        try:
            command(list(argv))
        except SystemExit as ending:
            code = ending.code or 0
        except Hang:
            code = "hang"
        except BaseException:  # noqa: BLE001  the finding
            code, _ = "escaped", err.write(traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    return Outcome(
        argv=tuple(argv), code=code, out=out.getvalue(), err=err.getvalue(), seconds=time.process_time() - began
    )


def findings(suites: list[str], cases: int, seed: int, folder: Path) -> Iterator[tuple[str, Outcome, list[str]]]:
    """Run so many cases, suite by suite in turn, and yield those with faults."""
    fuzzer = Fuzzer(folder, seed)
    with mock.patch.dict(os.environ, {"ADVISOR_HOME": str(fuzzer.home), "HF_HUB_OFFLINE": "1"}):
        for warm in (["estimate", "--batch", "1"], ["simulate", "--rate", "1"], ["recommend"]):  # imports are no case's
            run([*warm, "--model", "llama-13b", "--gpus", "H100"])
        for suite in itertools.islice(itertools.cycle(suites), cases):
            outcome = run(fuzzer.case(suite))
            if faults := outcome.faults():
                yield suite, outcome, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = list(Fuzzer(Path(), 0).suites)
    parser.add_argument("--suite", choices=every, action="append", help="only these; can be repeated")
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    count: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for suite, outcome, faults in findings(arguments.suite or every, arguments.cases, arguments.seed, Path(folder)):
            count[suite] += 1
            kept = Path(folder) / Path(next((word for word in outcome.argv if word.startswith(folder)), "none")).name
            content = kept.read_text(errors="replace")[:20000] if kept.is_file() else ""
            print(json.dumps({"suite": suite, "faults": faults, "argv": outcome.argv, "file": content}), flush=True)
    print(f"{arguments.cases} cases, {sum(count.values())} with faults {dict(count)}", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
