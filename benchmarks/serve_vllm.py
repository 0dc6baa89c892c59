"""Measure vLLM engines that share a GPU under traffic and in conversations, every request timed.

    python -m benchmarks.serve_vllm run LOADS.json OUT --seconds 590

LOADS.json and the order of things are those of ``benchmarks.shared_gpu_loads``. A load's ``offers`` are made as
``probes.vllm_engine.serving`` makes them, then its ``sessions`` (see ``benchmarks.sessions``) with a prefix cache emptied
before each run; its ``draft_config`` is the ``config.json`` of the model that drafts for its
``speculative_config``. OUT then holds ``runs.jsonl`` and ``requests.jsonl`` of the offers, ``sessions.jsonl`` (one line a request,
with the tokens that vLLM says it took from its cache), ``counters.jsonl`` (vLLM's own counters over each run), ``memory.jsonl``,
``loads.jsonl`` and ``logs/``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure_vllm import ENVIRONMENT, count_own_memory, kv_tokens, write_model
from benchmarks.sessions import SessionProfile, converse
from benchmarks.shared_gpu_loads import add_run_arguments, job_of, run_chosen
from catalog.jsonl_store import append_lines
from probes.sweep_command import Order
from probes.vllm_engine.serving import VllmServer, record_offers
from probes.vllm_engine.static import graph_gib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

DRAFT = "draft"
"""Folder, beside the model's ``config.json``, of that of the model that drafts."""

COUNTERS = ("prefix_cache_queries", "prefix_cache_hits", "num_preemptions", "prompt_tokens", "generation_tokens")
"""Of vLLM's counters (``vllm/v1/metrics/loggers.py``), those that are told of each run."""


def counters() -> dict[str, int]:
    """Read vLLM's own counters as they stand."""
    snapshot = import_module("vllm.v1.metrics.reader").get_metrics_snapshot()
    counts = {metric.name.removeprefix("vllm:"): getattr(metric, "value", None) for metric in snapshot}
    return {name: int(counts[name]) for name in COUNTERS if counts.get(name) is not None}


@contextmanager
def counted(path: Path, run_id: str) -> Iterator[None]:
    """Add what vLLM's counters grew by to a store."""
    before = counters()
    yield
    grown = {name: count - before.get(name, 0) for name, count in counters().items()}
    append_lines(path, json.dumps({"run_id": run_id, **grown}) + "\n")


class PrefixCachingServer(VllmServer):
    """An engine that also says what its prefix cache held."""

    async def ask(self, prompt: Sequence[int], output_len: int) -> AsyncIterator[tuple[Sequence[int], int]]:
        """See ``benchmarks.sessions.Ask``."""
        sampling = self.sampling(output_len)
        async for output in self._llm.generate({"prompt_token_ids": list(prompt)}, sampling, self.next_id()):
            if ids := output.outputs[0].token_ids:
                yield ids, output.num_cached_tokens or 0

    async def forget(self) -> None:
        """Empty the prefix cache."""
        await self._llm.reset_prefix_cache()


async def _serve(order: Mapping[str, Any], folder: str, out: Path, log: Path) -> None:
    load = order["load"]
    job = job_of(load, measure_s=order["measure_s"])
    args = dict(load.get("args", {}))
    if "draft_config" in load:
        args["speculative_config"] = {**args["speculative_config"], "model": f"{folder}/{DRAFT}"}
    server = PrefixCachingServer(
        job, folder, load["gpus"], worker_extension_cls="benchmarks.measure_vllm.OwnMemory", **args
    )
    await server.look()
    text = await asyncio.to_thread(log.read_text, encoding="utf-8", errors="replace")
    server.kv_capacity_tokens = kv_tokens(text)
    if load.get("args", {}).get("enable_prefix_caching"):
        server.fingerprint = {**server.fingerprint, "prefix_caching": True}
    known = {"load": job.name, "model": job.model.name, **asdict(job.deployment), "graph_gib": graph_gib(text)}
    known |= {"startup_s": round(server.startup_s, 1), "kv_tokens": server.kv_capacity_tokens}
    for report in server.reports:
        append_lines(out / "memory.jsonl", json.dumps({**known, **report}) + "\n")
    os.write(int(order["ready"]), b"READY\n")
    await asyncio.to_thread(sys.stdin.readline)
    with counted(out / "counters.jsonl", f"{job.name}-offers"):
        await record_offers(
            server,
            Order(text="", load=job, out=out, store=out / "runs.jsonl", log=log, gpus=tuple(load["gpus"]), port=0),
        )
    for entry in load.get("sessions", ()):
        profile = SessionProfile(**entry)
        run_id = f"{job.name}-{profile.name}"
        await server.forget()
        with counted(out / "counters.jsonl", run_id):
            requests = await converse(server.ask, profile, vocab_size=job.model.vocab_size)
        print(
            run_id,
            len(requests),
            "requests",
            sum(request.cached_tokens for request in requests),
            "tokens cached",
            flush=True,
        )
        append_lines(
            out / "sessions.jsonl",
            "".join(json.dumps({"run_id": run_id, **asdict(request)}) + "\n" for request in requests),
        )


def work(order: Mapping[str, Any]) -> None:
    """Be a worker: start the engine of one load, say ``READY`` on its descriptor, wait for a line, serve, end."""
    count_own_memory()
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder, order["load"])
        if "draft_config" in order["load"]:
            Path(folder, DRAFT).mkdir()
            Path(folder, DRAFT, "config.json").write_text(json.dumps(order["load"]["draft_config"]), encoding="utf-8")
        asyncio.run(_serve(order, folder, Path(order["out"]), Path(order["log"])))
        sys.stdout.flush()
        os._exit(0)  # an orderly end takes the engine several seconds; its processes are ended by who started it


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_vllm")
    add_run_arguments(parser.add_subparsers(dest="step", required=True))
    args = parser.parse_args(argv)
    if args.step == "work":
        work(args.order)
    else:
        run_chosen(args, "benchmarks.serve_vllm", ENVIRONMENT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
