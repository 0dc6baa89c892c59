"""What a fleet that cannot be is told to relax: each thing suffices, and no smaller change of it does."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.fleet.hourly_programme import HourlyProgramme
from advisor.fleet.question import read_fleet
from advisor.fleet.relaxation import Shortage
from advisor.fleet.replica_type import ReplicaType
from catalog.schema import Deployment

MODEL = {"input_len": 256, "output_len": 32, "ttft": "2s"}
GPUS = ("H100-SXM", "L40S")


def programme(rates, counts, capacities, *, spares=0, headroom=0.0, budget=None):
    """Two models on two pools, of which one replica takes a GPU."""
    question = read_fleet(
        {
            "models": [{**MODEL, "model": "llama-3.1-8b", "name": str(i), "rate": 1.0} for i in range(len(rates))],
            "pools": [{"gpu": gpu, "count": n, "price": 1.0} for gpu, n in zip(GPUS, counts, strict=True)],
            "spares": spares,
            "headroom": headroom,
            "budget": budget,
        }
    )
    types = [
        ReplicaType(
            model=model,
            gpu=gpu,
            deployment=Deployment(),
            gpus=1,
            capacity_s=capacity,
            saturation_s=capacity,
            provenance="calibrated",
        )
        for model, row in enumerate(capacities)
        for gpu, capacity in zip(GPUS, row, strict=True)
    ]
    matrix = np.array(rates, dtype=float) * (1.0 + headroom)
    return HourlyProgramme(question=question, prices=(1.0, 1.0), rates=matrix, types=types)


def shortage(work):
    columns = [column for _, column in work.columns]
    hours = work.assigned(columns)
    missing = {pool: max(hour.missing.get(pool, 0) for hour in hours) for hour in hours for pool in hour.missing}
    return Shortage(work=work, columns=columns, usd_per_month=work.usd_per_month(hours), missing=missing)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(3, 30), min_size=2, max_size=2),
    st.lists(st.integers(1, 4), min_size=2, max_size=2),
    st.lists(st.floats(0.5, 3), min_size=4, max_size=4),
)
def test_the_share_of_the_traffic_that_is_told_fits_and_a_little_more_does_not(rates, counts, capacities):
    work = programme([[rate] for rate in rates], counts, [capacities[:2], capacities[2:]])
    short = shortage(work)
    lines = list(short.relaxations())
    if not short.missing:
        assert lines == []
        return
    (share,) = [float(line.split("%")[0]) / 100 for line in lines if line.endswith("% of all traffic")] or [0.0]
    columns = [column for _, column in work.columns]

    def fits(part):
        return not work.with_rates(work.rates * part, 0).assigned(columns)[0].missing

    assert fits(share)
    assert not fits(share + 0.005)
    gpus = sum(int(text) for text in re.findall(r"(\d+) more GPU", lines[0]))
    assert gpus >= sum(short.missing.values())  # those are as few as there can be


def test_one_pool_grows_where_one_suffices():
    """Fewest GPUs would be one of each; one pool alone takes three."""
    work = programme([[2.0], [2.0]], [0, 1], [[1.0, 1.0], [1.0, 1.0]])
    lines = list(shortage(work).relaxations())
    assert "3 more GPUs in pool" in lines[0]
    assert " and " not in lines[0]


def test_headroom_and_spares_that_would_fit_are_told():
    work = programme([[10.0]], [3, 0], [[4.0, 1.0]], headroom=0.3)
    assert "headroom of 19.9% in place of 30%" in list(shortage(work).relaxations())  # 20% but for the halvings
    work = programme([[8.0]], [3, 0], [[4.0, 1.0]], spares=2)
    assert "1 spares in place of 2" in list(shortage(work).relaxations())


def test_a_budget_is_told_with_the_traffic_that_it_pays_for():
    work = programme([[8.0]], [9, 0], [[4.0, 1.0]], budget="$1/h")
    lines = list(shortage(work).relaxations())
    assert lines[0] == "a budget of $1,460 a month in place of $730"
    assert float(lines[1].split("%")[0]) == pytest.approx(50, abs=0.2)
