"""Costs are values that add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.perf_model.cost import CAUSES, Cost
from tests.advisor.strategies import questions

times = st.integers(0, 2**20).map(lambda parts: parts / 64)  # exact sums, no subnormal numbers


@st.composite
def costs(draw):
    names = draw(st.lists(st.sampled_from(["qkv", "o", "attention", "host"]), unique=True, max_size=4))
    found = Cost()
    for name in names:
        found = found + Cost.of(
            name, **{cause: np.array(draw(st.lists(times, min_size=3, max_size=3))) for cause in CAUSES}
        )
    return found


def close(one: Cost, other: Cost) -> bool:
    return one.parts.keys() == other.parts.keys() and all(
        np.allclose(one.parts[name], other.parts[name], rtol=1e-12, atol=0) for name in one.parts
    )


@given(costs(), costs())
def test_addition_commutes(one, other):
    assert close(one + other, other + one)


@given(costs(), costs(), costs())
def test_addition_is_associative(a, b, c):
    assert close((a + b) + c, a + (b + c))


@given(costs(), costs(), st.integers(0, 1000))
def test_multiplication_distributes(a, b, factor):
    assert close((a + b) * factor, factor * a + factor * b)


@given(costs())
def test_nothing_is_the_neutral_element(cost):
    assert close(cost + Cost(), cost)
    assert close(Cost() + cost, cost)


@given(costs(), costs())
def test_sums_by_operator_and_by_cause_are_the_total(a, b):
    cost = a + b + Cost.of("one more", overhead=np.ones(3))
    total = cost.total_ms
    assert sum(cost.by_operator().values()) == pytest.approx(total, rel=1e-12)
    assert sum(cost.by_cause().values()) == pytest.approx(total, rel=1e-12)
    assert total == pytest.approx((a.total_ms if a.parts else 0) + (b.total_ms if b.parts else 0) + 1, rel=1e-12)


def test_adding_leaves_both_sides_as_they_were():
    a, b = Cost.of("qkv", memory=np.ones(2)), Cost.of("qkv", memory=np.ones(2))
    whole = a + b
    assert whole.parts["qkv"][CAUSES.index("memory")].tolist() == [2, 2]
    assert a.total_ms.tolist() == b.total_ms.tolist() == [1, 1]


def test_causes_by_name_and_the_others_zero():
    cost = Cost.of("qkv", compute=np.array([1.0, 2.0]), overhead=3.0)
    assert cost.parts["qkv"].tolist() == [[1, 2], [0, 0], [0, 0], [3, 3]]


@pytest.mark.slow
@given(questions())
def test_a_pass_costs_the_sum_of_its_operators(question):
    """No operator of a real pass is negative or unknown, and none gets lost."""
    for regime in ("static", "steady"):
        times = question.evaluate(regime).times
        for cost in (times.prefill, times.decode):
            for name, part in cost.parts.items():
                question.require((part >= 0).all(axis=0) & np.isfinite(part).all(axis=0), f"{name} is a time")
            whole = sum(part.sum(axis=0) for part in cost.parts.values())
            assert whole == pytest.approx(cost.total_ms, rel=1e-12)
