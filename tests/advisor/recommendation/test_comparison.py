"""Models, GPUs and formats side by side: what is ruled out cannot be, what is shown is what recommend says."""

import time
from dataclasses import replace

import pytest

import advisor
from advisor.recommendation.screening import ANY_FORMAT, ScreenedHardware, screen
from advisor.render.answers.comparison import document
from advisor.render.console import text
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.quality import all_quality, quality_of


def hardware(name, count=1, *, open_count=False):
    return ScreenedHardware(
        cluster=advisor.Cluster(gpu=find_gpu(name).value, gpus_per_node=count), price=None, open_count=open_count
    )


def screened(model, place, formats=("auto",), **changes):
    asked = {"workload": advisor.Workload(), "slo": advisor.Slo(), "budget": None} | changes
    return screen([find_model(model).value], [place], formats, "vllm", **asked)


@pytest.mark.parametrize(
    ("model", "gpu", "count"),
    [("llama-3.1-8b", "L4", 1), ("llama-3.3-70b", "H100", 2), ("qwen3-32b", "RTX4090", 4), ("mixtral-8x7b", "A100", 2)],
)
def test_what_recommend_finds_is_never_ruled_out(model, gpu, count):
    """Bounds of physics: a combination that runs passes, and one that is screened out does not run."""
    found = advisor.recommend(model, f"{count}x{gpu}", runs=[])
    assert found.best is not None
    assert screened(model, hardware(gpu, count)).candidates
    limit = found.best.interval("tpot_ms")[1]
    assert screened(model, hardware(gpu, count), slo=advisor.Slo(tpot_ms=limit)).candidates


def test_what_cannot_be_is_ruled_out_for_its_reason():
    assert screened("llama-3.3-70b", hardware("H100")).too_large == 1
    assert screened("llama-3.3-70b", hardware("H100", 2), slo=advisor.Slo(tpot_ms=5)).too_slow == 1
    priced = replace(hardware("H100", 2), price=advisor.Price(gpu="H100-SXM", usd_per_gpu_hour=3.0, provider="stated"))
    assert screened("llama-3.3-70b", priced, budget=5).too_dear == 1
    assert screened("llama-3.3-70b", priced, budget=6).candidates
    assert advisor.recommend("llama-3.3-70b", "1xH100", runs=[]).best is None


def test_an_open_count_is_the_fewest_that_can_be():
    (one,) = screened("llama-3.3-70b", hardware("H100", open_count=True)).candidates
    assert one.count == 2
    found = screened("llama-3.3-70b", hardware("H100", open_count=True), ANY_FORMAT).candidates
    assert {each.dtype: each.count for each in found} == {"auto": 2, "fp8": 1, "int8": 1, "int4": 1}


def test_a_row_is_what_recommend_says():
    table = advisor.compare("llama-3.1-8b", "2xH100,4xL4", tpot=60, runs=[], price=2.0)
    for row in table.rows:
        alone = advisor.recommend("llama-3.1-8b", row.estimate.cluster, slo={"tpot": 60}, runs=[], price=2.0)
        assert row.keeps
        assert row.estimate.output_tok_s_per_gpu == pytest.approx(alone.best.output_tok_s_per_gpu, rel=0.03)
        assert row.estimate.upper("tpot_ms", 0.9) <= 60 * 1.01
    costs = [row.estimate.usd_per_mtok for row in table.rows]
    assert costs == sorted(costs)


def test_no_gpu_is_lost_for_want_of_a_price():
    table = advisor.compare("llama-3.1-8b", "1xH100,1xA10G", price={"H100": 3.0}, runs=[])
    assert [row.estimate.cluster.gpu.name for row in table.rows] == ["H100-SXM", "A10G"]
    assert table.unpriced == ("A10G",)


def test_a_budget_is_kept_by_every_row():
    """More GPUs than hold the model may be dearer than the budget, and nobody knows whether it pays for one without a price."""
    table = advisor.compare(
        "llama-3.3-70b", "A100,A10,MI325X", formats="int4", tpot=50, budget=2, price={"A100": 1.16, "A10": 0.7}
    )
    assert all(row.hourly_usd is not None and row.hourly_usd <= 2 for row in table.rows)
    assert table.without_price == 1
    assert "1 without a price" in text(document(table), 120)


def test_the_cheapest_token_may_leave_gpus_idle():
    """``4xH200`` is at most so many, as for ``recommend``."""
    question = {"slo": {"tpot": 60}, "runs": [], "workload": {"concurrency": 64}}
    alone = advisor.recommend("llama-3.3-70b", "4xH200", dtypes=["fp8"], objective="cost", **question).best
    table = advisor.compare("llama-3.3-70b", "4xH200", formats="fp8", **question)
    (row,) = table.rows
    assert alone.deployment.num_gpus == 2
    assert row.estimate.deployment == alone.deployment
    assert "2 of 4xH200-SXM" in text(document(table), 120)
    many = advisor.compare("llama-3.3-70b", "4xH200", formats="fp8", slo={"tpot": 60}, runs=[]).rows[0]
    assert many.estimate.deployment.num_gpus == 4, "with enough requests no GPU is idle"


