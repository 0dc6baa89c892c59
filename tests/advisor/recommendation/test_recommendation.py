"""What is recommended is the best there is, and what is said of it is true."""

import itertools
import json
import math
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.prediction.estimation import estimate
from advisor.prediction.evidence import Evidence, ExtraRuns
from advisor.prediction.prediction import Prediction
from advisor.recommendation.launch_command import export
from advisor.recommendation.recommendation import OBJECTIVES, recommend
from advisor.render.answers.recommendation import broken_limits, document
from catalog.engines import find_engine, tp_problem
from catalog.errors import InputError
from catalog.gpus import find_gpu, parse_cluster
from catalog.models.find import find_model
from catalog.schema import Cluster, Deployment, Measurement, Slo, Workload
from tests.advisor.strategies import MODELS

ENGINE = find_engine("vllm")
MOST = 1024
NO_LIMITS, USUAL = Slo(), Workload()


def replicas(cluster, tp, pp):
    """How many replicas of tp x pp GPUs a cluster holds: within a node, or on whole nodes with tp inside each."""
    node = cluster.gpus_per_node
    if tp > node:
        return 0
    if tp * pp <= node:
        return node // (tp * pp) * cluster.nodes
    return 0 if tp * pp % node or node % tp else cluster.num_gpus // (tp * pp)


