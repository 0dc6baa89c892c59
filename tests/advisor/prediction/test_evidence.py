"""Which runs an answer stands on."""

import re
from dataclasses import replace

import numpy as np
import pytest

from advisor.calibration.surrogate import analytic_marginal, shipped_surrogate
from advisor.prediction.estimation import estimate, measured_run
from advisor.prediction.evidence import Evidence, ExtraRuns
from catalog.engines import find_engine
from catalog.gpus import find_gpu, with_overrides
from catalog.runs import append_runs, shipped_runs

H200, A100 = find_gpu("H200").value, find_gpu("A100").value
NOW = find_engine("vllm").version


RUN = next(run for run in shipped_runs() if (run.engine, run.model) == ("vllm", "meta-llama/Meta-Llama-3.1-8B"))


def knowledge(runs=None, engine="vllm", gpu=H200):
    return Evidence.of(runs, engine=engine, gpu=gpu)


def own_run(slower=1.33, **changes):
    """A shipped run as if the user had measured it, slower by a third."""
    run = next(
        r for r in shipped_runs() if r.engine == "vllm" and r.batch == 32 and r.tp == r.pp == 1 and r.role == "fit"
    )
    times = {name: getattr(run, name) * slower for name in ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms")}
    own = {"run_id": "own", "source": "own", "engine_version": NOW, "output_tok_s": run.output_tok_s / slower}
    return replace(run, **{**own, **times, **changes})


def test_none_is_what_ships():
    found = knowledge()
    assert {run.engine_version for run in found.runs if run.engine == "vllm"} == {NOW}
    assert {run.run_id for run in found.runs} < {run.run_id for run in shipped_runs()}
    assert found.marginal("vllm", H200) is shipped_surrogate().marginal("vllm", H200.name)
    assert found.marginal("vllm", H200).provenance == "calibrated"
    assert found.notes == ()


def test_no_runs_is_the_analytic_model_alone():
    found = knowledge([])
    assert found.runs == ()
    for engine, gpu in (("vllm", H200), ("sglang", A100)):
        assert np.array_equal(found.marginal(engine, gpu).mean, analytic_marginal().mean)
        assert found.marginal(engine, gpu).provenance == "analytic"


def test_the_user_s_own_runs_refine_what_ships(home):
    append_runs(home / "runs" / "own.jsonl", [own_run()])
    found = knowledge()
    assert [run.run_id for run in found.runs][-1] == "own"
    marginal, shipped = found.marginal("vllm", H200), shipped_surrogate().marginal("vllm", H200.name)
    assert not np.array_equal(marginal.mean, shipped.mean)
    # it contradicts what ships: this is another machine, of which one run does not say everything
    assert np.trace(marginal.covariance) > np.trace(shipped.covariance)
    assert any("fitted to 1 run of vllm on H200-SXM" in note.text for note in found.notes)
    # of other engines and GPUs the run says nothing
    other, known = found.marginal("vllm", A100), shipped_surrogate().marginal("vllm", A100.name)
    assert np.array_equal(other.covariance, known.covariance)


def test_an_own_run_like_the_shipped_ones_makes_surer(home):
    append_runs(home / "runs" / "own.jsonl", [own_run(1.0)])
    marginal, shipped = knowledge().marginal("vllm", H200), shipped_surrogate().marginal("vllm", H200.name)
    assert np.trace(marginal.covariance) < np.trace(shipped.covariance)


def test_runs_of_another_version_or_of_several_clocks_count_for_less():
    clocks = [own_run(1.0, run_id=f"own {mhz}", fingerprint=f'{{"sm_mhz":{mhz}}}') for mhz in (1980, 1200)]
    cases = {"same": [own_run(1.0)], "version 0.30": [own_run(1.0, engine_version="0.30.1")], "clock": clocks}
    spread = {}
    for name, runs in cases.items():
        found = knowledge(runs)
        spread[name] = np.trace(found.marginal("vllm", H200).covariance)
        warned = [note.text for note in found.notes if note.kind == "warning"]
        assert bool(warned) == (name != "same")
    assert "0.30, and 0.33 is asked about" in " ".join(n.text for n in knowledge(cases["version 0.30"]).notes)
    assert "GPU clock 1980 and 1200 MHz" in " ".join(n.text for n in knowledge(clocks).notes)
    assert spread["version 0.30"] > spread["same"]
    narrow, wide = (
        same_question(RUN, runs=cases[name], batch=7, engine_version="").interval("tpot_ms")
        for name in ("same", "version 0.30")
    )
    assert wide[1] / wide[0] > narrow[1] / narrow[0]


def own_runs(slower=1.0, count=3, **changes):
    """Several shipped configurations of one model, likewise."""
    like = own_run()
    same = [r for r in shipped_runs() if (r.engine, r.model, r.tp, r.pp, r.role) == ("vllm", like.model, 1, 1, "fit")]
    times = ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms")
    return [
        replace(
            run, run_id=f"own {i}", source="own", engine_version=NOW, output_tok_s=run.output_tok_s / slower,
            **{name: getattr(run, name) and getattr(run, name) * slower for name in times}, **changes,
        )
        for i, run in enumerate(same[:count])
    ]  # fmt: skip


def test_a_list_of_runs_stands_alone():
    found = knowledge(own_runs())
    assert [run.run_id for run in found.runs] == ["own 0", "own 1", "own 2"]
    assert found.marginal("vllm", H200).provenance == "calibrated"
    assert found.marginal("sglang", H200).provenance == "analytic"


def test_calibrated_takes_several_configurations_that_agree():
    one = own_runs()[0]
    for runs in ([one], own_runs(count=2), [replace(one, run_id=f"again {i}") for i in range(4)]):
        assert knowledge(runs).marginal("vllm", H200).provenance == "analytic"
    assert knowledge(ExtraRuns([replace(one, gpu="A100-SXM-80GB")]), gpu=A100).marginal("vllm", A100).provenance == (
        "transferred"
    )


def asked(runs, gpus, **changes):
    question = {"tp": 1, "batch": 30, "input_len": 1000, "output_len": 200, "runs": runs, **changes}
    return estimate("llama-2-13b", gpus, **question)


@pytest.mark.parametrize("factor", [3.0, 0.3])
@pytest.mark.parametrize("gpu", ["H200-SXM", "H100-SXM"])
def test_a_run_that_contradicts_the_model_moves_nothing_and_widens(factor, gpu):
    """Of a GPU that was measured, and of one that was not: medians stay within 2%, intervals widen."""
    before = asked(ExtraRuns([]), f"1x{gpu}")
    after = asked(ExtraRuns([own_run(factor, gpu=gpu)]), f"1x{gpu}")
    assert after.provenance == before.provenance
    for metric in ("prefill_ms", "tpot_ms", "e2e_ms", "output_tok_s"):
        assert getattr(after, metric) == pytest.approx(getattr(before, metric), rel=0.02)
        (low, high), (least, most) = before.interval(metric), after.interval(metric)
        assert least <= low
        assert most >= high
        assert most / least > high / low
    assert any(
        re.search(r"run own \(.+ as TP\d PP1, batch \d+, .*TPOT .* ms\) contradicts what else is known", n.text)
        for n in after.notes
        if n.kind == "warning"
    )


@pytest.mark.parametrize("factor", [3.0, 0.3])
def test_one_row_in_ten_that_is_wrong_moves_nothing_and_widens(factor):
    good = own_runs(1.05, count=20, gpu="H100-SXM")
    wrong = own_runs(factor, count=20, gpu="H100-SXM")
    bad = [wrong[i] if i % 10 == 4 else own for i, own in enumerate(good)]
    assert len(good) >= 10
    before, after = (asked(ExtraRuns(runs), "1xH100") for runs in (good, bad))
    assert before.provenance == after.provenance == "calibrated"
    for metric in ("prefill_ms", "tpot_ms", "e2e_ms"):
        assert getattr(after, metric) == pytest.approx(getattr(before, metric), rel=0.02)
        (low, high), (least, most) = before.interval(metric), after.interval(metric)
        assert most / least > high / low


def test_a_measurement_that_contradicts_stands_beside_the_answer():
    run = replace(RUN, run_id="mine", role="fit", **{name: 3 * getattr(RUN, name) for name in ("tpot_ms", "e2e_ms")})
    found = same_question(run, runs=ExtraRuns([run]))
    assert found.provenance != "measured"
    assert found.tpot_ms < 0.5 * run.tpot_ms
    assert found.measured["tpot_ms"] == run.tpot_ms
    warned = [note.text for note in found.notes if note.kind == "warning"]
    assert any("mine" in text and "one of the two is wrong" in text for text in warned)
    assert same_question(RUN).measured["tpot_ms"] == RUN.tpot_ms


@pytest.mark.parametrize(
    "changes", [{"role": "validate"}, {"oom": True}, {"gpu": "A100-SXM-80GB"}, {"engine": "sglang"}]
)
def test_runs_that_say_nothing_of_this_refine_nothing(changes):
    found = knowledge([own_run(**changes)])
    assert np.array_equal(found.marginal("vllm", H200).mean, analytic_marginal().mean)


def test_a_what_if_gpu_takes_the_parameters_of_the_one_it_changes():
    faster = with_overrides(H200, {"memory_bandwidth_gbps": 6000})
    found = knowledge(gpu=faster).marginal("vllm", faster)
    assert np.array_equal(found.mean, knowledge().marginal("vllm", H200).mean)
    assert found.provenance == "transferred"


def test_an_amd_gpu_is_not_taken_for_a_known_one():
    """Every run so far is from an NVIDIA GPU: the width of transfer was never tested on another vendor's."""
    assert knowledge(gpu=find_gpu("MI300X").value).marginal("vllm", find_gpu("MI300X").value).provenance == "analytic"


def same_question(run, **changes):
    asked = {
        "tp": run.tp, "pp": run.pp, "batch": run.batch, "input_len": run.input_len, "output_len": run.output_len,
        "max_num_batched_tokens": run.max_num_batched_tokens, "max_num_seqs": run.max_num_seqs,
        "max_model_len": run.max_model_len, "gpu_memory_utilization": run.gpu_memory_utilization,
        "engine_version": run.engine_version,
    }  # fmt: skip
    return estimate(run.model, f"{run.gpus}x{run.gpu}", **{**asked, **changes})


def test_a_measured_configuration_is_answered_by_its_measurement():
    run = RUN
    found = same_question(run)
    assert found.provenance == "measured"
    for metric in ("prefill_ms", "ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s"):
        if getattr(run, metric) is not None:
            assert getattr(found, metric) == getattr(run, metric)
            low, high = found.interval(metric)
            assert low <= getattr(found, metric) <= high
    assert found.output_tok_s_per_gpu == found.output_tok_s / run.gpus
    assert found.kv_capacity_tokens == run.kv_capacity_tokens
    assert any(run.run_id in note.text for note in found.notes)
    assert found.interval("tpot_ms")[1] / found.tpot_ms < 1.2  # narrow: it was seen


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 7}, {"output_len": 100}, {"input_len": 100}, {"max_num_batched_tokens": 4096},
        {"engine": "sglang"}, {"runs": []},
        {"set_gpu": {"memory_bandwidth_gbps": 4000}},
    ],
)  # fmt: skip
def test_anything_else_is_predicted(changes):
    run = RUN
    assert same_question(run, **changes).provenance != "measured"


