"""Start vLLM by commands that ``advisor export`` wrote, and see what cache it then has.

    python -m probes.vllm_engine.exported PLAN.json OUT --gpus 0,1,2,3 --minutes 15

The plan is that of ``probes.vllm_engine.static``, but that a load has ``exported`` where that has shapes, and may have
``foretold_kv_tokens``; ``benchmarks.exports`` makes one and compares what comes of it. A command is run as it was
written but for the model, which is a folder with its configuration, random weights, no tokenizer, and the port. A server
counts as started when it has answered ``/health`` and then a request of token ids.

Beside ``loads.jsonl`` and ``logs/``, OUT then holds ``started.jsonl``: a line for each load that was tried, as soon as
its end is known. Loads that are done are passed over.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.engines.launch.process import model_argument
from catalog.errors import InputError
from catalog.jsonl_store import append_lines, line_of
from probes.benchmark_plan import config_json
from probes.gpu_telemetry import Meter, wait_until_free
from probes.sweep_command import run_sweep, sweep_parser, take_order, tell
from probes.vllm_engine.memory_shortages import first_error, shortage
from probes.vllm_engine.static import ENVIRONMENT, check_installed, log_of
from probes.vllm_engine.versions import installed_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from probes.benchmark_plan import BenchmarkJob
    from probes.sweep_command import Order

PROGRAM = (sys.executable, "-P", "-m", "vllm.entrypoints.cli.main")
"""What the script ``vllm`` runs, which is not on every path on which the package is."""

ADDED = ("--load-format", "dummy", "--skip-tokenizer-init")

PORTS = 25
"""Each server of a load has so many ports of its own: for its processes' rendezvous, for requests, and to count up from."""

PROMPT, ANSWER = list(range(1000, 1064)), 8
"""Token ids that are sent, and how many are wanted back."""

ANSWER_S = 120.0
PAUSE_S = 0.5
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Ended(Exception):  # noqa: N818  an outcome, no fault
    """A server that ended instead of answering."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedCommand:
    """One line of exported text."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def read_commands(load: BenchmarkJob) -> tuple[ExportedCommand, ...]:
    """Read what a load's exported text runs, in the order of its lines.

    Raises:
        InputError: it is no list of ``vllm serve`` commands for the load's model, on one machine.

    """
    commands = []
    try:
        lines = [shlex.split(line, comments=True) for line in load.exported.splitlines()]
    except ValueError as error:
        raise InputError(f"{load.name}: exported cannot be read: {error}") from error
    for words in lines:
        if not words or words == ["wait"]:
            continue
        first = next((i for i, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words))
        argv = words[first:-1] if words[-1] == "&" else words[first:]
        if argv[:2] != ["vllm", "serve"] or "--port" not in argv[:-1]:
            raise InputError(
                f"{load.name}: exported has {shlex.join(words):.80}; it must be vllm serve MODEL ... --port N"
            )
        if argv[2] != model_argument(load.model):
            raise InputError(f"{load.name}: exported serves {argv[2]:.80}; the load's model is {load.model.name}")
        environment = dict(word.split("=", 1) for word in words[:first])
        commands.append(ExportedCommand(argv=tuple(argv), environment=environment))
    if not commands:
        raise InputError(f"{load.name}: exported is empty; it must be what advisor export --format vllm wrote")
    return tuple(commands)


def check_load(load: BenchmarkJob) -> None:
    """Raise ``InputError``, one line, for a load without commands that can be run here."""
    read_commands(load)


def adapted(command: ExportedCommand, folder: str, port: int) -> list[str]:
    """Return the command as it is run here."""
    argv = [*PROGRAM, "serve", folder, *command.argv[3:], *ADDED]
    argv[argv.index("--port") + 1] = str(port)
    return argv


def adapted_environment(command: ExportedCommand, gpus: Sequence[int], port: int) -> dict[str, str]:
    """Return what its process has beside our environment; the GPUs it names are counted among those of the load."""
    wanted = command.environment.get(VISIBLE)
    mine = gpus if wanted is None else [gpus[int(number)] for number in wanted.split(",")]
    return {
        **command.environment,
        VISIBLE: ",".join(map(str, mine)),
        "MASTER_PORT": str(port),
        "VLLM_PORT": str(port + 2),
    }


def logged_tokens(log: str) -> list[int]:
    """Read KV capacity in tokens, as each engine of a log tells it (``v1/core/kv_cache_utils.py``)."""
    return [int(count.replace(",", "")) for count in re.findall(r"GPU KV cache size: ([\d,]+) tokens", log)]