def layouts(model, cluster):
    for tp in range(1, cluster.num_gpus + 1):
        for pp in range(1, min(cluster.num_gpus // tp, model.num_hidden_layers) + 1):
            for dp in range(1, replicas(cluster, tp, pp) + 1):
                for ep in {1, tp, tp * dp} if model.num_experts else {1}:
                    if ep <= max(model.num_experts, 1) and not tp_problem(model, tp, experts_whole=ep > 1):
                        yield tp, pp, dp, ep


@dataclass(frozen=True)
class Asked:
    """A question, and its answer by brute force: every layout with every batch from 1 on, no grid, no search."""

    model: str
    cluster: Cluster
    objective: str = "throughput_per_gpu"
    slo: Slo = NO_LIMITS
    workload: Workload = USUAL
    max_batch: int = MOST

    def evaluate(self, tp, pp, dp, ep, batch):
        """Batches of one layout, each evaluated as the one deployment it is."""
        model, gpu = find_model(self.model).value, self.cluster.gpu
        parameters = Evidence.of(None, engine="vllm", gpu=gpu).marginal("vllm", gpu).parameters
        columns = {
            "engine": "vllm",
            "tp": np.full(len(batch), tp),
            "pp": pp,
            "dp": dp,
            "ep": ep,
            "max_num_seqs": batch,
            "max_num_batched_tokens": ENGINE.batch_defaults(gpu).max_num_batched_tokens,
            "max_model_len": model.max_position_embeddings,
        }
        return Prediction.of(
            model,
            self.cluster,
            DeploymentArrays.from_columns(columns, model, gpu),
            batch=batch,
            input_len=self.workload.input_len,
            output_len=self.workload.output_len,
            regime="steady",
            parameters=parameters,
        )

    def loss(self, found, gpus):
        """What the objective makes of each batch, smaller is better; infinite where a limit is broken."""
        times, layout = found.times, found.cost_model.layout
        kept = found.cost_model.memory.fits & (found.concurrency >= found.batch)
        kept &= found.batch <= layout.max_num_batched_tokens
        for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
            limit = getattr(self.slo, metric)
            kept &= limit is None or getattr(times, metric) <= limit
        value = {
            "throughput_per_gpu": gpus / times.output_tok_s,
            "throughput": 1 / times.output_tok_s,
            "cost": gpus / times.output_tok_s,
            "latency": times.e2e_ms,
            "tpot": times.tpot_ms,
            "ttft": times.ttft_ms,
        }[self.objective]
        return np.where(kept, value, np.inf)

    def optimum(self):
        best = np.inf
        for tp, pp, dp, ep in layouts(find_model(self.model).value, self.cluster):
            batch = np.arange(1.0, self.max_batch + 1)
            if self.workload.concurrency is not None:
                batch = np.array([float(math.ceil(self.workload.concurrency / dp))])
            best = min(best, self.loss(self.evaluate(tp, pp, dp, ep, batch), tp * pp * dp).min())
        return best

    def answer(self, **options):
        return recommend(
            self.model,
            self.cluster,
            objective=self.objective,
            slo=self.slo,
            workload=self.workload,
            max_batch=self.max_batch,
            top=1,
            price=2.0,
            **{"confidence": 0.5, **options},
        )

    def check(self):
        """The answer is the optimum, and evaluated alone it is as good as is said."""
        found, optimum = self.answer(), self.optimum()
        if found.best is None:
            assert optimum == np.inf, "there is a feasible deployment"
            return
        chosen = found.best.deployment
        batch = np.array([float(found.best.batch)])
        alone = self.evaluate(chosen.tp, chosen.pp, chosen.dp, chosen.ep, batch)
        assert self.loss(alone, chosen.num_gpus)[0] == pytest.approx(optimum, rel=1e-9)
        assert found.best.output_tok_s == pytest.approx(alone.times.output_tok_s[0], rel=1e-12)
        assert found.exact


def on(gpus):
    return parse_cluster(gpus).value


LIMITS = [Slo(), Slo(tpot_ms=40), Slo(ttft_ms=400, tpot_ms=60), Slo(e2e_ms=20000)]
PAIRS = [
    ("llama-13b", "4xA100"),
    ("llama-3.1-8b", "1xL40S"),
    ("qwen2.5-7b", "6xL40S"),
    ("mixtral-8x7b", "8xA100"),
    ("qwen3-30b-a3b", "2x2xH100"),
    ("gemma-3-27b", "1xA100"),
    ("deepseek-v2-lite", "3xA100"),
    ("opt-6.7b", "2xV100-32GB"),
    ("phi-4", "2x8xH100"),
    ("llama-3.1-70b", "16xA100"),
]


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize(("model", "gpus"), PAIRS)
def test_the_optimum_of_brute_force(model, gpus, turn):
    """Ten models, each under two objectives and limits; every objective and every limit has its turns."""
    at = PAIRS.index((model, gpus)) + turn * len(PAIRS) // 2
    objective = list(OBJECTIVES)[(at + 3 * turn) % len(OBJECTIVES)]
    Asked(model, on(gpus), objective, LIMITS[at % len(LIMITS)]).check()


@pytest.mark.parametrize("count", range(1, 17))
def test_the_optimum_on_every_cluster_up_to_sixteen(count):
    """Any number of GPUs: on one node up to eight, on two where it is even, in one long node otherwise."""
    nodes = 2 if count > 8 and count % 2 == 0 else 1
    cluster = Cluster(gpu=find_gpu("H100").value, gpus_per_node=count // nodes, nodes=nodes)
    objective = ("throughput_per_gpu", "latency", "cost", "tpot")[count % 4]
    Asked("llama-3.1-70b", cluster, objective, Slo(tpot_ms=30) if count % 3 else Slo(), max_batch=96).check()


@pytest.mark.parametrize("concurrency", [1, 7, 100, 333])
def test_the_optimum_with_a_stated_number_in_flight(concurrency):
    Asked(
        "llama-13b",
        on("4xA100"),
        "throughput",
        workload=Workload(input_len=512, output_len=128, concurrency=concurrency),
    ).check()
    Asked(
        "llama-13b", on("4xA100"), "latency", workload=Workload(input_len=512, output_len=128, concurrency=concurrency)
    ).check()


def test_one_at_a_time_is_the_same_as_side_by_side():
    """A double loop over single deployments finds what arrays of them find, bit for bit."""
    asked = Asked("mixtral-8x7b", on("4xA100"), max_batch=6)
    for tp, pp, dp, ep in layouts(find_model(asked.model).value, asked.cluster):
        together = asked.evaluate(tp, pp, dp, ep, np.arange(1.0, 7.0))
        for i in range(6):
            alone = asked.evaluate(tp, pp, dp, ep, np.array([i + 1.0]))
            for metric in ("ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s"):
                assert getattr(alone.times, metric)[0] == getattr(together.times, metric)[i]


@pytest.mark.slow
def test_sampled_within_a_percent_of_the_optimum_of_a_million():
    """Many budgets and formats on two nodes: a thousandth of the points is enough."""
    question = {
        "objective": "throughput_per_gpu",
        "slo": Slo(tpot_ms=25, ttft_ms=300),
        "dtypes": ["bfloat16", "fp8", "int8"],
        "kv_dtypes": ["auto", "fp8"],
        "max_num_batched_tokens": list(range(256, 8193, 256)),
        "top": 1,
    }
    exact = recommend("llama-3.1-8b", "2x8xH100", **question)
    assert exact.exact
    assert 500_000 < exact.evaluated < 2_000_000
    sampled = recommend("llama-3.1-8b", "2x8xH100", trials=300, **question)
    assert not sampled.exact
    assert sampled.evaluated < exact.evaluated / 10
    assert sampled.best.output_tok_s_per_gpu > 0.99 * exact.best.output_tok_s_per_gpu
    assert sampled.best.tpot_ms <= 25
    assert sampled.best.ttft_ms <= 300


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(
    model=st.sampled_from(MODELS()),
    gpu=st.sampled_from(["A100", "H100", "L40S", "V100-32GB", "B200-SXM", "T4"]),
    count=st.sampled_from([1, 2, 3, 4, 8]),
    objective=st.sampled_from(sorted(OBJECTIVES)),
    tpot=st.sampled_from([None, 5.0, 20.0, 100.0]),
    ttft=st.sampled_from([None, 50.0, 500.0]),
    input_len=st.sampled_from([16, 512, 1500]),
    concurrency=st.sampled_from([None, None, 1, 40]),
)
def test_the_recommended_one_fits_and_keeps_every_limit(**drawn):
    model, gpu, count, objective = (drawn[name] for name in ("model", "gpu", "count", "objective"))
    tpot, ttft, input_len, concurrency = (drawn[name] for name in ("tpot", "ttft", "input_len", "concurrency"))
    workload = Workload(input_len=input_len, output_len=100, concurrency=concurrency)
    slo = Slo(tpot_ms=tpot, ttft_ms=ttft)
    try:
        found = recommend(
            model, f"{count}x{gpu}", objective=objective, workload=workload, slo=slo, max_batch=64, price=1.0, top=3
        )
    except InputError:
        return  # the engine has no such format on such a GPU
    if found.best is None:
        assert found.relaxations
        assert found.candidates == found.pareto == ()
        return
    for shown in (found.best, *found.candidates, *found.pareto):
        assert shown.fits
        assert shown.running == shown.batch <= shown.max_concurrency
        assert tpot is None or shown.tpot_ms <= tpot
        assert ttft is None or shown.ttft_ms <= ttft
        assert shown.deployment.num_gpus <= count
        assert shown.deployment.max_num_seqs == shown.batch
        assert shown.deployment.max_model_len >= input_len + 100
        assert concurrency is None or shown.batch == math.ceil(concurrency / shown.deployment.dp)
        assert not tp_problem(model, shown.deployment.tp, experts_whole=shown.deployment.ep > 1)


def asked_surely(model, gpus, confidence=0.9, **limits):
    return recommend(model, gpus, slo=Slo(**limits), confidence=confidence, top=3)


@pytest.mark.parametrize(
    ("model", "gpus", "limits"),
    [
        ("llama-3.1-70b", "8xH100", {"tpot_ms": 50}),
        ("llama-3.1-8b", "1xH200", {"tpot_ms": 15}),
        ("mixtral-8x7b", "4xH200", {"ttft_ms": 300, "tpot_ms": 25}),
        ("qwen3-30b-a3b", "4xA100", {"e2e_ms": 12000}),
    ],
)
@pytest.mark.parametrize("confidence", [0.75, 0.9, 0.99])
def test_limits_hold_with_the_confidence_that_is_asked_for(model, gpus, limits, confidence):
    """The end of the interval keeps them, as the answer itself has it, and the batch is no smaller than that takes."""
    found = asked_surely(model, gpus, confidence, **limits)
    bare = asked_surely(model, gpus, 0.5, **limits)
    assert found.best is not None
    for shown in (found.best, *found.candidates):
        assert shown.keeps(found.slo) >= confidence - 0.01
        for metric, limit in limits.items():
            assert shown.upper(metric, confidence) <= 1.01 * limit
    assert found.best.output_tok_s_per_gpu <= bare.best.output_tok_s_per_gpu * (1 + 1e-9)
    assert bare.best.keeps(bare.slo) >= 0.5
    one_more = estimate_alike(found, found.best.batch + 2, confidence)
    # between the batches that the search evaluates, intervals may jump where launches no longer outlast the GPU
    assert one_more is None or one_more.keeps(found.slo) < confidence + 0.06 or one_more.batch_fits_probability < 0.95


def estimate_alike(found, batch, confidence):
    """The same layout with another batch, as the search has it."""
    chosen = found.best.deployment
    other = recommend(
        found.model,
        Cluster(gpu=found.cluster.gpu, gpus_per_node=found.cluster.gpus_per_node, nodes=found.cluster.nodes),
        workload=replace(found.workload, concurrency=batch * chosen.dp),
        confidence=confidence,
        top=100,
    )
    same = [
        each
        for each in other.candidates
        if (each.deployment.parallelism, each.deployment.dp) == (chosen.parallelism, chosen.dp)
    ]
    return same[0] if same else None


def test_more_confidence_never_promises_more():
    found = [asked_surely("llama-3.1-70b", "8xH100", sure, tpot_ms=50) for sure in (0.5, 0.75, 0.9, 0.95, 0.99)]
    rates = [each.best.output_tok_s_per_gpu for each in found]
    assert rates == sorted(rates, reverse=True)
    assert found[0].best.keeps(found[0].slo) < 0.6  # the coin toss that it was
    assert [each.confidence for each in found] == [0.5, 0.75, 0.9, 0.95, 0.99]
    body = found[2].to_dict()
    assert body["confidence"] == 0.9
    frame = found[2].to_frame()
    assert (frame["limits_probability"] >= 0.89).all()
    assert any("limits hold for the mean of a request, with 90% confidence" in n.text for n in found[2].assumptions)


@pytest.mark.parametrize(
    ("model", "gpus"), [("llama-3.1-8b", "1xH100"), ("llama-13b", "4xA100"), ("gpt-oss-20b", "1xB200")]
)
def test_the_cache_holds_the_batch_that_is_recommended(model, gpus):
    """With 95%, and one sequence more it would not; what the last ones would buy is told, with what happens beyond."""
    found = recommend(model, gpus, top=2)
    for shown in found.candidates:
        assert shown.batch_fits_probability >= 0.95
    bare = recommend(model, gpus, top=1, confidence=0.5)
    best = found.best
    assert best.batch <= bare.best.batch
    if best.batch < min(best.max_concurrency, MOST):
        assert best.batch_fits_probability < 0.999
        (told,) = [text for text in found.limits if "with 95%" in text]
        assert f"the cache holds batch {best.batch} with 95%" in told
        assert "of throughput" in told
        assert "preempted" in told


@pytest.mark.parametrize("confidence", [0.0, 0.6, 1.0, True, float("nan")])
def test_a_confidence_that_no_interval_has_is_refused(confidence):
    with pytest.raises(InputError, match=r"it must be 0\.5 \(the estimate\) or from 0\.75 to 0\.99"):
        asked_surely("llama-3.1-8b", "1xH100", confidence, tpot_ms=20)


def test_where_the_estimate_alone_keeps_a_limit_it_says_how_surely():
    found = recommend("llama-13b", "4xA100", slo=Slo(tpot_ms=9), workload=Workload(concurrency=8))
    assert found.best is None
    assert found.nearest.tpot_ms < 9
    assert any("with 90%: above 9" in text for text in broken_limits(found))
    eased = next(text for text in found.relaxations if text.startswith("TPOT limit"))
    limit = float(eased.split()[3])
    assert recommend("llama-13b", "4xA100", slo=Slo(tpot_ms=limit), workload=Workload(concurrency=8)).best is not None


def changed(asked, relaxation):
    """The question with one relaxation applied, as its words say."""
    if limits := re.findall(r"(TTFT|TPOT|E2E) limit of (\S+) ms instead of \S+ ms", relaxation):
        raised = {f"{name.lower()}_ms": float(value) for name, value in limits}
        return replace(asked, slo=replace(asked.slo, **raised)), {}
    if match := re.fullmatch(r"at most (\d+) requests in flight instead of \d+", relaxation):
        return replace(asked, workload=replace(asked.workload, concurrency=int(match[1]))), {}
    if match := re.fullmatch(r"(?:(fp8|int4) weights)?(?: and )?(?:(fp8) KV cache)?", relaxation):
        return asked, {"dtypes": match[1] and [match[1]], "kv_dtypes": match[2] and [match[2]]}
    if match := re.fullmatch(r"--gpu-memory-utilization (\S+) instead of \S+", relaxation):
        return asked, {"gpu_memory_utilization": float(match[1])}
    if match := re.fullmatch(r"(\d+) more GPUs? \((.+)\)", relaxation):
        cluster = on(match[2])
        assert cluster.num_gpus - asked.cluster.num_gpus == int(match[1])
        return replace(
            asked, cluster=replace(asked.cluster, gpus_per_node=cluster.gpus_per_node, nodes=cluster.nodes)
        ), {}
    raise AssertionError(f"unknown relaxation {relaxation!r}")


INFEASIBLE = [
    Asked("llama-3.1-70b", on("1xA100")),
    Asked("llama-13b", on("4xA100"), slo=Slo(tpot_ms=2)),
    Asked("llama-13b", on("2xA100"), slo=Slo(tpot_ms=20), workload=Workload(concurrency=512)),
    Asked("llama-13b", on("2xA100"), slo=Slo(e2e_ms=2000)),
    Asked("qwen2.5-7b", on("1xL40S"), slo=Slo(ttft_ms=20, tpot_ms=100)),
    Asked("llama-3.1-8b", on("2xL40S"), workload=Workload(input_len=2048, output_len=512, concurrency=3000)),
    Asked("gemma-3-27b", on("1xL40S")),
    Asked("mixtral-8x7b", on("2xL40S"), slo=Slo(ttft_ms=5000)),
    Asked("deepseek-v3", on("8xH100")),
]


@pytest.mark.parametrize("asked", INFEASIBLE, ids=lambda asked: f"{asked.model} {asked.cluster}")
def test_every_relaxation_is_enough_alone(asked):
    """And none is larger than need be: a tenth less of the limit, or half the GPUs added, is not enough."""
    found = asked.answer()
    assert found.best is None
    assert found.relaxations
    for relaxation in found.relaxations:
        eased, options = changed(asked, relaxation)
        assert eased.answer(**options).best is not None, relaxation
        if "limit of" in relaxation:
            metric = f"{relaxation[:4].strip().lower()}_ms"
            tighter = replace(eased, slo=replace(eased.slo, **{metric: 0.88 * getattr(eased.slo, metric)}))
            assert tighter.answer().best is None, relaxation
        elif "requests" in relaxation:
            more = replace(eased, workload=replace(eased.workload, concurrency=eased.workload.concurrency + 1))
            fewer = replace(eased, workload=replace(eased.workload, concurrency=eased.workload.concurrency // 2 + 1))
            assert more.answer().best is None, relaxation
            assert fewer.answer().best is not None, relaxation
        elif "more GPU" in relaxation and eased.cluster.nodes == 1:
            size = eased.cluster.gpus_per_node
            assert size in (2, 4, 8), "servers come with so many"
            less = replace(eased, cluster=replace(eased.cluster, gpus_per_node=size // 2))
            assert less == asked or less.answer().best is None, relaxation


@pytest.mark.parametrize(
    ("gpus", "slo"),
    [
        ("1xH100", Slo(tpot_ms=5.5)),
        ("1xH100", Slo(ttft_ms=25, tpot_ms=7)),
        ("2xA100", Slo(e2e_ms=1700, ttft_ms=60)),
        ("1xL40S", Slo(ttft_ms=20, tpot_ms=12)),
    ],
)
def test_what_would_relax_a_refusal_holds_when_it_is_typed_in(gpus, slo):
    asked = Asked("llama-3.1-8b", on(gpus), slo=slo)
    found = recommend("llama-3.1-8b", gpus, slo=slo)
    assert found.best is None
    assert any("limit of" in told for told in found.relaxations)
    for told in found.relaxations:
        eased, options = changed(asked, told)
        again = recommend("llama-3.1-8b", eased.cluster, slo=eased.slo, **options)
        assert again.best is not None, told
        assert again.best.keeps(eased.slo) >= 0.89, told


def test_formats_and_flags_are_named_before_more_gpus():
    told = recommend("llama-3.1-70b", "1xH100", max_model_len=8192).relaxations
    assert told[0].endswith(("weights", "KV cache"))
    assert "GPU" in told[-1]
    eased = recommend(
        "gemma-3-27b", "1xA6000", workload=Workload(input_len=4000, output_len=500, concurrency=1)
    ).relaxations
    assert [text for text in eased if "more GPU" in text] == list(eased[-1:])


def test_what_nothing_alone_can_do_takes_both():
    asked = Asked("llama-13b", on("1xA100"), slo=Slo(tpot_ms=0.5, ttft_ms=0.5))
    found = asked.answer()
    assert found.best is None
    (told,) = found.relaxations
    assert told.startswith("TTFT limit of ")
    assert changed(asked, told)[0].answer().best is not None


def test_what_nothing_can_do_is_said():
    long = Workload(input_len=100_000, output_len=30_000, concurrency=1)
    found = Asked("llama-3.1-70b", on("1xT4"), workload=long, slo=Slo(ttft_ms=0.5)).answer()
    assert found.relaxations == (found.relaxations[0],)
    assert found.relaxations[0].startswith("nothing alone is enough")


def test_the_nearest_is_shown_where_nothing_is_feasible():
    found = Asked("llama-13b", on("4xA100"), slo=Slo(tpot_ms=2)).answer()
    assert found.nearest.tpot_ms > 2
    everything = recommend("llama-13b", on("4xA100"), objective="tpot", top=1, confidence=0.5)
    assert found.nearest.tpot_ms == pytest.approx(everything.best.tpot_ms)
    assert Asked("llama-3.1-70b", on("1xA100")).answer().nearest is None  # nothing that runs comes near


def test_the_only_request_in_flight_waits_for_no_step():
    """Its first token is there when its prompt is computed, as that of a batch of one; of more in flight it waits for steps."""
    alone = recommend("llama-3.1-8b", "1xH100", workload=Workload(concurrency=1)).best
    static = estimate("llama-3.1-8b", "1xH100", batch=1, input_len=1024, output_len=256)
    assert alone.ttft_ms == pytest.approx(static.ttft_ms, rel=0.02)
    two = recommend("llama-3.1-8b", "1xH100", workload=Workload(concurrency=2)).best
    assert two.ttft_ms > alone.ttft_ms + two.tpot_ms


def test_a_measured_run_of_what_is_recommended_is_its_answer():
    said = recommend("llama-3.1-8b", "1xH100", workload=Workload(concurrency=32)).best
    run = Measurement(
        run_id="own-1",
        role="fit",
        source="a test",
        gpus=1,
        dtype="auto",
        model=said.model.name,
        gpu="H100-SXM",
        engine="vllm",
        engine_version=find_engine("vllm").version,
        regime="steady",
        batch=32,
        input_len=1024,
        output_len=256,
        max_num_seqs=256,
        ttft_ms=1.1 * said.ttft_ms,
        tpot_ms=1.1 * said.tpot_ms,
        output_tok_s=said.output_tok_s / 1.1,
        e2e_ms=1.1 * said.e2e_ms,
    )
    found = recommend("llama-3.1-8b", "1xH100", workload=Workload(concurrency=32), runs=ExtraRuns((run,))).best
    assert found.provenance == "measured"
    assert found.tpot_ms == run.tpot_ms
    low, high = found.interval("output_tok_s")
    before = said.interval("output_tok_s")
    assert low <= run.output_tok_s <= high
    assert high / low < 0.5 * before[1] / before[0] + 0.5
    other = recommend("llama-3.1-8b", "1xH100", workload=Workload(concurrency=64), runs=ExtraRuns((run,))).best
    assert other.provenance != "measured"


def test_notes_are_of_the_formats_that_are_recommended():
    found = recommend("llama-3.3-70b", "2xH100", dtypes=["fp8", "int4"])
    other = {"fp8": "int4", "int4": "fp8"}[found.best.deployment.dtype]
    assert not any(note.text.startswith(f"{other} weights") for note in found.assumptions)


def test_the_context_that_is_noted_is_that_of_the_command():
    found = recommend("llama-3.3-70b", "2xH100")
    assert not any(note.text.startswith("context") for note in found.assumptions)  # the answer has a line of it
    length = int(found.command[found.command.index("--max-model-len") + 1])
    lines = {name: told for section in document(found).sections for name, told in section.lines}
    assert lines["context"][0].startswith(f"{length:,} of 131,072 tokens")
    one = estimate("llama-3.3-70b", "2xH100", tp=2, batch=1, input_len=1024, output_len=256)
    (said,) = [note.text for note in one.notes if note.text.startswith("context")]
    assert f"--max-model-len {said.split()[1].replace(',', '')}" in export(one, "vllm")


def test_the_order_of_the_candidates_is_told():
    found = recommend("llama-13b", "4xA100")
    lines = {name: told for section in document(found).sections for name, told in section.lines}
    (told,) = lines["order"]
    assert "worse end of the 90% interval of tok/s per GPU" in told


def test_candidates_and_front():
    found = recommend("llama-13b", "4xA100", top=50)
    worse = [shown.interval("output_tok_s_per_gpu", 0.8)[0] for shown in found.candidates]  # what can be bet on
    assert all(later <= earlier * 1.05 for earlier, later in itertools.pairwise(worse))
    assert found.best is found.candidates[0]
    placed = [(e.deployment.tp, e.deployment.pp, e.deployment.ep) for e in found.candidates]
    assert len(set(placed)) == len(placed)
    for one in found.pareto:
        better = [
            other
            for other in found.pareto
            if other.output_tok_s_per_gpu > one.output_tok_s_per_gpu * (1 + 1e-9)
            and other.tpot_ms < one.tpot_ms * (1 - 1e-9)
        ]
        assert not better
    assert sum(found.importances.values()) == pytest.approx(1)


def test_ties_fill_the_cluster_for_throughput_and_spare_gpus_for_cost():
    """Replicas serve as many a GPU however few there are."""
    assert recommend("llama-3.1-8b", "4xA100", top=1).best.deployment.num_gpus == 4
    assert recommend("llama-3.1-8b", "4xA100", objective="cost", price=1.0, top=1).best.deployment.num_gpus == 1


def test_to_dict_is_plain_json_and_the_frame_has_the_candidates():
    for found in (
        recommend("llama-13b", "2xA100", top=4),
        Asked("llama-13b", on("1xA100"), slo=Slo(tpot_ms=2)).answer(),
    ):
        body = json.loads(json.dumps(found.to_dict(), allow_nan=False))
        assert body["model"] == "meta-llama/Llama-2-13b-hf"
        assert len(body["candidates"]) == len(found.candidates)
        assert (body["best"] is None) == (found.best is None)
        frame = found.to_frame()
        assert len(frame) == len(found.candidates)
        for shown, of in zip(found.candidates, frame.to_dict("records"), strict=True):
            assert of["batch"] == shown.batch
            assert of["output_tok_s_per_gpu_low"] <= of["output_tok_s_per_gpu"] <= of["output_tok_s_per_gpu_high"]


def test_the_command_starts_what_is_recommended():
    found = recommend("llama-13b", "4xA100", top=1)
    chosen, argv = found.best.deployment, list(found.command)
    assert argv[:3] == ["vllm", "serve", "meta-llama/Llama-2-13b-hf"]
    assert argv[argv.index("--tensor-parallel-size") + 1] == str(chosen.tp)
    assert argv[argv.index("--max-num-seqs") + 1] == str(found.best.batch)
    assert isinstance(chosen, Deployment)


def test_small_token_budgets_bound_the_batch():
    """Every running sequence needs a token a step: no recommendation that the engine would refuse to start."""
    found = recommend("llama-3.1-8b", "1xA100", max_num_batched_tokens=[64, 128], top=5)
    for shown in found.candidates:
        assert shown.batch <= shown.deployment.max_num_batched_tokens


def test_more_in_flight_than_a_token_budget_is_infeasible_not_an_error():
    found = Asked("llama-13b", on("4xA100"), workload=Workload(concurrency=100_000)).answer()
    assert found.best is None
    assert any("requests in flight" in told for told in found.relaxations)


REFUSALS = [
    ({"objective": "speed"}, "throughput_per_gpu"),
    ({"workload": Workload(rate=3.0)}, "advisor plan --rate"),
    ({"slo": Slo(tpot_ms=10, percentile=99)}, "simulator"),
    ({"slo": Slo(tpot_ms=-1)}, "tpot_ms is -1"),
    ({"slo": Slo(ttft_ms=math.nan)}, "ttft_ms is nan"),
    ({"slo": Slo(ttft_ms=200, e2e_ms=100)}, "contradicts"),
    ({"workload": Workload(concurrency=0)}, "concurrency is 0"),
    ({"workload": Workload(input_len=4000, output_len=500)}, "4096"),
    ({"max_batch": 0}, "max_batch is 0"),
    ({"top": 0}, "top is 0"),
    ({"trials": 0}, "trials is 0"),
    ({"workload": Workload(output_len=10**400)}, "output_len is 1000"),
    ({"workload": Workload(input_len=10**400)}, "input_len is 1000"),
    ({"dtypes": ["fp9"]}, "fp8"),
    ({"max_num_batched_tokens": [0]}, "is 0"),
    ({"gpus": "0xA100"}, "0"),
    ({"model": "lama-13x"}, "llama-13b"),
    ({"engine": "vlm"}, "vllm"),
    ({"gpus": "4xA10000"}, "A100"),
]


@pytest.mark.parametrize(("changes", "told"), REFUSALS, ids=lambda value: str(value)[:50])
def test_what_cannot_be_asked_is_refused_in_one_line(changes, told):
    with pytest.raises(InputError) as refusal:
        recommend(**{"model": "llama-13b", "gpus": "4xA100", **changes})
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_three_gpus_are_used_as_far_as_heads_divide():
    found = recommend("llama-13b", "3xA100", objective="throughput", top=5)
    assert all(shown.deployment.tp in (1, 2) for shown in found.candidates)
    assert found.best.deployment.num_gpus == 3


def test_a_cache_that_decides_the_format_is_compared_with_others_in_that_format():
    found = recommend("llama-13b", "2xH100", kv_dtypes=["auto", "fp8"], runs=[])
    assert {each.deployment.dtype for each in found.candidates} == {"bfloat16"}
    assert found.best.deployment.kv_dtype == "fp8"


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_the_first_token_of_a_benchmark_client_stands_beside_that_of_the_steady_state(batch):
    best = recommend("llama-3.1-8b", "H200", concurrency=batch).best
    low, high = best.interval("client_ttft_ms")
    assert low < best.client_ttft_ms < high
    assert best.client_ttft_ms >= best.ttft_ms * (1.0 if batch == 1 else 1.05)
    assert best.to_dict()["intervals"]["client_ttft_ms"] == [low, high]


def test_a_batch_that_comes_at_once_has_no_client():
    static = estimate("llama-3.1-8b", "H200", batch=8, input_len=512, output_len=64)
    assert static.client_ttft_ms is None
    assert "client_ttft_ms" not in static.to_dict()["intervals"]


def test_attention_data_parallel_with_experts_over_all_gpus_stands_beside_tensor_parallel():
    answer = recommend("deepseek-v3", "8xH200", tpot="30ms")
    layouts = {(c.deployment.tp, c.deployment.dp, c.deployment.ep): c for c in answer.candidates}
    assert (8, 1, 1) in layouts
    spread = [c for c in answer.candidates if c.deployment.ranks > 1]
    assert {(2, 4, 8), (4, 2, 8)} <= {(c.deployment.tp, c.deployment.dp, c.deployment.ep) for c in spread}
    for candidate in spread:
        low, high = candidate.interval("output_tok_s_per_gpu")
        assert low < candidate.output_tok_s_per_gpu < high
        assert candidate.keeps(answer.slo) >= answer.confidence


def test_experts_over_one_replica_are_the_same_however_they_are_called():
    one = recommend("mixtral-8x7b", "2xH200", concurrency=16)
    assert all(c.deployment.ep in (1, c.deployment.tp, c.deployment.tp * c.deployment.dp) for c in one.candidates)
    alone = [c for c in one.candidates if c.deployment.dp == 1 and c.deployment.ep > 1]
    assert not any(c.deployment.ranks > 1 for c in alone)


def test_a_token_budget_is_chosen_where_any_may_be():
    """With a limit on TPOT prompts in smaller chunks leave room for more requests than the engine's own budget does."""
    asked = {"model": "llama-3.1-8b", "gpus": "1xH100", "tpot": "10ms", "top": 1, "dtypes": "auto"}
    plain, chosen = recommend(**asked), recommend(**asked, max_num_batched_tokens="any")
    assert plain.best.deployment.max_num_batched_tokens == 8192
    tokens = chosen.best.deployment.max_num_batched_tokens
    assert chosen.best.output_tok_s_per_gpu >= plain.best.output_tok_s_per_gpu
    stated = recommend(**asked, max_num_batched_tokens=tokens)
    assert stated.best.output_tok_s_per_gpu == pytest.approx(chosen.best.output_tok_s_per_gpu)
    assert str(tokens) in chosen.command
    with pytest.raises(InputError, match="or any"):
        recommend(**asked, max_num_batched_tokens="some")
