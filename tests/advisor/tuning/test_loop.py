"""Campaigns of measurements, on recorded runs in place of GPUs."""

from itertools import pairwise

import numpy as np
import pytest

from advisor.calibration.surrogate import analytic_marginal, shipped_surrogate
from advisor.tuning.loop import believed, steps
from advisor.tuning.stopping import DOUBT, REGRET, unconfirmed
from benchmarks.replay import Replay, once, recorded_candidates, startups
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from tests.reference_runs import reference_runs

MODEL = find_model("llama-13b").value
NODE = parse_cluster("4xH200").value
PRIORS = {"shipped": shipped_surrogate().marginal("torch", "H200-SXM"), "analytic": analytic_marginal()}


def recorded(engine="torch"):
    return [
        run
        for run in reference_runs()
        if (run.engine, run.model, run.regime) == (engine, MODEL.name, "static")
        and run.compiled
        and run.prefill_ms
        and run.tpot_ms
        and not run.oom
    ]


RUNS = recorded()


def question(runs=RUNS, objective="throughput_per_gpu", lengths=(128, 128), **rest):
    return recorded_candidates(runs, MODEL, NODE, objective=objective, lengths=lengths, **rest)


def true_utility(candidates, real):
    return candidates.utility(np.log([getattr(run, name) for name in candidates.metrics for run in real]))


@pytest.mark.parametrize("start", PRIORS)
@pytest.mark.parametrize(("objective", "limits"), [("throughput_per_gpu", {"tpot_ms": 6.0}), ("latency", {})])
def test_within_five_minutes_it_is_certain_and_right(start, objective, limits):
    candidates, real = question(objective=objective, limits=limits)
    bench = Replay(RUNS, MODEL, NODE, budget_s=300.0)
    taken = list(steps(candidates, bench, PRIORS[start]))
    last = taken[-1]
    assert last.certain
    assert last.decision.doubt < DOUBT
    assert last.decision.regret < REGRET
    assert bench.passed_s < 300.0
    assert bench.passed_s == pytest.approx(sum(step.took_s for step in taken))
    true = true_utility(candidates, real)
    assert true.max() - true[last.decision.best] < 0.01
    # the best layout was measured, and nothing twice
    assert candidates.layouts()[last.decision.best] in {(run.tp, run.pp) for run in last.runs}
    ids = [run.run_id for run in last.runs]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_a_run_enters_only_when_it_is_measured():
    candidates, _ = question()
    bench = Replay(RUNS, MODEL, NODE, budget_s=200.0)
    seen = list(steps(candidates, bench, PRIORS["analytic"], until_certain=False))
    assert seen[0].runs == ()
    assert seen[0].decision.utility == pytest.approx(candidates.decide(believed(PRIORS["analytic"], [])).utility)
    for before, after in pairwise(seen):
        new = {run.run_id for run in after.runs} - {run.run_id for run in before.runs}
        asked = {(each.deployment.tp, each.deployment.pp, shape) for each in after.loads for shape in each.seconds}
        known = {
            (run.tp, run.pp, (run.batch, run.input_len, run.output_len)) for run in after.runs if run.run_id in new
        }
        assert known <= asked


def test_it_goes_on_from_what_was_measured_before():
    candidates, _ = question(limits={"tpot_ms": 6.0})
    first = list(steps(candidates, Replay(RUNS, MODEL, NODE, budget_s=300.0), PRIORS["analytic"]))
    again = list(steps(candidates, Replay(RUNS, MODEL, NODE, budget_s=300.0), PRIORS["analytic"], runs=first[-1].runs))
    assert len(again) == 1
    assert again[0].certain
    assert again[0].decision.best == first[-1].decision.best


def test_a_budget_is_kept():
    candidates, _ = question()
    for budget_s in (5.0, 16.0, 40.0):
        bench = Replay(RUNS, MODEL, NODE, budget_s=budget_s)
        taken = list(steps(candidates, bench, PRIORS["analytic"], until_certain=False))
        assert bench.passed_s <= budget_s
        assert all(step.expected_s <= budget_s for step in taken)
        assert (len(taken) == 1) == (budget_s < 12.0)


def test_the_first_round_is_on_disjoint_gpus_and_confirms_at_the_nearest_batch():
    candidates, _ = question(lengths=(1024, 128))
    bench = Replay(RUNS, MODEL, NODE, budget_s=300.0)
    start = next(steps(candidates, bench, PRIORS["analytic"]))
    assert sum(each.gpus for each in start.upcoming) <= 4
    loads = unconfirmed(candidates, start.decision, (), bench)
    assert sum(each.gpus for each in loads) <= 4
    at = candidates.points.batch[start.decision.best]
    assert candidates.layouts()[start.decision.best] == loads[0].layout
    assert list(loads[0].seconds) == [(int(at), 1024, 128)]


def test_limits_and_gpus_count():
    candidates, real = question(runs=recorded("vllm"), lengths=(1024, 128))
    logs = np.log([run.output_tok_s for run in real])
    assert candidates.utility(logs) == pytest.approx(logs - np.log([run.tp * run.pp for run in real]))
    limited, real = question(runs=recorded("vllm"), lengths=(1024, 128), limits={"tpot_ms": 10.0})
    rows = np.log([getattr(run, name) for name in limited.metrics for run in real])
    kept = np.array([run.tpot_ms <= 10.0 for run in real])
    assert 0 < kept.sum() < len(kept)
    utility = limited.utility(rows)
    assert utility[kept] == pytest.approx(candidates.utility(logs)[kept])
    assert np.all(utility[~kept] < candidates.utility(logs)[~kept])
    assert kept[np.argmax(utility)]
    assert limited.within(believed(PRIORS["shipped"], [])).sum() < len(kept)


def test_recorded_times_are_those_of_the_machine():
    bench = Replay(RUNS, MODEL, NODE, budget_s=300.0)
    assert 8.0 < bench.start_s < 30.0
    assert startups()["vllm", MODEL.name, 2, 1] == 45.7
    first = bench.waiting()[0]
    (measured,) = bench.run([first.only(list(first.seconds)[:1])])
    run = once(RUNS)[first.layout][next(iter(first.seconds))]
    assert measured is run
    assert bench.passed_s > (run.prefill_ms + run.e2e_ms) / 1e3
    assert next(iter(first.seconds)) not in bench.waiting()[0].seconds


def test_what_was_not_recorded_cannot_be_asked():
    with pytest.raises(InputError, match=r"no runs of .* with 7 tokens in and 7 out were recorded"):
        question(lengths=(7, 7))
    with pytest.raises(InputError, match="no runs of"):
        Replay([], MODEL, NODE, budget_s=1.0)
