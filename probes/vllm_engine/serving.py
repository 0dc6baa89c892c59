"""Measure vLLM under traffic: closed loops and Poisson arrivals, every request timed, dummy weights.

    python -m probes.vllm_engine.serving PLAN.json OUT --gpus 0,1,2,3 --minutes 20

Plan, loads and OUT are those of ``probes.vllm_engine.static``, but that a load has ``offers`` (see ``probes.serving_benchmark.TrafficProfile``)
where that has shapes. Beside ``runs.jsonl``, OUT then holds ``requests.jsonl``, one line a request.

What is timed is ``AsyncLLM.generate``, which is what vLLM's HTTP server calls: the engine runs in processes of its own,
as it does under that server; HTTP, and text to tokens and back, are left out.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from catalog.requests import Request, append_requests
from probes.gpu_telemetry import Meter
from probes.serving_benchmark import serve, summary
from probes.static_benchmark import measurement
from probes.sweep_command import record_left_out, run_sweep, store, stored, sweep_parser, tell
from probes.vllm_engine.static import (
    ENVIRONMENT,
    add_memory,
    check_installed,
    check_load,
    engine_args,
    engine_fingerprint,
    log_of,
    record_shortage,
    work,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from catalog.schema import Measurement
    from probes.benchmark_plan import BenchmarkJob
    from probes.serving_benchmark import ServingRun, TrafficProfile
    from probes.sweep_command import Order

WARM_UP = (8, 256, 16)
"""Requests, prompt and output tokens of a first, untimed burst."""


class TrafficServer(Protocol):
    """What ``record_offers`` asks of an engine."""

    name: str
    version: str
    meter: Meter
    max_len: int
    kv_capacity_tokens: int
    fingerprint: Mapping[str, Any]
    reports: list[dict[str, float]]
    """Memory by GPU, at least ``used_gib``, as it was when last asked."""

    async def look(self) -> None:
        """Bring ``reports`` up to date."""
        ...

    def stream(self, prompt: Sequence[int], output_len: int, /) -> AsyncIterator[int]:
        """See ``probes.serving_benchmark.Stream``."""
        ...


class VllmServer:
    """``vllm.v1.engine.async_llm.AsyncLLM`` with random weights."""

    name = "vllm"

    def __init__(self, load: BenchmarkJob, folder: str, gpus: Sequence[int], **more: Any) -> None:
        """Start it; ``more`` are arguments of the engine beside, or instead of, those that follow from the load."""
        vllm = import_module("vllm")
        began = time.perf_counter()
        self.meter = Meter(gpus)
        self._params = import_module("vllm.sampling_params")
        arguments = import_module("vllm.engine.arg_utils").AsyncEngineArgs(**(engine_args(load, folder) | more))
        self._llm = import_module("vllm.v1.engine.async_llm").AsyncLLM.from_engine_args(arguments)
        self.startup_s = time.perf_counter() - began
        self.version: str = vllm.__version__
        self._numbers = count()
        config = self._llm.vllm_config
        self.max_len: int = config.model_config.max_model_len
        self.fingerprint: Mapping[str, Any] = {
            **engine_fingerprint(self.meter, config, self.startup_s),
            "max_num_seqs": config.scheduler_config.max_num_seqs,
            "max_num_batched_tokens": config.scheduler_config.max_num_batched_tokens,
        }
        self.reports: list[dict[str, float]] = []
        """As the workers reported their memory when last asked, by GPU."""
        self.kv_capacity_tokens = 0

    async def look(self) -> None:
        """Ask the workers how their memory is used."""
        self.reports = await self._llm.collective_rpc("memory_report")
        self.kv_capacity_tokens = int(self.reports[0]["num_blocks"] * self.reports[0]["block_size"])

    def sampling(self, output_len: int) -> Any:
        """Ask for exactly so many tokens, each as soon as it is known."""
        return self._params.SamplingParams(
            temperature=1.0,
            max_tokens=output_len,
            ignore_eos=True,
            detokenize=False,
            output_kind=self._params.RequestOutputKind.DELTA,
        )

    def next_id(self) -> str:
        """Name a request, another each time."""
        return str(next(self._numbers))

    async def stream(self, prompt: Sequence[int], output_len: int) -> AsyncIterator[int]:
        """See ``probes.serving_benchmark.Stream``."""
        sampling = self.sampling(output_len)
        async for output in self._llm.generate({"prompt_token_ids": prompt}, sampling, self.next_id()):
            if got := len(output.outputs[0].token_ids):
                yield got


async def record_offers(server: TrafficServer, order: Order) -> None:
    """Make the load's offers that are not in the store yet; each is in it, with its requests, as soon as it is over.

    Those for which no time is left are noted as left out, with shares of a closed loop that only came after them: the next run
    takes them up.
    """
    load, vocab_size = order.load, order.load.model.vocab_size
    began = time.perf_counter()
    left: list[TrafficProfile] = []
    early: list[TrafficProfile] = []
    done = {run.run_id: run for run in stored(order)}
    number, *lengths = WARM_UP
    await asyncio.gather(*(_drained(server, [1] * lengths[0], lengths[1]) for _ in range(number)))
    most: dict[tuple[int, int], float] = {}
    for run in done.values():  # other loads may share the store
        if run.regime == "steady" and run.output_tok_s and run.run_id.startswith(f"{load.name}-c"):
            _raise(most, (run.input_len, run.output_len), run.output_tok_s)
    for offer in load.offers:
        run_id = load.run_id(offer)
        rate = len(offer.requests) / offer.seconds if offer.requests else offer.rate
        if offer.share is not None:
            rate = offer.share * most.get((offer.input_len, offer.output_len), 0.0)
        if run_id in done:
            continue
        if (elapsed := time.perf_counter() - began) > load.measure_s:
            tell(f"{run_id} left out: {elapsed:.0f} s were spent on this load")
            left.append(offer)
            continue
        if offer.share is not None and not rate:
            tell(f"{run_id} left out: no closed loop with these lengths came before it")
            early.append(offer)
            continue
        energy = server.meter.energy_j()
        served = await serve(server.stream, offer, vocab_size=vocab_size, max_len=server.max_len, rate=rate)
        after = server.meter.energy_j()
        await server.look()
        seen = summary(served)
        if offer.concurrency:
            _raise(most, (offer.input_len, offer.output_len), served.output_tok_s)
        tell(f"{run_id}: {len(served.requests)} requests, {served.lost} lost, {json.dumps(seen)}")
        append_requests(order.out / "requests.jsonl", _requests(run_id, served))
        spent_j = None if energy is None or after is None else round(after - energy, 1)
        store(order, _measured(server, load, offer, served, rate=rate, energy_j=spent_j))
    known = [offer for offer in early if (offer.input_len, offer.output_len) in most]
    record_left_out(order, offers=[*known, *left])


def _measured(
    server: TrafficServer,
    load: BenchmarkJob,
    offer: TrafficProfile,
    served: ServingRun,
    *,
    rate: float | None,
    energy_j: float | None,
) -> Measurement:
    """Return the run of an offer, made at ``rate`` requests a second where it is an open loop."""
    seen = summary(served)
    return measurement(
        load,
        (offer.concurrency or int(seen["batch"]), offer.input_len, offer.output_len),
        **{
            **{name: seen[name] for name in ("ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s") if name in seen},
            "run_id": load.run_id(offer),
            "regime": "steady" if offer.concurrency else "open",
            "rate": None if rate is None else round(rate, 4),
            "engine": server.name,
            "engine_version": server.version,
            "repeats": 1,
            "energy_j": energy_j,
            "peak_memory_gib": round(max(report["used_gib"] for report in server.reports), 3),
            "kv_capacity_tokens": server.kv_capacity_tokens,
            "fingerprint": json.dumps({**server.fingerprint, **_described(offer, served)}, separators=(",", ":")),
        },
    )


def _raise(most: dict[tuple[int, int], float], lengths: tuple[int, int], output_tok_s: float) -> None:
    """Keep the most requests a second that a closed loop with these lengths completed."""
    most[lengths] = max(most.get(lengths, 0.0), output_tok_s / lengths[1])


def _described(offer: TrafficProfile, served: ServingRun) -> dict[str, Any]:
    return {
        "spread": offer.spread,
        "seed": offer.seed,
        "seconds": offer.seconds,
        **({"trace": True} if offer.requests else {}),
        "requests": len(served.requests),
        "lost": served.lost,
    }


def _requests(run_id: str, served: ServingRun) -> list[Request]:
    return [
        Request(
            run_id=run_id,
            arrival_s=round(request.arrival_s, 5),
            input_len=request.input_len,
            output_len=request.output_len,
            ttft_ms=round(1e3 * (request.first_s - request.arrival_s), 3),
            e2e_ms=round(1e3 * (request.last_s - request.arrival_s), 3),
            itl_p50_ms=None if request.itl_p50_ms is None else round(request.itl_p50_ms, 3),
            itl_p95_ms=None if request.itl_p95_ms is None else round(request.itl_p95_ms, 3),
            itl_max_ms=None if request.itl_max_ms is None else round(request.itl_max_ms, 3),
        )
        for request in served.requests
    ]


async def _drained(server: TrafficServer, prompt: Sequence[int], output_len: int) -> None:
    async for _ in server.stream(prompt, output_len):
        pass


async def _serve(order: Order, folder: str) -> None:
    begin = order.log.stat().st_size
    try:
        server = VllmServer(order.load, folder, order.gpus)
        await server.look()
    except Exception as error:
        if record_shortage(order, error, begin):
            return  # that it does not start is what there is to know of this load
        raise
    tell(f"started in {server.startup_s:.1f} s, KV for {server.kv_capacity_tokens} tokens")
    log = log_of(order, begin)
    add_memory(order.out / "memory.csv", order.load, server.reports, startup_s=server.startup_s, log=log)
    await record_offers(server, order)


def worker_command() -> list[str]:
    return [sys.executable, "-m", "probes.vllm_engine.serving", "--worker"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = sweep_parser("probes.vllm_engine.serving", "Measure vLLM under traffic.")
    args = parser.parse_args(argv)
    if args.worker:
        work("vllm.v1.engine.async_llm", lambda order, folder: asyncio.run(_serve(order, folder)))
        return 0
    return run_sweep(
        parser, args, worker=worker_command(), environment=ENVIRONMENT, check=check_load, ready=check_installed
    )


if __name__ == "__main__":
    sys.exit(main())