def test_a_cap_on_sequences_counts_where_it_holds_some_back():
    assert same_question(RUN, max_num_seqs=500).provenance == "measured"
    found = replace(same_question(RUN, runs=[]), batch=8)
    capped = replace(found, deployment=replace(found.deployment, max_num_seqs=4))
    run = replace(RUN, batch=8)
    assert measured_run([run], found) is run
    assert measured_run([run], capped) is None


def test_a_share_of_memory_counts_where_it_leaves_some_waiting():
    other = same_question(RUN, gpu_memory_utilization=0.8)
    predicted = same_question(RUN, gpu_memory_utilization=0.8, runs=[])
    assert (other.provenance, other.tpot_ms) == ("measured", RUN.tpot_ms)
    assert other.kv_capacity_tokens == predicted.kv_capacity_tokens < RUN.kv_capacity_tokens
    short = RUN.batch * (RUN.input_len + RUN.output_len) - 1
    assert measured_run([replace(RUN, kv_capacity_tokens=short)], predicted) is None
    assert measured_run([replace(RUN, kv_capacity_tokens=None)], predicted) is None
    assert measured_run([RUN], replace(predicted, running=0)) is None
    assert measured_run([replace(RUN, gpu_memory_utilization=None, kv_capacity_tokens=None)], predicted) is not None