def cache_labels(metrics: str) -> list[dict[str, str]]:
    """Read what each engine of a server tells of its cache under ``/metrics`` (``config/cache.py`` ``metrics_info``)."""
    rows = re.findall(r"^vllm:cache_config_info\{(.*)\} ", metrics, flags=re.MULTILINE)
    return [dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', row)) for row in rows]


def seen_tokens(metrics: str, engines: int) -> list[int]:
    """Read KV capacity in tokens, blocks times their size, of each engine of a server.

    Its front end adds up the blocks of all engines and tells the sum of each (``v1/engine/core_client.py``).
    """
    return [
        int(row["num_gpu_blocks"]) // engines * int(row["block_size"])
        for row in cache_labels(metrics)
        if row.get("num_gpu_blocks", "").isdigit() and row.get("block_size", "").isdigit()
    ]


class Server:
    """One command under way."""

    def __init__(self, command: ExportedCommand, folder: str, gpus: Sequence[int], port: int) -> None:
        self.url = f"http://127.0.0.1:{port + 1}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
        self.engines = _number(command.argv, "--data-parallel-size")
        self.argv = adapted(command, folder, port + 1)
        tell(f"$ {shlex.join(self.argv)}")
        environment = {**os.environ, **adapted_environment(command, gpus, port)}
        # its session is ours, so that whoever ends us ends it and what it starts
        self._process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, env=environment)

    def wait(self) -> None:
        """Wait until it is healthy; the sweep sees to it that this does not take for ever.

        Raises:
            Ended: it ended before.

        """
        while not self._is_healthy():
            if (code := self._process.poll()) is not None:
                raise Ended(f"vllm serve ended with {code} before it answered")
            time.sleep(PAUSE_S)

    def _is_healthy(self) -> bool:
        with suppress(OSError):
            self._get("/health")
            return True
        return False

    def answered(self, folder: str) -> int:
        """Send a request and count the tokens that it returns.

        Raises:
            Ended: it refused, or did not answer.

        """
        wanted = {"model": folder, "prompt": PROMPT, "max_tokens": ANSWER, "ignore_eos": True, "temperature": 0}
        try:
            answer = json.loads(self._get("/v1/completions", json.dumps(wanted).encode()))
            return int(answer["usage"]["completion_tokens"])
        except urllib.error.HTTPError as error:
            with error:
                raise Ended(f"/v1/completions answered {error.code}: {error.read(500)!r}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Ended(f"/v1/completions did not answer as it should: {error!r}") from error

    def metrics(self) -> str:
        """Return its counters as text; nothing where it has none."""
        with suppress(OSError):
            return self._get("/metrics").decode(errors="replace")
        return ""

    def _get(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})  # noqa: S310  our own
        with self._opener.open(request, timeout=ANSWER_S) as answer:
            return bytes(answer.read())


def _number(argv: Sequence[str], option: str) -> int:
    return int(argv[argv.index(option) + 1]) if option in argv else 1


def _start(order: Order, folder: str) -> dict[str, Any]:
    """Start a load's servers, ask each, and tell what became of it; they end with this process."""
    load, before = order.load, order.log.stat().st_size
    began = time.monotonic()
    servers = [
        Server(command, folder, order.gpus, order.port + PORTS * i) for i, command in enumerate(read_commands(load))
    ]
    row: dict[str, Any] = {
        "load": load.name,
        "exported": [line for line in load.exported.splitlines() if line and not line.startswith("#")],
        "run": [shlex.join(server.argv) for server in servers],
        "foretold_kv_tokens": load.foretold_kv_tokens,
        "vllm": installed_version(),
        "torch": _version("torch"),
        "python": platform.python_version(),
        **Meter(order.gpus).identity(),
    }
    try:
        for server in servers:
            server.wait()
        row["startup_s"] = round(time.monotonic() - began, 1)
        metrics = [server.metrics() for server in servers]
        pairs = list(zip(servers, metrics, strict=True))
        row["kv_tokens"] = [tokens for server, text in pairs for tokens in seen_tokens(text, server.engines)]
        row["cache"] = [labels for text in metrics for labels in cache_labels(text)][:1]
        row["answered"] = [server.answered(folder) for server in servers]
        row["outcome"] = "started" if set(row["answered"]) == {ANSWER} else "answered wrongly"
    except Ended as error:
        log = log_of(order, before)
        short = shortage(log)
        why = f"{error}: {short or first_error(log) or 'its log does not say why'}"
        row |= {"outcome": "failed", "oom": short is not None, "why": why}
        row["seconds"] = round(time.monotonic() - began, 1)
    row["logged_kv_tokens"] = logged_tokens(log_of(order, before))
    return row


def _version(package: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def work() -> None:
    """Be a worker: wait on standard input for the order of one load, run it, end."""
    order = take_order()
    if order is None:
        return
    wait_until_free(Meter(order.gpus))
    with tempfile.TemporaryDirectory() as folder:
        config = config_json(order.load.model, max_model_len=order.load.deployment.max_model_len)
        Path(folder, "config.json").write_text(json.dumps(config), encoding="utf-8")
        row = _start(order, folder)
    append_lines(order.out / "started.jsonl", line_of(row))
    tell(f"{row['outcome']}: {row.get('why') or row.get('kv_tokens') or row['logged_kv_tokens']}")
    sys.stdout.flush()
    os._exit(0 if row["outcome"] == "started" else 1)  # the sweep ends the servers, which share our session


def main(argv: Sequence[str] | None = None) -> int:
    parser = sweep_parser("probes.vllm_engine.exported", "Start vLLM by exported commands.")
    args = parser.parse_args(argv)
    if args.worker:
        work()
        return 0
    worker = [sys.executable, "-m", "probes.vllm_engine.exported", "--worker"]
    return run_sweep(parser, args, worker=worker, environment=ENVIRONMENT, check=check_load, ready=check_installed)


if __name__ == "__main__":
    sys.exit(main())
