"""Which deployment comes first, and the named choices: the ends of a front, and a knee between them."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

import advisor
from advisor.recommendation.preference import BALANCED, FASTEST, MOST_THROUGHPUT, by_worse_end, named_choices
from advisor.render.numbers import span
from catalog.schema import Deployment


@dataclass(frozen=True)
class Point:
    """What choices read of an estimate."""

    tpot_ms: float | None
    output_tok_s_per_gpu: float | None
    width: float = 0.1
    deployment: Deployment = field(default_factory=Deployment)

    def interval(self, metric):
        value = getattr(self, metric)
        return value / (1.0 + self.width), value * (1.0 + self.width)


POINTS = st.lists(
    st.builds(
        Point, tpot_ms=st.floats(1.0, 200.0), output_tok_s_per_gpu=st.floats(10.0, 5000.0), width=st.floats(0.01, 0.9)
    ),
    min_size=1,
    max_size=30,
)


@given(POINTS)
def test_every_choice_is_of_the_front_and_the_fastest_is_the_fastest(points):
    choices = named_choices(points[0], points)
    assert choices[MOST_THROUGHPUT] == points[0]
    assert set(choices.values()) <= set(points)
    assert len(set(choices.values())) == len(choices)
    if FASTEST in choices:
        assert choices[FASTEST].tpot_ms == min(point.tpot_ms for point in points)


def test_the_knee_of_a_bent_front_is_balanced():
    front = [Point(100.0, 1000.0), Point(25.0, 950.0), Point(20.0, 500.0), Point(10.0, 100.0)]
    assert named_choices(front[0], front)[BALANCED] == front[1]


def test_one_deployment_is_one_choice_and_none_is_none():
    assert list(named_choices(Point(10.0, 100.0), [])) == [MOST_THROUGHPUT]
    assert named_choices(Point(None, None), []) == {}


@given(POINTS)
def test_what_comes_first_can_be_bet_on(points):
    ordered = by_worse_end(points, "throughput_per_gpu")
    ends = [point.interval("output_tok_s_per_gpu")[0] for point in ordered]
    assert sorted(map(id, ordered)) == sorted(map(id, points))
    assert all(end >= 0.989 * max(ends[i:]) for i, end in enumerate(ends))


def test_of_level_ones_the_simpler_comes_first():
    staged = Point(10.0, 1000.0, deployment=Deployment(pp=4))
    sliced = Point(10.0, 996.0, deployment=Deployment(tp=4))
    idle = Point(10.0, 997.0, deployment=Deployment(tp=2))
    assert by_worse_end([staged, idle, sliced], "throughput_per_gpu")[0] == sliced
    assert by_worse_end([staged, sliced], "tpot")[0] == sliced
    spread = Point(10.0, 1004.0, deployment=Deployment(tp=4, ep=4))
    assert by_worse_end([spread, sliced], "throughput_per_gpu")[0] == sliced  # twins but for where the experts lie


def test_a_pipeline_that_wins_within_its_interval_alone_is_not_recommended():
    answer = advisor.recommend("llama-3.1-70b", "8xH100")
    assert answer.best.deployment.pp == 1
    assert answer.best.deployment.num_gpus == 8
    bare = advisor.recommend("llama-3.1-70b", "8xH100", confidence=0.5)
    low = answer.best.interval("output_tok_s_per_gpu")[0]
    assert low >= 0.99 * bare.best.interval("output_tok_s_per_gpu")[0]
    assert bare.best.output_tok_s_per_gpu >= answer.best.output_tok_s_per_gpu
    speeds = [1e3 / point.tpot_ms for point in answer.pareto]
    assert max(speeds) > 10 * min(speeds)  # the whole front, not its one end


@pytest.mark.parametrize("objective", ["cost", "latency", "ttft"])
def test_every_objective_is_ordered_by_its_worse_end(objective):
    answer = advisor.recommend("llama-3.1-8b", "2xH200", objective=objective, price=2.0)
    assert answer.best is answer.candidates[0]


def test_idle_gpus_win_clearly_and_are_named():
    """Three GPUs, of which no model's heads can be sliced by three."""
    answer = advisor.recommend("llama-13b", "3xA100", tpot=30)
    assert answer.best.deployment.num_gpus == 2
    busy = [each for each in answer.candidates if each.deployment.num_gpus == 3]
    assert busy
    low = answer.best.interval("output_tok_s_per_gpu")[0]
    assert all(low > 1.01 * each.interval("output_tok_s_per_gpu")[0] for each in busy)
    shown = answer.summary()
    assert "on 2 of 3 A100-SXM-80GB" in shown
    assert "idle     1 of 3 GPUs" in shown


def test_the_table_shows_the_interval_of_what_is_limited_and_how_surely_it_holds():
    answer = advisor.recommend("llama-3.1-8b", "1xH200", tpot=15, top=2)
    assert answer.best.keeps(answer.slo) >= 0.89
    shown = answer.summary()
    low, high = answer.best.interval("tpot_ms")
    assert span(low, high) in shown
    assert f"{answer.best.keeps(answer.slo):.0%}" in shown