def test_of_two_measurements_the_later_counts():
    run = RUN
    later = replace(run, run_id="later", tpot_ms=run.tpot_ms * 1.01)
    found = same_question(run, runs=[])
    assert measured_run([run, later], found) is later
    assert measured_run([later, run], found) is run
    assert measured_run([replace(run, oom=True)], found) is None
    assert measured_run([], found) is None


@pytest.mark.parametrize(
    "changes", [{"kv_dtype": "fp8"}, {"dtype": "fp8"}, {"compiled": False}, {"graphs": False}, {"offload": 0.5}]
)
def test_a_run_with_formats_left_to_the_engine_is_no_run_with_others(changes):
    """``auto`` in a run is what the engine chose then, not whatever is asked for now."""
    assert measured_run([RUN], same_question(RUN, runs=[])) is RUN
    assert measured_run([RUN], same_question(RUN, runs=[], **changes)) is None
    assert measured_run([replace(RUN, dtype="auto")], same_question(RUN, runs=[])) is not None


@pytest.mark.parametrize("gpu", ["H100-SXM", "MI300X"])
def test_an_earlier_generation_has_intervals_of_its_own(gpu):
    """Its runs judge it, on AMD's GPUs, too."""
    answer = estimate(model="llama-3.1-8b", gpus=gpu, batch=16, input_len=1024, output_len=256, engine_version="0.6.1")
    assert answer.provenance == "calibrated"
    half = np.log(answer.interval("tpot_ms")[1] / answer.tpot_ms)
    scale = shipped_surrogate().scale("calibrated", "vllm 0.5", "tpot_ms")
    assert half > 0.9 * scale.quantile(0.9) * scale.noise
