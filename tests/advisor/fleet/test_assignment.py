"""The programme of one hour: equal to trying everything, never below its bound, monotone."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.fleet.assignment import GAP, UNUSED, Programme, ReplicaColumn


def cheapest_of_all(programme):
    """Try every number of replicas; None where the pools are too small."""
    columns = programme.columns
    most = [
        math.ceil(programme.rates[column.model] / column.capacity_s) + programme.spares
        if programme.rates[column.model]
        else 0
        for column in columns
    ]
    best = None
    for replicas in itertools.product(*(range(count + 1) for count in most)):
        used = [0.0] * len(programme.counts)
        for count, column in zip(replicas, columns, strict=True):
            used[column.pool] += count * column.gpus
        if any(count is not None and gpus > count for gpus, count in zip(used, programme.counts, strict=True)):
            continue
        if not all(carries(programme, replicas, model, rate) for model, rate in enumerate(programme.rates) if rate > 0):
            continue
        cost = sum(
            (programme.prices[column.pool] + UNUSED) * column.gpus * count
            for count, column in zip(replicas, columns, strict=True)
        )
        best = cost if best is None else min(best, cost)
    return best


def carries(programme, replicas, model, rate):
    own = [i for i, column in enumerate(programme.columns) if column.model == model]
    total = sum(programme.columns[i].capacity_s * replicas[i] for i in own)
    lost = max((programme.columns[i].capacity_s * programme.spares for i in own if replicas[i]), default=0.0)
    return total - lost >= rate - 1e-6


@st.composite
def programmes(draw):
    pools = draw(st.integers(1, 3))
    models = draw(st.integers(1, 3))
    columns = [
        ReplicaColumn(
            model=model,
            pool=draw(st.integers(0, pools - 1)),
            gpus=draw(st.sampled_from([1, 2, 4])),
            capacity_s=draw(st.floats(2.0, 10.0)),
        )
        for model in range(models)
        for _ in range(draw(st.integers(1, 2)))
    ]
    return Programme(
        columns=columns,
        prices=[draw(st.floats(0.5, 5.0)) for _ in range(pools)],
        counts=[draw(st.one_of(st.none(), st.integers(0, 12))) for _ in range(pools)],
        rates=[draw(st.one_of(st.just(0.0), st.floats(0.5, 8.0))) for _ in range(models)],
        spares=draw(st.integers(0, 1)),
    )


@settings(max_examples=200, deadline=None)
@given(programmes())
def test_the_programme_is_as_good_as_trying_everything(programme):
    answer, best = programme.solve(), cheapest_of_all(programme)
    assert answer is not None
    if best is None:
        assert answer.missing
        return
    assert not answer.missing
    cost = answer.usd_hour + UNUSED * sum(
        column.gpus * count for column, count in zip(programme.columns, answer.replicas, strict=True)
    )
    assert best - 1e-6 <= cost <= best * (1.0 + GAP) + 1e-6
    assert answer.bound_usd_hour <= best + 1e-6
    assert all(carries(programme, answer.replicas, model, rate) for model, rate in enumerate(programme.rates) if rate)


@settings(max_examples=40, deadline=None)
@given(programmes(), st.floats(1.05, 2.0))
def test_more_traffic_is_never_cheaper(programme, factor):
    less = cheapest_of_all(programme)
    more = Programme(
        columns=programme.columns,
        prices=programme.prices,
        counts=programme.counts,
        rates=[rate * factor for rate in programme.rates],
        spares=programme.spares,
    ).solve()
    if less is not None and more is not None and not more.missing:
        assert more.usd_hour >= less * (1.0 - GAP) - 1e-3


def test_a_model_without_a_column_has_no_assignment():
    column = ReplicaColumn(model=0, pool=0, gpus=1, capacity_s=1.0)
    assert Programme(columns=[column], prices=[1.0], counts=[None], rates=[1.0, 1.0]).solve() is None


def test_marginal_prices_are_those_of_the_cheapest_gpu_and_of_the_pool_that_binds():
    columns = [
        ReplicaColumn(model=0, pool=0, gpus=1, capacity_s=2.0),
        ReplicaColumn(model=0, pool=1, gpus=1, capacity_s=2.0),
    ]
    programme = Programme(columns=columns, prices=[1.0, 3.0], counts=[2, None], rates=[10.0])
    marginals = programme.marginals()
    assert marginals.usd_a_request_s[0] == pytest.approx(1.5, rel=1e-4)
    assert marginals.usd_a_gpu == pytest.approx((2.0, 0.0), rel=1e-4)


def test_missing_gpus_are_as_few_as_possible():
    columns = [
        ReplicaColumn(model=0, pool=0, gpus=2, capacity_s=1.0),
        ReplicaColumn(model=0, pool=1, gpus=1, capacity_s=1.0),
    ]
    answer = Programme(columns=columns, prices=[1.0, 5.0], counts=[2, 1], rates=[4.0]).solve()
    assert answer.missing == {1: 2}
    assert np.array_equal(answer.replicas, [1, 3])
