"""A deployment under traffic: what every request waits and takes, by simulating the engine's scheduler step by step.

The scheduler is vLLM's (``advisor.simulator.scheduler_loop``), the time of each of its steps the surrogate's
(``advisor.simulator.step_table``). Intervals come from simulating the same traffic again with other parameters, drawn from what the
surrogate believes of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from advisor.prediction.evidence import Evidence
from advisor.prediction.inputs import read_cluster, read_model
from advisor.prediction.speculation import SpeculationQuestion
from advisor.simulator.arrivals import Arrivals, ArrivalStream
from advisor.simulator.benchmark_client import BenchmarkClient, find_client
from advisor.simulator.conversations import Conversations
from advisor.simulator.disaggregated_server import DisaggregatedServer, check_pools, with_pool
from advisor.simulator.offered_traffic import offered_traffic
from advisor.simulator.outcome import TrafficOutcome
from advisor.simulator.routers import FCFS
from advisor.simulator.scheduler import FRONT_END_MS
from advisor.simulator.server import AggregatedServer, counted_out
from advisor.simulator.serving import SchedulerKnobs, check_serving
from advisor.simulator.simulation_answer import Simulation, simulation_of
from advisor.simulator.slot_shortage import slot_notes
from advisor.simulator.traffic_question import TrafficQuestion
from advisor.simulator.traffic_speculation import SpeculatedServer
from catalog.schema import Cluster, Deployment, Model, Slo, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Unpack

    from advisor.prediction.demand import QuestionFlags
    from advisor.prediction.evidence import Runs
    from advisor.simulator.class_mix import ClassMix
    from advisor.simulator.request_results import RequestResults
    from advisor.simulator.routers import Router, SchedulingPolicy
    from advisor.simulator.trace_files import TraceFile
    from catalog.errors import Note
    from catalog.features import Drafting


def simulate(
    model: str | Model,
    gpus: str | Cluster,
    *,
    deployment: Deployment | None = None,
    prefill: Deployment | None = None,
    prefill_gpus: str | Cluster | None = None,
    kv_link_gbps: float | None = None,
    workload: Workload | Mapping[str, Any] | None = None,
    client: str | BenchmarkClient | None = None,
    trace: str | Path | TraceFile | Arrivals | ArrivalStream | None = None,
    slo: Slo | Mapping[str, Any] | None = None,
    runs: Runs = None,
    duration_s: float | None = None,
    seed: int = 0,
    spread: float | None = None,
    burstiness: float = 1.0,
    curve: Sequence[float] = (),
    router: Router = "round_robin",
    scheduling_policy: SchedulingPolicy = FCFS,
    classes: str | Path | Mapping[str, Any] | ClassMix | None = None,
    shared_prefix: int = 0,
    num_prefixes: int = 1,
    turns: int = 1,
    sessions: str | Path | None = None,
    enable_prefix_caching: bool = True,
    prefix_hit_rate: float | None = None,
    front_end_ms: float = FRONT_END_MS,
    poll_steps: int | None = None,
    batch_wait_steps: int | None = None,
    delivery_tok_s: float | None = None,
    draws: int = 8,
    set_gpu: Mapping[str, float | str] | None = None,
    each: Callable[[RequestResults], None] | None = None,
    rate: float | str | None = None,
    speculate: str | None = None,
    draft_len: int | None = None,
    acceptance: float | Sequence[float] | None = None,
    **flags: Unpack[QuestionFlags],
) -> Simulation:
    """Simulate traffic on a deployment, step by step of its scheduler.

    Of an open loop of more than a million requests (``advisor.simulator.arrivals.WHOLE``) none is kept: they are made,
    or read, and served piece by piece, percentiles are right to 0.05%, and intervals come from the busiest 200,000.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``.
        gpus: ``"4xA100"``, ``"2x8xH100"`` (nodes x GPUs), or a ``Cluster``.
        deployment: layout and knobs; what is None there is what the engine would choose. ``dp`` replicas share the traffic.
        prefill: another deployment that computes the prompts and hands their KV cache to ``deployment``, which then only decodes
            (see ``advisor.simulator.disaggregation``). Not for a closed loop.
        prefill_gpus: where that runs on GPUs of another kind: ``"4xL40S"``.
        kv_link_gbps: GB/s of a GPU over the link between the two; None: NVLink within a node, else the network.
        workload: lengths, and the ``rate`` of an open loop or the ``concurrency`` of a closed one.
        client: a program that measures, such as "vllm", whose closed loop it is (see ``advisor.simulator.benchmark_client``).
        trace: a file of requests (see ``advisor.simulator.trace_files.read_trace``), or what ``open_trace`` made of one; of a file the
            times are stretched to ``workload.rate`` where that is given.
        slo: limits, for goodput and whether they are kept.
        runs: None for the shipped fit and the user's own runs; a list for exactly those; [] for the analytic model; or what ``fit`` made.
        duration_s: how long requests come; None for all of a trace, else five minutes, or longer for a thousand requests and long outputs.
        seed: of arrivals and lengths; the same seed gives the same requests to every deployment.
        spread: coefficient of variation of both lengths, log-normal.
        burstiness: squared coefficient of variation of the gaps between arrivals; 1: Poisson.
        curve: relative rates of equal parts of the duration.
        router: "round_robin"; "least_loaded", which counts a waiting request as four running ones, as vLLM does;
            "power_of_two", the less loaded of two at random; "prefix_aware", the one that holds most of the prompt, if that is
            enough and the load is even; "session_sticky", the one that served the session before.
        scheduling_policy: of a replica's queue: "fcfs", or "priority", by the priorities of classes, as vLLM has it.
        classes: a file of classes, or a mapping like one (see ``advisor.simulator.class_mix``); of a trace its column ``class``
            says which request is of which. All requests are kept in memory.
        shared_prefix: tokens of a system prompt before every request's ``input_len``.
        num_prefixes: different ones, which requests (or sessions) take in turn.
        turns: requests of a session; each sends all that was said before and ``input_len`` tokens, and comes when the one before it has
            been answered and the ``think_time`` has passed (its mean; exponential). The rate is of requests, not of sessions.
        sessions: a file of sessions that grow, wait and branch (see ``advisor.simulator.session_files.read_sessions``); it brings its
            own rate, which ``workload.rate`` stretches.
        enable_prefix_caching: whether the engine keeps what it has computed, block by block, for what shares it.
        prefix_hit_rate: share of each prompt that hits the prefix cache, 0 to below 1, where it is known and what prompts share is not.
        front_end_ms: what a request takes outside the engine's steps.
        poll_steps: knobs of scheduler and front end, with the next two; None: the engine's (see ``advisor.simulator.serving.SchedulerKnobs``).
        batch_wait_steps: see there.
        delivery_tok_s: see there.
        draws: how often the traffic is simulated again for intervals; 0: no intervals.
        set_gpu: what-if values for fields of the GPU.
        each: is handed every request that was served, in parts, in the order of their arrival.
        rate: requests a second, in place of that of the workload.
        speculate: what drafts tokens: "ngram", "eagle", "mtp" or "draft:MODEL"; the answer compares with the same deployment without.
        draft_len: tokens drafted a step; None: the number that makes these requests fastest.
        acceptance: probability that a drafted token is accepted, of each or by its place in a draft; None: as published.
        flags: workload and limits by the names of the command line's options: ``use="chat", users=1000``; see ``QuestionFlags``. Limits
            stated so hold for the 95th percentile unless ``percentile`` says otherwise.

    Raises:
        InputError: a name, number or combination that cannot be, a model that does not fit, or a queue that grows beyond what
            memory should hold.

    """
    resolved, cluster = read_model(model), read_cluster(gpus, set_gpu)
    drafts = SpeculationQuestion.read(speculate, draft_len, acceptance)
    conversations = Conversations(shared_prefix=shared_prefix, num_prefixes=num_prefixes, turns=turns)
    question = TrafficQuestion.read(
        workload,
        slo,
        flags,
        conversations,
        rate=rate,
        spread=spread,
        prefix_hit_rate=prefix_hit_rate,
        curve=curve,
        classes=classes,
    )
    asked, question = question.of_model(resolved.value, trace or sessions)
    limits = question.slo if slo is not None or question.slo.limits else None
    check_serving(limits, router, question.prefix_hit_rate, front_end_ms, draws)
    stated = deployment or Deployment()
    knowledge = Evidence.of(runs, engine=stated.engine, gpu=cluster.value.gpu, version=stated.engine_version)
    serving = {
        "router": router,
        "scheduling_policy": scheduling_policy,
        "prefix_hit_rate": question.prefix_hit_rate,
        "prefix_caching": enable_prefix_caching,
        "front_end_ms": front_end_ms,
        "acceptance": acceptance,
        "knobs": SchedulerKnobs(
            poll_steps=poll_steps, batch_wait_steps=batch_wait_steps, delivery_tok_s=delivery_tok_s
        ),
    }

    def engine_of(drafting: Drafting | None) -> AggregatedServer | DisaggregatedServer:
        started = replace(stated, drafting=drafting)
        decoding = AggregatedServer.of(asked, cluster.value, started, knowledge, serving)
        return with_pool(decoding, prefill, prefill_gpus, link_gbps=kv_link_gbps, runs=runs, serving=serving)

    engine = engine_of(stated.drafting)
    program = find_client(client) if isinstance(client, str) else client
    traffic = offered_traffic(
        question,
        trace,
        program,
        sessions,
        duration_s=duration_s,
        longest=engine.deployment.max_model_len or asked.max_position_embeddings,
        seed=seed,
        burstiness=burstiness,
        curve=curve,
        whole=prefill is not None,
    ).within(engine.longest)
    if prefill is not None:
        check_pools(traffic, scheduling_policy)
    drafted = None if drafts is None else SpeculatedServer.of(engine_of, drafts, traffic)
    if drafted is not None:
        engine, traffic = drafted.engine, traffic.within(drafted.engine.longest)
    return _answered(
        question,
        engine,
        traffic,
        limits=limits,
        asked_s=None if trace is not None or sessions is not None else question.workload.rate,
        draws=draws,
        each=each,
        client=program.name if program else None,
        drafted=drafted,
        notes=(*question.notes, *resolved.notes, *cluster.notes, *engine.notes, *knowledge.notes),
    )


def _answered(
    question: TrafficQuestion,
    engine: AggregatedServer | DisaggregatedServer,
    traffic: Arrivals | ArrivalStream,
    *,
    limits: Slo | None,
    asked_s: float | None,
    draws: int,
    each: Callable[[RequestResults], None] | None,
    client: str | None,
    drafted: SpeculatedServer | None,
    notes: tuple[Note, ...],
) -> Simulation:
    """Serve the traffic and return what becomes of it, ``notes`` first of what there is to say."""
    decode = engine.decode if isinstance(engine, DisaggregatedServer) else engine
    if isinstance(traffic, Arrivals) and traffic.counted_out:
        traffic = counted_out(traffic, decode)
    question.check_hits(traffic.sharing)
    outcome = TrafficOutcome.of(engine, decode, traffic, limits, draws, each)
    notes += (*traffic.notes, *outcome.notes, *decode.cache_notes(traffic.sharing))
    if isinstance(traffic, Arrivals) and engine is decode:
        notes += slot_notes(decode, traffic, outcome.statistics["rates", "saturation_s"], outcome.results)
    return simulation_of(
        engine,
        decode,
        traffic,
        outcome,
        slo=limits,
        asked_s=asked_s,
        client=client,
        scale=engine.scale if draws else None,
        speculation=drafted.speculation if drafted else None,
        notes=notes,
    )