def test_the_largest_model_that_keeps_the_limits_is_found():
    """The largest that fit are too slow for eight people at once; that is no answer."""
    table = advisor.compare(gpus="1xL4", concurrency=8, ttft=3000, tpot=200, runs=[], top=10)
    assert table.best is not None
    assert table.best.keeps
    tight = advisor.compare(gpus="1xL4", concurrency=8, ttft=3000, tpot=2, runs=[], top=1)
    assert tight.best is None
    assert "Nothing" in text(document(tight), 120) or "None of the" in text(document(tight), 120)


def test_gpus_that_the_engine_does_not_run_on_are_left_out():
    assert screened("llama-3.1-8b", hardware("V100-SXM2-32GB")).unsupported == 1
    assert screened("llama-3.1-8b", hardware("Xeon-8592+")).candidates


def test_every_combination_is_accounted_for():
    table = advisor.compare("llama-3.3-70b", "B200,A10,H100,MI325X", formats="any", budget=10, tpot=50, runs=[], top=1)
    lost = (table.too_large, table.too_slow, table.too_dear, table.without_price, table.unsupported)
    assert table.fitting + sum(lost) == table.combinations
    assert min(table.unsupported, table.without_price) > 0


def test_where_nothing_fits_the_answer_says_what_would():
    large = text(document(advisor.compare("llama-3.1-405b", "1xH100", runs=[])), 120)
    assert "1 too large" in large
    assert "relax    fewer bits a weight (--weights any), or more GPUs" in large
    unknown = text(document(advisor.compare("llama-3.1-8b", "1xMI325X", budget=5, runs=[])), 120)
    assert "relax    prices (--price GPU=USD)" in unknown


def test_open_models_come_by_size():
    table = advisor.compare(gpus="1xRTX4090", runs=[], top=4)
    kept = [row for row in table.rows if row.keeps]
    sizes = [row.row()["parameters"] for row in kept]
    assert sizes == sorted(sizes, reverse=True)
    assert all(row.estimate.fits and row.estimate.batch <= row.estimate.max_concurrency for row in kept)
    assert table.rows[: len(kept)] == tuple(kept)
    assert table.too_large > 0


def test_missed_limits_are_told_and_come_last():
    table = advisor.compare("llama-3.3-70b", "8xA100,8xH100", ttft=60, runs=[])
    assert [row.keeps for row in table.rows] == sorted((row.keeps for row in table.rows), reverse=True)
    nothing = advisor.compare("llama-3.3-70b", "2xH100", ttft=1, runs=[])
    assert nothing.best is None


def test_the_whole_catalog_is_compared_in_seconds():
    """Of CPU time: more than 150 models on 49 kinds of GPUs in 4 formats; 10 s is the promise, machines in use are slower."""
    advisor.compare("llama-3.1-8b", "1xH100", runs=[])
    began = time.process_time()
    table = advisor.compare(runs=[], objective="cost")
    assert table.combinations > 25_000
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"models": ""}, "no model named"),
        ({"gpus": " ,"}, "no GPUs named"),
        ({"objective": "beauty"}, "must be one of"),
        ({"budget": "a lot"}, "dollars"),
        ({"formats": "nan"}, "unknown dtype 'nan'; known: auto"),
        ({"formats": "fp8,int5"}, "unknown dtype 'int5'; did you mean int"),
        ({"models": "llama-3.1-8b", "gpus": "1xH100", "formats": ""}, "no weight format named"),
        ({"input_len": "15M"}, "none of the models"),
        ({"models": "llama-3.1-8b", "gpus": "1xH100", "tpotty": 3}, "no argument"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(question, message):
    with pytest.raises(advisor.InputError, match=message) as error:
        advisor.compare(**question)
    assert "\n" not in str(error.value)


def test_a_word_for_a_format_is_that_format():
    asked = {"models": "llama-3.1-8b", "gpus": "1xH100", "runs": [], "price": 2.0}
    (awq,), (int4,) = (advisor.compare(**asked, formats=name).rows for name in ("awq", "int4"))
    assert awq.row() == int4.row()


def test_published_quality_is_of_models_that_there_are():
    for each in all_quality():
        for name in each.models:
            assert quality_of(find_model(name).value, each.dtype) is not None
    assert quality_of(find_model("qwen3-32b").value, "int4") is None


def test_formats_that_pay_are_proposed_unless_one_is_stated():
    found = advisor.recommend("llama-3.3-70b", "2xH100", runs=[])
    best = found.proposals[0]
    assert best.throughput > 2
    assert best.fewer_gpus in {0, 1}
    stated = advisor.recommend("llama-3.3-70b", "2xH100", dtypes=best.dtype, runs=[])
    assert stated.proposals == ()
    gain = stated.best.output_tok_s_per_gpu / found.best.output_tok_s_per_gpu
    assert gain == pytest.approx(best.throughput, rel=0.05)


def test_several_gpus_and_engines_are_one_question():
    both = advisor.recommend("llama-3.1-8b", "1xL40S, 1xH100", engine="vllm,sglang", runs=[])
    assert len(both.alternatives) == 3
    assert both.cluster.gpu.name == "H100-SXM"
    bets = [each.interval("output_tok_s_per_gpu")[0] for each in (both.best, *both.alternatives)]
    assert bets[0] == pytest.approx(max(bets), rel=0.011)


def test_any_format_is_what_the_engine_has_there():
    found = advisor.recommend("llama-3.3-70b", "2xH100", dtypes="any", runs=[])
    assert found.best.deployment.dtype in {"fp8", "int8", "int4"}
