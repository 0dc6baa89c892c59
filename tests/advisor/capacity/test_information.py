"""What a measurement is worth: nothing where nothing is uncertain or changes, never negative, and no more than the whole cost."""

import pytest

import advisor
from advisor.render.answers.capacity import document
from advisor.render.console import text
from catalog.schema import Slo, Workload

ASKED = {
    "workload": Workload(input_len=512, output_len=64),
    "slo": Slo(tpot_ms=30.0, percentile=95.0),
    "price": 2.0,
    "duration_s": 10.0,
}


@pytest.fixture(scope="module")
def answer():
    return advisor.plan("llama-3.1-8b", "H100", rate=300.0, draws=2, worth=True, **ASKED)


@pytest.mark.slow
def test_measurements_are_worth_something_where_a_margin_costs_gpus(answer):
    assert answer.measurements
    values = [value.usd_per_month for value in answer.measurements]
    assert values == sorted(values, reverse=True)
    assert all(0 < value <= answer.best.usd_per_month for value in values)
    assert all(0.0 <= value.changes <= 1.0 for value in answer.measurements)
    assert all(value.usd_between[0] <= value.usd_per_month <= value.usd_between[1] for value in answer.measurements)
    shown = text(document(answer), 120)
    assert "worth $" in shown
    assert "advisor probe --model" in shown


@pytest.mark.slow
def test_all_else_is_the_same_with_and_without_it(answer):
    plain = advisor.plan("llama-3.1-8b", "H100", rate=300.0, draws=2, **ASKED).to_dict()
    assert plain["measurements"] == []
    assert answer.to_dict() | {"measurements": []} == plain


def test_nothing_is_worth_measuring_where_one_gpu_does_in_any_case():
    answer = advisor.plan("llama-3.1-8b", "H100", rate=0.5, draws=2, worth=True, **ASKED)
    assert answer.measurements == ()
    assert "measuring any one layout changes nothing" in text(document(answer), 120)


@pytest.mark.slow
def test_a_fleet_s_measurements_are_priced_by_what_would_be_chosen_then():
    models = [
        {"model": "llama-3.1-8b", "rate": 300, "input_len": 512, "output_len": 64, "tpot": 30},
        {"model": "qwen2.5-0.5b", "rate": 2, "input_len": 256, "output_len": 32, "ttft": "2s"},
    ]
    pools = [{"gpu": "L40S", "price": 1.0}, {"gpu": "H100", "price": 2.0}]
    asked = {"models": models, "pools": pools}
    answer = advisor.plan_fleet(asked, worth=True)
    assert answer.measurements
    assert all(0 < value.usd_per_month <= answer.used_usd_per_month for value in answer.measurements)
    assert {value.model for value in answer.measurements} <= {"llama-3.1-8b", "qwen2.5-0.5b"}
    assert advisor.plan_fleet(asked).placements == answer.placements
