"""The public ``probe``: what is worth measuring is planned, run within a budget, and kept for every later answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.benchmarking.benchmark_plan import Candidate, ProbeQuestion, shape_seconds
from advisor.benchmarking.candidates import best_of, candidates_of
from advisor.benchmarking.engines import check_deployment, check_engine
from advisor.benchmarking.session import (
    ProbeSession,
    SessionConfig,
    known_parameters,
    session_config,
    start_seconds,
)
from advisor.benchmarking.traffic_plan import read_requests
from catalog.engines import resolve
from catalog.errors import InputError
from probes.benchmark_plan import read_plan
from probes.serving_benchmark import DRAIN_S
from probes.sweep import undone

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Cluster, Measurement, Model
    from probes.benchmark_plan import BenchmarkJob


def prepare_probe(
    model: str | Model | None,
    gpus: str | Cluster = "local",
    *,
    budget_s: float | None = 180.0,
    question: ProbeQuestion | None = None,
    device: str = "cuda",
    role: str = "fit",
    out: str | Path | None = None,
    store: str | Path | None = None,
    plan: str | Path | None = None,
    began: float | None = None,
) -> ProbeSession:
    """Plan what ``probe`` would run; nothing is started and nothing written.

    Arguments are those of ``probe``; the budget counts from ``began`` on the clock of ``time.monotonic``, by default now.
    """
    question = question or ProbeQuestion()
    config = session_config(
        question, gpus, budget_s=budget_s, device=device, role=role, out=out, store=store, began=began
    )
    if plan is not None:
        return _from_plan(Path(plan).expanduser(), config)
    if model is None:
        raise InputError("no model named; give one (llama-13b) or a plan")
    return best_of(candidates_of(model, question, role, config))


def _from_plan(path: Path, config: SessionConfig) -> ProbeSession:
    """Plan exactly the loads of a plan file, in its order.

    Raises:
        InputError: the file is no plan, mixes traffic with static batches, or asks for what cannot be run here.

    """
    loads = read_plan(path)
    plan = json.loads(path.read_text(encoding="utf-8"))
    target = config.target
    serving = {bool(load.offers) for load in loads}
    if len(serving) > 1:
        raise InputError(f"{path} has loads with offers and loads without; traffic and static batches are plans apart")
    check_engine(config.engine, config.device, serving=True in serving)
    widest = max((load.deployment.num_gpus for load in loads), default=0)
    if widest > target.cluster.num_gpus:
        raise InputError(f"a load of {path} needs {widest} GPUs; {target.cluster.num_gpus} are named")
    for load in loads:
        try:
            check_deployment(config.engine, load.model, load.deployment, config.device)
        except InputError as error:
            raise InputError(f"{path}: {load.name}: {error}") from error
    able = [_expected_candidate(load, config.engine, target.cluster) for load in loads]
    start_s = start_seconds(config, plan.get("prefix", ""))
    unmeasured = [undone(load, config.out) for load in loads]
    jobs = [load for load, pieces in zip(loads, unmeasured, strict=True) if pieces]
    waiting = [candidate.only(pieces) for candidate, pieces in zip(able, unmeasured, strict=True) if pieces]
    return ProbeSession.of(config, plan, jobs, waiting, all_jobs=loads, start_s=start_s, notes=target.notes)


def _expected_candidate(load: BenchmarkJob, engine: str, cluster: Cluster) -> Candidate:
    """Return a load of a plan with the seconds of its offers, drained, or of the shapes that should fit; the others will be left
    out when it runs.
    """
    wanted = replace(load.deployment, engine=engine)
    # as the engines do: positions beyond the model's are only more rotary angles
    longest = max(load.model.max_position_embeddings, wanted.max_model_len or 0)
    model = replace(load.model, max_position_embeddings=longest)
    deployment = resolve(wanted, model, cluster).value
    if load.offers:
        return Candidate(deployment=deployment, seconds={offer: offer.seconds + DRAIN_S for offer in load.offers})
    seconds = shape_seconds(
        model, cluster, deployment, load.shapes, known_parameters(engine, cluster), most_s=load.point_s
    )
    return Candidate(deployment=deployment, seconds=seconds)


def probe(
    model: str | Model | None = None,
    gpus: str | Cluster = "local",
    *,
    budget_s: float | None = 180.0,
    tp: Sequence[int] = (),
    pp: Sequence[int] = (),
    batch: Sequence[int] = (),
    input_len: Sequence[int] = (),
    output_len: Sequence[int] = (),
    dtype: str = "auto",
    max_model_len: int | None = None,
    engine: str | None = None,
    device: str = "cuda",
    role: str = "fit",
    out: str | Path | None = None,
    store: str | Path | None = None,
    plan: str | Path | None = None,
    endpoint: str | None = None,
    tokenizer: str | None = None,
    serving: bool = False,
    trace: str | Path | None = None,
) -> list[Measurement]:
    """Measure a model on this machine's GPUs in the layouts and batches that tell most, within a budget of seconds.

    Needs torch, and NVIDIA GPUs that nobody else uses. Every measurement is kept as soon as it is taken, where
    ``estimate`` and ``recommend`` find it; what has been measured before is not measured again. Several calls, in several
    processes or on several machines that share ``out``, finish one list together.

    With an ``endpoint``, what is measured is that server, under rising numbers of requests in flight and then Poisson
    arrivals, which GuideLLM makes (``pip install guidellm``); a key that it wants is read from $OPENAI_API_KEY.

    Args:
        model: catalog name or alias, Hugging Face id, path to a ``config.json``, or a ``Model``; weights are those beside
            the ``config.json``, else random. None if a ``plan`` says it.
        gpus: "local" for all of this machine's, "2" for two of them, "0,3" for these; for an endpoint, what it runs on:
            "4xH100".
        budget_s: seconds from the call on; nothing is begun that is not expected to end in time, and what overruns is
            ended. None: no limit.
        tp: tensor-parallel degrees to measure; empty for all that are worth it, here and below.
        pp: pipeline-parallel degrees.
        batch: sequences at once.
        input_len: tokens of a prompt.
        output_len: tokens generated for each request.
        dtype: weight format, or "auto" for the checkpoint's own.
        max_model_len: longest prompt and answer together, in tokens; None for the longest that is measured.
        engine: "torch" (plain PyTorch; also None) or "vllm"; for an endpoint what it is, where it does not say itself.
        device: "cuda", or "cpu" for trying things out with tiny models, a process in place of each GPU.
        role: "fit", or "validate" for runs that are kept out of the fit to judge it.
        out: folder for everything; None for $ADVISOR_HOME.
        store: file of the measurements; None for OUT/runs.jsonl, or the one in $ADVISOR_HOME/runs.
        plan: file with exactly the loads to run (``probes.benchmark_plan.read_plan``), in place of a model.
        endpoint: address of a server with OpenAI's interface, to measure that; one ``tp``, ``pp``, ``input_len`` (1024) and
            ``output_len`` (256) then, and ``batch`` are requests in flight per replica.
        tokenizer: Hugging Face id or folder of the tokenizer that prompts for an endpoint are made with; None: the model's.
        serving: measure vLLM under traffic in place of static batches: ``batch`` requests kept in flight, then Poisson
            arrivals at shares of the best of these; each request is kept too, in OUT/requests.jsonl.
        trace: with ``serving``, a file of requests (as ``simulate`` reads) whose arrivals take the place of the Poisson ones.

    Returns:
        What has been measured of these loads, now or before.

    Raises:
        InputError: a name or number that cannot be, no GPU, one in use, torch missing, or a budget too small for a single
            measurement; for an endpoint, one that does not answer, refuses the key or serves another model.

    """
    if endpoint is not None and (serving or trace is not None):
        raise InputError(
            "serving and trace are for an engine that is started; an endpoint is measured under traffic anyway"
        )
    if endpoint is not None and plan is not None:
        raise InputError(
            "endpoint and plan are both given; a plan is for this machine's GPUs, leave out one of the two"
        )
    question = ProbeQuestion(
        engine=engine or ("vllm" if serving else "torch"),
        tp=tuple(tp),
        pp=tuple(pp),
        batch=tuple(batch),
        input_len=tuple(input_len),
        output_len=tuple(output_len),
        dtype=dtype,
        max_model_len=max_model_len,
        serving=serving,
        trace=read_requests(trace, serving=serving),
    )
    session: dict[str, Any] = {"question": question, "budget_s": budget_s, "role": role, "out": out, "store": store}
    if endpoint is not None:
        from advisor.benchmarking.endpoint_session import measure_endpoint, prepare_endpoint

        ready = prepare_endpoint(endpoint, model, gpus, engine=engine, tokenizer=tokenizer, **session)
        return measure_endpoint(ready).runs
    return prepare_probe(model, gpus, device=device, plan=plan, **session).run()
